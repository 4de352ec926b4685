/*
 * Ephemerons in large graphs, and read, made and dropped by threads while
 * others collect. E1, D17, X3.
 *
 * A key has a canary made of its number, and so has its value, which points
 * back to the key and now and then to another one. A slot's record has the
 * ephemeron and a weak pointer to the key: readers check that what they get
 * is whole, that both agree, and that what was NULL once is so for ever. Some
 * keys have finalizers that bring them back. After each round all is dropped
 * and must die.
 *
 * ephemerons [--seed N] [--seconds S]
 */
/* timeout: 300 */
/* run: verify WANE_OPTIONS=verify=1,stress=alloc:500 */
/* run: stress WANE_OPTIONS=stress=alloc:60 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,huge_pages=0,mark_threads=1 */
/* run: overflow WANE_OPTIONS=mark_stack=8192,mark_threads=4 */
#include "support/lives.h"

#include <pthread.h>

static struct test_args args;

static struct wane_ephemeron *ephemeron_new(const void *key, void *value) {
  struct wane_ephemeron *e = wane_ephemeron_new(key, value);
  require(e != NULL);
  return e;
}

/* ---- Many, in processes of their own ---- */

/* Collects: in far more time than the work takes, far less than the square of
   it would. */
static void collect_soon(void) {
  const char *options = getenv("WANE_OPTIONS");
  double limit = TEST_ASAN || TEST_TSAN ? 20 : 4;
  bool verifies = options != NULL && strstr(options, "verify") != NULL;
  test_scrub();
  double begin = test_now();
  wane_collect();
  require(test_now() - begin < (verifies ? 3 * limit : limit));
}

#define CHAIN 100000

struct chain {
  size_t order; /* forward, backward, shuffled */
  size_t count;
  size_t number;
};

/* In managed memory, so that the program holds it by chain_pairs alone. */
TEST_ROOT struct wane_ephemeron **chain_pairs;
TEST_ROOT void *chain_first;
static uintptr_t *chain_values; /* hidden */

static void make_chain(void *arg) {
  const struct chain *chain = arg;
  struct test_random random = {chain->number};
  size_t count = chain->count;
  void ***all_keys = wane_alloc((count + 1) * sizeof *all_keys);
  size_t *order = wane_alloc_leaf(count * sizeof *order);
  chain_pairs = wane_alloc(count * sizeof *chain_pairs);
  for (size_t i = 0; i < count; i++) {
    all_keys[i] = wane_alloc(16);
    order[i] = chain->order == 1 ? count - 1 - i : i;
  }
  for (size_t i = count; chain->order == 2 && i-- > 1;) {
    size_t other = test_below(&random, i + 1);
    size_t swapped = order[i];
    order[i] = order[other];
    order[other] = swapped;
  }
  for (size_t i = 0; i < count; i++) {
    size_t n = order[i];
    void **value = wane_alloc(32);
    value[n % 4] = all_keys[n + 1];
    chain_values[n] = test_hide(value);
    chain_pairs[n] = ephemeron_new(all_keys[n], value);
  }
  chain_first = all_keys[0];
  memset(all_keys, 0, count * sizeof *all_keys);
}

static TEST_NOINLINE size_t chain_whole(size_t count) {
  size_t whole = 0;
  for (size_t i = 0; i < count; i++) {
    const void *value = wane_ephemeron_value(chain_pairs[i]);
    require((value != NULL) == (wane_ephemeron_key(chain_pairs[i]) != NULL));
    require(value == NULL || (value == test_reveal(chain_values[i]) &&
                              wane_base(value) == value));
    whole += value != NULL;
  }
  return whole;
}

/* A chain of pairs, each value the only one that holds the next key. */
static void chains(const char *arg) {
  (void)arg;
  (void)wane_set_gc_percent(-1);
  size_t died = 0;
  chain_values = calloc(CHAIN, sizeof *chain_values);
  for (size_t i = 0; i < 6; i++) {
    struct chain chain = {i % 3, CHAIN, i};
    test_apart(make_chain, &chain);
    for (int n = 0; n < 2; n++) {
      collect_soon();
      require(chain_whole(CHAIN) == CHAIN);
    }
    chain_first = NULL;
    collect_soon();
    died += chain_whole(CHAIN) < CHAIN / 2;
    chain_pairs = NULL;
  }
  require(died >= 4);
  free(chain_values);
}

TEST_ROOT void *fan_key;

/* One key with many values. It is itself held by the value of one more pair,
   the first or the last that marking comes to. */
static void make_fan_of_key(size_t gate_idx) {
  void **key = wane_alloc(64);
  void **gate = wane_alloc(64);
  fan_key = wane_alloc(64);
  gate[7] = key;
  for (size_t i = 0; i < CHAIN; i++) {
    void **value = i == gate_idx ? gate : wane_alloc(32);
    value[0] = key;
    chain_values[i] = test_hide(value);
    chain_pairs[i] = ephemeron_new(i == gate_idx ? fan_key : key, value);
  }
}

