/*
 * M1, D11: maps are linearizable, strong and weak ones, under any schedule,
 * during collections, while they grow and while keys and values die.
 *
 * Two to four threads make a few dozen calls on a few keys of one map; the
 * calls are recorded with stamps, and support/history.h looks for an order
 * that explains them. Then the next map: other flags, hash, schedule. Each
 * call brings its own key object; those of weak maps, and values, are dropped
 * when they were used, so that entries die while newer ones of equal keys
 * come. equal yields the CPU, which opens the calls in their middle.
 *
 * map [--seed N] [--seconds S]
 */
/* run: stress WANE_OPTIONS=stress=alloc:37 */
/* run: verify WANE_OPTIONS=verify=1,stress=alloc:301 */
/* run: poison WANE_OPTIONS=poison=1,stress=alloc:101 */
/* run: plain WANE_OPTIONS=background=0,mark_threads=1 */
#include "support/history.h"
#include "support/lives.h"

#include <pthread.h>
#include <sched.h>

#define THREADS 4
#define CALLS 12 /* of a thread, at most */
#define NULL_ID 1
#define FILLERS 1000 /* their numbers begin here */
#define CANARY UINT64_C(0x8badf00d8badf00d)

struct thing {
  uint64_t canary; /* of a value: with its id; of a key: with its number */
  uint64_t id;
};

/* How one history is made; const while the threads run. */
struct mode {
  struct wane_map *map;
  unsigned flags;
  size_t threads;
  size_t calls;
  size_t keys;
  size_t fillers;
  bool own_ops;
  uint64_t hash_mask;
  bool clears;
  bool drops;
  bool yields;
  bool collects;
  bool churns; /* fillers come and go meanwhile */
  size_t spins;
};

static struct test_args args;
TEST_ROOT struct mode mode;
static struct history history;
TEST_ROOT struct thing *values[HISTORY_IDS]; /* atomic */
TEST_ROOT struct thing *held_keys[HISTORY_IDS];
TEST_ROOT struct thing *word_keys[HISTORY_KEYS];
static uint64_t stamp;
static uint64_t round_number;
static uint64_t rounds_done; /* by all threads together */
static uint64_t over;
static _Thread_local struct test_random my_random;

static size_t below(size_t limit) { return test_below(&my_random, limit); }

/* ---- Keys and values ---- */

static void maybe_yield(void) {
  if (mode.yields && below(4) == 0) {
    sched_yield();
  }
}

static uint64_t key_hash(const void *key) {
  const struct thing *thing = key;
  require(thing->canary == (CANARY ^ thing->id));
  struct test_random random = {thing->id};
  return test_random(&random) & mode.hash_mask;
}

static bool key_equal(const void *a, const void *b) {
  const struct thing *left = a;
  const struct thing *right = b;
  require(left->canary == (CANARY ^ left->id));
  require(right->canary == (CANARY ^ right->id));
  maybe_yield();
  return left->id == right->id;
}

static struct thing *new_thing(uint64_t id) {
  struct thing *thing = wane_alloc_leaf(sizeof *thing);
  require(thing != NULL);
  thing->canary = CANARY ^ id;
  thing->id = id;
  return thing;
}

/* A word that equals no other key's, or an object made for this call. */
static const void *key_for(uint8_t key, uint8_t object, bool held) {
  if (!mode.own_ops) {
    return word_keys[key];
  }
  struct thing *thing = new_thing(key);
  if (held) {
    held_keys[object] = thing;
  }
  return thing;
}

static uint8_t value_id(const struct thing *value) {
  if (value == NULL) {
    return NULL_ID;
  }
  require(value->canary == (CANARY ^ value->id));
  return (uint8_t)value->id;
}

/* A value that was stored some time, or NULL. */
static struct thing *some_value(uint8_t *id) {
  *id = (uint8_t)(1 + below(HISTORY_CALLS));
  struct thing *value = __atomic_load_n(&values[*id], __ATOMIC_SEQ_CST);
  *id = value_id(value);
  return value;
}

/* ---- A thread's part ---- */

static uint64_t stamp_begin(void) {
  return __atomic_load_n(&stamp, __ATOMIC_SEQ_CST);
}
static uint64_t stamp_end(void) {
  return __atomic_add_fetch(&stamp, 1, __ATOMIC_SEQ_CST);
}

