/* The stop protocol; see stop.h. */
#define _GNU_SOURCE
#include "stop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../heap/hooks.h"
#include "registers.h"
#include "thread.h"

#define SIGNAL_DEFAULT_OFFSET 6
#define STOP_SPINS 2000
/* About 0.1 ms: waking an idle CPU can take longer than a small cycle. */
#define PARK_SPINS 8000
/* A full queue of pending signals is waited for, about 20 ms. */
#define STOP_TRIES_YIELDING 100
#define STOP_TRIES_MAX 300
#define STOP_TRY_NS 100000
#define STOP_WAIT_NS 20000000
#define STOP_WAITS_BEFORE_WARNING 500

static struct {
  uint32_t wanted;    /* number of the last stop begun. seq_cst */
  uint32_t released;  /* number of the last stop ended; a futex. seq_cst */
  uint32_t unstopped; /* threads yet to park, plus one; a futex. seq_cst */
  bool may_spin;      /* parked threads, for a while. const during a stop */
  int signal;         /* const after init */
} stop_state;

static uint64_t stop_saved_mask; /* of the collecting thread. cycle lock */

int wane__stop_signal(void) { return stop_state.signal; }

/* The kernel's view of a signal action and mask, for the system calls. */
struct stop_action {
  void (*handler)(int, siginfo_t *, void *);
  unsigned long flags;
  void (*restorer)(void);
  uint64_t mask;
};

static long stop_set_mask(int how, const uint64_t *set, uint64_t *old) {
  return syscall(SYS_rt_sigprocmask, how, set, old, sizeof *set);
}

void wane__stop_allow_signal(void) {
  uint64_t set = 1ull << (stop_state.signal - 1);
  stop_set_mask(SIG_UNBLOCK, &set, NULL);
}

/* On an alternate stack, notes its bounds. */
static void stop_note_alt_stack(struct wane__thread *thread, uintptr_t sp) {
  thread->alt_low = thread->alt_high = 0;
  stack_t alt;
  if (sp >= thread->stack_low && sp < thread->stack_high &&
      thread->stack_low != 0) {
    return;
  }
  if (sigaltstack(NULL, &alt) == 0 && (alt.ss_flags & SS_DISABLE) == 0) {
    uintptr_t low = (uintptr_t)alt.ss_sp;
    if (sp >= low && sp < low + alt.ss_size) {
      thread->alt_low = low;
      thread->alt_high = low + alt.ss_size;
    }
  }
}

static bool stop_is_setting(const struct wane__thread *thread,
                            pthread_key_t key) {
  const struct wane__setting *setting = thread->setting;
  while (setting != NULL && setting->key != key) {
    setting = setting->outer;
  }
  return setting != NULL;
}

/* Values of thread-specific data: the C library keeps those of later keys in
   memory from malloc, which is not scanned. */
void wane__stop_note_values(struct wane__thread *thread) {
  size_t count = 0;
  uintptr_t start = wane__arena.start;
  uintptr_t committed = wane__load_relaxed(&wane__arena.committed);
  for (pthread_key_t key = 0; key < PTHREAD_KEYS_MAX; key++) {
    uintptr_t value =
        stop_is_setting(thread, key) ? 0 : (uintptr_t)pthread_getspecific(key);
    if (value - start < committed) {
      thread->values[count++] = value;
    }
  }
  thread->value_count = count;
}

void *__asan_get_current_fake_stack(void) __attribute__((weak));

static void stop_note_thread(struct wane__thread *thread, uintptr_t sp) {
  thread->stack_pointer = sp;
  if (__asan_get_current_fake_stack != NULL) {
    thread->fake_stack = __asan_get_current_fake_stack();
  }
  stop_note_alt_stack(thread, sp);
  wane__stop_note_values(thread);
}

/* Counts the caller as stopped; the last one wakes the collector. */
static void stop_count_one(void) {
  if (wane__sub(&stop_state.unstopped, 1) == 1) {
    wane__os_futex_wake(&stop_state.unstopped, 1);
  }
}

/* Whoever sets a thread's parked_stop to the stop under way counts it, once:
   the thread as it parks, or the collector as it gives it up. */
