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
#include "../mark/ephemeron.h"
#include "../special/death.h"
#include "../special/queue.h"
#include "../special/runner.h"
#include "cycle.h"
#include "sweep.h"

/* Notes, or runs, a step of all queues. What waited counts as that of weak
   pointers, which has no callbacks. */
static void shutdown_each(enum wane__death_step step,
                          void (*visit)(struct wane_queue *q,
                                        enum wane__death_step step)) {
  struct wane_queue *q;
  for (uint32_t i = 1; (q = wane__queue_next(&i)) != NULL; i++) {
    visit(q, step);
  }
  visit(&wane__finalizer_queue, step);
  visit(&wane__worker_queue, step);
}

static void shutdown_note(struct wane_queue *q, enum wane__death_step step) {
  q->ends[step] = wane__load_relaxed(&q->pushed);
}

static void shutdown_run(struct wane_queue *q, enum wane__death_step step) {
  wane__runner_run_until(q, q->ends[step]);
}

/* Deaths that a cycle has found, and then all others, go on their queues. The
   cycle lock keeps colours as they are. */
static void shutdown_queue_all(void) {
  wane__cycle_enter();
  wane__sweep_finish_records();
  for (int step = 0; step < WANE__DEATH_STEPS; step++) {
    wane__death_of_all((enum wane__death_step)step);
    shutdown_each((enum wane__death_step)step, shutdown_note);
  }
  wane__cycle_leave();
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
      if (wane__load_relaxed(&wane__ephemerons_exist)) {
        wane__cycle_run(WANE__CYCLE_SHUTDOWN, true, 0);
      }
      shutdown_queue_all();
      for (int step = 0; step < WANE__DEATH_STEPS; step++) {
        shutdown_each((enum wane__death_step)step, shutdown_run);
      }
      wane__runners_run_rest(); /* of queues that a callback freed */
    }
    wane__runners_allow();
  }
  errno = saved;
}
