/*
 * Marking beside the program, with the dirty tracker (mark/dirty.h).
 *
 *   first stop   the colour changes; words of stacks, registers and
 *                thread-locals are copied
 *   beside       arm; mark from these words and all other roots; then, in
 *                rounds, what was written meanwhile, and what threads hold by
 *                then (a short stop), until that is little
 *   last stop    stacks, registers, thread-locals once more; what was written
 *                since the last round; mark
 *
 * docs/design/concurrent-marking.md argues why nothing is lost. In short:
 *
 * INV-beside-1: at the end of the last stop, each word that the program can
 *   reach and that lies in a marked object or a root was read by a marker
 *   after it was written for the last time. For a word in tracked memory: it
 *   was read after its page had been armed; if it was written after that, the
 *   page was fetched, and read again after the fetch, the last time with the
 *   world stopped. For all other words: they are read in the last stop.
 * INV-beside-2: no sweep happens while marking, so what is reachable keeps its
 *   memory, and no group changes its kind or class.
 *
 * New objects have the old colour while marking runs: they are marked if they
 * can be reached when it ends. Most cannot by then, and are neither scanned nor
 * kept. So that the last stop has not to mark what threads made and hold on
 * their stacks, a short stop copies these once more: at the beginning of the
 * first round, and of each one after a round that found much to mark.
 *
 * What is tracked: blocks that may hold pointers; large parts of modules' data
 * and of added roots. Pins, arguments of cleanups and finalizers' objects are
 * walked once; what comes later is in the grey log (heap/grey.h).
 *
 * Getting to an end. A round looks at pages as fast as it can, and the program
 * writes to others meanwhile. Two things make the rounds shorter: a page's
 * first write after it was armed costs the program a fault; and from the first
 * round on that finds more than a few pages or objects, until the last stop,
 * threads that allocate are slowed (wane__beside_slow): each gets small runs,
 * and before each it waits until a round is over, for a millisecond at most. It
 * rests meanwhile (wane__stop_rest), so that a stop need not wake it, and
 * another marker is invited to use its CPU. So it writes to fewer pages than
 * markers look at. A program that writes all over its heap without allocating
 * is not slowed by that: after BESIDE_ROUNDS_MAX rounds the last stop looks at
 * what is left.
 *
 * Marking that another cycle has left (its last stop could not be made, or this
 * is a child of fork) is gone on with: was_left. Then what is on pages that
 * were not armed may have been marked and not scanned, or scanned before it was
 * written, so what the first fetch hands out is looked at. Otherwise only what
 * the first stop marked, because a stack was deep, would be found there.
 */
#ifndef WANE_COLLECT_BESIDE_H
#define WANE_COLLECT_BESIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../mark/mark.h"

struct wane__beside {
  void (*look)(void *ctx); /* stops, calls wane__beside_begin_stw, goes on */
  void *ctx;
  unsigned markers; /* that mark; more may be invited */
  unsigned rounds;  /* of looking at what was written */
  unsigned retries; /* of the last stop */
  bool was_left;    /* another cycle began this marking */
  bool is_tracked;  /* what was written since is known */
};

/* In the first stop, after the flip, and in those between the rounds. */
void wane__beside_begin_stw(void);
/* Between the stops. */
void wane__beside_mark(struct wane__beside *beside,
                       struct wane__mark_totals *totals);
/* In the last stop, inside wane__modules_hold: hands what is left to the
   markers. Returns how many pages had been written. False: they are so many,
   because this thread had to wait for a CPU, that it is better to let the
   program go on, mark once more, and stop again. */
bool wane__beside_finish_stw(struct wane__beside *beside, size_t *pages);
/* The world is stopped, and marking will end: threads may go on as usual. */
void wane__beside_end_slow(void);
/* Wakes those that still wait, after that stop. */
void wane__beside_go_on(void);

/* A thread that allocates, while the rounds come to an end: waits, and lets
   another marker work. Attached, not guarded. */
void wane__beside_slow(void);

#endif