static bool stop_claim(struct wane__thread *thread, uint32_t stop) {
  uint32_t before = wane__load_relaxed(&thread->parked_stop);
  return before != stop &&
         wane__cas_acquire(&thread->parked_stop, &before, stop);
}

/* Sleeps until the stop under way has ended; returns at once if there is
   none, or the thread has parked for it (INV-stop-2). */
static void stop_park(struct wane__thread *thread, uintptr_t sp) {
  uint32_t stop = wane__load(&stop_state.wanted);
  uint32_t released = wane__load(&stop_state.released);
  if (stop == released || !stop_claim(thread, stop)) {
    return;
  }
  WANE_CHECK(stop == released + 1,
             "INV-stop-2: a thread parks only for a stop under way");
  stop_note_thread(thread, sp);
  stop_count_one();
  for (int i = 0; i < PARK_SPINS && wane__load_relaxed(&stop_state.may_spin) &&
                  wane__load_relaxed(&stop_state.released) == released;
       i++) {
    wane__cpu_relax();
  }
  released = wane__load(&stop_state.released);
  while ((int32_t)(released - stop) < 0) {
    wane__os_futex_wait(&stop_state.released, released, -1);
    released = wane__load(&stop_state.released);
  }
}

/* Values of a thread's `rest`. */
enum stop_rest {
  STOP_REST_NOT,
  STOP_REST_RESTING,
  STOP_REST_CLAIMED, /* by the stop under way */
};

/* The collector takes a resting thread as stopped. */
static bool stop_claim_resting(struct wane__thread *thread) {
  uint32_t resting = STOP_REST_RESTING;
  return wane__cas(&thread->rest, &resting, STOP_REST_CLAIMED) &&
         stop_claim(thread, stop_state.wanted);
}

/* Before the world goes on. */
static void stop_return_resting(void) {
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    if (wane__load_relaxed(&t->rest) == STOP_REST_CLAIMED) {
      wane__store(&t->rest, STOP_REST_RESTING);
    }
  }
}

/* Ends the calling thread's rest, as soon as no stop has claimed it. */
static void stop_end_rest(struct wane__thread *self) {
  for (;;) {
    uint32_t released = wane__load(&stop_state.released);
    uint32_t resting = STOP_REST_RESTING;
    if (wane__cas(&self->rest, &resting, STOP_REST_NOT)) {
      return;
    }
    wane__os_futex_wait(&stop_state.released, released, -1);
  }
}

static WANE_NOINLINE void stop_rest(struct wane__thread *self,
                                    const uint32_t *word, uint32_t value,
                                    int64_t ns) {
  stop_note_thread(self, (uintptr_t)__builtin_frame_address(0));
  wane__store(&self->rest, STOP_REST_RESTING);
  /* a stop that begins later sees that; one that began before may have sent
     its signal, which is delivered when the rest is over */
  if (!wane__stop_is_world_stopped()) {
    (void)wane__os_futex_wait(word, value, ns);
  }
  stop_end_rest(self);
}

WANE_NOINLINE void wane__stop_rest(const uint32_t *word, uint32_t value,
                                   int64_t ns) {
  struct wane__registers registers;
  uint64_t all = ~0ull;
  uint64_t old;
  WANE_CHECK(wane__self->attached && wane__self->guard == 0,
             "INV-stop-3: only what may be stopped anywhere rests");
  wane__registers_save(&registers);
  stop_set_mask(SIG_SETMASK, &all, &old);
  stop_rest((struct wane__thread *)wane__self, word, value, ns);
  stop_set_mask(SIG_SETMASK, &old, NULL);
  __asm__ volatile("" : : "r"(&registers) : "memory");
}

static WANE_SCANS_MEMORY void stop_handler(int signal, siginfo_t *info,
                                           void *context) {
  (void)signal;
  (void)info;
  (void)context;
  int saved = errno;
  struct wane__context *self = wane__self;
  if (self->attached) {
    if (wane__load_relaxed(&self->guard) != 0) {
      wane__store_relaxed(&self->stop_wanted, 1);
    } else {
      stop_park((struct wane__thread *)self,
                (uintptr_t)__builtin_frame_address(0));
    }
  }
  errno = saved;
}

