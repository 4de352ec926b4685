/*
 * Allocation: the public calls, the slow path behind them, large objects.
 *
 * The fast path (wane__heap_alloc_fast) adds and compares. The slow path asks
 * in this order: is a cycle due; is there another run in the cache's group;
 * another group of the class with room, swept now if need be; a free extent;
 * and, when the arena cannot grow, a full collection, once.
 */
#include <errno.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../base/poison.h"
#include "cache.h"
#include "class_list.h"
#include "extent.h"
#include "heap.h"
#include "hooks.h"

/* Counts reach the heap's total in portions, to spare its cache line. */
#define PENDING_BYTES (WANE__BLOCK_BYTES)
#define ALIGNMENT_MAX ((size_t)2 << 20)

struct wane__heap_meter wane__heap_meter = {.ask_bytes = 4u << 20,
                                            .trigger_bytes = 4u << 20};

/* Asks first, if bytes more are too many to go on without. */
static void heap_make_way(size_t bytes) {
  uint64_t sum = wane__load_relaxed(&wane__heap_meter.since_flip_bytes) + bytes;
  if (sum >= wane__load_relaxed(&wane__heap_meter.ask_bytes)) {
    wane__hooks.collect_triggered(bytes);
  }
}

static void heap_stress(struct wane__context *self) {
  if (++self->stress_count % (uint64_t)wane__options.stress == 0) {
    wane__hooks.collect_for_stress();
  }
}

WANE_NOINLINE void *wane__heap_alloc_small(enum wane__kind kind, size_t bytes) {
  int saved = errno;
  struct wane__context *self = wane__attach();
  if (self == NULL) {
    return NULL;
  }
  unsigned class = wane__class_of(bytes); /* the tables are there by now */
  if (wane__options.stress != 0) {
    heap_stress(self);
  }
  if (self->pending_bytes >= PENDING_BYTES) {
    uint64_t pending = self->pending_bytes;
    wane__store_relaxed(&self->pending_bytes, 0);
    wane__add_relaxed(&wane__heap_meter.since_flip_bytes, pending);
    heap_make_way(0);
  }
  if (WANE_UNLIKELY(wane__load_relaxed(&wane__heap_meter.is_slow))) {
    wane__hooks.slow();
  }
  void *object = NULL;
  for (int attempt = 0; object == NULL && attempt < 2; attempt++) {
    if (attempt != 0) {
      wane__hooks.collect_for_room();
    }
    wane__guard_enter(self);
    struct wane__cache *cache = &self->caches[kind][class];
    if (wane__cache_refill(self, kind, class)) {
      object = (void *)cache->cur;
      wane__store_relaxed(&cache->cur, cache->cur + cache->slot_bytes);
    }
    wane__guard_leave(self); /* may stop here: the object is in a register */
    __asm__ volatile("" : : "r"(object));
  }
  errno = object != NULL ? saved : ENOMEM;
  return object;
}

/* Zeroes what is not known to be zero. Not guarded: it may take long. */
static void large_zero(struct wane__block *block, size_t bytes) {
  uintptr_t start = wane__block_start(block);
  for (size_t done = 0; done < bytes; done += WANE__BLOCK_BYTES) {
    size_t rest = bytes - done;
    if (!block[done >> WANE__BLOCK_LOG2].clean) {
      memset((void *)(start + done), 0,
             rest < WANE__BLOCK_BYTES ? rest : WANE__BLOCK_BYTES);
    }
  }
}

/* Sweeps all there is to find room, before the arena grows. */
static struct wane__block *large_find(size_t blocks, size_t alignment) {
  struct wane__block *block = wane__extent_take(blocks, alignment, false);
  struct wane__block *unswept;
  while (block == NULL && (unswept = wane__class_take_unswept()) != NULL) {
    wane__hooks.sweep(unswept);
    if (wane__class_file_swept(unswept) >= WANE__BLOCK_BYTES * blocks) {
      block = wane__extent_take(blocks, alignment, false);
    }
  }
  return block != NULL ? block : wane__extent_take(blocks, alignment, true);
}

