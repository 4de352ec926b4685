/*
 * deadline: a time limit that any thread can look at, kept by a libuv timer.
 *
 * A uv_timer_t may be touched by the loop's thread only, and must be closed
 * there, by a call whose work is finished in a later turn of the loop. So a
 * deadline cannot be closed where it is dropped, which may be anywhere, nor on
 * the collector's threads. Its cleanup is registered on a queue that the loop
 * runs: uv_poll watches the queue's descriptor, and what died is closed on the
 * loop's thread, between its other events.
 *
 * libuv keeps the timer in lists of its own, in memory that the collector does
 * not scan. So the timer is malloc memory, and lives until libuv has let go of
 * it; the deadline is a collected object, and lives while the program uses it.
 * The timer does not point to the deadline: else a timer that libuv still has
 * would have to keep it alive.
 */
#ifndef DEADLINE_H
#define DEADLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct deadline;

/* How many timers there were. */
struct deadline_counts {
  size_t made;
  size_t closed; /* by the cleanup, on the loop's thread */
  size_t freed;  /* closed, and libuv has said that it is done with them */
};

/* Has cleanups run by the loop, on the calling thread. 0 or a uv error. */
int deadlines_begin(uv_loop_t *loop);

/* Closes what is left of deadlines and of this module: runs all cleanups, then
   the loop until it is empty. On the loop's thread, when no other thread uses
   the heap any more. */
void deadlines_end(void);

/* A time limit from now on. On the loop's thread. NULL with errno. */
struct deadline *deadline_new(uint64_t limit_ms);

/* On any thread. */
bool deadline_is_over(const struct deadline *deadline);

struct deadline_counts deadline_read_counts(void);

#endif