/* One value with many keys, of which it holds the last eight. */
static void make_fan_of_value(void) {
  void **all_keys = wane_alloc(CHAIN * sizeof *all_keys);
  void **value = wane_alloc(64);
  for (size_t i = 0; i < CHAIN; i++) {
    all_keys[i] = wane_alloc(32);
    value[i % 8] = all_keys[i];
    chain_values[i] = test_hide(value);
    chain_pairs[i] = ephemeron_new(all_keys[i], value);
  }
  fan_key = all_keys;
}

static void make_fan(void *arg) {
  const char *sort = arg;
  chain_pairs = wane_alloc(CHAIN * sizeof *chain_pairs);
  if (strcmp(sort, "value") == 0) {
    make_fan_of_value();
  } else {
    make_fan_of_key(strcmp(sort, "first") == 0 ? 0 : CHAIN - 1);
  }
}

/* arg: "value"; or "first" or "last", of many values. */
static void fan(const char *arg) {
  (void)wane_set_gc_percent(-1);
  chain_values = calloc(CHAIN, sizeof *chain_values);
  size_t died = 0;
  for (int i = 0; i < 3; i++) {
    test_apart(make_fan, (void *)arg);
    collect_soon();
    require(chain_whole(CHAIN) == CHAIN);
    fan_key = NULL;
    collect_soon();
    size_t whole = chain_whole(CHAIN);
    /* a stray word keeps almost all, or with one value the last eight */
    require(whole >= CHAIN - 1 || whole <= CHAIN / 1000);
    died += whole < CHAIN - 1;
    chain_pairs = NULL;
  }
  require(died >= 2);
  free(chain_values);
}

/* E1: in all orders, in time that grows with the number. */
static void long_chains_take_little_time(void **state) {
  (void)state;
  test_run_role("chains", "", "");
  test_run_role("chains", "", "mark_threads=1");
  test_run_role("chains", "", "mark_threads=4,mark_stack=8192");
  test_run_role("chains", "", "verify=1");
}

/* E1. */
static void wide_fans_take_little_time(void **state) {
  (void)state;
  static const char *const sorts[] = {"first", "last", "value"};
  for (size_t i = 0; i < TEST_COUNT(sorts); i++) {
    test_run_role("fan", sorts[i], "");
    test_run_role("fan", sorts[i], "mark_threads=1,mark_stack=8192");
    test_run_role("fan", sorts[i], "mark_threads=4,mark_stack=8192,verify=1");
  }
}

/* ---- Mark stacks that overflow ---- */

#define TEN 10
#define WIDE 400   /* pairs whose values point to many objects */
#define WIDTH 1500 /* so many */

struct wide {
  void *key_of_next;
  void *leaves[WIDTH];
};

TEST_ROOT void **wide_keys;
static wane_weak wide_leaves[WIDE];

/* Pairs in a chain: only the first key of ten is held, later those of every
   second ten. Each leaf has one below it. */
static void make_wide(void *arg) {
  (void)arg;
  chain_pairs = wane_alloc(WIDE * sizeof *chain_pairs);
  wide_keys = wane_alloc(WIDE * sizeof *wide_keys);
  void *next = NULL;
  for (size_t i = WIDE; i-- > 0;) {
    struct wide *value = wane_alloc(sizeof *value);
    value->key_of_next = i % TEN == TEN - 1 ? NULL : next;
    for (size_t n = 0; n < WIDTH; n++) {
      void **leaf = value->leaves[n] = wane_alloc(16);
      leaf[0] = wane_alloc(16);
      if (n == i % WIDTH) {
        wide_leaves[i] = wane_weak_make(leaf[0]);
      }
    }
    next = wane_alloc(32);
    wide_keys[i] = i % TEN == 0 ? next : NULL;
    chain_pairs[i] = ephemeron_new(next, value);
  }
}

static size_t wide_late; /* leaves without their pairs */

static TEST_NOINLINE bool wide_is_whole(size_t idx) {
  const struct wide *value = wane_ephemeron_value(chain_pairs[idx]);
  bool whole = value != NULL;
  require(whole == (wane_ephemeron_key(chain_pairs[idx]) != NULL));
  bool leaf_lives = wane_weak_value(wide_leaves[idx]) != NULL;
  require(leaf_lives || !whole);
  wide_late += leaf_lives && !whole;
  for (size_t n = 0; whole && n < WIDTH; n++) {
    void **leaf = value->leaves[n];
    require(wane_base(leaf) == leaf && wane_base(leaf[0]) == leaf[0]);
  }
  return whole;
}