/* A frame of its own, below the one that holds the saved registers. */
static WANE_NOINLINE void stop_park_here(struct wane__thread *thread) {
  stop_park(thread, (uintptr_t)__builtin_frame_address(0));
}

WANE_NOINLINE void wane__guard_stop(struct wane__context *self) {
  struct wane__registers registers;
  uint64_t all = ~0ull;
  uint64_t old;
  wane__registers_save(&registers);
  stop_set_mask(SIG_SETMASK, &all, &old);
  wane__store_relaxed(&self->stop_wanted, 0);
  stop_park_here((struct wane__thread *)self);
  stop_set_mask(SIG_SETMASK, &old, NULL);
  __asm__ volatile("" : : "r"(&registers) : "memory");
}

#if defined(__x86_64__)
/* What the handler returns to; debuggers know it by these very bytes. */
__asm__(".text\n"
        ".balign 16\n"
        ".globl wane__stop_restorer\n"  /* link-time optimisation may put */
        ".hidden wane__stop_restorer\n" /* it in another object */
        ".type wane__stop_restorer, @function\n"
        "wane__stop_restorer:\n"
        "  movq $15, %rax\n"
        "  syscall\n"
        ".size wane__stop_restorer, . - wane__stop_restorer\n");
void wane__stop_restorer(void) __attribute__((visibility("hidden")));
#  define STOP_RESTORER wane__stop_restorer
#  define STOP_RESTORER_FLAG 0x04000000ul
#else
#  define STOP_RESTORER NULL
#  define STOP_RESTORER_FLAG 0ul
#endif

static bool stop_install_plain(void) {
  struct stop_action action = {
      .handler = stop_handler,
      .flags = SA_SIGINFO | SA_RESTART | STOP_RESTORER_FLAG,
      .restorer = STOP_RESTORER,
      .mask = ~0ull,
  };
  return syscall(SYS_rt_sigaction, stop_state.signal, &action, NULL,
                 sizeof action.mask) == 0;
}

/* Through ThreadSanitizer, which calls the handler when it sees fit. */
static bool stop_install_watched(void) {
  struct sigaction action = {.sa_sigaction = stop_handler,
                             .sa_flags = SA_SIGINFO | SA_RESTART};
  sigfillset(&action.sa_mask);
  return sigaction(stop_state.signal, &action, NULL) == 0;
}

bool wane__stop_init(void) {
  int signal = (int)wane__options.signal;
  if (signal != 0 && (signal < SIGRTMIN || signal > SIGRTMAX)) {
    wane__log("WANE_OPTIONS: signal=%d is not from %d to %d", signal, SIGRTMIN,
              SIGRTMAX);
    signal = 0;
  }
  stop_state.signal = signal != 0 ? signal : SIGRTMIN + SIGNAL_DEFAULT_OFFSET;
  return wane__os_has_tsan() ? stop_install_watched() : stop_install_plain();
}

/* 0; ESRCH, the thread is gone; EAGAIN, the queue of pending signals has been
   full for too long. */
static int stop_send(const struct wane__thread *thread) {
  for (unsigned tries = 0;; tries++) {
    int error = wane__os_signal_thread(thread->tid, stop_state.signal);
    if (error != EAGAIN || tries == STOP_TRIES_MAX) {
      return error;
    }
    if (tries < STOP_TRIES_YIELDING) {
      sched_yield();
    } else {
      wane__os_sleep_ns(STOP_TRY_NS);
    }
  }
}

static void stop_warn_queue_full(void) {
  static bool warned; /* cycle lock */
  if (!warned) {
    wane__log("cannot stop threads, so not collect: the queue of pending "
              "signals is full (ulimit -i)");
    warned = true;
  }
}

/* A thread that will not be waited for; unless it parks at this moment. */
static void stop_give_up(struct wane__thread *thread, int error) {
  if (!stop_claim(thread, stop_state.wanted)) {
    return;
  }
  if (error != EAGAIN) {
    thread->state = WANE__THREAD_LOST;
  }
  stop_count_one();
}

