/* Stopping threads by a signal, and what the program sees of it: nothing but
   what POSIX allows. D9. */
/* skip: tsan, which stops no thread in a loop that calls nothing */
/* run: other_signal WANE_OPTIONS=signal=45 */
#include "support/child.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int pipe_fds[2];
static sem_t semaphore;
static uint32_t blocked; /* threads about to block; atomic */
static uint32_t through; /* threads that came back; atomic */

/* What a waiting thread holds on its stack and nowhere else. */
static TEST_NOINLINE uint64_t *hold(void) {
  uint64_t *object = wane_alloc(128);
  object[7] = ~7ull;
  __atomic_fetch_add(&blocked, 1, __ATOMIC_RELEASE);
  return object;
}

static void let_go(const uint64_t *object) {
  require(wane_base(object) == object && object[7] == ~7ull);
  __atomic_fetch_add(&through, 1, __ATOMIC_RELEASE);
}

/* Restartable calls: neither EINTR nor a changed errno. */
static void *blocked_in_read(void *arg) {
  uint64_t *object = hold();
  char byte;
  errno = 4711;
  require(read(pipe_fds[0], &byte, 1) == 1);
  require(errno == 4711);
  let_go(object);
  return arg;
}

static void *blocked_in_sem_wait(void *arg) {
  uint64_t *object = hold();
  errno = 4711;
  require(sem_wait(&semaphore) == 0);
  require(errno == 4711);
  let_go(object);
  return arg;
}

static void *blocked_in_nanosleep(void *arg) {
  uint64_t *object = hold();
  struct timespec rest = {0, 300000000};
  while (nanosleep(&rest, &rest) != 0) {
    require(errno == EINTR);
  }
  let_go(object);
  return arg;
}

static void *blocked_in_poll(void *arg) {
  uint64_t *object = hold();
  int n;
  while ((n = poll(NULL, 0, 200)) != 0) {
    require(n == -1 && errno == EINTR);
  }
  let_go(object);
  return arg;
}

static void *blocked_in_waitpid(void *arg) {
  uint64_t *object = hold();
  int status = -1;
  pid_t pid = *(pid_t *)arg;
  require(waitpid(pid, &status, 0) == pid && status == 0);
  let_go(object);
  return NULL;
}

static void run_blocked(void *(*fn)(void *), void *arg, void (*wake)(void)) {
  pthread_t threads[3];
  size_t count = arg != NULL ? 1 : 3;
  blocked = through = 0;
  for (size_t t = 0; t < count; t++) {
    assert_int_equal(pthread_create(&threads[t], NULL, fn, arg), 0);
  }
  while (__atomic_load_n(&blocked, __ATOMIC_ACQUIRE) < count) {
    test_sleep_ms(1);
  }
  for (int i = 0; i < 40; i++) {
    for (int n = 0; n < 200; n++) {
      memset(wane_alloc(128), 0xfe, 128);
    }
    wane_collect();
    test_sleep_ms(1);
  }
  for (size_t t = 0; t < count && wake != NULL; t++) {
    wake();
  }
  for (size_t t = 0; t < count; t++) {
    pthread_join(threads[t], NULL);
  }
  assert_int_equal(through, count);
}

static void wake_reader(void) {
  assert_int_equal(write(pipe_fds[1], "x", 1), 1);
}
static void wake_waiter(void) { sem_post(&semaphore); }

static void threads_in_system_calls_are_stopped_unseen(void **state) {
  (void)state;
  assert_int_equal(pipe(pipe_fds), 0);
  sem_init(&semaphore, 0, 0);
  run_blocked(blocked_in_read, NULL, wake_reader);
  run_blocked(blocked_in_sem_wait, NULL, wake_waiter);
  run_blocked(blocked_in_nanosleep, NULL, NULL);
  run_blocked(blocked_in_poll, NULL, NULL);
}

