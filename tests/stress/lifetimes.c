/*
 * Readers of weak pointers, makers of objects, stops, deaths, resurrections
 * and forced cycles at the same time, with exact accounts: each cleanup has
 * been stopped, or has run once if its object is dead, or neither.
 *
 * A thing carries a canary made of its number, so that a weak pointer that
 * gives freed or reused memory is noticed (Go: TestIssue69210). Things live in
 * shared slots, and for a while in the hands of readers. The work comes in
 * rounds; after each the accounts are checked.
 *
 * lifetimes [--seed N] [--seconds S]
 */
/* run: verify WANE_OPTIONS=verify=1,stress=alloc:500 */
/* run: stress WANE_OPTIONS=stress=alloc:60 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,huge_pages=0 */
/* run: four_markers WANE_OPTIONS=mark_threads=4,verify=1 */
/* run: overflow WANE_OPTIONS=mark_stack=8192,mark_threads=4 */
#include "support/lives.h"

#include <pthread.h>
#include <sched.h>

#define MAKERS 2
#define READERS 2
#define SLOTS 2000
#define IDS 200000
#define HELD 32
#define ROUND_SECONDS 0.5

struct thing {
  uint64_t id;
  uint64_t canary;
  struct thing *other;
  uint64_t words[];
};

/* What a thing has; const once ready. */
enum { ON_QUEUE = 1, WITH_FINALIZER = 2, STORED_BY_FINALIZER = 4 };

struct account {
  wane_weak weak;
  wane_cleanup cleanup;
  uint8_t sort;
  uint32_t ready;     /* atomic */
  uint32_t tried;     /* atomic: stops begun */
  uint32_t stopped;   /* atomic: how often a stop won */
  uint32_t ran;       /* atomic */
  uint32_t finalized; /* atomic */
  uint32_t null_seen; /* atomic */
};

static struct account accounts[IDS];
static uint64_t made; /* atomic */
static uint64_t round_number;
static double round_end;
static struct test_args args;
static struct wane_queue *queue;
TEST_ROOT struct thing *slots[SLOTS];  /* atomic */
TEST_ROOT struct thing *stored[SLOTS]; /* atomic: by finalizers */
static uint64_t weak_reads;

#define CANARY(id) (((id)*0x9e3779b97f4a7c15ull) | 1ull << 63)
#define ID_BITS 24

static uint32_t add_one(uint32_t *counter) {
  return __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
}

