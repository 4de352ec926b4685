/*
 * What the tests share. Included first.
 *
 * Two kinds of check: cmocka's assert_*, on the main thread of the test
 * program only, and require(), which prints and aborts, for other threads and
 * for child processes.
 *
 * Whether an object died is asked over many objects, since conservative
 * roots may keep any single one: they are made in a thread of their own
 * (test_apart) and remembered hidden from the collector (test_hide).
 */
#ifndef WANE_TEST_H
#define WANE_TEST_H

#ifndef _GNU_SOURCE
#  define _GNU_SOURCE
#endif
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <wane.h>

#define TEST_NOINLINE __attribute__((noinline, noclone))
#if defined(__clang__)
#  undef TEST_NOINLINE
#  define TEST_NOINLINE __attribute__((noinline))
#endif

/* Static data that is there as a root: the compiler must not drop stores to
   it because nobody reads them. */
#define TEST_ROOT static __attribute__((used))

#define TEST_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Is this a sanitizer's build? Some limits on memory make no sense there. */
#if defined(__SANITIZE_ADDRESS__)
#  define TEST_ASAN 1
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    define TEST_ASAN 1
#  endif
#  if __has_feature(thread_sanitizer)
#    define TEST_TSAN 1
#  endif
#endif
#if defined(__SANITIZE_THREAD__)
#  define TEST_TSAN 1
#endif
#ifndef TEST_ASAN
#  define TEST_ASAN 0
#endif
#ifndef TEST_TSAN
#  define TEST_TSAN 0
#endif

_Noreturn void test_require_failed(const char *what, const char *file,
                                   int line);
#define require(cond)                                                          \
  do {                                                                         \
    if (!(cond)) {                                                             \
      test_require_failed(#cond, __FILE__, __LINE__);                          \
    }                                                                          \
  } while (0)

/* A pointer as a number that does not look like one, and back. */
static inline uintptr_t test_hide(const void *ptr) { return ~(uintptr_t)ptr; }
/* The compiler must not put off the way back: that keeps the object alive. */
static inline void *test_reveal(uintptr_t hidden) {
  void *ptr = (void *)~hidden;
  __asm__ volatile("" : "+r"(ptr));
  return ptr;
}

/* Overwrites the unused stack below the caller, and the registers. */
void test_scrub(void);

/* Runs fn(arg) in a thread of its own and waits for it, so that no stack or
   register keeps what fn dropped. */
void test_apart(void (*fn)(void *arg), void *arg);

/* Allocates count objects with make(i) in a thread of its own; writes them
   hidden. */
void test_make_hidden(uintptr_t *hidden, size_t count,
                      void *(*make)(size_t idx));
/* An object for that: 64 bytes, of scanned or leaf memory. */
void *test_make_small(size_t idx);
void *test_make_leaf(size_t idx);

/* Collects; how many of the objects live. */
size_t test_survivors(const uintptr_t *hidden, size_t count);
/* Collects; bytes found live. */
uint64_t test_live_bytes(void);
struct wane_stats test_stats(void);
/* Memory of the process that is in RAM. */
size_t test_resident_bytes(void);
/* Allocates until nothing can be; and drops it all again. */
void test_use_up_memory(void);
void test_drop_memory(void);

/* All live, or all but a few that stray words may keep. Main thread. */
#define assert_alive(hidden, count)                                            \
  assert_int_equal(test_survivors((hidden), (count)), (count))
#define assert_dead(hidden, count)                                             \
  assert_in_range(test_survivors((hidden), (count)), 0, 2 + (count) / 50)

/* Numbers to play with; the same for the same seed. */
struct test_random {
  uint64_t state;
};
uint64_t test_random(struct test_random *random);
/* From 0 to below limit. */
size_t test_below(struct test_random *random, size_t limit);

/* --seed N --seconds S of the command line; a fresh seed without. Prints the
   seed. */
struct test_args {
  uint64_t seed;
  double seconds;
};
struct test_args test_args_read(int argc, char **argv, double seconds);
/* At least so long, whatever signals come. */
void test_sleep_ms(unsigned ms);
/* How many to try: few where each allocation or step is dear. */
size_t test_scaled(size_t many, size_t few);
/* A pause for loops that do nothing but collect: ThreadSanitizer lets nobody
   else get on otherwise, since signals and locks wait for it. */
void test_breathe(void);
/* Monotonic. */
double test_now(void);

#endif