static void waitpid_is_restarted(void **state) {
  (void)state;
  pid_t pid = fork();
  if (pid == 0) {
    test_sleep_ms(100);
    _exit(0);
  }
  run_blocked(blocked_in_waitpid, &pid, NULL);
}

enum how { BY_PTHREAD_SIGMASK, BY_SIGPROCMASK, BY_ATTR, HOWS };
static bool blocking_stops; /* atomic */

static void *blocks_all_signals(void *arg) {
  uint64_t *object = hold();
  enum how how = (enum how)(uintptr_t)arg;
  sigset_t all;
  sigset_t seen;
  sigfillset(&all);
  if (how == BY_PTHREAD_SIGMASK) {
    require(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
  } else if (how == BY_SIGPROCMASK) {
    require(sigprocmask(SIG_BLOCK, &all, NULL) == 0);
  }
  require(pthread_sigmask(SIG_BLOCK, NULL, &seen) == 0);
  require(sigismember(&seen, SIGUSR1) && sigismember(&seen, SIGTERM));
  while (!__atomic_load_n(&blocking_stops, __ATOMIC_RELAXED)) {
    /* neither allocates nor calls anything */
  }
  let_go(object);
  return NULL;
}

static void a_thread_that_blocks_all_signals_is_stopped(void **state) {
  (void)state;
  for (uintptr_t how = 0; how < HOWS; how++) {
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all;
    blocking_stops = false;
    blocked = through = 0;
    sigfillset(&all);
    pthread_attr_init(&attr);
    if (how == BY_ATTR) {
      pthread_attr_setsigmask_np(&attr, &all);
    }
    assert_int_equal(
        pthread_create(&thread, &attr, blocks_all_signals, (void *)how), 0);
    while (__atomic_load_n(&blocked, __ATOMIC_ACQUIRE) == 0) {
      test_sleep_ms(1);
    }
    for (int i = 0; i < 20; i++) {
      wane_collect();
    }
    __atomic_store_n(&blocking_stops, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    assert_int_equal(through, 1);
  }
}

static void masks_are_kept_as_the_program_set_them(void **state) {
  (void)state;
  sigset_t set;
  sigset_t old;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  assert_int_equal(pthread_sigmask(SIG_SETMASK, &set, NULL), 0);
  sigaddset(&set, SIGUSR2);
  assert_int_equal(sigprocmask(SIG_BLOCK, &set, &old), 0);
  assert_true(sigismember(&old, SIGUSR1));
  assert_false(sigismember(&old, SIGUSR2));
  wane_collect();
  assert_int_equal(pthread_sigmask(SIG_UNBLOCK, NULL, &old), 0);
  assert_true(sigismember(&old, SIGUSR1));
  assert_true(sigismember(&old, SIGUSR2));
  assert_int_equal(pthread_sigmask(SIG_UNBLOCK, &set, &old), 0);
  assert_int_equal(sigprocmask(SIG_BLOCK, NULL, &old), 0);
  assert_false(sigismember(&old, SIGUSR1));
  assert_int_equal(pthread_sigmask(12345, &set, NULL), EINVAL);
  errno = 0;
  assert_int_equal(sigprocmask(12345, &set, NULL), -1);
  assert_int_equal(errno, EINVAL);
}

/* A thread that takes all signals for the program by sigwait. */
static void *signal_thread(void *arg) {
  uint64_t *object = hold();
  sigset_t all;
  int signal = 0;
  sigfillset(&all);
  require(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
  for (;;) {
    require(sigwait(&all, &signal) == 0);
    if (signal == SIGUSR1) {
      break;
    }
    require(signal == SIGTERM); /* not the one that stops threads */
  }
  let_go(object);
  return arg;
}

static void sigwait_for_all_signals_does_not_see_the_stop(void *arg) {
  (void)arg;
  pthread_t thread;
  blocked = through = 0;
  require(pthread_create(&thread, NULL, signal_thread, NULL) == 0);
  while (__atomic_load_n(&blocked, __ATOMIC_ACQUIRE) == 0) {
    test_sleep_ms(1);
  }
  test_sleep_ms(20);
  for (int i = 0; i < 20; i++) {
    wane_collect();
    if (i % 5 == 0) {
      pthread_kill(thread, SIGTERM);
      test_sleep_ms(1);
    }
  }
  pthread_kill(thread, SIGUSR1);
  require(pthread_join(thread, NULL) == 0 && through == 1);
}

static void sigwait_is_left_alone(void **state) {
  (void)state;
  struct test_child child;
  test_fork(sigwait_for_all_signals_does_not_see_the_stop, NULL, &child);
  test_assert_exit_0(&child, "sigwait");
}

/* Calls that wait under a mask of their own, with everything blocked. */
static void *waits_under_a_mask(void *arg) {
  uint64_t *object = hold();
  struct timespec timeout = {3600, 0};
  struct pollfd pollfd = {.fd = pipe_fds[0], .events = POLLIN};
  sigset_t all;
  fd_set fds;
  int n;
  sigfillset(&all);
  do {
    FD_ZERO(&fds);
    FD_SET(pipe_fds[0], &fds);
    n = arg != NULL
            ? ppoll(&pollfd, 1, &timeout, &all)
            : pselect(pipe_fds[0] + 1, &fds, NULL, NULL, &timeout, &all);
  } while (n < 0 && errno == EINTR);
  require(n == 1);
  let_go(object);
  return NULL;
}

static void collect_beside_masked_waits(void *arg) {
  pthread_t thread;
  require(pipe(pipe_fds) == 0);
  blocked = through = 0;
  require(pthread_create(&thread, NULL, waits_under_a_mask, arg) == 0);
  while (__atomic_load_n(&blocked, __ATOMIC_ACQUIRE) == 0) {
    test_sleep_ms(1);
  }
  test_sleep_ms(20);
  for (int i = 0; i < 10; i++) {
    wane_collect();
  }
  require(write(pipe_fds[1], "x", 1) == 1);
  require(pthread_join(thread, NULL) == 0 && through == 1);
}

static void ppoll_and_pselect_under_a_full_mask_are_stopped(void **state) {
  (void)state;
  static int yes;
  struct test_child child;
  test_fork(collect_beside_masked_waits, &yes, &child);
  test_assert_exit_0(&child, "ppoll");
  test_fork(collect_beside_masked_waits, NULL, &child);
  test_assert_exit_0(&child, "pselect");
}

static void other_signals_keep_their_actions(void **state) {
  (void)state;
  static const int signals[] = {SIGUSR1, SIGUSR2, SIGPWR,  SIGXCPU, SIGSEGV,
                                SIGBUS,  SIGPIPE, SIGCHLD, SIGALRM, SIGPROF};
  struct sigaction before[TEST_COUNT(signals)];
  for (size_t i = 0; i < TEST_COUNT(signals); i++) {
    sigaction(signals[i], NULL, &before[i]);
  }
  for (int i = 0; i < 5; i++) {
    wane_collect();
  }
  for (size_t i = 0; i < TEST_COUNT(signals); i++) {
    struct sigaction now;
    sigaction(signals[i], NULL, &now);
    assert_true(now.sa_handler == before[i].sa_handler);
    if (i < 4) {
      assert_true(now.sa_handler == SIG_DFL);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(threads_in_system_calls_are_stopped_unseen),
      cmocka_unit_test(waitpid_is_restarted),
      cmocka_unit_test(a_thread_that_blocks_all_signals_is_stopped),
      cmocka_unit_test(masks_are_kept_as_the_program_set_them),
      cmocka_unit_test(sigwait_is_left_alone),
      cmocka_unit_test(ppoll_and_pselect_under_a_full_mask_are_stopped),
      cmocka_unit_test(other_signals_keep_their_actions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