/* It is zeroed before it is an object: a marker may look at it from then on.
   The object's address exists before the guard is left, where the thread may
   stop, and its caller keeps it: nothing else points to the new object. */
static void *large_take(struct wane__context *self, enum wane__kind kind,
                        size_t bytes, size_t alignment,
                        const struct wane_type *type) {
  size_t blocks = (bytes + WANE__BLOCK_BYTES - 1) >> WANE__BLOCK_LOG2;
  void *object = NULL;
  wane__guard_enter(self);
  struct wane__block *block = large_find(
      blocks,
      alignment <= WANE__BLOCK_BYTES ? 1 : alignment >> WANE__BLOCK_LOG2);
  wane__guard_leave(self);
  if (block == NULL) {
    return NULL;
  }
  wane__poison_allow((void *)wane__block_start(block), bytes);
  large_zero(block, bytes);
  wane__guard_enter(self);
  object = (void *)wane__block_start(block);
  wane__block_assign_large(block, kind, bytes, type);
  wane__class_add_large(block);
  wane__guard_leave(self);
  __asm__ volatile("" : : "r"(object) : "memory");
  return object;
}

void *wane__heap_alloc_large(enum wane__kind kind, size_t bytes,
                             size_t alignment, const struct wane_type *type) {
  int saved = errno;
  struct wane__context *self = wane__attach();
  size_t rounded = bytes == 0 ? 16 : (bytes + 15) & ~(size_t)15;
  if (self == NULL || rounded < bytes || rounded > wane__arena.reserved) {
    errno = ENOMEM;
    return NULL;
  }
  if (wane__options.stress != 0) {
    heap_stress(self);
  }
  heap_make_way(rounded);
  void *object = large_take(self, kind, rounded, alignment, type);
  if (object == NULL) {
    wane__hooks.collect_for_room();
    object = large_take(self, kind, rounded, alignment, type);
  }
  if (object == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  wane__add_relaxed(&wane__heap_meter.since_flip_bytes, rounded);
  wane__add_relaxed(&wane__heap_meter.large_bytes, rounded);
  wane__add_relaxed(&wane__heap_meter.large_objects, 1);
  errno = saved;
  __asm__ volatile("" : : "r"(object) : "memory");
  return object;
}

WANE_PUBLIC WANE_HOT void *wane_alloc(size_t size) {
  if (WANE_UNLIKELY(size > WANE__SMALL_BYTES_MAX)) {
    return wane__heap_alloc_large(WANE__KIND_SCAN, size, 16, NULL);
  }
  return wane__heap_alloc_fast(WANE__KIND_SCAN, size);
}

WANE_PUBLIC WANE_HOT void *wane_alloc_leaf(size_t size) {
  if (WANE_UNLIKELY(size > WANE__SMALL_BYTES_MAX)) {
    return wane__heap_alloc_large(WANE__KIND_LEAF, size, 16, NULL);
  }
  return wane__heap_alloc_fast(WANE__KIND_LEAF, size);
}

WANE_PUBLIC void *wane_alloc_aligned(size_t size, size_t alignment) {
  if (alignment == 0 || (alignment & (alignment - 1)) != 0 ||
      alignment > ALIGNMENT_MAX) {
    errno = EINVAL;
    return NULL;
  }
  if (alignment <= WANE__GRANULE_BYTES) {
    return wane_alloc(size);
  }
  size_t bytes = size > alignment ? size : alignment;
  if (bytes > WANE__SMALL_BYTES_MAX) {
    return wane__heap_alloc_large(WANE__KIND_SCAN, size, alignment, NULL);
  }
  if (wane__attach() == NULL) { /* before it, the classes are not there */
    return NULL;
  }
  /* groups start at block boundaries, so slots of a multiple are aligned;
     the powers of two among the classes end the search */
  unsigned class = wane__class_of(bytes);
  while (wane__classes[class].slot_bytes % alignment != 0) {
    class ++;
  }
  return wane__heap_alloc_fast(WANE__KIND_SCAN,
                               wane__classes[class].slot_bytes);
}
