/* Threads and calls that run callbacks; see runner.h. */
#include "runner.h"

#include <errno.h>
#include <string.h>

#include "../../include/wane/collect.h"
#include "../../include/wane/lifetime.h"
#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/meta.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../base/symbol.h"
#include "../heap/context.h"
#include "../heap/hooks.h"
#include "../mutator/thread.h"
#include "net.h"

#define RUNNERS_MAX 64u
/* So many records that have run go back to their pool together. */
#define RUNNER_CHAIN 64u
#define RUNNER_SCRUB_BYTES 2048u
#define RUNNER_NAME_BYTES 256u
#define CREW_RETRY_NS 100000000ull
#define THROTTLE_BACKLOG (128u << 10)
#define THROTTLE_STEP_NS 1000000ull
/* Without a callback returning for so long, they wait for something. */
#define THROTTLE_STUCK_NS 100000000ull

/* The library's threads for one of its queues. */
struct runner_crew {
  struct wane_queue *queue;  /* const */
  uint32_t state;            /* enum crew_state. seq_cst */
  uint32_t alive;            /* threads in their loops; a futex. seq_cst */
  uint32_t quit;             /* they are to end. seq_cst */
  uint32_t count;            /* runners in use. while CHANGING: its thread */
  uint64_t failed_ns;        /* when starting failed; 0: it did not. relaxed */
  struct wane__runner *crew; /* RUNNERS_MAX of them, once started */
};

enum crew_state { CREW_NONE, CREW_CHANGING, CREW_STARTED };

static struct runner_crew runner_workers = {.queue = &wane__worker_queue};
static struct runner_crew runner_finalizer = {.queue = &wane__finalizer_queue};

WANE_TLS struct wane__runner *wane__runner_self;
static struct wane__meta_list runner_free; /* lock: meta */
uint32_t wane__runners_crowded;
bool wane__runners_ready[WANE__SORT_COUNT];

/* Overwrites what a callback left on the stack below, where a pointer to an
   object would keep it alive while this thread sleeps. */
static WANE_NOINLINE void runner_scrub(void) {
  char old[RUNNER_SCRUB_BYTES];
  memset(old, 0, sizeof old);
  __asm__ volatile("" : : "r"(old) : "memory");
}

static struct wane__record *runner_record(const struct wane__runner *runner) {
  return wane__record_at(wane__ref_sort(runner->ref),
                         wane__ref_index(runner->ref));
}

/* The callback that the runner is at, by name. */
static const char *runner_callback(const struct wane__runner *runner,
                                   char *name, size_t bytes) {
  uintptr_t fn = (uintptr_t)runner_record(runner)->fn;
  wane__symbol_describe((const void *)fn, name, bytes);
  return name;
}

/* The thread ends inside a callback: a pthread cleanup handler. */
static void runner_left(void *arg) {
  const struct wane__runner *runner = arg;
  char name[RUNNER_NAME_BYTES];
  if (runner->ref != 0) {
    wane__fatal(wane__record_call_name(runner_record(runner)),
                "the callback %s ended its thread: by pthread_exit, or it was "
                "cancelled",
                runner_callback(runner, name, sizeof name));
  }
}

static void runner_left_by_longjmp(const char *function,
                                   const struct wane__runner *runner) {
  char name[RUNNER_NAME_BYTES];
  wane__fatal(function, "the callback %s was left by longjmp",
              runner_callback(runner, name, sizeof name));
}

/* Two calls of this have their frames at the same place and the same
   registers. One that returns a second time, by longjmp into an earlier
   callback, has the earlier ref in its register. */
static WANE_NOINLINE void runner_call(const struct wane__runner *runner,
                                      void (*fn)(void *), void *arg,
                                      uint32_t ref) {
  fn(arg);
  __asm__ volatile("" : "+r"(ref));
  if (WANE_UNLIKELY(wane__load_relaxed(&runner->ref) != ref)) {
    runner_left_by_longjmp(wane__record_call_name(runner_record(runner)),
                           runner);
  }
}

static void runner_attach_again(void) {
  while (wane__hooks.attach() == NULL) {
    wane__os_sleep_ns(THROTTLE_STEP_NS);
  }
}

