/*
 * For tests of what happens when objects die: objects that are made together
 * and dropped together, callbacks that are counted, fatal calls.
 */
#ifndef WANE_TEST_LIVES_H
#define WANE_TEST_LIVES_H

#include "child.h"

/* ---- Counters that callbacks change ---- */

static inline uint64_t test_get(const uint64_t *counter) {
  return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}
static inline uint64_t test_add(uint64_t *counter) {
  return __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
}
static inline void test_set(uint64_t *counter, uint64_t value) {
  __atomic_store_n(counter, value, __ATOMIC_SEQ_CST);
}
/* Waits, at most 10 seconds (more in slow builds), until it is so much. */
bool test_until(const uint64_t *counter, uint64_t least);
/* Waits, however long, until it is not 0. */
void test_wait_for(const uint64_t *flag);

/* ---- Notes: who was called, by number ---- */

#define NOTES_MAX 50000

/* Forgets all notes; callbacks of earlier tests do not count any more. */
void notes_begin(void);
/* What to give note as its argument to have idx noted. Not an address. */
void *note_tag(size_t idx);
size_t note_idx(const void *tag);
/* Is it of this test, or of an object that earlier ones have left behind? */
bool note_is_fresh(const void *tag);
/* The callback. */
void note(void *tag);
uint64_t notes_of(size_t idx);
uint64_t notes_total(void);
/* None of the first count was noted more than once. */
void notes_require_once(size_t count);

/* ---- Deaths ---- */

/* Collects and waits for the callbacks of the library's threads. */
void test_settle(void);

/* Makes count objects with make(i), NULL: wane_alloc(64); gives each to
   with(object, i); then drops all at once. In a thread of its own. */
void test_make_with(size_t count, void *(*make)(size_t idx),
                    void (*with)(void *object, size_t idx));

/* How many of the first count are not NULL. */
size_t test_weak_alive(const wane_weak *weak, size_t count);

/* All but a few that stray words may keep. Main thread. */
#define assert_most(actual, count)                                             \
  assert_in_range((actual), (count) - (count) / 50 - 2, (count))

/* ---- Threads of several sorts ---- */

struct test_crew {
  void *(*fn)(void *arg);
  size_t count;
};

/* Starts the threads of each sort in turn, with first, first + 1, ... as their
   arguments, and waits for all. */
void test_crew_run(const struct test_crew *crew, size_t sorts, uintptr_t first);
/* For one of them: collects, calls then (or NULL) and sleeps up to pause_ms,
   again and again until end. */
void test_collect_until(double end, uint64_t seed, unsigned pause_ms,
                        void (*then)(struct test_random *random));

/* ---- Fatal mistakes, other programs ---- */

/* This program again as the role, which exits with 0. Main thread. */
void test_run_role(const char *role, const char *arg, const char *options);

/* fn(arg) prints the line "wane: FUNCTION: ...", no other, and aborts. Main
   thread. */
void test_assert_fatal_only(const char *function, void (*fn)(void *arg),
                            void *arg);
void test_assert_only_line(const struct test_child *child,
                           const char *function);
/* The same where no call is to blame: "wane: ...", not "wane: internal". */
void test_assert_complains(const struct test_child *child);

#endif
