/*
 * wane_shutdown: the end of callbacks, at the program's wish.
 *
 * First the library's callback threads run what is queued and end. With
 * WANE_RUN_CLEANUPS the sweep is finished, then all weak handles into the heap
 * are cleared, and every registered finalizer and cleanup is queued as if its
 * object had died, finalizers first. Only then is any of it run, by the
 * caller: what callbacks register themselves comes too late.
 */
#include <errno.h>
#include <stddef.h>

#include "../../include/wane/collect.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../heap/hooks.h"
#include "../special/death.h"
#include "../special/queue.h"
#include "../special/runner.h"
#include "cycle.h"
#include "sweep.h"

/* Deaths that a cycle has found, and then all others, go on their queues. The
   cycle lock keeps colours as they are. */
static void shutdown_note_waiting(struct wane_queue *q) {
  q->settled = wane__load_relaxed(&q->pushed);
}

static void shutdown_queue_all(void) {
  wane__lock_acquire(&wane__cycle_lock);
  wane__sweep_finish_records();
  wane__queues_each(shutdown_note_waiting);
  wane__death_of_all();
  wane__lock_release(&wane__cycle_lock);
}

static void shutdown_run_all(void) {
  wane__queues_each(wane__runner_run_settled);
  wane__runner_run_all(&wane__finalizer_queue);
  wane__queues_each(wane__runner_run_all);
  wane__runner_run_all(&wane__worker_queue);
}

WANE_PUBLIC void wane_shutdown(unsigned flags) {
  static const char name[] = "wane_shutdown";
  int saved = errno;
  if ((flags & ~WANE_RUN_CLEANUPS) != 0) {
    wane__fatal(name, "unknown flags %#x", flags);
  }
  struct wane__context *self = wane__hooks.attach();
  wane__runner_forbid(name);
  if (self != NULL) {
    wane__runners_stop();
    if ((flags & WANE_RUN_CLEANUPS) != 0) {
      shutdown_queue_all();
      shutdown_run_all();
    }
    wane__runners_allow();
  }
  errno = saved;
}
