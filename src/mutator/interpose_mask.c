/*
 * Functions of the C library that block signals, with Wane in front of them,
 * so that a program which blocks all signals cannot block a collection
 * (SEMANTICS D9): pthread_sigmask and sigprocmask; and the calls that wait
 * under a mask, or for a set, of their own, which get it without the stop
 * signal. sigwait would otherwise take that signal away from its handler.
 *
 * Not covered: a handler's sa_mask, and the system calls themselves.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../base/attr.h"
#include "stop.h"

/* The C library's own signals 32 and 33 stay open too, as in its version. */
static int interpose_sigmask(int how, const sigset_t *set, sigset_t *old) {
  uint64_t mask = 0;
  if (set != NULL) {
    memcpy(&mask, set, sizeof mask);
    if (how != SIG_UNBLOCK) {
      mask &= ~(3ull << 31);
      if (wane__stop_signal() != 0) {
        mask &= ~(1ull << (wane__stop_signal() - 1));
      }
    }
  }
  uint64_t old_mask = 0;
  int saved = errno;
  if (syscall(SYS_rt_sigprocmask, how, set != NULL ? &mask : NULL, &old_mask,
              sizeof mask) != 0) {
    int error = errno;
    errno = saved;
    return error;
  }
  if (old != NULL) {
    memset(old, 0, sizeof *old);
    memcpy(old, &old_mask, sizeof old_mask);
  }
  return 0;
}

WANE_INTERPOSE int pthread_sigmask(int how, const sigset_t *restrict set,
                                   sigset_t *restrict old) {
  return interpose_sigmask(how, set, old);
}

WANE_INTERPOSE int sigprocmask(int how, const sigset_t *restrict set,
                               sigset_t *restrict old) {
  int error = interpose_sigmask(how, set, old);
  if (error != 0) {
    errno = error;
    return -1;
  }
  return 0;
}

/* A wait by the system call itself, since a fully static program has no next
   function to ask. The thread can be cancelled in it, as in the C library's:
   begin and end bracket the call. */
static int mask_wait_begin(void) {
  int type;
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
  return type;
}

static void mask_wait_end(int type) { pthread_setcanceltype(type, NULL); }

/* The kernel's form of a set, without the stop signal. */
static uint64_t mask_open(const sigset_t *set) {
  uint64_t mask = 0;
  if (set != NULL) {
    memcpy(&mask, set, sizeof mask);
  }
  if (wane__stop_signal() != 0) {
    mask &= ~(1ull << (wane__stop_signal() - 1));
  }
  return mask;
}

/* ThreadSanitizer must see a wait: its own function, in the same program. */
#define MASK_WATCHED(type, name, ...)                                          \
  extern type __interceptor_##name(__VA_ARGS__) __attribute__((weak))

MASK_WATCHED(int, sigtimedwait, const sigset_t *, siginfo_t *,
             const struct timespec *);
MASK_WATCHED(int, sigsuspend, const sigset_t *);
MASK_WATCHED(int, ppoll, struct pollfd *, nfds_t, const struct timespec *,
             const sigset_t *);
MASK_WATCHED(int, epoll_pwait, int, struct epoll_event *, int, int,
             const sigset_t *);

static sigset_t mask_to_set(uint64_t mask) {
  sigset_t set;
  sigemptyset(&set);
  memcpy(&set, &mask, sizeof mask);
  return set;
}

WANE_INTERPOSE int sigtimedwait(const sigset_t *restrict set,
                                siginfo_t *restrict info,
                                const struct timespec *restrict timeout) {
  uint64_t mask = mask_open(set);
  if (__interceptor_sigtimedwait != NULL) {
    sigset_t open = mask_to_set(mask);
    return __interceptor_sigtimedwait(&open, info, timeout);
  }
  int type = mask_wait_begin();
  long r = syscall(SYS_rt_sigtimedwait, &mask, info, timeout, sizeof mask);
  mask_wait_end(type);
  if (r > 0 && info != NULL && info->si_code == SI_TKILL) {
    info->si_code = SI_USER; /* as the C library shows it */
  }
  return (int)r;
}

WANE_INTERPOSE int sigwaitinfo(const sigset_t *restrict set,
                               siginfo_t *restrict info) {
  return sigtimedwait(set, info, NULL);
}

WANE_INTERPOSE int sigwait(const sigset_t *restrict set, int *restrict sig) {
  int saved = errno;
  int r;
  do {
    r = sigtimedwait(set, NULL, NULL);
  } while (r < 0 && errno == EINTR);
  int error = r < 0 ? errno : 0;
  errno = saved;
  if (error == 0) {
    *sig = r;
  }
  return error;
}

WANE_INTERPOSE int sigsuspend(const sigset_t *set) {
  uint64_t mask = mask_open(set);
  if (__interceptor_sigsuspend != NULL) {
    sigset_t open = mask_to_set(mask);
    return __interceptor_sigsuspend(&open);
  }
  int type = mask_wait_begin();
  long r = syscall(SYS_rt_sigsuspend, &mask, sizeof mask);
  mask_wait_end(type);
  return (int)r;
}

/* The kernel writes what is left into the timeout; the caller's is const. */
WANE_INTERPOSE int ppoll(struct pollfd *fds, nfds_t count,
                         const struct timespec *timeout, const sigset_t *set) {
  uint64_t mask = mask_open(set);
  if (__interceptor_ppoll != NULL) {
    sigset_t open = mask_to_set(mask);
    return __interceptor_ppoll(fds, count, timeout, set ? &open : NULL);
  }
  struct timespec left;
  if (timeout != NULL) {
    left = *timeout;
  }
  int type = mask_wait_begin();
  long r = syscall(SYS_ppoll, fds, count, timeout != NULL ? &left : NULL,
                   set != NULL ? &mask : NULL, sizeof mask);
  mask_wait_end(type);
  return (int)r;
}

WANE_INTERPOSE int pselect(int count, fd_set *restrict readable,
                           fd_set *restrict writable,
                           fd_set *restrict exceptional,
                           const struct timespec *restrict timeout,
                           const sigset_t *restrict set) {
  uint64_t mask = mask_open(set);
  struct timespec left;
  if (timeout != NULL) {
    left = *timeout;
  }
  struct {
    const uint64_t *mask;
    size_t bytes;
  } kernel_mask = {set != NULL ? &mask : NULL, sizeof mask};
  int type = mask_wait_begin();
  long r = syscall(SYS_pselect6, count, readable, writable, exceptional,
                   timeout != NULL ? &left : NULL, &kernel_mask);
  mask_wait_end(type);
  return (int)r;
}

WANE_INTERPOSE int epoll_pwait(int fd, struct epoll_event *events, int count,
                               int timeout, const sigset_t *set) {
  uint64_t mask = mask_open(set);
  if (__interceptor_epoll_pwait != NULL) {
    sigset_t open = mask_to_set(mask);
    return __interceptor_epoll_pwait(fd, events, count, timeout,
                                     set != NULL ? &open : NULL);
  }
  int type = mask_wait_begin();
  long r = syscall(SYS_epoll_pwait, fd, events, count, timeout,
                   set != NULL ? &mask : NULL, sizeof mask);
  mask_wait_end(type);
  return (int)r;
}
