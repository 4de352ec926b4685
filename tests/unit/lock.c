/* base/lock: mutual exclusion, and the order of ranks in check builds. */
#include "support/child.h"

#include <pthread.h>

#include "base/check.h"
#include "base/lock.h"

#define THREADS 4
#define TURNS 50000

/* The lowest rank: threads are created while it is held. */
static struct wane__lock lock = WANE__LOCK_INIT(WANE__RANK_CYCLE);
static struct {
  uint64_t a;
  uint64_t b;
} guarded; /* lock: lock */

static void *take_turns(void *arg) {
  for (int i = 0; i < TURNS; i++) {
    if (arg == NULL || i % 2 == 0) {
      wane__lock_acquire(&lock);
    } else {
      while (!wane__lock_try(&lock)) {
      }
    }
    require(guarded.a == guarded.b);
    guarded.a++;
    guarded.b++;
    wane__lock_release(&lock);
  }
  return NULL;
}

static void one_thread_at_a_time(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  for (size_t t = 0; t < THREADS; t++) {
    pthread_create(&threads[t], NULL, take_turns, t % 2 == 0 ? NULL : &lock);
  }
  for (size_t t = 0; t < THREADS; t++) {
    pthread_join(threads[t], NULL);
  }
  assert_int_equal(guarded.a, THREADS * TURNS);
  assert_int_equal(guarded.b, THREADS * TURNS);
}

static void *try_it(void *got) {
  *(bool *)got = wane__lock_try(&lock);
  if (*(bool *)got) {
    wane__lock_release(&lock);
  }
  return NULL;
}

static bool other_thread_gets_it(void) {
  bool got = false;
  pthread_t thread;
  require(pthread_create(&thread, NULL, try_it, &got) == 0);
  pthread_join(thread, NULL);
  return got;
}

static void try_declines_while_it_is_held(void **state) {
  (void)state;
  wane__lock_acquire(&lock);
  bool got = other_thread_gets_it();
  wane__lock_release(&lock);
  assert_false(got);
  assert_true(other_thread_gets_it());
}

static void reset_frees_it(void **state) {
  (void)state;
  wane__lock_acquire(&lock);
  wane__lock_reset(&lock);
  assert_true(wane__lock_try(&lock));
  wane__lock_release(&lock);
}

static void take_in_wrong_order(void *arg) {
  (void)arg;
  struct wane__lock higher = WANE__LOCK_INIT(WANE__RANK_ROOTS);
  wane__lock_acquire(&higher);
  wane__lock_acquire(&lock);
}

static void take_twice(void *arg) {
  (void)arg;
  struct wane__lock same = WANE__LOCK_INIT(WANE__RANK_CYCLE);
  wane__lock_acquire(&lock);
  wane__lock_acquire(&same);
}

/* INV-lock-1 */
static void ranks_out_of_order_abort_in_check_builds(void **state) {
  (void)state;
#if WANE_CHECK_LEVEL >= 1
  test_assert_fatal("internal", take_in_wrong_order, NULL);
  test_assert_fatal("internal", take_twice, NULL);
#else
  (void)take_in_wrong_order;
  (void)take_twice;
  skip();
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_thread_at_a_time),
      cmocka_unit_test(try_declines_while_it_is_held),
      cmocka_unit_test(reset_frees_it),
      cmocka_unit_test(ranks_out_of_order_abort_in_check_builds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
