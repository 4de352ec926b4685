/*
 * Threads the collector knows, from creation to after their exit.
 *
 *   pthread_create (ours) --> STARTING --thread_start--> ATTACHED
 *   first call of a foreign thread --------------------> ATTACHED
 *   ATTACHED --last destructor round, or detach--> gone, or EXITED
 *
 * STARTING: the record exists, the thread does not run yet; its argument is a
 * root. ATTACHED: it is stopped for collections, its stack, registers and
 * thread-locals are roots. EXITED: it ended with a managed return value, or
 * with managed thread-specific data whose destructors are still to run; they
 * are roots until the handle is used again (a join cannot be seen without
 * standing in front of it).
 *
 * A thread leaves in the last round of destructors of thread-specific data,
 * so that other destructors may still allocate. One that allocates even
 * later is found out when the stop signal cannot be delivered to it: LOST,
 * until the world has stopped and its caches can be flushed.
 *
 * All fields are lock: threads, but where another rule stands.
 */
#ifndef WANE_MUTATOR_THREAD_H
#define WANE_MUTATOR_THREAD_H

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../base/lock.h"
#include "../heap/context.h"

enum wane__thread_state {
  WANE__THREAD_STARTING,
  WANE__THREAD_ATTACHED,
  WANE__THREAD_EXITED,
  WANE__THREAD_LOST, /* the system does not know it any more */
};

/* Words beside a thread's result that may look like it. */
#define WANE__THREAD_RESULTS_MAX 16

/* A call of pthread_setspecific that a stop may interrupt. */
struct wane__setting {
  pthread_key_t key;
  const struct wane__setting *outer; /* which a signal's handler interrupted */
};

struct wane__thread {
  struct wane__context context; /* first: wane__self points here */
  struct wane__thread *next;
  struct wane__thread *prev;
  enum wane__thread_state state;
  pid_t tid;
  pthread_t handle;
  bool is_internal;     /* the library's own, for callbacks. relaxed */
  bool is_main;         /* its stack grows, its thread-locals lie elsewhere */
  bool joinable;        /* const after creation */
  unsigned exit_rounds; /* owner thread */
  uintptr_t thread_pointer;
  uintptr_t stack_low; /* first address that can be read; main: 0 */
  uintptr_t stack_high;

  void *(*start_fn)(void *); /* STARTING */
  void *start_arg;           /* a root until the thread has taken it */

  /* What may be the thread's result; a root when EXITED. */
  size_t result_count;
  uintptr_t results[WANE__THREAD_RESULTS_MAX];

  /* Written by the thread as it parks, read by the collector afterwards. */
  uint32_t parked_stop; /* number of the last stop it parked for. relaxed */
  uint32_t rest;        /* whether it rests (wane__stop_rest). seq_cst */
  uintptr_t stack_pointer;
  uintptr_t alt_low; /* alternate signal stack, if it runs on one */
  uintptr_t alt_high;
  const struct wane__setting *setting; /* in pthread_setspecific, innermost
                                          first; owner and its handler */
  void *fake_stack;                    /* AddressSanitizer's, if it has one */
  size_t value_count; /* managed values of pthread_setspecific */
  uintptr_t values[PTHREAD_KEYS_MAX];
};

extern struct wane__lock wane__threads_lock;
extern struct wane__thread *wane__threads; /* lock: threads */

/* Called once, on the main thread if possible. */
bool wane__threads_init(void);

/* The calling thread's context, made if need be; NULL with ENOMEM. */
struct wane__context *wane__thread_attach_self(void);
/* The calling thread is no longer stopped or scanned. keep_values: it exits,
   and what it left in its record stays a root. */
void wane__thread_detach_self(bool keep_values);

/* For our pthread_create: a STARTING record, and what to do with it. */
struct wane__thread *wane__thread_prepare(void *(*fn)(void *), void *arg,
                                          bool joinable);
void wane__thread_adopt(struct wane__thread *thread);
void wane__thread_abandon(struct wane__thread *thread);

/* Removes the record of a thread that is gone; bury also flushes its caches
   and keeps its counts. lock: threads. */
void wane__thread_remove_locked(struct wane__thread *thread);
void wane__thread_bury_locked(struct wane__thread *thread);
/* Adds a leaving thread's counts to the heap's. */
void wane__thread_retire_counts(struct wane__context *context);

/* In the child of fork, with the lock held since before: only the calling
   thread is left, whose context is self (NULL: it was not attached). */
void wane__threads_fork_child(const struct wane__context *self);

/* The C library's pthread_create, whatever stands in front of it. */
int wane__real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                              void *(*fn)(void *), void *arg);
/* A thread of the library's own: no signals, not attached. for_callbacks:
   with a stack as the program's threads have, else a small one. */
bool wane__thread_create_internal(void *(*fn)(void *), void *arg,
                                  bool for_callbacks);

#endif