/* Calls the callback of a record that was taken. Not guarded. */
static void runner_run(struct wane__runner *runner, uint32_t ref) {
  enum wane__sort sort = wane__ref_sort(ref);
  uint32_t index = wane__ref_index(ref);
  struct wane__record *record = wane__record_at(sort, index);
  void *arg = (void *)wane__pool_arg(&wane__pools[sort], index);
  if (record->call == WANE__CALL_ADD_SAFETY_NET) {
    wane__net_needed((struct wane__net *)(uintptr_t)record->site);
  }
  int saved = errno;
  runner_call(runner, record->fn, arg, ref);
  WANE_ASSERT(record->state == WANE__RECORD_RUNNING,
              "INV-runner-1: a callback returns to the runner at its record");
  if (WANE_UNLIKELY(!wane__self->attached)) {
    runner_attach_again(); /* it forked, or detached this thread */
  }
  errno = saved;
}

static void runner_give_back(struct wane__runner *runner) {
  for (int sort = 0; sort < WANE__SORT_COUNT; sort++) {
    wane__pool_give(&wane__pools[sort], &runner->done[sort]);
  }
}

/* The callback has returned: its record is free, its argument let go. */
static void runner_finish(struct wane__runner *runner) {
  if (runner->ref == 0) {
    return;
  }
  enum wane__sort sort = wane__ref_sort(runner->ref);
  struct wane__pool_chain *done = &runner->done[sort];
  wane__record_retire(sort, wane__ref_index(runner->ref), done);
  wane__store_relaxed(&runner->ref, 0);
  if (done->count >= RUNNER_CHAIN) {
    runner_give_back(runner);
  }
}

/* True if all records up to the number have been run. lock: lock. */
static bool runner_is_drained_locked(const struct wane_queue *q,
                                     uint64_t number) {
  bool done = q->taken >= number;
  for (const struct wane__runner *r = q->runners; done && r != NULL;
       r = r->next) {
    done = r->number > number;
  }
  return done;
}

/* What was taken last has been dealt with; takes the next, if it is to.
   Guarded. */
static uint32_t runner_next(struct wane__runner *runner, bool take) {
  struct wane_queue *q = runner->queue;
  bool wake = false;
  uint32_t ref = 0;
  uint32_t before = runner->ref;
  runner_finish(runner);
  wane__spin_acquire(&q->lock);
  if (before != 0) {
    uint64_t *ran = &q->ran[wane__ref_sort(before)];
    wane__store_relaxed(ran, *ran + 1);
  }
  runner->number = UINT64_MAX;
  if (take) {
    ref = wane__queue_take_locked(q, &runner->number);
  }
  if (ref != 0) { /* from here on fork knows whose it is */
    wane__store_relaxed(&runner->ref, ref);
    wane__store_relaxed(&runner_record(runner)->state, WANE__RECORD_RUNNING);
  }
  if (q->taken >= q->drain_target &&
      runner_is_drained_locked(q, q->drain_target)) {
    q->drain_target = UINT64_MAX;
    wane__add(&q->drained, 1);
    wake = true;
  }
  wane__spin_release(&q->lock);
  if (wake) {
    wane__os_futex_wake(&q->drained, INT32_MAX);
  }
  return ref;
}

/* ---- The library's threads ---- */

/* Sleeps until something is pushed, or the crew is to end. */
static void crew_wait(struct runner_crew *crew, struct wane__runner *runner) {
  struct wane_queue *q = crew->queue;
  struct wane__context *self = wane__self;
  wane__guard_enter(self);
  runner_give_back(runner);
  wane__spin_acquire(&q->lock);
  uint32_t wake = wane__load(&q->wake);
  bool empty = q->first == 0 && wane__load(&crew->quit) == 0;
  q->idle += empty;
  wane__spin_release(&q->lock);
  wane__guard_leave(self);
  if (!empty) {
    return;
  }
  runner_scrub();
  while (wane__load(&q->wake) == wake) {
    wane__os_futex_wait(&q->wake, wake, -1);
  }
  wane__guard_enter(self);
  wane__spin_acquire(&q->lock);
  q->idle--;
  wane__spin_release(&q->lock);
  wane__guard_leave(self);
}

static void crew_loop(struct runner_crew *crew, struct wane__runner *runner) {
  for (;;) {
    struct wane__context *self = wane__self; /* another after a fork */
    wane__guard_enter(self);
    uint32_t ref = runner_next(runner, true);
    wane__guard_leave(self);
    if (ref != 0) {
      runner_run(runner, ref);
    } else if (wane__load(&crew->quit) != 0) {
      return;
    } else {
      crew_wait(crew, runner);
    }
  }
}