/* Signals all attached threads but the caller's; false if one could not be.
   That and those after it are then not waited for, the others are: a thread
   must not park for a stop that is over (INV-stop-2). */
static bool stop_send_all(void) {
  bool ok = true;
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    if (t->state != WANE__THREAD_ATTACHED || &t->context == wane__self) {
      continue;
    }
    if (stop_claim_resting(t)) {
      stop_count_one();
      continue;
    }
    int error = ok ? stop_send(t) : EAGAIN;
    if (error != 0) {
      stop_give_up(t, error);
      ok = ok && error != EAGAIN;
    }
  }
  return ok;
}

static bool stop_is_awaited(const struct wane__thread *thread) {
  return thread->state == WANE__THREAD_ATTACHED &&
         &thread->context != wane__self &&
         wane__load_relaxed(&thread->parked_stop) != stop_state.wanted;
}

/* A thread that has not parked for long may have died with the signal
   pending, or may have taken it by sigwait: then of two more, the second is
   delivered when sigwait returns. Signals too many do nothing (INV-stop-2). */
static void stop_ask_again(bool warn) {
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    if (!stop_is_awaited(t)) {
      continue;
    }
    if (wane__os_signal_thread(t->tid, stop_state.signal) == ESRCH) {
      stop_give_up(t, ESRCH);
      continue;
    }
    (void)wane__os_signal_thread(t->tid, stop_state.signal);
    if (warn) {
      wane__log("waiting for thread %d to stop: does it block signal %d?",
                t->tid, stop_state.signal);
    }
  }
}

static void stop_wait_for_all(void) {
  unsigned waits = 0;
  for (int spins = 0;; spins++) {
    uint32_t left = wane__load(&stop_state.unstopped);
    if (left == 0) {
      return;
    }
    if (spins < STOP_SPINS) {
      wane__cpu_relax();
    } else if (!wane__os_futex_wait(&stop_state.unstopped, left,
                                    STOP_WAIT_NS)) {
      stop_ask_again(++waits == STOP_WAITS_BEFORE_WARNING);
    }
  }
}

/* Threads that the system does not know any more; checks the others. */
static void stop_bury_lost(uint32_t stop) {
  struct wane__thread *next;
  for (struct wane__thread *t = wane__threads; t != NULL; t = next) {
    next = t->next;
    if (t->state == WANE__THREAD_LOST) {
      wane__thread_bury_locked(t);
      continue;
    }
    WANE_CHECK(t->state != WANE__THREAD_ATTACHED || &t->context == wane__self ||
                   (t->context.guard == 0 && t->parked_stop == stop),
               "INV-stop-1: every stopped thread is parked and unguarded");
  }
  (void)stop;
}

bool wane__stop_world(uintptr_t stack_pointer, unsigned spare_cpus) {
  uint64_t all = ~0ull;
  stop_set_mask(SIG_SETMASK, &all, &stop_saved_mask);
  uint32_t count = 1;
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    count += t->state == WANE__THREAD_ATTACHED && &t->context != wane__self;
  }
  wane__store(&stop_state.unstopped, count);
  wane__store_relaxed(&stop_state.may_spin, count - 1 <= spare_cpus);
  uint32_t stop = wane__add(&stop_state.wanted, 1) + 1;
  bool ok = stop_send_all();
  stop_count_one();
  stop_wait_for_all();
  if (!ok) {
    wane__resume_world();
    stop_warn_queue_full();
    return false;
  }
  stop_bury_lost(stop);
  if (wane__self->attached) {
    stop_note_thread((struct wane__thread *)wane__self, stack_pointer);
  }
  return true;
}

bool wane__stop_is_world_stopped(void) {
  return wane__load(&stop_state.wanted) != wane__load(&stop_state.released);
}

void wane__resume_world(void) {
  stop_return_resting();
  wane__store(&stop_state.released, stop_state.wanted);
  wane__os_futex_wake(&stop_state.released, INT32_MAX);
  stop_set_mask(SIG_SETMASK, &stop_saved_mask, NULL);
}
