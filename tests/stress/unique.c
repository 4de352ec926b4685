/*
 * U1 with threads: equal bytes give one pointer as long as any is held, also
 * when several make them at once and the last ones are just dying.
 *
 * Threads make values of some hundred numbers, put them in shared slots, take
 * them out again, and drop them; one is often collected in the middle of that.
 * Whoever holds a value and makes its bytes again must get the same pointer.
 * Values of higher numbers hold one of a lower number, so that chains die.
 * Between these rounds all threads make the same new bytes at one signal.
 *
 * unique [--seed N] [--seconds S]
 */
/* run: stress WANE_OPTIONS=stress=alloc:41 */
/* run: verify WANE_OPTIONS=verify=1,stress=alloc:301 */
/* run: poison WANE_OPTIONS=poison=1,stress=alloc:101 */
/* run: plain WANE_OPTIONS=background=0,mark_threads=1 */
#include "support/lives.h"

#include <pthread.h>
#include <sched.h>

#define THREADS 4
#define SLOTS 200
#define MEETINGS 64 /* values made at once, by all */

struct value {
  uint64_t number;
  uint64_t check;
  const void *lower;
  char pad[]; /* by the number, so that sizes differ */
};

static struct test_args args;
TEST_ROOT const struct value *slots[SLOTS];        /* atomic */
TEST_ROOT const void *meetings[MEETINGS][THREADS]; /* own column */
TEST_ROOT const char *strings[SLOTS];              /* atomic */
static uint64_t meeting; /* atomic: the round; threads begin it together */
static uint64_t arrived;
static uint64_t hits;
static uint64_t misses;
static double stop;

static size_t pad_of(uint64_t number) { return number * 7 % 90; }

/* Its bytes, in a buffer of the caller. */
static size_t spell(uint64_t number, const void *lower, void *buffer) {
  struct value *value = buffer;
  size_t size = sizeof *value + pad_of(number);
  memset(buffer, (int)(number & 127), size);
  value->number = number;
  value->check = ~number;
  value->lower = lower;
  return size;
}

static TEST_NOINLINE const struct value *make(uint64_t number,
                                              const void *lower) {
  uint64_t buffer[20];
  size_t got = 0;
  size_t size = spell(number, lower, buffer);
  wane_unique u = wane_unique_make(buffer, size);
  require(u.ptr != NULL && memcmp(u.ptr, buffer, size) == 0);
  require(wane_unique_value(u, &got) == u.ptr && got == size);
  return u.ptr;
}

static TEST_NOINLINE void check_held(size_t slot) {
  const struct value *held = __atomic_load_n(&slots[slot], __ATOMIC_SEQ_CST);
  if (held == NULL) {
    test_add(&misses);
    return;
  }
  require(held->check == ~held->number);
  const struct value *again = make(held->number, held->lower);
  require(again == held);
  if (held->lower != NULL) { /* it holds what it points to */
    const struct value *lower = held->lower;
    require(lower->check == ~lower->number);
    require(make(lower->number, lower->lower) == lower);
  }
  wane_keep_alive(held);
  test_add(&hits);
}

static TEST_NOINLINE void put(struct test_random *random, size_t slot) {
  const struct value *lower =
      test_below(random, 2) == 0
          ? __atomic_load_n(&slots[test_below(random, SLOTS)], __ATOMIC_SEQ_CST)
          : NULL;
  const struct value *value = make(slot / 4, lower);
  const struct value *again = make(slot / 4, lower);
  require(value == again);
  if (test_below(random, 3) != 0) {
    __atomic_store_n(&slots[slot], value, __ATOMIC_SEQ_CST);
  }
  wane_keep_alive(value);
}

static TEST_NOINLINE void use_string(struct test_random *random, size_t slot) {
  char text[40];
  const char *held = __atomic_load_n(&strings[slot], __ATOMIC_SEQ_CST);
  snprintf(text, sizeof text, "string %zu", slot);
  const char *string = wane_intern(text);
  require(string != NULL && strcmp(string, text) == 0);
  require(held == NULL || held == string);
  __atomic_store_n(&strings[slot], test_below(random, 2) == 0 ? string : NULL,
                   __ATOMIC_SEQ_CST);
  wane_keep_alive(string);
  wane_keep_alive(held);
}

static void step(struct test_random *random) {
  size_t slot = test_below(random, SLOTS);
  switch (test_below(random, 8)) {
  case 0:
  case 1:
    put(random, slot);
    break;
  case 2:
  case 3:
    __atomic_store_n(&slots[slot], NULL, __ATOMIC_SEQ_CST);
    break;
  case 4:
    use_string(random, slot);
    break;
  default:
    check_held(slot);
  }
  if (test_below(random, 2000) == 0) {
    wane_collect();
  }
}

/* All wait for each other, make the same new values in the same order, and
   wait again; then one compares. */
static void wait_for_all(uint64_t turn) {
  test_add(&arrived);
  while (test_get(&arrived) < turn * THREADS) {
    sched_yield();
  }
}

static TEST_NOINLINE void meet(uint64_t round, size_t thread) {
  wait_for_all(3 * round + 1);
  for (size_t i = 0; i < MEETINGS; i++) {
    uint64_t number = UINT64_C(1) << 40 | round * MEETINGS | i;
    meetings[i][thread] = make(number, NULL);
  }
  wait_for_all(3 * round + 2);
  for (size_t i = 0; i < MEETINGS; i++) {
    require(meetings[i][thread] == meetings[i][0]);
  }
  wait_for_all(3 * round + 3);
  for (size_t i = 0; i < MEETINGS; i++) {
    meetings[i][thread] = NULL;
  }
}

static void *worker(void *arg) {
  size_t thread = (size_t)(uintptr_t)arg;
  struct test_random random = {args.seed + thread * 7919};
  for (uint64_t round = 0;; round++) {
    for (int i = 0; i < 500; i++) {
      step(&random);
    }
    if (thread == 0 && test_now() > stop) {
      test_set(&meeting, round + 1);
    }
    meet(round, thread);
    if (test_get(&meeting) == round + 1) {
      return NULL;
    }
  }
}

static bool all_gone(void) {
  memset(slots, 0, sizeof slots);
  memset(strings, 0, sizeof strings);
  uint64_t live = test_live_bytes();
  return live < (4u << 20);
}

static void equal_bytes_are_one_under_all_schedules(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  stop = test_now() + args.seconds;
  for (uintptr_t i = 0; i < THREADS; i++) {
    require(!pthread_create(&threads[i], NULL, worker, (void *)i));
  }
  for (size_t i = 0; i < THREADS; i++) {
    require(!pthread_join(threads[i], NULL));
  }
  printf("%llu rounds, %llu hits, %llu misses, %llu cycles\n",
         (unsigned long long)test_get(&meeting),
         (unsigned long long)test_get(&hits),
         (unsigned long long)test_get(&misses),
         (unsigned long long)test_stats().cycles_full);
  assert_true(test_get(&hits) > 100);
  assert_true(all_gone());
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 4);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equal_bytes_are_one_under_all_schedules),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