static void do_call(struct history_event *e, const void *key,
                    struct thing *value, struct thing *old) {
  struct wane_map *map = mode.map;
  void *got = NULL;
  switch (e->call) {
  case HISTORY_LOAD:
    e->ok = wane_map_load(map, key, &got);
    break;
  case HISTORY_STORE:
    wane_map_store(map, key, value);
    return;
  case HISTORY_LOAD_OR_STORE:
    got = wane_map_load_or_store(map, key, value, &e->ok);
    e->got = value_id(got);
    return;
  case HISTORY_LOAD_AND_DELETE:
    e->ok = wane_map_load_and_delete(map, key, &got);
    break;
  case HISTORY_DELETE:
    e->ok = wane_map_delete(map, key);
    return;
  case HISTORY_SWAP:
    e->ok = wane_map_swap(map, key, value, &got);
    break;
  case HISTORY_COMPARE_AND_SWAP:
    e->ok = wane_map_compare_and_swap(map, key, old, value);
    return;
  case HISTORY_COMPARE_AND_DELETE:
    e->ok = wane_map_compare_and_delete(map, key, old);
    return;
  default:
    wane_map_clear(map);
    return;
  }
  require(e->ok || got == NULL);
  e->got = e->ok ? value_id(got) : 0;
}

/* The value's id is the event's number and 2, so is the key object's. */
static TEST_NOINLINE void one_call(struct history_event *e, uint8_t id) {
  struct thing *old = some_value(&e->old);
  bool use_null = below(10) == 0;
  bool hold = !mode.drops || below(2) == 0;
  struct thing *value = use_null ? NULL : new_thing(id);
  e->value = value_id(value);
  e->object = id;
  __atomic_store_n(&values[id], value, __ATOMIC_SEQ_CST);
  const void *key = key_for(e->key, id, hold);
  e->begin = stamp_begin();
  if (!hold && mode.own_ops && (mode.flags & WANE_WEAK_KEYS) != 0) {
    history.key_dropped[id] = e->begin;
  }
  do_call(e, key, value, old);
  e->end = stamp_end();
  wane_keep_alive(key);
  wane_keep_alive(value);
  if (!hold && (mode.flags & WANE_WEAK_VALUES) != 0 && !use_null) {
    history.value_dropped[id] = stamp_end();
    __atomic_store_n(&values[id], NULL, __ATOMIC_SEQ_CST);
  }
}

/* What moves the table under the calls; not recorded. */
static TEST_NOINLINE void churn(void) {
  uint64_t first = FILLERS + below(200);
  uint64_t count = 1 + below(40);
  for (uint64_t i = 0; i < count; i++) {
    void *word = (void *)(uintptr_t)(2 * (first + i) + 1);
    const void *key = mode.own_ops ? new_thing(first + i) : word;
    if (below(2) == 0) {
      wane_map_store(mode.map, key, NULL);
    } else {
      wane_map_delete(mode.map, key);
    }
  }
}

static void pause_between(void) {
  for (size_t spins = mode.spins == 0 ? 0 : below(mode.spins); spins > 0;
       spins--) {
    __asm__ volatile("" : : : "memory");
  }
  maybe_yield();
  if (mode.collects && below(20) == 0) {
    wane_collect();
  }
  if (mode.churns && below(4) == 0) {
    churn();
  }
}

static uint8_t some_call(void) {
  for (;;) {
    uint8_t call = (uint8_t)below(HISTORY_KINDS);
    if (call != HISTORY_CLEAR || (mode.clears && below(2) == 0)) {
      return call;
    }
  }
}

static void take_part(size_t thread) {
  for (size_t i = 0; i < mode.calls; i++) {
    size_t idx = thread * mode.calls + i;
    struct history_event *event = &history.events[idx];
    event->call = some_call();
    event->key = (uint8_t)below(mode.keys);
    pause_between();
    one_call(event, (uint8_t)(idx + 2));
  }
}

static void *worker(void *arg) {
  size_t thread = (size_t)(uintptr_t)arg;
  my_random.state = args.seed + 1000 * (thread + 1);
  for (uint64_t round = 1;; round++) {
    while (test_get(&round_number) < round) {
      if (test_get(&over) != 0) {
        return NULL;
      }
      sched_yield();
    }
    if (thread < mode.threads) {
      take_part(thread);
    }
    test_scrub();
    test_add(&rounds_done);
  }
}

/* ---- A history ---- */

