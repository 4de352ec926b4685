/*
 * Sweeping: after a cycle, turning the mark bytes of dead objects into free
 * slots, one group at a time.
 *
 * A group's mark bytes hold 0, 1 or 2, so one AND with the current colour in
 * every byte leaves exactly the live ones, eight slots at a time; memory of
 * the objects themselves is not touched (but with poison=1).
 *
 * What guarantees that nobody uses an unswept group: groups are unswept from
 * the end of marking on, in the last stop, on lists from which only a sweeper
 * takes them; a thread's cache lets go of its group in that stop; and whoever
 * takes one sweeps it before anything else (wane__class_take,
 * wane__class_take_unswept). While marking runs nothing is swept
 * (INV-beside-2).
 *
 * Who sweeps: an allocating thread that needs a group; one that is about to
 * make the arena grow, in the hope of not having to; the background thread;
 * and the next cycle, which begins by finishing what is left.
 *
 * INV-sweep-1: a group is swept once after each marking, by the one who took it
 *   off its list.
 */
#ifndef WANE_COLLECT_SWEEP_H
#define WANE_COLLECT_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

struct wane__block;

/* Sweeps a group that the caller owns; sets `live`. */
void wane__sweep_group(struct wane__block *block);

/* Sweeps up to count groups; false when none were left. */
bool wane__sweep_some(unsigned count);

/* Sweeps all that is left; guarded sweeps of other threads may still be
   under way. Cycle lock held. */
void wane__sweep_finish(void);
/* The same, and waits for those of groups with records: then all callbacks of
   the cycle are on their queues. Not guarded. */
void wane__sweep_finish_records(void);

#endif