static void crew_link(struct wane__runner *runner, bool is_in) {
  struct wane_queue *q = runner->queue;
  struct wane__context *self = wane__self;
  wane__guard_enter(self);
  wane__spin_acquire(&q->lock);
  if (is_in) {
    runner->next = q->runners;
    q->runners = runner;
  } else {
    struct wane__runner **at = &q->runners;
    while (*at != runner) {
      at = &(*at)->next;
    }
    *at = runner->next;
  }
  wane__spin_release(&q->lock);
  wane__guard_leave(self);
}

static struct runner_crew *crew_of_queue(const struct wane_queue *q) {
  return q == &wane__finalizer_queue ? &runner_finalizer : &runner_workers;
}

static void crew_count_out(struct runner_crew *crew) {
  wane__sub(&crew->alive, 1);
  wane__os_futex_wake(&crew->alive, INT32_MAX);
}

static void *crew_thread(void *arg) {
  struct wane__runner *runner = arg;
  struct runner_crew *crew = crew_of_queue(runner->queue);
  while (wane__hooks.attach() == NULL) { /* no memory, for now */
    if (wane__load(&crew->quit) != 0) {
      crew_count_out(crew);
      return NULL;
    }
    wane__os_sleep_ns(THROTTLE_STEP_NS);
  }
  struct wane__thread *thread = (struct wane__thread *)wane__self;
  wane__store_relaxed(&thread->is_internal, true);
  runner->stack = (uintptr_t)__builtin_frame_address(0);
  wane__runner_self = runner;
  pthread_cleanup_push(runner_left, runner);
  crew_link(runner, true);
  crew_loop(crew, runner);
  crew_link(runner, false);
  pthread_cleanup_pop(0);
  wane__runner_self = NULL;
  crew_count_out(crew);
  return NULL;
}

static uint32_t crew_wanted(const struct runner_crew *crew) {
  if (crew == &runner_finalizer) {
    return 1;
  }
  uint32_t quarter = wane__os_cpu_count() / 4;
  quarter = quarter > 2 ? quarter : 2;
  return quarter < RUNNERS_MAX ? quarter : RUNNERS_MAX;
}

/* One more thread; false if the system said no. */
static bool crew_add(struct runner_crew *crew) {
  struct wane__runner *runner = &crew->crew[crew->count];
  *runner = (struct wane__runner){
      .queue = crew->queue, .number = UINT64_MAX, .is_crew = true};
  wane__add(&crew->alive, 1);
  if (!wane__thread_create_internal(crew_thread, runner, true)) {
    wane__sub(&crew->alive, 1);
    return false;
  }
  crew->count++;
  return true;
}

static void crew_start_failed(struct runner_crew *crew) {
  static uint32_t warned; /* seq_cst */
  wane__store_relaxed(&crew->failed_ns, wane__os_now_ns());
  if (wane__exchange(&warned, 1) == 0) {
    wane__log("cannot start threads for callbacks: they wait until one can be "
              "started");
  }
}

/* By the thread that has set the state to CHANGING. */
static bool crew_start(struct runner_crew *crew) {
  if (crew->crew == NULL) { /* the background thread may be here */
    struct wane__context *self = wane__guard_enter_any();
    crew->crew = wane__meta_alloc(RUNNERS_MAX * sizeof *crew->crew);
    wane__guard_leave_any(self);
  }
  uint32_t wanted = crew->crew != NULL ? crew_wanted(crew) : 0;
  while (crew->count < wanted && crew_add(crew)) {
  }
  return crew->count != 0 && crew->count == wanted;
}

static void crew_set_state(struct runner_crew *crew, enum crew_state state) {
  enum wane__sort sort =
      crew == &runner_finalizer ? WANE__SORT_FINALIZER : WANE__SORT_CLEANUP;
  wane__store_relaxed(&wane__runners_ready[sort], state == CREW_STARTED);
  wane__store(&crew->state, state);
}

static void crew_ensure(struct runner_crew *crew) {
  uint32_t expected = CREW_NONE;
  if (WANE_LIKELY(wane__load_relaxed(&crew->state) != CREW_NONE)) {
    return;
  }
  uint64_t failed = wane__load_relaxed(&crew->failed_ns);
  if ((failed != 0 && wane__os_now_ns() - failed < CREW_RETRY_NS) ||
      !wane__cas_acquire(&crew->state, &expected, CREW_CHANGING)) {
    return;
  }
  int saved = errno;
  bool ok = crew_start(crew);
  if (!ok) {
    crew_start_failed(crew);
  }
  if (ok) {
    wane__store_relaxed(&crew->failed_ns, 0);
  }
  crew_set_state(crew, ok ? CREW_STARTED : CREW_NONE);
  errno = saved;
}