static void wide(const char *arg) {
  (void)arg;
  (void)wane_set_gc_percent(-1);
  for (int round = 0; round < 3; round++) {
    test_apart(make_wide, NULL);
    for (size_t held_tens = 2; held_tens > 0; held_tens--) {
      test_scrub();
      wane_collect();
      size_t late = 0;
      for (size_t i = 0; i < WIDE; i++) {
        bool expected = held_tens == 2 || i / TEN % 2 == 0;
        bool whole = wide_is_whole(i);
        require(!expected || whole);
        late += whole && !expected;
      }
      require(late <= TEN && wide_late <= TEN);
      wide_late = 0;
      for (size_t i = 0; i < WIDE; i++) {
        wide_keys[i] = i / TEN % 2 == 0 ? wide_keys[i] : NULL;
      }
    }
  }
}

/* E1: nothing is lost, and no value is held by the second look. */
static void full_mark_stacks_change_nothing(void **state) {
  (void)state;
  test_run_role("wide", "", "mark_stack=8192,mark_threads=1");
  test_run_role("wide", "", "mark_stack=8192,mark_threads=4");
  test_run_role("wide", "", "mark_stack=8192,mark_threads=1,verify=1");
  test_run_role("wide", "", "mark_threads=4");
}

/* ---- Threads ---- */

#define MAKERS 2
#define READERS 3
#define SLOTS 3000
#define HELD 16
#define ROUND_SECONDS 0.4

struct record {
  uint64_t id;
  struct wane_ephemeron *e;
  wane_weak weak;
  uint64_t null_seen; /* atomic */
};

struct key {
  uint64_t id;
  uint64_t canary;
  struct record *record;
  uint64_t words[2];
};

struct value {
  uint64_t id;
  uint64_t canary;
  struct key *key;
  struct key *other; /* or NULL */
};
WANE_TYPE(value_type, struct value, key, other);

TEST_ROOT struct record *records[SLOTS]; /* atomic */
TEST_ROOT struct key *kept_keys[SLOTS];  /* atomic: those that live */
static double round_end;
static uint64_t ids;         /* atomic */
static uint64_t pairs_read;  /* atomic */
static uint64_t nulls_read;  /* atomic */
static uint64_t resurrected; /* atomic */

#define CANARY(id) (((id)*0x9e3779b97f4a7c15ull) | 1ull << 63)

static void check_key(const struct key *key, uint64_t id) {
  require(key->id == id && key->canary == CANARY(id));
  require(key->words[1] == (CANARY(id) ^ 3));
}

static void check_value(const struct value *value, uint64_t id) {
  require(value->id == id && value->canary == (CANARY(id) ^ 1));
  check_key(value->key, id);
  if (value->other != NULL) {
    check_key(value->other, value->other->id);
  }
}

/* D17: cleared before. The key may come back, without its value. */
static void finalize_key(void *object) {
  struct key *key = object;
  struct record *record = key->record;
  check_key(key, key->id);
  require(record->id == key->id);
  require(wane_ephemeron_key(record->e) == NULL);
  require(wane_ephemeron_value(record->e) == NULL);
  require(wane_weak_value(record->weak) == NULL);
  test_add(&resurrected);
  __atomic_store_n(&kept_keys[key->id % SLOTS], key, __ATOMIC_RELEASE);
}

static struct record *random_record(struct test_random *random) {
  return __atomic_load_n(&records[test_below(random, SLOTS)], __ATOMIC_ACQUIRE);
}

/* A key that lives, for a value to hold; or NULL. */
static struct key *random_key(struct test_random *random) {
  struct record *record = random_record(random);
  return record == NULL ? NULL : wane_ephemeron_key(record->e);
}

static void make_one(struct test_random *random) {
  uint64_t id = 1 + test_add(&ids);
  struct record *record = wane_alloc(sizeof *record);
  struct key *key =
      wane_alloc(test_below(random, 300) == 0 ? 50000 : sizeof *key + id % 100);
  struct value *value = id % 2 == 0 ? wane_alloc(sizeof *value)
                                    : wane_alloc_typed(&value_type, 1);
  require(record != NULL && key != NULL && value != NULL);
  *key = (struct key){id, CANARY(id), NULL, {0, CANARY(id) ^ 3}};
  value->id = id;
  value->canary = CANARY(id) ^ 1;
  value->key = key;
  value->other = test_below(random, 3) == 0 ? random_key(random) : NULL;
  record->id = id;
  record->weak = wane_weak_make(key);
  record->e = ephemeron_new(key, value);
  key->record = id % 4 == 0 ? record : NULL;
  if (id % 8 == 0) {
    wane_set_finalizer(key, finalize_key);
  }
  size_t slot = test_below(random, SLOTS);
  __atomic_store_n(&kept_keys[test_below(random, SLOTS)], key,
                   __ATOMIC_RELEASE);
  __atomic_store_n(&records[slot], record, __ATOMIC_RELEASE);
}

