/* A thread that waits on a futex; see collector.h. */
#include "collector.h"

#include <stddef.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../mutator/thread.h"

#define COLLECTOR_NONE UINT32_MAX

static uint32_t collector_wanted = COLLECTOR_NONE; /* the reason; a futex.
                                                      seq_cst */
static bool collector_runs; /* written with the cycle lock. relaxed */

static void *collector_thread(void *arg) {
  (void)arg;
  for (;;) {
    uint32_t wanted = wane__exchange(&collector_wanted, COLLECTOR_NONE);
    if (wanted == COLLECTOR_NONE) {
      wane__os_futex_wait(&collector_wanted, COLLECTOR_NONE, -1);
      continue;
    }
    wane__cycle_run((enum wane__cycle_reason)wanted, false, 0);
  }
  return NULL;
}

void wane__collector_start(void) {
  if (!collector_runs && wane__options.background != 0) {
    wane__store_relaxed(&collector_runs, wane__thread_create_internal(
                                             collector_thread, NULL, false));
  }
}

bool wane__collector_is_ready(void) {
  return wane__load_relaxed(&collector_runs);
}

void wane__collector_ask(enum wane__cycle_reason reason) {
  uint32_t none = COLLECTOR_NONE;
  if (wane__load_relaxed(&collector_wanted) == COLLECTOR_NONE &&
      wane__cas(&collector_wanted, &none, (uint32_t)reason)) {
    wane__os_futex_wake(&collector_wanted, 1);
  }
}

void wane__collector_fork_child(void) {
  collector_runs = false;
  collector_wanted = COLLECTOR_NONE;
}
