/*
 * The pthread_create that programs linked with Wane call, statically or
 * dynamically, so that new threads are known from their first instruction.
 *
 * The real pthread_create is the next one in the search order. In a program
 * that has a sanitizer's runtime and Wane linked into it, that would miss the
 * sanitizer's own, which is asked for by name; if the two are in different
 * modules, its own stands before or behind ours already. A fully static
 * program has no search order, but the C library's internal name.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <threads.h>
#include <unistd.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../heap/hooks.h"
#include "stop.h"
#include "thread.h"

typedef int interpose_create_fn(pthread_t *, const pthread_attr_t *,
                                void *(*)(void *), void *);

extern interpose_create_fn __interceptor_pthread_create __attribute__((weak));
extern interpose_create_fn __pthread_create __attribute__((weak));

/* thrd_create calls the internal name: this makes a static link include it. */
__attribute__((used)) static int (*const interpose_anchor)(
    thrd_t *, thrd_start_t, void *) = thrd_create;

/* True if fn is in the same module as this file. */
static bool interpose_is_beside(interpose_create_fn *fn) {
  void *address;
  Dl_info theirs;
  Dl_info ours;
  memcpy(&address, &fn, sizeof address);
  return dladdr(address, &theirs) != 0 &&
         dladdr((const void *)&interpose_anchor, &ours) != 0 &&
         theirs.dli_fbase == ours.dli_fbase;
}

static interpose_create_fn *interpose_find_create(void) {
  static interpose_create_fn *found; /* atomic: the same value every time */
  interpose_create_fn *fn = wane__load_relaxed(&found);
  if (fn != NULL) {
    return fn;
  }
  if (__interceptor_pthread_create != NULL &&
      interpose_is_beside(__interceptor_pthread_create)) {
    fn = __interceptor_pthread_create;
  } else if (__pthread_create != NULL) {
    fn = __pthread_create;
  } else {
    void *symbol = dlsym(RTLD_NEXT, "pthread_create");
    memcpy(&fn, &symbol, sizeof fn);
  }
  if (fn == NULL) {
    wane__fatal("pthread_create", "the C library's cannot be found");
  }
  wane__store_relaxed(&found, fn);
  return fn;
}

int wane__real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                              void *(*fn)(void *), void *arg) {
  return interpose_find_create()(thread, attr, fn, arg);
}

static void *interpose_start(void *record) {
  struct wane__thread *thread = record;
  wane__thread_adopt(thread);
  void *volatile arg = thread->start_arg; /* on this stack before... */
  thread->start_arg = NULL;               /* ...it is no root any more */
  return thread->start_fn(arg);
}

WANE_INTERPOSE int pthread_create(pthread_t *restrict thread,
                                  const pthread_attr_t *restrict attr,
                                  void *(*fn)(void *), void *restrict arg) {
  if (wane__hooks.attach() == NULL) {
    return EAGAIN;
  }
  int state = PTHREAD_CREATE_JOINABLE;
  if (attr != NULL) {
    pthread_attr_getdetachstate(attr, &state);
  }
  struct wane__thread *record =
      wane__thread_prepare(fn, arg, state == PTHREAD_CREATE_JOINABLE);
  if (record == NULL) {
    return EAGAIN;
  }
  int error = wane__real_pthread_create(thread, attr, interpose_start, record);
  if (error != 0) {
    wane__thread_abandon(record);
  }
  return error;
}

bool wane__thread_create_internal(void *(*fn)(void *), void *arg,
                                  bool for_callbacks) {
  pthread_attr_t attr;
  pthread_t handle;
  uint64_t all = ~(3ull << 31); /* the C library's own stay open */
  uint64_t old;
  if (wane__os_fault(EAGAIN) || pthread_attr_init(&attr) != 0) {
    return false;
  }
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  if (!for_callbacks) {
    pthread_attr_setstacksize(&attr, 256u << 10);
  }
  /* a new thread inherits the mask: the program's signals are not for it */
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof all);
  int error = wane__real_pthread_create(&handle, &attr, fn, arg);
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof old);
  pthread_attr_destroy(&attr);
  return error == 0;
}
