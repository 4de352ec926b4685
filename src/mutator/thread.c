/* The registry of threads; see thread.h for their states. */
#define _GNU_SOURCE
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../include/wane/heap.h"
#include "../base/check.h"
#include "../base/meta.h"
#include "../base/os.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "registers.h"
#include "stop.h"

struct wane__lock wane__threads_lock = WANE__LOCK_INIT(WANE__RANK_THREADS);
struct wane__thread *wane__threads;

static struct wane__meta_list thread_records; /* lock: meta */
static pthread_key_t thread_key;              /* const after init */

static void thread_link_locked(struct wane__thread *thread) {
  thread->prev = NULL;
  thread->next = wane__threads;
  if (wane__threads != NULL) {
    wane__threads->prev = thread;
  }
  wane__threads = thread;
}

void wane__thread_remove_locked(struct wane__thread *thread) {
  if (thread->next != NULL) {
    thread->next->prev = thread->prev;
  }
  if (thread->prev != NULL) {
    thread->prev->next = thread->next;
  } else {
    wane__threads = thread->next;
  }
  wane__meta_give(&thread_records, thread);
}

static struct wane__thread *thread_record_new(void) {
  struct wane__context *self = wane__guard_enter_any(); /* a lock is taken */
  struct wane__thread *thread =
      wane__meta_take(&thread_records, sizeof *thread);
  wane__guard_leave_any(self);
  if (thread == NULL) {
    return NULL;
  }
  wane__context_init(&thread->context);
  size_t rest =
      offsetof(struct wane__thread, values) - sizeof(struct wane__context);
  memset((char *)thread + sizeof(struct wane__context), 0, rest);
  return thread;
}

/* The lowest address that can be read, above the guard, and the end. */
static struct wane__os_mapping thread_find_stack(pid_t tid) {
  struct wane__os_mapping stack = {0};
  pthread_attr_t attr;
  void *low;
  size_t bytes;
  size_t guard = 0;
  if (pthread_getattr_np(pthread_self(), &attr) != 0) {
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    if (!wane__os_find_mapping(here, &stack)) {
      wane__internal("the stack of thread %d cannot be found", tid);
    }
    return stack;
  }
  pthread_attr_getstack(&attr, &low, &bytes);
  pthread_attr_getguardsize(&attr, &guard);
  pthread_attr_destroy(&attr);
  stack.start = (uintptr_t)low + guard;
  stack.end = (uintptr_t)low + bytes;
  return stack;
}

void wane__thread_bury_locked(struct wane__thread *thread) {
  if (thread->state != WANE__THREAD_EXITED) {
    wane__context_flush(&thread->context);
    wane__thread_retire_counts(&thread->context);
  }
  wane__thread_remove_locked(thread);
}

/* A thread's handle or number is used again: the old owner is gone. */
static void thread_remove_stale_locked(const struct wane__thread *fresh) {
  struct wane__thread *next;
  for (struct wane__thread *t = wane__threads; t != NULL; t = next) {
    next = t->next;
    /* a thread that comes back in its last round still has its result there */
    bool stale = (t->state == WANE__THREAD_EXITED && t->tid != fresh->tid &&
                  pthread_equal(t->handle, fresh->handle)) ||
                 (t->state == WANE__THREAD_ATTACHED && t->tid == fresh->tid);
    if (stale && t != fresh) {
      wane__thread_bury_locked(t);
    }
  }
}

/* The calling thread becomes the record's thread. The main thread's stack is
   found out at the first stop. */
static void thread_take_over(struct wane__thread *thread, bool linked) {
  pid_t tid = wane__os_tid();
  bool is_main = tid == getpid();
  struct wane__os_mapping stack = {0};
  if (!is_main) {
    stack = thread_find_stack(tid);
  }
  wane__stop_allow_signal();
  pthread_setspecific(thread_key, thread);
  wane__lock_acquire(&wane__threads_lock);
  thread->tid = tid;
  thread->handle = pthread_self();
  thread->is_main = is_main;
  thread->thread_pointer = wane__thread_pointer();
  thread->stack_low = stack.start;
  thread->stack_high = stack.end;
  thread_remove_stale_locked(thread);
  if (!linked) {
    thread_link_locked(thread);
  }
  wane__self = &thread->context; /* before a stop can see it attached */
  thread->state = WANE__THREAD_ATTACHED;
  wane__lock_release(&wane__threads_lock);
}

