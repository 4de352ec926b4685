/*
 * Runners: who calls callbacks. The library's workers, max(CPUs / 4, 2) of
 * them, run cleanups; one thread of its own runs finalizers; wane_queue_run
 * runs a user's queue on the caller's thread.
 *
 * The library's threads start at the first registration (of a cleanup, of a
 * finalizer), are attached like the program's, since callbacks allocate, and
 * have all signals blocked but the stop signal. If they cannot be started, that
 * is said once and tried again at later registrations and cycles; callbacks
 * wait until then.
 *
 * A runner takes one record at a time, so that one whose callback blocks ties
 * up one thread and no other callback. It holds no lock and no guard during
 * the call; the record's argument stays a root until it has returned.
 *
 * A callback must return. Leaving by pthread_exit or cancellation runs the
 * handler that the runner's frame has pushed; leaving by longjmp leaves the
 * runner's record in the thread's chain of runners, or comes back to a runner
 * that was waiting for another callback: both are noticed and fatal.
 *
 * Draining: see special/queue.h. A runner's number is that of the record it
 * is at, changed under the queue's lock together with taking.
 *
 * A program that registers faster than callbacks run is slowed down
 * (SEMANTICS G2): what grows with the backlog grows by registrations. While
 * more than 128 thousand callbacks wait for the library's threads, each
 * registration takes a millisecond longer, unless it comes from a callback, or
 * these threads get nowhere: they might wait for the registering one.
 *
 * INV-runner-1: when a callback returns, the runner is still at its record.
 */
#ifndef WANE_SPECIAL_RUNNER_H
#define WANE_SPECIAL_RUNNER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "../base/attr.h"
#include "queue.h"

struct wane__runner {
  struct wane__runner *next;  /* on its queue. lock: the queue's */
  struct wane__runner *outer; /* of the same thread. owner thread */
  struct wane_queue *queue;   /* const */
  uint64_t number; /* of the record it is at, UINT64_MAX: none. lock: the
                      queue's */
  uint32_t ref;    /* that record, or 0. owner thread; fork reads it */
  uintptr_t stack; /* its frame. const */
  bool is_crew;    /* one of the library's threads. const */
  struct wane__pool_chain done[WANE__SORT_COUNT]; /* owner thread */
};

/* The innermost runner that the calling thread is in a callback of. */
extern WANE_TLS struct wane__runner *wane__runner_self;

/* Sees to it that the threads for a sort run. Not guarded. */
void wane__runners_start(enum wane__sort sort);
/* They run, or are being started: nothing to see to. relaxed */
extern bool wane__runners_ready[WANE__SORT_COUNT];
/* Lets them finish what is queued and end, and waits for that. None starts
   until wane__runners_allow. */
void wane__runners_stop(void);
void wane__runners_allow(void);
/* In between: runs what waits in the library's queues on the caller's thread.
 */
void wane__runners_run_rest(void);
/* Slows the caller down; see above. Not guarded. */
extern uint32_t wane__runners_crowded; /* relaxed */
void wane__runners_throttle_slow(void);
static inline void wane__runners_throttle(void) {
  if (WANE_UNLIKELY(wane__load_relaxed(&wane__runners_crowded) != 0)) {
    wane__runners_throttle_slow();
  }
}
/* After much was queued: is that too much? */
void wane__runners_note_backlog(void);
/* Tries again to start threads that could not be, if callbacks wait. Not
   guarded. */
void wane__runners_retry(void);

/* Fatal, in the name of function, inside a callback. */
void wane__runner_forbid(const char *function);
/* Runs what waits in the queue, up to a number, on the calling thread. */
void wane__runner_run_until(struct wane_queue *q, uint64_t number);

/* In the child: only the forking thread's runners are left. */
void wane__runners_fork_child(void);
/* What the others were at is dropped, and so is what waited, but with
   fork=run. */
void wane__runners_fork_settle(void);

#endif