static struct runner_crew *crew_for(enum wane__sort sort) {
  return sort == WANE__SORT_FINALIZER ? &runner_finalizer : &runner_workers;
}

void wane__runners_start(enum wane__sort sort) { crew_ensure(crew_for(sort)); }

static uint64_t crew_backlog(const struct runner_crew *crew) {
  uint64_t taken = wane__load_relaxed(&crew->queue->taken);
  uint64_t pushed = wane__load_relaxed(&crew->queue->pushed);
  return pushed > taken ? pushed - taken : 0;
}

void wane__runners_retry(void) {
  if (crew_backlog(&runner_workers) != 0) {
    crew_ensure(&runner_workers);
  }
  if (crew_backlog(&runner_finalizer) != 0) {
    crew_ensure(&runner_finalizer);
  }
}

/* How many callbacks the library's threads have run. */
static uint64_t crews_ran(void) {
  return wane__load_relaxed(&wane__worker_queue.ran[WANE__SORT_CLEANUP]) +
         wane__load_relaxed(&wane__finalizer_queue.ran[WANE__SORT_FINALIZER]);
}

void wane__runners_note_backlog(void) {
  uint64_t backlog =
      crew_backlog(&runner_workers) + crew_backlog(&runner_finalizer);
  uint32_t crowded = wane__load_relaxed(&wane__runners_crowded);
  if (crowded == 0 ? backlog > THROTTLE_BACKLOG
                   : backlog < THROTTLE_BACKLOG / 2) {
    wane__store_relaxed(&wane__runners_crowded, !crowded);
  }
}

void wane__runners_throttle_slow(void) {
  static uint64_t last_count; /* relaxed: both are hints */
  static uint64_t moved_ns;
  if (wane__runner_self != NULL) {
    return;
  }
  wane__runners_note_backlog();
  uint64_t count = crews_ran();
  uint64_t now = wane__os_now_ns();
  if (wane__load_relaxed(&last_count) != count) {
    wane__store_relaxed(&last_count, count);
    wane__store_relaxed(&moved_ns, now);
  }
  if (wane__load_relaxed(&wane__runners_crowded) != 0 &&
      now - wane__load_relaxed(&moved_ns) < THROTTLE_STUCK_NS) {
    wane__os_sleep_ns(THROTTLE_STEP_NS);
  }
}

/* Takes the crew's state for the caller, whoever else is changing it. */
static void crew_hold(struct runner_crew *crew) {
  for (;;) {
    uint32_t state = wane__load(&crew->state);
    if (state != CREW_CHANGING &&
        wane__cas_acquire(&crew->state, &state, CREW_CHANGING)) {
      return;
    }
    wane__os_sleep_ns(THROTTLE_STEP_NS);
  }
}

static void crew_stop(struct runner_crew *crew) {
  struct wane_queue *q = crew->queue;
  crew_hold(crew);
  wane__store(&crew->quit, 1);
  wane__add(&q->wake, 1);
  wane__os_futex_wake(&q->wake, INT32_MAX);
  for (uint32_t left; (left = wane__load(&crew->alive)) != 0;) {
    wane__os_futex_wait(&crew->alive, left, -1);
  }
  crew->count = 0;
  wane__store(&crew->quit, 0);
}

void wane__runners_run_rest(void) {
  wane__runner_run_until(&wane__worker_queue,
                         wane__load_relaxed(&wane__worker_queue.pushed));
  wane__runner_run_until(&wane__finalizer_queue,
                         wane__load_relaxed(&wane__finalizer_queue.pushed));
}

/* What they did not run, because none could be started, the caller runs. */
void wane__runners_stop(void) {
  crew_stop(&runner_workers);
  crew_stop(&runner_finalizer);
  wane__runners_run_rest();
}

void wane__runners_allow(void) {
  crew_set_state(&runner_workers, CREW_NONE);
  crew_set_state(&runner_finalizer, CREW_NONE);
}

/* ---- On the caller's thread ---- */

/* A runner of this thread is at the queue already: it is in a callback that
   called back, or in one that was left by longjmp. Its frame is gone if it is
   below the caller's. */
static void runner_check_turn(const struct wane_queue *q, uintptr_t here) {
  for (const struct wane__runner *r = wane__runner_self; r != NULL;
       r = r->outer) {
    if (r->queue == q && r->stack <= here) {
      runner_left_by_longjmp("wane_queue_run", r);
    }
    if (r->queue == q) {
      wane__fatal("wane_queue_run",
                  "called inside a callback of the same queue");
    }
  }
}