static void draw_mode(struct test_random *random) {
  static const uint64_t masks[] = {UINT64_MAX, 0, 3, UINT64_C(15) << 60};
  mode.flags = (unsigned)test_below(random, 4);
  mode.threads = 2 + test_below(random, THREADS - 1);
  mode.calls = 3 + test_below(random, CALLS - 3 + 1);
  mode.keys = 1 + test_below(random, HISTORY_KEYS);
  mode.fillers = test_below(random, 2) * test_below(random, 70);
  mode.own_ops = test_below(random, 4) != 0;
  mode.hash_mask = masks[test_below(random, TEST_COUNT(masks))];
  mode.clears = test_below(random, 4) == 0;
  mode.drops = test_below(random, 2) == 0;
  mode.yields = test_below(random, 3) != 0;
  mode.collects = test_below(random, 4) == 0;
  mode.churns = test_below(random, 4) == 0;
  mode.spins = test_below(random, 2) * test_below(random, 400);
}

static TEST_NOINLINE void begin_history(void) {
  static const struct wane_map_ops ops = {key_hash, key_equal};
  memset(&history, 0, sizeof history);
  memset(values, 0, sizeof values);
  memset(held_keys, 0, sizeof held_keys);
  for (size_t i = 0; i < HISTORY_KEYS; i++) {
    word_keys[i] = new_thing(i);
  }
  if (below(4) == 0) { /* one is as good as no object */
    word_keys[below(HISTORY_KEYS)] = NULL;
  }
  test_set(&stamp, 1);
  mode.map = wane_map_new(mode.own_ops ? &ops : NULL, mode.flags);
  require(mode.map != NULL);
  for (size_t i = 0; i < mode.fillers; i++) {
    void *word = (void *)(uintptr_t)(2 * (FILLERS + i) + 1);
    wane_map_store(mode.map, mode.own_ops ? new_thing(FILLERS + i) : word,
                   NULL);
  }
  history.count = mode.threads * mode.calls;
}

/* What is there in the end belongs to the history. */
static void read_end(void) {
  for (uint8_t key = 0; key < mode.keys; key++) {
    struct history_event *event = &history.events[history.count++];
    event->call = HISTORY_LOAD;
    event->key = key;
    one_call(event, (uint8_t)(history.count + 1));
  }
}

static struct {
  size_t shown[HISTORY_KEYS];
  size_t all;
} end;

static bool see(const void *key, void *value, void *ctx) {
  require(ctx == &end);
  (void)value_id(value);
  end.all++;
  for (size_t i = 0; i < mode.keys; i++) {
    const struct thing *thing = key;
    end.shown[i] += mode.own_ops ? thing->id == i : thing == word_keys[i];
  }
  return true;
}

static TEST_NOINLINE void check_end(void) {
  bool settled = mode.flags == 0 || below(8) == 0;
  if (mode.flags != 0 && settled) { /* or entries may go at any time */
    wane_collect();
  }
  memset(&end, 0, sizeof end);
  wane_map_range(mode.map, see, &end);
  for (size_t i = 0; i < mode.keys; i++) {
    require(end.shown[i] <= 1);
  }
  require(!settled || wane_map_count(mode.map) == end.all);
  if (mode.flags != 0) {
    return;
  }
  for (size_t i = 0; i < mode.keys; i++) {
    const struct history_event *load =
        &history.events[history.count - mode.keys + i];
    require(end.shown[i] == load->ok);
  }
}

static void run_history(uint64_t number) {
  begin_history();
  test_set(&round_number, number);
  while (test_get(&rounds_done) < number * THREADS) {
    sched_yield();
  }
  read_end();
  check_end();
  if (!history_is_linearizable(&history)) {
    history_print(&history);
    fprintf(stderr,
            "history %llu of seed %llu: flags %u, own_ops %d, mask %llx, "
            "fillers %zu, clears %d, drops %d, churns %d\n",
            (unsigned long long)number, (unsigned long long)args.seed,
            mode.flags, mode.own_ops, (unsigned long long)mode.hash_mask,
            mode.fillers, mode.clears, mode.drops, mode.churns);
    require(!"the history is linearizable");
  }
}

/* INV-table-1: a key that is there twice would show in some history. */
static void all_histories_are_linearizable(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  struct test_random random = {args.seed};
  double stop = test_now() + args.seconds;
  uint64_t number = 0;
  uint64_t collected = test_stats().cycles_full;
  my_random.state = args.seed;
  for (size_t i = 0; i < THREADS; i++) {
    require(pthread_create(&threads[i], NULL, worker, (void *)(uintptr_t)i) ==
            0);
  }
  while (test_now() < stop) {
    draw_mode(&random);
    run_history(++number);
  }
  test_set(&over, 1);
  for (size_t i = 0; i < THREADS; i++) {
    require(pthread_join(threads[i], NULL) == 0);
  }
  printf("%llu histories, %llu cycles\n", (unsigned long long)number,
         (unsigned long long)(test_stats().cycles_full - collected));
  assert_true(number > 10);
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 4);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_histories_are_linearizable),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
