/*
 * pthread_setspecific and tss_set, with Wane in front of them, so that a stop
 * does not lose a value.
 *
 * The handler that parks a thread reads its values with pthread_getspecific
 * (mutator/stop). The C library's pthread_setspecific stores a value and then
 * the number that says which generation of the key it is for; where the signal
 * comes between the two, reading takes the value for one of an older key, and
 * clears it. So the key is noted while it is being set, and the handler leaves
 * it alone; the value is on the stack of this call, and so a root.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <threads.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "thread.h"

typedef int interpose_set_fn(pthread_key_t, const void *);

/* In a fully static program, there with pthread_create. */
extern interpose_set_fn __pthread_setspecific __attribute__((weak));

static interpose_set_fn *interpose_find_set(void) {
  static interpose_set_fn *found; /* atomic: the same value every time */
  interpose_set_fn *fn = wane__load_relaxed(&found);
  if (fn != NULL) {
    return fn;
  }
  if (__pthread_setspecific != NULL) {
    fn = __pthread_setspecific;
  } else {
    void *symbol = dlsym(RTLD_NEXT, "pthread_setspecific");
    memcpy(&fn, &symbol, sizeof fn);
  }
  if (fn == NULL) {
    wane__fatal("pthread_setspecific", "the C library's cannot be found");
  }
  wane__store_relaxed(&found, fn);
  return fn;
}

WANE_INTERPOSE int pthread_setspecific(pthread_key_t key, const void *value) {
  interpose_set_fn *real = interpose_find_set();
  if (!wane__self->attached) {
    return real(key, value);
  }
  struct wane__thread *self = (struct wane__thread *)wane__self;
  struct wane__setting setting = {.key = key, .outer = self->setting};
  const void *volatile kept = value;
  wane__signal_fence();
  self->setting = &setting;
  wane__signal_fence();
  int error = real(key, kept);
  wane__signal_fence();
  self->setting = setting.outer;
  return error;
}

WANE_INTERPOSE int tss_set(tss_t key, void *value) {
  return pthread_setspecific((pthread_key_t)key, value) == 0 ? thrd_success
                                                             : thrd_error;
}
