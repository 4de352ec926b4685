/*
 * Where all layers meet: the heap's hooks, and starting the library, at the
 * first call or in a constructor, whichever comes first.
 *
 * Starting reads the options, installs the stop signal's handler and the fork
 * handlers, and attaches the main thread; the address space is reserved, no
 * memory is touched, no thread is started. It is tried again at the next call
 * if the system said no.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../collect/background.h"
#include "../collect/beside.h"
#include "../collect/cycle.h"
#include "../collect/fork.h"
#include "../collect/pace.h"
#include "../collect/sweep.h"
#include "../collect/trace.h"
#include "../heap/block.h"
#include "../heap/context.h"
#include "../heap/hooks.h"
#include "../mark/dirty.h"
#include "../mutator/stop.h"
#include "../mutator/thread.h"
#include "../special/runner.h"
#include "../tables/cache.h"

static pthread_mutex_t start_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool start_read_options; /* lock: start_mutex */
static bool start_done;         /* lock: start_mutex; acquire */

static bool start_try_locked(void) {
  if (!start_read_options) {
    wane__options_init();
    wane__pace_init();
    wane__trace_init();
    start_read_options = true;
  }
  if (!start_done) {
    bool ok = wane__arena_init() && wane__stop_init() && wane__threads_init() &&
              wane__fork_init();
    if (ok && wane__dirty_is_available()) { /* nobody else uses it yet */
      wane__pace_guess_beside();
    }
    /* pairs with the acquire in start_attach */
    wane__store_release(&start_done, ok);
  }
  return start_done;
}

/* Once it is done, starting takes no lock: fork does not know of this mutex,
   and its child attaches anew. */
static struct wane__context *start_attach(void) {
  if (wane__self->attached) {
    return wane__self;
  }
  if (!wane__load_acquire(&start_done)) {
    pthread_mutex_lock(&start_mutex);
    bool ok = start_try_locked();
    pthread_mutex_unlock(&start_mutex);
    if (!ok) {
      return NULL;
    }
  }
  bool is_child_with_records = wane__fork_settle();
  struct wane__context *self = wane__thread_attach_self();
  if (is_child_with_records) { /* as if it had registered them itself */
    int saved = errno;
    wane__background_watch();
    wane__runners_retry();
    errno = saved;
  }
  return self;
}

const struct wane__hooks wane__hooks = {
    .attach = start_attach,
    .collect_triggered = wane__cycle_triggered,
    .slow = wane__beside_slow,
    .will_write = wane__dirty_will_write,
    .collect_for_room = wane__cycle_for_room,
    .collect_for_stress = wane__cycle_for_stress,
    .sweep = wane__sweep_group,
    .watch = wane__background_watch,
    .forked = wane__cache_forked,
};

/* The main thread is known from the start, so that what it holds is safe
   when other threads collect before its first call. */
__attribute__((constructor)) static void start_at_load(void) {
  (void)start_attach();
}