static uint32_t get(const uint32_t *counter) {
  return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static void check_thing(const struct thing *thing, uint64_t id) {
  require(thing->id == id);
  require(thing->canary == CANARY(id));
  require(thing->words[id % 4] == (CANARY(id) ^ 1));
}

/* Callbacks of an earlier round are of things that were kept too long. */
static bool this_round(uint64_t tag, uint64_t *id) {
  *id = tag & ((1u << ID_BITS) - 1);
  return tag >> ID_BITS == test_get(&round_number);
}

static void clean_up(void *arg) {
  uint64_t id;
  if (this_round((uintptr_t)arg, &id)) {
    require(wane_weak_value(accounts[id].weak) == NULL);
    require(add_one(&accounts[id].ran) == 0);
    require(get(&accounts[id].stopped) == 0);
  }
}

static void finalize(void *object) {
  struct thing *thing = object;
  uint64_t id = thing->id & ((1u << ID_BITS) - 1);
  uint64_t round = thing->id >> ID_BITS;
  check_thing(thing, thing->id);
  if (round == test_get(&round_number)) {
    require(wane_weak_value(accounts[id].weak) == NULL);
    require(add_one(&accounts[id].finalized) == 0);
    require(get(&accounts[id].ran) == 0);
    if (accounts[id].sort & STORED_BY_FINALIZER) {
      __atomic_store_n(&stored[id % SLOTS], thing, __ATOMIC_SEQ_CST);
    }
  }
}

static struct thing *new_thing(struct test_random *random, uint64_t tag) {
  size_t words = 4 + test_below(random, 12);
  if (test_below(random, 500) == 0) {
    words = 4 + test_below(random, 20000);
  }
  struct thing *thing = wane_alloc(sizeof *thing + words * sizeof(uint64_t));
  require(thing != NULL);
  thing->id = tag;
  thing->canary = CANARY(tag);
  for (size_t i = 0; i < 4; i++) {
    thing->words[i] = CANARY(tag) ^ 1;
  }
  return thing;
}

static void make_one(struct test_random *random) {
  uint64_t id = test_add(&made);
  if (id >= IDS) {
    return;
  }
  struct account *account = &accounts[id];
  uint64_t tag = test_get(&round_number) << ID_BITS | id;
  struct thing *thing = new_thing(random, tag);
  account->weak = wane_weak_make(thing);
  void *arg = (void *)(uintptr_t)tag;
  if (test_below(random, 3) == 0) {
    account->sort |= ON_QUEUE;
    account->cleanup = wane_add_cleanup_on(queue, thing, clean_up, arg);
  } else {
    account->cleanup = wane_add_cleanup(&thing->words[1], clean_up, arg);
  }
  if (test_below(random, 4) == 0) {
    account->sort |= WITH_FINALIZER;
    account->sort |= test_below(random, 2) ? STORED_BY_FINALIZER : 0;
    wane_set_finalizer(thing, finalize);
  }
  require(account->weak.id != 0 && account->cleanup.id != 0);
  __atomic_store_n(&account->ready, 1, __ATOMIC_RELEASE);
  struct thing **slot = &slots[test_below(random, SLOTS)];
  if (test_below(random, 4) == 0) { /* chains of two */
    thing->other = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
    if (thing->other != NULL) {
      struct thing *none = NULL;
      __atomic_store(&thing->other->other, &none, __ATOMIC_RELAXED);
    }
  }
  __atomic_store_n(slot, thing, __ATOMIC_RELEASE);
  wane_keep_alive(thing);
}

static void *maker(void *arg) {
  struct test_random random = {args.seed * 1000 + (uintptr_t)arg};
  while (test_now() < round_end && test_get(&made) < IDS) {
    for (int i = 0; i < 50; i++) {
      make_one(&random);
    }
    __atomic_store_n(&stored[test_below(&random, SLOTS)], NULL,
                     __ATOMIC_SEQ_CST);
  }
  test_scrub();
  return NULL;
}

static struct account *random_account(struct test_random *random,
                                      uint64_t *id) {
  uint64_t count = test_get(&made);
  count = count < IDS ? count : IDS;
  if (count == 0) {
    return NULL;
  }
  /* mostly among the last, which may live */
  size_t back = test_below(random, 2) ? 3 * SLOTS : count;
  *id = count - 1 - test_below(random, back < count ? back : count);
  struct account *account = &accounts[*id];
  return __atomic_load_n(&account->ready, __ATOMIC_ACQUIRE) ? account : NULL;
}

static struct thing *read_weak(struct account *account, uint64_t id) {
  bool over = get(&account->null_seen) != 0 || get(&account->ran) != 0 ||
              get(&account->finalized) != 0;
  struct thing *thing = wane_weak_value(account->weak);
  __atomic_fetch_add(&weak_reads, 1, __ATOMIC_RELAXED);
  if (thing == NULL) {
    add_one(&account->null_seen);
    return NULL;
  }
  require(!over); /* NULL once, NULL for ever */
  check_thing(thing, test_get(&round_number) << ID_BITS | id);
  return thing;
}

/* S1, D5, X2: too late if and only if the cleanup will run: its object was
   found dead, and has no finalizer that comes first. */
static void stop_one(struct account *account) {
  bool comes_later = (account->sort & WITH_FINALIZER) != 0;
  bool dead = wane_weak_value(account->weak) == NULL;
  add_one(&account->tried);
  bool won = wane_cleanup_stop(account->cleanup);
  if (won) {
    require(!dead || comes_later);
    require(add_one(&account->stopped) == 0);
    require(get(&account->ran) == 0);
  } else if (get(&account->tried) == 1) {
    require(comes_later ? get(&account->finalized) != 0
                        : wane_weak_value(account->weak) == NULL);
  }
}

static void *reader(void *arg) {
  struct test_random random = {args.seed * 1000 + 500 + (uintptr_t)arg};
  struct thing *held[HELD] = {0};
  uint64_t ids[HELD] = {0};
  while (test_now() < round_end) {
    for (int i = 0; i < 200; i++) {
      uint64_t id;
      struct account *account = random_account(&random, &id);
      if (account == NULL) {
        continue;
      }
      size_t h = test_below(&random, HELD);
      if (held[h] != NULL) { /* what was held is whole, and not dead */
        check_thing(held[h], test_get(&round_number) << ID_BITS | ids[h]);
        require(get(&accounts[ids[h]].null_seen) == 0);
        require(get(&accounts[ids[h]].ran) == 0);
      }
      held[h] = read_weak(account, id);
      ids[h] = id;
      if (held[h] != NULL && test_below(&random, 20) == 0) {
        __atomic_store_n(&slots[test_below(&random, SLOTS)], held[h],
                         __ATOMIC_RELEASE);
      }
      if (test_below(&random, 30) == 0) {
        stop_one(account);
      }
    }
  }
  memset(held, 0, sizeof held);
  test_scrub();
  return NULL;
}

static void after_collection(struct test_random *random) {
  (void)wane_queue_run(queue, 1 + test_below(random, 1000));
  (void)wane_cleanup_stop((wane_cleanup){test_random(random)});
}

static void *collector(void *arg) {
  test_collect_until(round_end, args.seed * 1000 + 900, 4, after_collection);
  return arg;
}

static void run_threads(void) {
  static const struct test_crew crew[] = {
      {maker, MAKERS}, {reader, READERS}, {collector, 1}};
  round_end = test_now() + ROUND_SECONDS;
  test_crew_run(crew, TEST_COUNT(crew), round_number * 10);
}

/* dead: its weak pointer was NULL before the callbacks were waited for. */
static void check_account(const struct account *account, bool dead) {
  require(account->stopped + account->ran <= 1);
  if (account->sort & WITH_FINALIZER) {
    require(account->finalized == 1 || (!dead && account->ran == 0));
  } else {
    require(account->finalized == 0);
    require(!dead || account->stopped + account->ran == 1);
  }
}

static TEST_NOINLINE void check_accounts(size_t living_max) {
  static bool dead[IDS];
  size_t count = made < IDS ? made : IDS;
  size_t living = 0;
  test_scrub();
  wane_collect();
  for (size_t i = 0; i < count; i++) {
    dead[i] = wane_weak_value(accounts[i].weak) == NULL;
    living += !dead[i];
  }
  test_scrub();
  require(wane_drain(30000));
  while (wane_queue_run(queue, SIZE_MAX) > 0) {
  }
  for (size_t i = 0; i < count; i++) {
    check_account(&accounts[i], dead[i]);
  }
  require(living <= living_max + count / 50 + 100);
}

/* Twice: with finalizers, cleanups come in the second cycle. */
static void end_round(void) {
  check_accounts(3 * SLOTS);
  memset(slots, 0, sizeof slots);
  memset(stored, 0, sizeof stored);
  check_accounts(SLOTS);
  memset(stored, 0, sizeof stored);
  check_accounts(0);
  struct wane_stats stats = test_stats();
  require(stats.cleanups_run == stats.cleanups_queued);
  require(stats.finalizers_run == stats.finalizers_queued);
  require(stats.cleanups_registered >=
          stats.cleanups_queued + stats.cleanups_stopped);
}

static void all_is_accounted_for(void **state) {
  (void)state;
  queue = wane_queue_new();
  assert_non_null(queue);
  double end = test_now() + args.seconds;
  while (test_now() < end) {
    test_add(&round_number);
    memset(accounts, 0, sizeof accounts);
    test_set(&made, 0);
    run_threads();
    end_round();
  }
  assert_true(weak_reads > 0);
  test_add(&round_number); /* late callbacks count no more */
  wane_queue_free(queue);
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 2);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_is_accounted_for),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
