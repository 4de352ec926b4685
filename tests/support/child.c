/* See child.h. */
#include "child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* A child that takes longer hangs: it is killed, which fails the test. */
#define CHILD_SECONDS_MAX (TEST_ASAN || TEST_TSAN ? 40 : 25)

/* cmocka catches these to go on with the next test: not in a child. */
static void child_reset_signals(void) {
  static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE,
                               SIGILL,  SIGSYS, SIGABRT};
  for (size_t i = 0; i < TEST_COUNT(caught); i++) {
    signal(caught[i], SIG_DFL);
  }
  struct rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
}

/* Reads until the child has ended or its time is over; keeps what fits. */
static void child_read(pid_t pid, int fd, struct test_child *out) {
  size_t used = 0;
  char rest[4096];
  double end = test_now() + CHILD_SECONDS_MAX;
  for (;;) {
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    if (test_now() >= end) {
      kill(pid, SIGKILL);
      break;
    }
    if (poll(&pollfd, 1, 200) <= 0) {
      continue;
    }
    bool fits = used < sizeof out->text - 1;
    ssize_t n = fits ? read(fd, out->text + used, sizeof out->text - 1 - used)
                     : read(fd, rest, sizeof rest);
    if (n == 0 || (n < 0 && errno != EINTR)) {
      break;
    }
    used += fits && n > 0 ? (size_t)n : 0;
  }
  out->text[used] = '\0';
}

static pid_t child_begin(int *fd) {
  int fds[2];
  require(pipe2(fds, O_CLOEXEC) == 0);
  fflush(stdout);
  fflush(stderr);
  pid_t pid = fork();
  require(pid >= 0);
  if (pid == 0) {
    dup2(fds[1], STDERR_FILENO);
    child_reset_signals();
  } else {
    close(fds[1]);
    *fd = fds[0];
  }
  return pid;
}

static void child_end(pid_t pid, int fd, struct test_child *out) {
  child_read(pid, fd, out);
  close(fd);
  while (waitpid(pid, &out->status, 0) < 0) {
    require(errno == EINTR);
  }
}

void test_fork(void (*fn)(void *arg), void *arg, struct test_child *out) {
  int fd = -1;
  pid_t pid = child_begin(&fd);
  if (pid == 0) {
    fn(arg);
    _exit(0);
  }
  child_end(pid, fd, out);
}

void test_exec_prepared(const char *role, const char *arg, const char *options,
                        void (*prepare)(void *arg), void *prepare_arg,
                        struct test_child *out) {
  int fd = -1;
  pid_t pid = child_begin(&fd);
  if (pid == 0) {
    if (options != NULL) {
      setenv("WANE_OPTIONS", options, 1);
    } else {
      unsetenv("WANE_OPTIONS");
    }
    if (prepare != NULL) {
      prepare(prepare_arg);
    }
    execl("/proc/self/exe", "test", "--role", role, arg, (char *)NULL);
    _exit(126);
  }
  child_end(pid, fd, out);
}

void test_exec(const char *role, const char *arg, const char *options,
               struct test_child *out) {
  test_exec_prepared(role, arg, options, NULL, NULL, out);
}

void test_roles(int argc, char **argv, const struct test_role *roles,
                size_t count) {
  if (argc < 3 || strcmp(argv[1], "--role") != 0) {
    return;
  }
  for (size_t i = 0; i < count; i++) {
    if (strcmp(argv[2], roles[i].name) == 0) {
      roles[i].run(argc > 3 ? argv[3] : "");
      exit(0);
    }
  }
  require(!"the role is known");
}

void test_assert_exit_0(const struct test_child *child, const char *what) {
  if (!WIFEXITED(child->status) || WEXITSTATUS(child->status) != 0) {
    fail_msg("%s: status %#x: %s", what, (unsigned)child->status, child->text);
  }
}

void test_assert_aborted(const struct test_child *child, const char *function) {
  char prefix[128];
  snprintf(prefix, sizeof prefix, "wane: %s: ", function);
  const char *line = strstr(child->text, prefix);
  bool begins = line != NULL && (line == child->text || line[-1] == '\n');
  if (!begins || !WIFSIGNALED(child->status) ||
      WTERMSIG(child->status) != SIGABRT) {
    fail_msg("no fatal line of %s: status %#x: %s", function,
             (unsigned)child->status, child->text);
  }
}

void test_assert_fatal(const char *function, void (*fn)(void *arg), void *arg) {
  struct test_child child;
  test_fork(fn, arg, &child);
  test_assert_aborted(&child, function);
}