static void *maker(void *arg) {
  struct test_random random = {args.seed * 1000 + (uintptr_t)arg};
  while (test_now() < round_end) {
    for (int i = 0; i < 50; i++) {
      make_one(&random);
      __atomic_store_n(&kept_keys[test_below(&random, SLOTS)], NULL,
                       __ATOMIC_RELEASE);
    }
  }
  test_scrub();
  return NULL;
}

/* The key of a record, checked; value_first: what holds it is read first. */
static struct key *read_pair(struct record *record, bool value_first) {
  bool over = test_get(&record->null_seen) != 0;
  struct value *value = value_first ? wane_ephemeron_value(record->e) : NULL;
  struct key *key = wane_ephemeron_key(record->e);
  require(value == NULL || key != NULL); /* which the value holds */
  if (key == NULL) {
    require(wane_ephemeron_value(record->e) == NULL);
    require(wane_weak_value(record->weak) == NULL);
    test_set(&record->null_seen, 1);
    test_add(&nulls_read);
    return NULL;
  }
  require(!over);
  value = wane_ephemeron_value(record->e);
  require(value != NULL && value->key == key);
  check_value(value, record->id);
  check_key(key, record->id);
  require(wane_weak_value(record->weak) == key);
  test_add(&pairs_read);
  return key;
}

static void *reader(void *arg) {
  struct test_random random = {args.seed * 1000 + 500 + (uintptr_t)arg};
  struct key *held[HELD] = {0};
  struct record *held_records[HELD] = {0};
  while (test_now() < round_end) {
    for (int i = 0; i < 200; i++) {
      size_t h = test_below(&random, HELD);
      if (held[h] != NULL) { /* a held key holds its pair together */
        require(read_pair(held_records[h], false) == held[h]);
      }
      struct record *record = random_record(&random);
      held[h] = NULL;
      if (record != NULL) {
        held[h] = read_pair(record, test_below(&random, 2) == 0);
        held_records[h] = record;
      }
      if (test_below(&random, 40) == 0) {
        __atomic_store_n(&kept_keys[test_below(&random, SLOTS)], held[h],
                         __ATOMIC_RELEASE);
      }
    }
    test_breathe();
  }
  memset(held, 0, sizeof held);
  test_scrub();
  return NULL;
}

static void *collector(void *arg) {
  test_collect_until(round_end, args.seed * 1000 + 900, 4, NULL);
  return arg;
}

static void run_threads(uint64_t round) {
  static const struct test_crew crew[] = {
      {maker, MAKERS}, {reader, READERS}, {collector, 1}};
  round_end = test_now() + ROUND_SECONDS;
  test_crew_run(crew, TEST_COUNT(crew), round * 10);
}

static TEST_NOINLINE size_t records_whole(void) {
  size_t whole = 0;
  for (size_t i = 0; i < SLOTS; i++) {
    whole += records[i] != NULL && read_pair(records[i], i % 2 == 0) != NULL;
  }
  return whole;
}

/* Twice: finalizers bring back some keys, without their pairs. */
static void end_round(void) {
  require(wane_drain(30000)); /* finalizers write to what is cleared */
  for (int i = 0; i < 2; i++) {
    memset(kept_keys, 0, sizeof kept_keys);
    test_scrub();
    wane_collect();
    require(wane_drain(30000));
  }
  memset(kept_keys, 0, sizeof kept_keys);
  test_scrub();
  wane_collect();
  require(records_whole() <= SLOTS / 50);
  test_scrub();
}

/* INV-ephemeron-3: what a pair shows has not been used again. */
static void readers_see_whole_pairs_or_none(void **state) {
  (void)state;
  double end = test_now() + args.seconds;
  size_t resident = 0;
  for (uint64_t round = 0; test_now() < end || round < 3; round++) {
    run_threads(round);
    end_round();
    resident = round == 2 ? test_resident_bytes() : resident;
  }
  assert_true(pairs_read > 0 && nulls_read > 0 && resurrected > 0);
  memset(records, 0, sizeof records);
  printf("%llu pairs made, %llu read, %llu found gone\n",
         (unsigned long long)ids, (unsigned long long)pairs_read,
         (unsigned long long)nulls_read);
  if (!TEST_ASAN && !TEST_TSAN) {
    assert_in_range(test_resident_bytes(), 0, resident + (64u << 20));
  }
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"chains", chains}, {"fan", fan}, {"wide", wide}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  args = test_args_read(argc, argv, 2);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(readers_see_whole_pairs_or_none),
      cmocka_unit_test(long_chains_take_little_time),
      cmocka_unit_test(wide_fans_take_little_time),
      cmocka_unit_test(full_mark_stacks_change_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
