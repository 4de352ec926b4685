/*
 * Child processes: for what ends the process, and for what depends on
 * WANE_OPTIONS or limits that are read when the library starts.
 */
#ifndef WANE_TEST_CHILD_H
#define WANE_TEST_CHILD_H

#include "test.h"

struct test_child {
  int status;       /* as of waitpid */
  char text[32768]; /* the beginning of what it wrote to stderr */
};

/* Runs fn(arg) in a forked child, which then exits with 0. */
void test_fork(void (*fn)(void *arg), void *arg, struct test_child *out);

/* Runs this program again as the role, with WANE_OPTIONS as given (NULL: none).
   main must begin with  test_roles(argc, argv, roles, count). */
struct test_role {
  const char *name;
  void (*run)(const char *arg);
};
void test_exec(const char *role, const char *arg, const char *options,
               struct test_child *out);
/* The same with prepare(arg) called in the child before exec. */
void test_exec_prepared(const char *role, const char *arg, const char *options,
                        void (*prepare)(void *arg), void *prepare_arg,
                        struct test_child *out);
void test_roles(int argc, char **argv, const struct test_role *roles,
                size_t count);

/* Main thread: the child exited with 0. */
void test_assert_exit_0(const struct test_child *child, const char *what);
/* Main thread: the child printed "wane: FUNCTION: " and aborted. */
void test_assert_aborted(const struct test_child *child, const char *function);
/* Main thread: fn(arg) does that. */
void test_assert_fatal(const char *function, void (*fn)(void *arg), void *arg);

#endif