void wane__runner_forbid(const char *function) {
  if (wane__runner_self != NULL) {
    wane__fatal(function, "called inside a callback, for which it would wait; "
                          "or one was left by longjmp");
  }
}

static size_t runner_run_some(struct wane__runner *runner, size_t max) {
  size_t count = 0;
  for (;;) {
    struct wane__context *self = wane__self; /* another after a fork */
    wane__guard_enter(self);
    uint32_t ref = runner_next(runner, count < max);
    wane__guard_leave(self);
    if (ref == 0) {
      return count;
    }
    count++;
    runner_run(runner, ref);
  }
}

/* Not on the stack: a callback that is left by longjmp leaves it behind, in
   the thread's chain, to be noticed. */
static struct wane__runner *runner_new(struct wane_queue *q, uintptr_t here) {
  struct wane__context *self = wane__self;
  wane__guard_enter(self);
  struct wane__runner *runner = wane__meta_take(&runner_free, sizeof *runner);
  wane__guard_leave(self);
  if (runner != NULL) {
    *runner = (struct wane__runner){.queue = q,
                                    .number = UINT64_MAX,
                                    .stack = here,
                                    .outer = wane__runner_self};
  }
  return runner;
}

static void runner_delete(struct wane__runner *runner) {
  struct wane__context *self = wane__self;
  wane__guard_enter(self);
  runner_give_back(runner);
  wane__meta_give(&runner_free, runner);
  wane__guard_leave(self);
}

/* Runs up to max on this thread; none, with ENOMEM, if there is no memory. */
static size_t runner_run_here(struct wane_queue *q, size_t max,
                              uintptr_t here) {
  struct wane__runner *runner = runner_new(q, here);
  size_t count;
  if (runner == NULL) {
    return 0;
  }
  bool is_library = q->number == 0; /* a drain must see it */
  if (is_library) {
    crew_link(runner, true);
  }
  wane__runner_self = runner;
  pthread_cleanup_push(runner_left, runner);
  count = runner_run_some(runner, max);
  pthread_cleanup_pop(0);
  wane__runner_self = runner->outer;
  if (is_library) {
    crew_link(runner, false);
  }
  runner_delete(runner);
  runner_scrub();
  return count;
}

static void runner_change_runs(struct wane_queue *q, uint32_t change) {
  struct wane__context *self = wane__self;
  wane__guard_enter(self);
  wane__spin_acquire(&q->lock);
  q->runs += change;
  if (q->free_wanted) {
    wane__queue_close_and_unlock(q);
  } else {
    wane__spin_release(&q->lock);
  }
  wane__guard_leave(self);
}

/* The same, during which the queue is not freed. */
static size_t runner_run_queue(struct wane_queue *q, size_t max,
                               uintptr_t here) {
  runner_change_runs(q, 1);
  size_t count = runner_run_here(q, max, here);
  runner_change_runs(q, (uint32_t)-1);
  return count;
}

void wane__runner_run_until(struct wane_queue *q, uint64_t number) {
  uint64_t taken = wane__load_relaxed(&q->taken);
  if (taken < number) {
    runner_run_queue(q, number - taken, (uintptr_t)__builtin_frame_address(0));
  }
}

WANE_PUBLIC size_t wane_queue_run(struct wane_queue *q, size_t max) {
  static const char name[] = "wane_queue_run";
  uintptr_t here = (uintptr_t)__builtin_frame_address(0);
  struct wane__context *self = wane__hooks.attach();
  (void)wane__queue_number(name, q);
  if (self == NULL) {
    wane__fatal(name, "out of memory for the thread's record");
  }
  runner_check_turn(q, here);
  return runner_run_queue(q, max, here);
}

/* ---- Draining ---- */

/* Waits until all up to the number have been run; false: the time is over. */
static bool runner_drain(struct wane_queue *q, uint64_t number,
                         uint64_t until_ns) {
  struct wane__context *self = wane__self;
  for (;;) {
    wane__guard_enter(self);
    wane__spin_acquire(&q->lock);
    uint32_t drained = wane__load(&q->drained);
    bool done = runner_is_drained_locked(q, number);
    if (!done && q->drain_target > number) {
      q->drain_target = number;
    }
    wane__spin_release(&q->lock);
    wane__guard_leave(self);
    if (done) {
      return true;
    }
    wane__runners_retry();
    uint64_t now = wane__os_now_ns();
    if (now >= until_ns) {
      return false;
    }
    uint64_t left = until_ns - now;
    if (wane__load(&crew_of_queue(q)->state) != CREW_STARTED &&
        left > CREW_RETRY_NS) {
      left = CREW_RETRY_NS; /* to try again to start threads */
    }
    wane__os_futex_wait(&q->drained, drained,
                        left > INT64_MAX ? -1 : (int64_t)left);
  }
}

