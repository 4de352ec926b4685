/* Clearing ephemerons; see ephemeron.h. */
#include "ephemeron.h"

#include "group.h"

/* Ephemerons cleared before others get a chance at the stripe's lock. */
#define CLEAR_PORTION 64u

/* While marking ran beside the program, it was deleted, or got other words,
   which then live. */
static bool sweep_is_changed(const struct wane__ephemeron_type *type,
                             const struct wane__pair *pair) {
  uintptr_t weak = wane__load_relaxed(&pair->weak);
  uintptr_t held = wane__load_relaxed(&pair->held);
  return weak == WANE__GONE || held == WANE__GONE ||
         (type->weak_changes && wane__word_lives(weak) &&
          (!type->is_both_weak || wane__word_lives(held)));
}

/* Takes the first of a chain off and clears it. */
static void sweep_first(uintptr_t *chain) {
  uintptr_t object = *chain;
  const struct wane__ephemeron_type *type = wane__ephemeron_type_at(object);
  struct wane__pair *pair = wane__ephemeron_pair(type, object);
  *chain = wane__ephemeron_unchain(pair);
  if (!sweep_is_changed(type, pair)) {
    wane__ephemeron_clear(object, pair);
  }
}

void wane__ephemerons_sweep(struct wane__block *group) {
  struct wane__spin *lock = &wane__stripe_of(group)->lock;
  struct wane__waiting *waiting = group->waiting;
  uint8_t *marks = wane__block_marks(group);
  size_t slots = wane__block_slots(group);
  unsigned cleared = 0;
  wane__spin_acquire(lock);
  for (size_t i = 0; i < slots; i++) {
    if (marks[i] == wane__arena.colour) {
      WANE_CHECK(waiting->chains[i] == 0,
                 "INV-ephemeron-1: nothing waits for a marked slot");
      continue;
    }
    while (waiting->chains[i] != 0) {
      sweep_first(&waiting->chains[i]);
      if (++cleared % CLEAR_PORTION == 0) {
        wane__spin_release(lock);
        wane__spin_acquire(lock);
      }
    }
    marks[i] &= (uint8_t)~WANE__MARK_AWAITED;
  }
  wane__waiting_drop(group);
  wane__sub(&wane__groups_undone, 1);
  wane__spin_release(lock);
  wane__fence_release(); /* pairs with the fence in wane__pair_read */
}
