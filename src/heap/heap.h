/*
 * Allocation as the layers above see it: how much has been allocated since
 * the last flip, against what triggers a cycle, and one entry for each sort
 * of object.
 */
#ifndef WANE_HEAP_HEAP_H
#define WANE_HEAP_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "context.h"
#include "foreign.h"

struct wane_type;

struct wane__heap_meter {
  uint64_t since_flip_bytes; /* handed out as runs or large. relaxed */
  uint64_t ask_bytes;        /* at this an allocation asks the pacing: is a
                                cycle due, may it go on while one marks?
                                relaxed */
  uint64_t trigger_bytes;    /* a cycle is due at this. relaxed */
  bool is_slow; /* marking comes to an end: threads take small runs, and wait
                   for each (collect/beside.h). relaxed */
  uint64_t retired_bytes; /* counts of threads that are gone. relaxed */
  uint64_t retired_objects;
  uint64_t large_bytes; /* in all. relaxed */
  uint64_t large_objects;
  uint64_t peak_bytes; /* highest live + since_flip at a flip. STW */
  uint64_t live_bytes; /* found by the last cycle. STW; relaxed */
} WANE_ALIGNED(WANE_CACHE_LINE);

extern struct wane__heap_meter wane__heap_meter;

/* Allocates for an object of bytes, already rounded for its kind; small ones
   have their fast path in front of this. NULL with ENOMEM. */
void *wane__heap_alloc_small(enum wane__kind kind, size_t bytes);
void *wane__heap_alloc_large(enum wane__kind kind, size_t bytes,
                             size_t alignment, const struct wane_type *type);

/* A slot of the calling thread's own run that has not been handed out. */
WANE_INLINE bool wane__object_is_unused(const struct wane__found *found) {
  unsigned class = wane__head_class(found->head);
  if (class == WANE__CLASS_LARGE) {
    return false;
  }
  const struct wane__cache *cache =
      &wane__self->caches[wane__head_kind(found->head)][class];
  return found->base >= cache->cur && found->base < cache->end;
}

/* wane__object_find for an address outside the arena: base is the start of the
   adopted range, the rest that of its stand-in. */
bool wane__object_find_foreign(uintptr_t word, struct wane__found *out);

/* The live object that addr points into; false if there is none. Guarded, or
   with the world stopped.

   An object is live here if its mark byte has the current colour: between
   cycles a byte of the other colour is a dead object that is not swept yet.
   Unused slots of runs have the colour too; those of the calling thread's are
   told apart. (Those of another's are not: a pointer to memory never
   allocated gives an answer that means nothing.) Another thread may be
   changing the mark byte of a slot beside, or of this one if it is free. */
WANE_INLINE WANE_SCANS_MEMORY bool wane__object_find(const void *addr,
                                                     struct wane__found *out) {
  uintptr_t word = (uintptr_t)addr;
  /* pairs with the release in wane__arena_grow_locked */
  if (word - wane__arena.start >= wane__load_acquire(&wane__arena.committed)) {
    return WANE_UNLIKELY(wane__foreign_may_hold(word)) &&
           wane__object_find_foreign(word, out);
  }
  if (!wane__block_resolve(word, wane__arena.start, wane__block_map, out) ||
      !wane__mark_lives(wane__load_relaxed(out->mark)) ||
      wane__object_is_unused(out)) {
    return false;
  }
  return word - out->base < wane__found_limit(out);
}

/* Whether the last finished marking found the object alive that pointer, an
   address in the arena, points into; no lock is taken. Guarded. What the answer
   is worth when the memory may have been used again since, special/weak.h
   argues in Note [weak read], of which this is step 3: head and marks of the
   group's map entry are read such that they belong together; if the head
   changes meanwhile, the group was freed, and with it the object. The byte is
   read plainly, since others store it plainly when they take the memory, and
   ThreadSanitizer must not look. */
WANE_INLINE WANE_SCANS_MEMORY bool wane__target_lives(uintptr_t pointer) {
  uintptr_t offset = pointer - wane__arena.start;
  const struct wane__block_map *entry =
      &wane__block_map[offset >> WANE__BLOCK_LOG2];
  uint64_t head = wane__load_acquire(&entry->head);
  const uint8_t *marks = wane__load_acquire(&entry->marks);
  if (head == 0 || wane__load_relaxed(&entry->head) != head) {
    return false;
  }
  uint64_t granule = (pointer - wane__head_start(head)) >> WANE__GRANULE_LOG2;
  size_t idx = granule * wane__classes[wane__head_class(head)].reciprocal >> 32;
  return wane__mark_lives(*(const volatile uint8_t *)&marks[idx]);
}

/* The name of the library's own layouts, by which they are known. */
extern const char wane__type_of_library[];

/* The bytes that one typed object needs: elements, and the layout's address
   behind them in a small slot. SIZE_MAX on overflow. */
size_t wane__typed_bytes(const struct wane_type *type, size_t count);
void *wane__typed_alloc(const struct wane_type *type, size_t count);

/* Small objects of kind: the class's cache, then the slow path. */
WANE_INLINE void *wane__heap_alloc_fast(enum wane__kind kind, size_t bytes) {
  unsigned class = wane__class_of(bytes);
  struct wane__cache *cache = &wane__self->caches[kind][class];
  uintptr_t object = cache->cur;
  uintptr_t next = object + cache->slot_bytes;
  if (WANE_LIKELY(next <= cache->end)) {
    /* relaxed: the collector reads it while this thread is stopped */
    wane__store_relaxed(&cache->cur, next);
    /* a stop from here on must find the object itself in a register, not
       just the address of its end */
    __asm__ volatile("" : : "r"(object));
    return (void *)object;
  }
  return wane__heap_alloc_small(kind, bytes);
}

#endif
