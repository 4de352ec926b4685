/*
 * Deaths: what happens to the records of a group's objects when it is swept.
 *
 * For the objects whose mark byte has the old colour, in this order:
 *
 *   0. all ephemerons that wait for them are cleared (special/ephemeron.h);
 *   1. all their weak slots are cleared (W4);
 *   2. those with a finalizer get the current colour: they are alive again.
 *      What they reach has been marked in the cycle. Their finalizers, taken
 *      out of the table, go on a queue (X1, F1);
 *   3. of the others, the cleanups go on queues (X2).
 *
 * All of it happens under the stripe's lock, and before a mark byte of the
 * group is cleared: a fence ends it, which Note [weak read] needs. Nothing is
 * allocated.
 *
 * Cleanups of one sweep reach a queue in the order of the table, which is no
 * order.
 *
 * INV-death-1: when the last group is done, wane__groups_undone is 0 and every
 *   callback of the cycle is on its queue.
 */
#ifndef WANE_SPECIAL_DEATH_H
#define WANE_SPECIAL_DEATH_H

#include "../base/atomic.h"
#include "../heap/block.h"
#include "ephemeron.h"
#include "group.h"

void wane__death_sweep_records(struct wane__block *group);

/* What a shutdown treats, one after another, as if every object had died: what
   comes first may use what a later one takes away. */
enum wane__death_step {
  WANE__DEATH_WEAK,
  WANE__DEATH_FINALIZERS,
  WANE__DEATH_CLEANUPS, /* the program's */
  WANE__DEATH_RELEASES, /* of adopted ranges */
  WANE__DEATH_FILES,    /* are unmapped */
  WANE__DEATH_STEPS
};

/* Cycle lock held, everything swept; not guarded. */
void wane__death_of_all(enum wane__death_step step);

/* The caller owns the group, which is unswept. */
static inline void wane__death_sweep(struct wane__block *group) {
  if (WANE_UNLIKELY(wane__load_relaxed(&group->waiting) != NULL)) {
    wane__ephemerons_sweep(group);
  }
  if (WANE_UNLIKELY(wane__load_relaxed(&group->specials) != NULL)) {
    wane__death_sweep_records(group);
  }
}

#endif
