/*
 * The cycle: from "enough has been allocated" to "what is dead can be used
 * again".
 *
 *   1. Prepare, beside the program: the sweep of the cycle before is
 *      completed (INV-list-1), markers are made ready.
 *   2. Stop the world, while no module can be loaded or unloaded; once more,
 *      if a thread was stopped where its roots cannot be found.
 *   3. Flip: the current colour changes, so all objects count as unmarked, new
 *      ones, too, until marking ends. What threads hold is copied. Resume.
 *   4. Mark beside the program, in rounds (collect/beside.h).
 *   5. Stop the world again. Mark what is left, in parallel. What is unmarked
 *      is dead now, and all groups are unswept; what threads have left of runs
 *      gets the current colour, as everything that is allocated from now on.
 *      Verify and check, if asked to. Set the trigger of the next cycle.
 *      Resume.
 *   6. Sweep, beside the program: allocating threads sweep the group they
 *      want to allocate from, a background thread the rest (collect/sweep).
 *      Deaths are dealt with group by group (special/death); callbacks run
 *      whenever their threads get to them.
 *
 * Where nothing tells which memory is written (mark/dirty.h), 3 to 5 happen in
 * one stop; finalizers' fields are marked last then (special/cleanup).
 *
 * Who starts one: a thread whose allocation reaches the trigger, or whose
 * opening of files (heap/outside.h) does, wane_collect,
 * an allocation that found no room, stress mode, the background thread when
 * the program rests. For the trigger it is the collector thread
 * (collect/collector.h). One cycle at a time: the cycle lock is held from 1 to
 * 5, by the thread that collects.
 *
 * INV-cycle-1: colour and epoch change only with the world stopped.
 * Between cycles every live object's mark byte has the current colour.
 */
#ifndef WANE_COLLECT_CYCLE_H
#define WANE_COLLECT_CYCLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lock.h"

enum wane__cycle_reason {
  WANE__CYCLE_HEAP,    /* the trigger was reached */
  WANE__CYCLE_LIMIT,   /* the same, lowered by the memory limit */
  WANE__CYCLE_FORCED,  /* wane_collect */
  WANE__CYCLE_ROOM,    /* no memory */
  WANE__CYCLE_OUTSIDE, /* mapped files and adopted pages */
  WANE__CYCLE_STRESS,
  WANE__CYCLE_IDLE,
  WANE__CYCLE_SHUTDOWN, /* ends all ephemerons besides */
};

/* What happened in the cycles so far; lock: cycle, reads relaxed. */
struct wane__cycle_totals {
  uint64_t full;
  uint64_t forced;
  uint64_t cpu_ns;
  uint64_t mark_threads; /* of the last cycle */
  uint64_t last_end_ns;
  uint64_t last_work_ns; /* CPU time of the last one */
};
extern struct wane__cycle_totals wane__cycle_totals;

/* Whoever sweeps, releases memory or runs a cycle holds two locks, taken here:
   the cycle lock, until it is done, and the stage lock, which a cycle that
   marks beside the program gives up now and then, at a moment when all its
   structures are whole and nobody works on them (wane__cycle_rest). fork takes
   only that one: it need not wait for a cycle to end, and its child finds one
   that can be gone on with. */
void wane__cycle_enter(void);
bool wane__cycle_try_enter(void);
void wane__cycle_leave(void);
/* For fork. */
void wane__stage_acquire(void);
void wane__stage_release(void);
/* Lets a fork happen, if one waits. The collecting thread. */
void wane__cycle_rest(void);

/* Runs a cycle. One that began after the call, in another thread, will do as
   well. sweep: complete the sweep before returning. A cycle for the trigger
   is only run if it is still reached with more_bytes more. False with ENOMEM
   if the cycle could not be run. */
bool wane__cycle_run(enum wane__cycle_reason reason, bool sweep,
                     size_t more_bytes);

/* One is being run: at this moment, for a hint. Any thread. */
bool wane__cycle_is_running(void);

/* One, if objects outside the heap have made it due. Not guarded. */
void wane__cycle_for_outside(void);
/* Waits until no more than so many of them, and so many adopted bytes, are
   dying (heap/outside.h), but not for ever. Not guarded. */
void wane__cycle_wait_for_ends(uint64_t dying, uint64_t adopted_bytes);

/* The heap hooks (see heap/hooks.h). */
void wane__cycle_triggered(size_t more_bytes);
void wane__cycle_for_room(void);
void wane__cycle_for_stress(void);

void wane__cycle_fork_child(void);

#endif
