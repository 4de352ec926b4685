/*
 * Has a run with sharing, then one without, and reports both.
 *
 * Each is in a process of its own, made by fork before it has begun anything.
 * Peak RSS, pauses and cycles are numbers of a whole process, and the heap that
 * a first run had grown would be a present to the second. Both run the same
 * code, but for one call: wane_mapped_open_shared or wane_mapped_open. The one
 * that shares goes first, and so pays for whatever is not in the system's
 * caches yet.
 */
#define _GNU_SOURCE
#include "filecache.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { POLL_MS = 100 };

atomic_bool interrupted;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  atomic_store(&interrupted, true);
}

static void complain(const char *what, const char *why) {
  fprintf(stderr, "filecache: %s: %s\n", what, why);
}

void *must(void *ptr) {
  if (!ptr) {
    fprintf(stderr, "filecache: out of memory\n");
    _exit(1); /* without waiting for the threads that may be at work */
  }
  return ptr;
}

static void catch_signals(void) {
  struct sigaction action = {.sa_handler = on_interrupt,
                             .sa_flags = SA_RESTART};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

/* A descriptor from 0 to 2 that is closed would be given to the next file
   opened, and what is printed would end up there. */
static bool check_descriptors(void) {
  if (fcntl(STDOUT_FILENO, F_GETFD) < 0) {
    complain("standard output", strerror(errno));
    return false;
  }
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) {
      return false;
    }
  }
  return true;
}

/* Waits for the result of child, and asks it to hurry when interrupted (by a
   signal that was for this process alone). False: it had none. */
static bool apart_receive(int fd, pid_t child, struct result *result) {
  struct pollfd readable = {.fd = fd, .events = POLLIN};
  while (poll(&readable, 1, POLL_MS) <= 0) {
    if (interrupted) {
      kill(child, SIGINT);
    }
  }
  return read(fd, result, sizeof *result) == (ssize_t)sizeof *result;
}

/* Whether child ended well. */
static bool apart_end(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    complain("the run was killed", strsignal(WTERMSIG(status)));
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) {
    complain("a file under DIR", "was cut short while a thread read it?");
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static _Noreturn void apart_child(const struct options *options, bool share,
                                  int fd) {
  struct result result;
  enum run_end end = run(options, share, &result);
  if (end != RUN_FAILED &&
      write(fd, &result, sizeof result) != (ssize_t)sizeof result) {
    end = RUN_FAILED;
  }
  _exit(end == RUN_DONE ? 0 : 1);
}

/* A run in a process of its own: true if it went well. has_result: whether
   there is anything to report. */
static bool run_apart(const struct options *options, bool share,
                      struct result *result, bool *has_result) {
  int ends[2];
  pid_t child;
  if (pipe2(ends, O_CLOEXEC) != 0) {
    complain("pipe", strerror(errno));
    return false;
  }
  child = fork();
  if (child == 0) {
    apart_child(options, share, ends[1]);
  }
  close(ends[1]);
  if (child < 0) {
    complain("fork", strerror(errno));
    return false;
  }
  *has_result = apart_receive(ends[0], child, result);
  close(ends[0]);
  return apart_end(child);
}

int main(int argc, char **argv) {
  struct options options;
  struct result results[2]; /* without and with sharing */
  bool has_result[2] = {false, false};
  bool ok = true;
  if (!check_descriptors()) {
    return 1;
  }
  options = options_parse(argc, argv);
  catch_signals();
  if (!options.no_share) {
    ok = run_apart(&options, true, &results[1], &has_result[1]);
  }
  if (options.no_share || (has_result[1] && !interrupted)) {
    ok &= run_apart(&options, false, &results[0], &has_result[0]);
  }
  if (has_result[0] || has_result[1]) {
    (options.json ? report_json
                  : report_table)(&options, has_result[1] ? &results[1] : NULL,
                                  has_result[0] ? &results[0] : NULL);
  }
  if (fflush(stdout) != 0 || ferror(stdout)) {
    complain("cannot write", strerror(errno));
    return 1;
  }
  return ok ? 0 : 1;
}
