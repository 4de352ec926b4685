/*
 * Threads that share and change graphs, come and go, and check that all they
 * can reach is whole, while cycles run as often as the options ask.
 *
 * A cell carries a checksum of itself and its creator; cells hang in a shared
 * table of slots, changed by compare-and-swap, and in lists that each thread
 * keeps on its own stack.
 *
 * threads [--seed N] [--seconds S]
 */
/* run: verify WANE_OPTIONS=verify=1,stress=alloc:200 */
/* run: stress WANE_OPTIONS=stress=alloc:40 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,huge_pages=0 */
/* run: one_marker WANE_OPTIONS=mark_threads=1,verify=1 */
/* run: four_markers WANE_OPTIONS=mark_threads=4,verify=1 */
/* run: overflow WANE_OPTIONS=mark_stack=8192,mark_threads=4,verify=1 */
#include "support/test.h"

#include <pthread.h>

#define THREADS 4
#define SLOTS 512
#define LIST_MAX 400
#define DEPTH_MAX 40

struct cell {
  uint64_t check; /* of the rest; never an address */
  uint64_t size;
  struct cell *next;      /* changes, not in check */
  unsigned char *payload; /* leaf */
  uint64_t depth;
  uint64_t words[];
};
WANE_TYPE(cell_type, struct cell, next, payload);

TEST_ROOT struct cell *shared[SLOTS]; /* atomic */
static struct test_args args;
static double end_time;
static uint64_t cells_checked; /* atomic */

#define CHECK_BIT (1ull << 63)

static uint64_t cell_sum(const struct cell *cell) {
  uint64_t sum = cell->size * 0x9e3779b97f4a7c15ull + cell->depth;
  for (size_t i = 0; i < (cell->size - sizeof *cell) / 8; i++) {
    sum = (sum << 7 | sum >> 57) ^ cell->words[i];
  }
  return sum | CHECK_BIT;
}

static size_t random_size(struct test_random *random) {
  switch (test_below(random, 32)) {
  case 0:
    return sizeof(struct cell) + test_below(random, 3000) * 8;
  case 1:
    return sizeof(struct cell) +
           (test_below(random, 50) == 0 ? test_below(random, 16384) * 8 : 0);
  default:
    return sizeof(struct cell) + test_below(random, 16) * 8;
  }
}

static struct cell *cell_new(struct test_random *random, struct cell *next) {
  size_t size = random_size(random);
  bool typed = test_below(random, 3) == 0;
  if (typed) {
    size = sizeof(struct cell);
  }
  struct cell *cell =
      typed ? wane_alloc_typed(&cell_type, 1) : wane_alloc(size);
  require(cell != NULL);
  require(cell->check == 0 && cell->next == NULL && cell->payload == NULL);
  cell->size = size;
  for (size_t i = 0; i < (size - sizeof *cell) / 8; i++) {
    require(cell->words[i] == 0);
    cell->words[i] = test_random(random) | CHECK_BIT;
  }
  cell->depth = next == NULL ? 0 : next->depth + 1;
  size_t length = test_below(random, 100);
  cell->payload = wane_alloc_leaf(length + 1);
  require(cell->payload != NULL && cell->payload[length] == 0);
  memset(cell->payload, (int)(cell->depth & 127) + 1, length);
  cell->check = cell_sum(cell);
  __atomic_store_n(&cell->next, next, __ATOMIC_RELEASE);
  return cell;
}

static void cell_check(const struct cell *cell) {
  require(cell->check == cell_sum(cell));
  size_t length = strlen((const char *)cell->payload);
  for (size_t i = 0; i < length; i++) {
    require(cell->payload[i] == (cell->depth & 127) + 1);
  }
}

static void list_check(const struct cell *cell) {
  uint64_t count = 0;
  for (; cell != NULL; cell = __atomic_load_n(&cell->next, __ATOMIC_ACQUIRE)) {
    cell_check(cell);
    require(++count <= LIST_MAX + DEPTH_MAX);
  }
  __atomic_fetch_add(&cells_checked, count, __ATOMIC_RELAXED);
}

static void shared_change(struct test_random *random) {
  struct cell **slot = &shared[test_below(random, SLOTS)];
  struct cell *seen = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
  struct cell *fresh = NULL;
  if (seen == NULL || seen->depth < DEPTH_MAX) {
    fresh = cell_new(random, seen);
  } else {
    list_check(seen);
  }
  __atomic_compare_exchange_n(slot, &seen, fresh, false, __ATOMIC_SEQ_CST,
                              __ATOMIC_SEQ_CST);
}

/* Cuts a list somewhere: its rest dies if nobody else holds it. */
static void shared_cut(struct test_random *random) {
  struct cell *cell =
      __atomic_load_n(&shared[test_below(random, SLOTS)], __ATOMIC_ACQUIRE);
  size_t steps = test_below(random, DEPTH_MAX);
  while (cell != NULL && steps-- > 0) {
    cell = __atomic_load_n(&cell->next, __ATOMIC_ACQUIRE);
  }
  if (cell != NULL) {
    __atomic_store_n(&cell->next, NULL, __ATOMIC_RELEASE);
  }
}

static void *mutator(void *arg) {
  struct test_random random = {args.seed + (uintptr_t)arg};
  struct cell *own = NULL;
  uint64_t rounds = 500 + test_below(&random, 20000);
  for (uint64_t i = 0; i < rounds && test_now() < end_time; i++) {
    own = own != NULL && own->depth >= LIST_MAX - 1 ? NULL
                                                    : cell_new(&random, own);
    shared_change(&random);
    if (i % 16 == 0) {
      shared_cut(&random);
      list_check(own);
    }
    if (test_below(&random, 3000) == 0) {
      wane_collect();
    }
  }
  list_check(own);
  return own; /* a managed result; dropped by the join */
}

static void shared_graphs_stay_whole(void **state) {
  (void)state;
  end_time = test_now() + args.seconds;
  pthread_t threads[THREADS];
  uint64_t number = 0;
  for (int t = 0; t < THREADS; t++) {
    number++;
    assert_int_equal(pthread_create(&threads[t], NULL, mutator, (void *)number),
                     0);
  }
  while (test_now() < end_time) { /* threads come and go */
    void *list;
    int t = (int)(number % THREADS);
    assert_int_equal(pthread_join(threads[t], &list), 0);
    list_check(list);
    number++;
    assert_int_equal(pthread_create(&threads[t], NULL, mutator, (void *)number),
                     0);
  }
  for (int t = 0; t < THREADS; t++) {
    pthread_join(threads[t], NULL);
  }
  for (size_t s = 0; s < SLOTS; s++) {
    list_check(shared[s]);
  }
  assert_true(cells_checked > 0);
  memset(shared, 0, sizeof shared);
  assert_true(test_live_bytes() < 8u << 20);
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 2);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shared_graphs_stay_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