struct wane__context *wane__thread_attach_self(void) {
  if (wane__self->attached) {
    return wane__self;
  }
  int saved = errno;
  struct wane__thread *thread = thread_record_new();
  if (thread == NULL) {
    return NULL;
  }
  thread_take_over(thread, false);
  errno = saved;
  return &thread->context;
}

struct wane__thread *wane__thread_prepare(void *(*fn)(void *), void *arg,
                                          bool joinable) {
  struct wane__thread *thread = thread_record_new();
  if (thread == NULL) {
    return NULL;
  }
  thread->state = WANE__THREAD_STARTING;
  thread->start_fn = fn;
  thread->start_arg = arg;
  thread->joinable = joinable;
  wane__lock_acquire(&wane__threads_lock);
  thread_link_locked(thread);
  wane__lock_release(&wane__threads_lock);
  return thread;
}

void wane__thread_adopt(struct wane__thread *thread) {
  thread_take_over(thread, true);
}

void wane__thread_abandon(struct wane__thread *thread) {
  wane__lock_acquire(&wane__threads_lock);
  wane__thread_remove_locked(thread);
  wane__lock_release(&wane__threads_lock);
}

void wane__thread_retire_counts(struct wane__context *context) {
  struct wane__heap_meter *meter = &wane__heap_meter;
  wane__add_relaxed(&meter->retired_bytes, context->run_bytes);
  wane__add_relaxed(&meter->retired_objects, context->run_objects);
  wane__add_relaxed(&meter->since_flip_bytes, context->pending_bytes);
}

/* The C library keeps the thread's result in its own record, beside the
   thread pointer: every word there that is a managed pointer is kept. */
static WANE_SCANS_MEMORY void thread_keep_result(struct wane__thread *thread) {
#if defined(__x86_64__)
  uintptr_t from = thread->thread_pointer;
  uintptr_t to = from + 4096;
#else
  uintptr_t from = thread->thread_pointer - 4096;
  uintptr_t to = thread->thread_pointer;
#endif
  to = to < thread->stack_high ? to : thread->stack_high;
  from = from > thread->stack_low ? from : thread->stack_low;
  for (uintptr_t at = from;
       at < to && thread->result_count < WANE__THREAD_RESULTS_MAX; at += 8) {
    uintptr_t word = *(const uintptr_t *)at;
    if (word - wane__arena.start < wane__load_relaxed(&wane__arena.committed)) {
      thread->results[thread->result_count++] = word;
    }
  }
}

void wane__thread_detach_self(bool keep_values) {
  struct wane__context *self = wane__self;
  if (!self->attached) {
    return;
  }
  struct wane__thread *thread = (struct wane__thread *)self;
  wane__guard_enter(self);
  wane__context_flush(self);
  wane__guard_leave(self);
  pthread_setspecific(thread_key, NULL);
  /* a stop needs the lock: from here on none can begin */
  wane__lock_acquire(&wane__threads_lock);
  wane__thread_retire_counts(self);
  wane__self = &wane__no_context;
  thread->state = WANE__THREAD_EXITED;
  if (!keep_values || (thread->result_count == 0 && thread->value_count == 0)) {
    wane__thread_remove_locked(thread);
  }
  wane__lock_release(&wane__threads_lock);
}

/* Destructor of thread-specific data: others may run after it in the same
   round, and allocate, so only the last round counts. */
static void thread_exit(void *record) {
  struct wane__thread *thread = record;
  /* ThreadSanitizer lets go of a thread in the last round, before us */
  unsigned rounds = PTHREAD_DESTRUCTOR_ITERATIONS - wane__os_has_tsan();
  if (++thread->exit_rounds < rounds) {
    pthread_setspecific(thread_key, thread);
    return;
  }
  if (thread->joinable && !thread->is_main) {
    thread_keep_result(thread);
  }
  /* destructors that run after this one in the last round have arguments */
  wane__stop_note_values(thread);
  wane__thread_detach_self(true);
}

bool wane__threads_init(void) {
  return pthread_key_create(&thread_key, thread_exit) == 0;
}

void wane__threads_fork_child(const struct wane__context *self) {
  struct wane__thread *next;
  for (struct wane__thread *t = wane__threads; t != NULL; t = next) {
    next = t->next;
    if (&t->context == self) {
      t->tid = wane__os_tid();
    } else {
      wane__thread_remove_locked(t);
    }
  }
}

WANE_PUBLIC void wane_thread_attach(void) {
  if (wane__hooks.attach() == NULL) {
    wane__fatal("wane_thread_attach", "out of memory for the thread's record");
  }
}

WANE_PUBLIC void wane_thread_detach(void) { wane__thread_detach_self(false); }