WANE_PUBLIC bool wane_drain(int timeout_ms) {
  static const char name[] = "wane_drain";
  int saved = errno;
  struct wane__context *self = wane__hooks.attach();
  wane__runner_forbid(name);
  if (self == NULL) {
    return true; /* nothing was ever registered */
  }
  uint64_t until = UINT64_MAX;
  if (timeout_ms >= 0) {
    until = wane__os_now_ns() + (uint64_t)timeout_ms * 1000000;
  }
  uint64_t cleanups = wane__load_relaxed(&wane__worker_queue.pushed);
  uint64_t finalizers = wane__load_relaxed(&wane__finalizer_queue.pushed);
  bool done = runner_drain(&wane__worker_queue, cleanups, until) &&
              runner_drain(&wane__finalizer_queue, finalizers, until);
  errno = saved;
  return done;
}

/* ---- fork ---- */

/* The forking thread's own runner goes on, beside a crew that starts anew. */
static void crew_fork_child(struct runner_crew *crew) {
  struct wane__runner *own = NULL;
  for (struct wane__runner *r = wane__runner_self; r != NULL; r = r->outer) {
    own = r->is_crew && r->queue == crew->queue ? r : own;
  }
  if (own != NULL) {
    own->next = NULL;
    crew->queue->runners = own;
    crew->crew = NULL; /* its record stays where it is */
  }
  crew->count = 0;
  crew->alive = own != NULL;
  crew->quit = 0;
  crew->failed_ns = 0;
  /* finalizers have one thread; workers may be one more */
  bool is_whole = own != NULL && crew == &runner_finalizer;
  crew_set_state(crew, is_whole ? CREW_STARTED : CREW_NONE);
}

void wane__runners_fork_child(void) {
  crew_fork_child(&runner_workers);
  crew_fork_child(&runner_finalizer);
  for (struct wane__runner *r = wane__runner_self; r != NULL; r = r->outer) {
    r->queue->runs += r->queue->number != 0;
  }
}

static bool runner_is_own(uint32_t ref) {
  bool is_own = false;
  for (const struct wane__runner *r = wane__runner_self; r != NULL;
       r = r->outer) {
    is_own = is_own || r->ref == ref;
  }
  return is_own;
}

static void runner_drop_others(enum wane__sort sort) {
  struct wane__pool_chain chain = {0};
  uint64_t dropped = 0;
  uint32_t limit = wane__pool_limit(&wane__pools[sort]);
  for (uint32_t i = 1; i < limit; i++) {
    uint8_t state = wane__record_at(sort, i)->state;
    if ((state == WANE__RECORD_RUNNING && !runner_is_own(wane__ref(sort, i))) ||
        (state == WANE__RECORD_QUEUED && wane__options.fork == 0)) {
      wane__record_retire(sort, i, &chain);
      dropped++;
    }
  }
  wane__pool_give(&wane__pools[sort], &chain);
  wane__queues_count_elsewhere(sort, dropped);
}

static void runner_forget_queued(struct wane_queue *q) {
  q->first = q->last = 0;
  q->taken = q->pushed;
}

/* A queue freed in a callback of a thread that is gone. */
static void runner_close_wanted(struct wane_queue *q) {
  if (q->free_wanted && q->runs == 0) {
    wane__spin_acquire(&q->lock);
    wane__queue_close_and_unlock(q);
  }
}

void wane__runners_fork_settle(void) {
  struct wane_queue *q;
  if (wane__options.fork == 0) {
    runner_forget_queued(&wane__worker_queue);
    runner_forget_queued(&wane__finalizer_queue);
    for (uint32_t i = 1; (q = wane__queue_next(&i)) != NULL; i++) {
      runner_forget_queued(q);
    }
  }
  runner_drop_others(WANE__SORT_CLEANUP);
  runner_drop_others(WANE__SORT_FINALIZER);
  for (uint32_t i = 1; (q = wane__queue_next(&i)) != NULL; i++) {
    runner_close_wanted(q);
  }
}
