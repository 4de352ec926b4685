/*
 * Ephemerons whose weak words died, as a sweep sees them.
 *
 * Marking leaves them on chains, one for each dead slot (mark/ephemeron.h).
 * Before the sweep changes a mark byte of the group, it sets both words of each
 * to WANE__GONE and lets the ephemeron's type know, so that a map takes the
 * entry out. A fence ends that, which pairs with the one of readers.
 *
 * A read (wane__pair_read) is a weak read (special/weak.h, Note [weak read])
 * in which the word itself serves as the generation: it changes once, to
 * WANE__GONE, before the memory it pointed to can be used again.
 *
 *   guard;
 *   1  weak, none if WANE__GONE                        (acquire)
 *   2  the mark byte of its slot is not the old colour, else none
 *   3  held                                            (acquire)
 *   4  weak is still the same, else none               (after a fence)
 *   leave the guard with both in registers.
 *
 * A word that a map changes (the value, where values are weak) changes only in
 * a guarded section that found the pair alive, so never while a sweep may
 * clear it; step 4 then sees the change and the reader begins again.
 *
 * The stripe's lock is held as for other records, so that no fork meets a
 * half-cleared chain; it is let go now and then, since chains may be long.
 *
 * INV-ephemeron-3: no word of a live pair points to a slot that was found dead
 *   and has been used again.
 */
#ifndef WANE_SPECIAL_EPHEMERON_H
#define WANE_SPECIAL_EPHEMERON_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../heap/grey.h"
#include "../heap/heap.h"
#include "../mark/ephemeron.h"

/* Clears what waits for objects of the group, all of which are dead. The
   caller owns the group, which is unswept. */
void wane__ephemerons_sweep(struct wane__block *group);

/* Step 2 for any word, as marking sees it (mark_is_unmarked): dead is only what
   points into a slot of the old colour. A word that points nowhere in the
   heap never dies; nor does one into a free slot or block, unless it was
   cleared before that was freed: step 4 tells. */
WANE_INLINE_SCAN WANE_SCANS_MEMORY bool wane__word_lives(uintptr_t word) {
  uintptr_t offset = word - wane__arena.start;
  if (offset >= wane__load_acquire(&wane__arena.committed)) {
    word = wane__foreign_stand_in(word);
    if (WANE_LIKELY(word == 0)) {
      return true;
    }
    offset = word - wane__arena.start;
  }
  const struct wane__block_map *entry =
      &wane__block_map[offset >> WANE__BLOCK_LOG2];
  struct wane__found found = {.head = wane__load_acquire(&entry->head)};
  uint8_t *marks = wane__load_acquire(&entry->marks);
  if (found.head == 0 || wane__load_relaxed(&entry->head) != found.head) {
    return true;
  }
  uintptr_t start = wane__head_start(found.head);
  const struct wane__class *class =
      &wane__classes[wane__head_class(found.head)];
  size_t idx = ((word - start) >> WANE__GRANULE_LOG2) * class->reciprocal >> 32;
  uint8_t byte = *(const volatile uint8_t *)&marks[idx];
  if (WANE_LIKELY(byte == wane__arena.colour) || byte == 0) {
    return true;
  }
  if (wane__is_marking()) {
    wane__grey_hint(word);
    return true;
  }
  found.base = start + idx * class->slot_bytes;
  return word - found.base >= wane__found_limit(&found);
}

/* Both words of a live pair; false if it is gone. Guarded. */
WANE_INLINE bool wane__pair_read(const struct wane__pair *pair,
                                 bool is_both_weak, uintptr_t *weak,
                                 uintptr_t *held) {
  for (;;) {
    *weak = wane__load_acquire(&pair->weak);               /* 1 */
    if (*weak == WANE__GONE || !wane__word_lives(*weak)) { /* 2 */
      return false;
    }
    *held = wane__load_acquire(&pair->held); /* 3 */
    if (*held == WANE__GONE || (is_both_weak && !wane__word_lives(*held))) {
      return false;
    }
    wane__fence_acquire();
    if (WANE_LIKELY(wane__load_relaxed(&pair->weak) == *weak)) { /* 4 */
      return true;
    }
  }
}

/* The same in a guard of its own; both words are 0 if the pair is gone. What
   they point to is alive as long as the caller holds them. */
WANE_INLINE bool wane__pair_load(struct wane__context *self,
                                 const struct wane__pair *pair,
                                 bool is_both_weak, uintptr_t *weak,
                                 uintptr_t *held) {
  uintptr_t a;
  uintptr_t b;
  wane__guard_enter(self);
  bool lives = wane__pair_read(pair, is_both_weak, &a, &b);
  if (!lives) {
    a = b = 0;
  }
  __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
  wane__guard_leave(self); /* may stop here: both are in registers */
  __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
  *weak = a;
  *held = b;
  return lives;
}

#endif
