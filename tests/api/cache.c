/* Caches. C1, D13. Many threads with failures and deaths, and fork, are in
   stress/cache.c; no memory in fault/tables.c. */
/* timeout: 240 */
/* run: poison WANE_OPTIONS=poison=1 */
#include "support/things.h"

#include <time.h>

#define MANY 300
#define FEW (2 + MANY / 50)

TEST_ROOT struct wane_cache *cache;
TEST_ROOT struct wane_cache *caches[MANY];
TEST_ROOT void *held[4 * MANY];
static wane_weak weak[4 * MANY];

static size_t weak_survivors(size_t count) {
  test_scrub();
  wane_collect();
  size_t alive = test_weak_alive(weak, count);
  test_scrub();
  return alive;
}

static void all_forget(void) {
  memset(held, 0, sizeof held);
  memset(caches, 0, sizeof caches);
  cache = NULL;
  test_scrub();
}

/* Gets keys from 0 and forgets them; in a thread of its own. */
static void get_many(void *arg) {
  size_t count = *(size_t *)arg;
  for (size_t i = 0; i < count; i++) {
    weak[i] = wane_weak_make(get(cache, i));
  }
}

static void get_apart(size_t count) { test_apart(get_many, &count); }

/* ---- One object for each key ---- */

/* C1. */
static void an_object_is_made_once_and_found(void **state) {
  (void)state;
  cache = cache_new(create_thing, NULL, 0);
  test_set(&things_created, 0);
  for (int round = 0; round < 4; round++) {
    for (size_t i = 0; i < MANY; i++) {
      void *thing = get(cache, i * 1001);
      assert_non_null(thing);
      assert_true(round == 0 || thing == held[i]);
      held[i] = thing;
    }
    assert_int_equal(test_get(&things_created), MANY);
    assert_int_equal(wane_cache_count(cache), MANY);
    wane_collect();
  }
  struct wane_cache *other = cache_new(create_thing, NULL, 0);
  assert_true(get(other, 1001) != held[1]);
  assert_int_equal(wane_cache_count(other), 1);
  all_forget();
}

/* C1: not held, they die; asked for again, they are made again. */
static void what_nobody_uses_dies(void **state) {
  (void)state;
  cache = cache_new(create_thing, NULL, 0);
  for (int round = 0; round < 4; round++) {
    test_set(&things_created, 0);
    get_apart(MANY);
    assert_in_range(test_get(&things_created), MANY - FEW, MANY);
    assert_in_range(weak_survivors(MANY), 0, FEW);
    assert_int_equal(wane_cache_count(cache), test_weak_alive(weak, MANY));
  }
  all_forget();
}

struct text {
  const char *key;
  size_t size;
  char copy[];
};

static void *create_text(const void *key, size_t key_size, void *ctx) {
  (void)ctx;
  test_add(&things_created);
  require((uintptr_t)key % 16 == 0);
  struct text *text = wane_alloc(sizeof *text + key_size);
  memcpy(text->copy, key, key_size);
  text->key = key;
  text->size = key_size;
  return text;
}

static void check_text(const struct text *text, const void *bytes,
                       size_t size) {
  assert_non_null(text);
  assert_int_equal(text->size, size);
  assert_true(size == 0 || memcmp(text->key, bytes, size) == 0);
  assert_true(size == 0 || memcmp(text->copy, bytes, size) == 0);
}

/* D13: the caller's bytes may change, at any address; only bytes and size
   count. */
static void keys_are_bytes(void **state) {
  (void)state;
  static char buffer[400];
  static struct text *texts[300];
  cache = cache_new(create_text, NULL, 0);
  test_set(&things_created, 0);
  memset(buffer, 0, sizeof buffer);
  for (size_t size = 0; size < 300; size++) { /* zeros */
    texts[size] = wane_cache_get(cache, buffer + size % 17, size);
    check_text(texts[size], buffer, size);
  }
  assert_int_equal(test_get(&things_created), 300);
  memset(buffer, 'x', sizeof buffer);
  for (size_t size = 1; size < 300; size++) {
    const struct text *text = wane_cache_get(cache, buffer, size);
    assert_ptr_not_equal(text, texts[size]);
    check_text(text, buffer, size);
  }
  wane_collect();
  memset(buffer, 0, sizeof buffer);
  for (size_t size = 0; size < 300; size++) {
    check_text(texts[size], buffer, size);
    assert_ptr_equal(wane_cache_get(cache, buffer + 50, size), texts[size]);
  }
  assert_ptr_equal(wane_cache_get(cache, NULL, 0), texts[0]);
  const char zeros[][4] = {"a\0b", "a\0c", "a\0\0", "\0\0a"};
  const void *found[TEST_COUNT(zeros)];
  for (size_t i = 0; i < TEST_COUNT(zeros); i++) {
    found[i] = wane_cache_get(cache, zeros[i], 3);
    check_text(found[i], zeros[i], 3);
    for (size_t n = 0; n < i; n++) {
      assert_ptr_not_equal(found[i], found[n]);
    }
  }
  memset(texts, 0, sizeof texts);
  all_forget();
}

static void *create_shorter(const void *key, size_t key_size, void *ctx) {
  struct text *text = create_text(key, key_size, ctx);
  if (key_size > 0) {
    check_text(wane_cache_get(cache, key, key_size - 1), key, key_size - 1);
  }
  return text;
}

static void *create_longer(const void *key, size_t key_size, void *ctx) {
  static const char zeros[41];
  struct text *text = create_text(key, key_size, ctx);
  if (key_size < 40) {
    check_text(wane_cache_get(cache, zeros, key_size + 1), zeros, key_size + 1);
  }
  return text;
}

/* D13: also while they are created. */
static void keys_that_begin_alike_differ(void **state) {
  (void)state;
  static const char zeros[40];
  for (size_t i = 0; i < 2; i++) {
    cache = cache_new(i == 0 ? create_shorter : create_longer, NULL, 1000);
    test_set(&things_created, 0);
    assert_non_null(wane_cache_get(cache, zeros, i == 0 ? 40 : 0));
    assert_int_equal(test_get(&things_created), 41);
    assert_int_equal(wane_cache_count(cache), 41);
  }
  all_forget();
}

/* D13. */
static void keys_may_be_large(void **state) {
  (void)state;
  static const size_t sizes[] = {4095, 4096, 40000, 100001, 3000000};
  cache = cache_new(create_text, NULL, 0);
  for (size_t i = 0; i < TEST_COUNT(sizes); i++) {
    char *key = malloc(sizes[i]);
    assert_non_null(key);
    memset(key, 'k', sizes[i]);
    const struct text *text = wane_cache_get(cache, key, sizes[i]);
    held[i] = (void *)text;
    key[sizes[i] - 1] = 'l';
    const struct text *other = wane_cache_get(cache, key, sizes[i]);
    assert_ptr_not_equal(text, other);
    check_text(other, key, sizes[i]);
    key[sizes[i] - 1] = 'k';
    wane_collect();
    assert_ptr_equal(wane_cache_get(cache, key, sizes[i]), text);
    check_text(text, key, sizes[i]);
    free(key);
  }
  all_forget();
}

static void *create_leaf(const void *key, size_t key_size, void *ctx) {
  (void)ctx;
  uintptr_t *leaf = wane_alloc_leaf(64);
  leaf[0] = ~(uintptr_t)key;
  leaf[1] = key_size;
  return leaf;
}

static void get_leaves(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    char key[64];
    memset(key, (int)(i % 251), sizeof key);
    memcpy(key, &i, sizeof i);
    held[i] = wane_cache_get(cache, key, sizeof key);
    require(held[i] != NULL);
  }
}

/* The cache's copy is valid as long as the object lives, though the object does
   not hold it. */
static void keys_live_as_long_as_their_objects(void **state) {
  (void)state;
  cache = cache_new(create_leaf, NULL, 0);
  test_apart(get_leaves, NULL);
  for (int round = 0; round < 4; round++) {
    test_scrub();
    wane_collect();
    for (size_t i = 0; i < 3000; i++) { /* over what was freed */
      memset(wane_alloc(64 + i % 64), 0xdd, 64);
    }
    for (size_t i = 0; i < MANY; i++) {
      const uintptr_t *leaf = held[i];
      const char *key = (const char *)~leaf[0];
      assert_int_equal(leaf[1], 64);
      assert_memory_equal(key, &i, sizeof i);
      assert_int_equal((unsigned char)key[63], i % 251);
    }
  }
  all_forget();
}

/* ---- At the same time ---- */

#define THREADS (TEST_TSAN || TEST_ASAN ? 60 : 300)

static pthread_barrier_t barrier;
static uint64_t arrived;
static uint64_t gate;
static uint64_t fail_once; /* errno + 1; 0: do not fail */

static void *create_slowly(const void *key, size_t key_size, void *ctx) {
  test_sleep_ms(2);
  return create_thing(key, key_size, ctx);
}

/* C1. */
static void create_runs_once_for_all_who_ask_at_once(void **state) {
  (void)state;
  for (int round = 0; round < 2; round++) {
    cache = cache_new(create_slowly, NULL, 0);
    test_set(&things_created, 0);
    askers_get_all(cache, THREADS);
    assert_int_equal(test_get(&things_created), ASKER_KEYS);
    for (size_t t = 0; t < THREADS; t++) {
      for (size_t i = 0; i < ASKER_KEYS; i++) {
        assert_non_null(askers[t].got[i]);
        assert_ptr_equal(askers[t].got[i], askers[0].got[i]);
      }
    }
    assert_int_equal(wane_cache_count(cache), ASKER_KEYS);
  }
  memset(askers, 0, sizeof askers);
  all_forget();
}

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static unsigned wait_ms = 300;

/* Takes until all ask, and some time more. */
static void *create_when_all_wait(const void *key, size_t key_size, void *ctx) {
  uint64_t due = (uintptr_t)ctx;
  struct thing *thing = create_thing(key, key_size, NULL);
  require(test_until(&arrived, due));
  test_sleep_ms(wait_ms);
  uint64_t error = test_get(&fail_once);
  if (error != 0) {
    test_set(&fail_once, 0);
    errno = (int)error - 1;
    return NULL;
  }
  errno = EBADF; /* of no interest */
  return thing;
}

static void *ask_for_one(void *arg) {
  struct asker *asker = arg;
  double begin = cpu_seconds();
  errno = 4711;
  test_add(&arrived);
  asker->got[0] = get(cache, 7);
  asker->error = errno;
  asker->cpu_seconds = cpu_seconds() - begin;
  return NULL;
}

static void ask_for_one_all(size_t count, uint64_t error) {
  cache = cache_new(create_when_all_wait, (void *)count, 0);
  test_set(&things_created, 0);
  test_set(&arrived, 0);
  test_set(&fail_once, error);
  askers_run(ask_for_one, count);
  askers_join(count);
}

/* D16: a success keeps errno, whatever create does to it. */
static void those_who_waited_keep_errno(void **state) {
  (void)state;
  ask_for_one_all(THREADS, 0);
  assert_int_equal(test_get(&things_created), 1);
  for (size_t t = 0; t < THREADS; t++) {
    assert_non_null(askers[t].got[0]);
    assert_ptr_equal(askers[t].got[0], askers[0].got[0]);
    assert_int_equal(askers[t].error, 4711);
  }
  memset(askers, 0, sizeof askers);
  all_forget();
}

/* C1, D13: all get its errno; the next to ask tries anew. */
static void a_failure_is_told_to_all_who_wait(void **state) {
  (void)state;
  static const int errors[] = {EXDEV, ENOMEM, 0};
  for (size_t i = 0; i < TEST_COUNT(errors); i++) {
    ask_for_one_all(THREADS, (uint64_t)errors[i] + 1);
    assert_int_equal(test_get(&things_created), 1);
    for (size_t t = 0; t < THREADS; t++) {
      assert_null(askers[t].got[0]);
      assert_int_equal(askers[t].error, errors[i]);
    }
    assert_int_equal(wane_cache_count(cache), 0);
    errno = 4711;
    void *thing = get(cache, 7);
    assert_non_null(thing);
    assert_int_equal(errno, 4711);
    assert_int_equal(test_get(&things_created), 2);
    assert_ptr_equal(get(cache, 7), thing);
    assert_int_equal(wane_cache_count(cache), 1);
  }
  all_forget();
}

/* C1: each try of one thread is a new one. */
static void failures_are_not_remembered(void **state) {
  (void)state;
  cache = cache_new(create_thing, NULL, 3);
  test_set(&things_created, 0);
  for (size_t i = 1; i <= 100; i++) {
    errno = 0;
    assert_null(get(cache, THINGS_FAIL + i % 3));
    assert_int_equal(errno, EXDEV);
    assert_int_equal(test_get(&things_created), i);
    assert_int_equal(wane_cache_count(cache), 0);
  }
  all_forget();
}

/* In a process of its own, without options that cost time. */
static void waiters(const char *arg) {
  size_t count = (size_t)atol(arg);
  wait_ms = 1500;
  ask_for_one_all(count, 0);
  double sum = 0;
  for (size_t t = 0; t < count; t++) {
    require(askers[t].got[0] == askers[0].got[0]);
    sum += askers[t].cpu_seconds;
  }
  require(test_get(&things_created) == 1);
  fprintf(stderr, "waiters: %g s of CPU\n", sum);
  /* some seconds if they did not sleep; the machine may be busy */
  require(TEST_TSAN || sum < (TEST_ASAN ? 2 : 0.5));
}

static void run(const char *role, const char *arg, struct test_child *child) {
  test_exec(role, arg, NULL, child);
}

/* C1. */
static void those_who_wait_sleep(void **state) {
  (void)state;
  static struct test_child child;
  run("waiters", TEST_TSAN || TEST_ASAN ? "60" : "300", &child);
  test_assert_exit_0(&child, "waiters");
}

/* ---- Creators that use the cache ---- */

#define DEPTH 60

static void *create_nested(const void *key, size_t key_size, void *ctx) {
  struct thing *thing = create_thing(key, key_size, ctx);
  uint64_t number = thing->number;
  if (number % 7 == 3) {
    wane_collect();
  }
  if (number > 0) {
    thing->other = get(cache, number - 1);
    require(thing->other != NULL);
  }
  if (number % 7 == 5) {
    wane_collect();
  }
  require(memcmp(key, &number, sizeof number) == 0);
  return thing;
}

static void *ask_nested(void *arg) {
  struct asker *asker = arg;
  pthread_barrier_wait(&barrier);
  asker->got[0] = get(cache, DEPTH - (size_t)(asker - askers) % 3);
  return NULL;
}

/* D13: for other keys; C1: still once for each. */
static void creators_may_ask_for_other_keys(void **state) {
  (void)state;
  for (size_t count = 1; count <= 16; count *= 4) {
    cache = cache_new(create_nested, NULL, 0);
    test_set(&things_created, 0);
    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    askers_run(ask_nested, count);
    askers_join(count);
    pthread_barrier_destroy(&barrier);
    assert_int_equal(test_get(&things_created), DEPTH + 1);
    const struct thing *thing = get(cache, DEPTH);
    for (uint64_t number = DEPTH; thing != NULL; number--) {
      assert_int_equal(thing->number, number);
      assert_ptr_equal(get(cache, number), thing);
      thing = thing->other;
    }
    assert_int_equal(test_get(&things_created), DEPTH + 1);
  }
  memset(askers, 0, sizeof askers);
  all_forget();
}

static void *create_collecting(const void *key, size_t key_size, void *ctx) {
  struct thing *thing = create_thing(key, key_size, ctx);
  wane_collect();
  return thing;
}

static void get_collecting(void *arg) {
  (void)arg;
  for (size_t i = 0; i < 100; i++) {
    struct thing *thing = get(cache, i);
    weak[i] = wane_weak_make(thing);
    require(get(cache, i) == thing);
  }
}

static void creators_may_collect(void **state) {
  (void)state;
  cache = cache_new(create_collecting, NULL, 1);
  test_apart(get_collecting, NULL);
  assert_in_range(weak_survivors(100), 1, 1 + FEW);
  assert_non_null(wane_weak_value(weak[99]));
  all_forget();
}

/* number - 1, or for 0 the ring's last one: all keys of one thread. */
static void *create_ring(const void *key, size_t key_size, void *ctx) {
  struct thing *thing = thing_new(key, key_size);
  uint64_t last = (uintptr_t)ctx;
  thing->other = get(cache, thing->number > 0 ? thing->number - 1 : last);
  return thing;
}

static void get_ring(void *arg) {
  cache = cache_new(create_ring, arg, 0);
  (void)get(cache, 0);
}

/* D13. */
static void asking_for_a_key_in_its_own_creator_is_fatal(void **state) {
  (void)state;
  test_assert_fatal_only("wane_cache_get", get_ring, (void *)0);
  test_assert_fatal_only("wane_cache_get", get_ring, (void *)1);
  test_assert_fatal_only("wane_cache_get", get_ring, (void *)10);
}

static size_t circle_count;
static bool circle_of_caches;

/* An outer creator first, so that who waits is not who is waited for. */
static void *create_outer(const void *key, size_t key_size, void *ctx) {
  struct thing *thing = thing_new(key, key_size);
  if (thing->number >= 1000 && thing->number < 2000) {
    size_t me = thing->number - 1000;
    thing->other = get(circle_of_caches ? caches[me] : cache, 2000 + me);
    return thing;
  }
  size_t me = thing->number - 2000;
  size_t next = (me + 1) % circle_count;
  (void)ctx;
  pthread_barrier_wait(&barrier);
  test_sleep_ms((unsigned)me * 20);
  thing->other = get(circle_of_caches ? caches[next] : cache, 1000 + next);
  return thing;
}

static void *ask_circle(void *arg) {
  size_t me = (uintptr_t)arg;
  return get(circle_of_caches ? caches[me] : cache, 1000 + me);
}

/* arg: how many threads, "c" for a cache each. */
static void circle(const char *arg) {
  pthread_t threads[10];
  circle_count = (size_t)(arg[0] - '0');
  circle_of_caches = arg[1] == 'c';
  pthread_barrier_init(&barrier, NULL, (unsigned)circle_count);
  cache = cache_new(create_outer, NULL, 0);
  for (size_t i = 0; i < circle_count; i++) {
    caches[i] = cache_new(create_outer, NULL, 0);
  }
  for (size_t i = 0; i < circle_count; i++) {
    require(pthread_create(&threads[i], NULL, ask_circle, (void *)i) == 0);
  }
  for (size_t i = 0; i < circle_count; i++) {
    pthread_join(threads[i], NULL);
  }
}

/* Header: a key whose creator waits for that. */
static void creators_that_wait_for_each_other_are_fatal(void **state) {
  (void)state;
  static struct test_child child;
  static const char *const cases[] = {"2", "3", "7", "2c", "5c"};
  for (size_t i = 0; i < TEST_COUNT(cases); i++) {
    run("circle", cases[i], &child);
    test_assert_only_line(&child, "wane_cache_get");
  }
}

/* ---- Creators that do not return ---- */

/* Its runtime takes the stack of a thread that leaves for an overflow. */
static void skip_with_asan(void) {
  if (TEST_ASAN) {
    skip();
  }
}

static uint64_t leaving; /* 1: by pthread_exit; 2: waits to be cancelled */

static void *create_or_leave(const void *key, size_t key_size, void *ctx) {
  uint64_t due = (uintptr_t)ctx;
  struct thing *thing = create_thing(key, key_size, NULL);
  uint64_t how = test_get(&leaving);
  if (thing->number == 8) { /* holds the outer creator while 7 leaves */
    thing->other = get(cache, 7);
    int error = errno;
    require(thing->other != NULL || error == ECANCELED);
    errno = error;
    return thing->other != NULL ? thing : NULL;
  }
  if (how != 0) {
    require(test_until(&arrived, due));
    test_sleep_ms(200);
    test_set(&leaving, 0);
    if (how == 1) {
      pthread_exit(NULL);
    }
    test_set(&gate, 1);
    for (;;) {
      test_sleep_ms(10);
    }
  }
  return thing;
}

static void *leave_in_create(void *arg) {
  struct asker *asker = arg;
  test_add(&arrived);
  asker->got[0] = get(cache, 7);
  require(!"this thread is to leave");
  return NULL;
}

/* Every third one from inside a creator of its own. */
static void *ask_who_leaves(void *arg) {
  struct asker *asker = arg;
  test_add(&arrived);
  asker->got[0] = get(cache, (asker - askers) % 3 == 0 ? 8 : 7);
  asker->error = errno;
  return NULL;
}

static void leave_while_all_wait(uint64_t how) {
  size_t count = THREADS / 2;
  cache = cache_new(create_or_leave, (void *)(count + 1), 2);
  test_set(&things_created, 0);
  test_set(&arrived, 0);
  test_set(&gate, 0);
  test_set(&leaving, how);
  pthread_t thread;
  static struct asker first;
  assert_int_equal(pthread_create(&thread, NULL, leave_in_create, &first), 0);
  assert_true(test_until(&things_created, 1));
  askers_run(ask_who_leaves, count);
  if (how == 2) {
    assert_true(test_until(&gate, 1));
    pthread_cancel(thread);
  }
  askers_join(count);
  void *result;
  pthread_join(thread, &result);
  assert_ptr_equal(result, how == 2 ? PTHREAD_CANCELED : NULL);
}

/* Header: those who wait get ECANCELED; the cache works on. */
static void a_creator_may_leave_its_thread(void **state) {
  (void)state;
  skip_with_asan();
  for (uint64_t how = 1; how <= 2; how++) {
    leave_while_all_wait(how);
    for (size_t t = 0; t < THREADS / 2; t++) {
      assert_null(askers[t].got[0]);
      assert_int_equal(askers[t].error, ECANCELED);
    }
    assert_int_equal(test_get(&things_created), 2); /* 7 and 8, once each */
    assert_int_equal(wane_cache_count(cache), 0);
    struct thing *thing = get(cache, 8);
    assert_non_null(thing);
    assert_ptr_equal(get(cache, 7), thing->other);
    assert_int_equal(test_get(&things_created), 4);
    assert_int_equal(wane_cache_count(cache), 2);
  }
  memset(askers, 0, sizeof askers);
  all_forget();
}

static void *create_at_gate(const void *key, size_t key_size, void *ctx) {
  struct thing *thing = create_thing(key, key_size, ctx);
  require(test_until(&gate, 1));
  return thing;
}

/* One who waits is cancelled: the others get what they wait for. */
static void those_who_wait_may_be_cancelled(void **state) {
  (void)state;
  if (TEST_ASAN || TEST_TSAN) { /* whose waits can be cancelled */
    skip();
  }
  cache = cache_new(create_at_gate, NULL, 0);
  test_set(&things_created, 0);
  test_set(&gate, 0);
  test_set(&arrived, 0);
  askers_run(ask_for_one, 20);
  assert_true(test_until(&arrived, 20) && test_until(&things_created, 1));
  test_sleep_ms(50);
  for (size_t t = 0; t < 20; t += 2) { /* the creator may be among these */
    pthread_cancel(askers[t].thread);
  }
  test_sleep_ms(20);
  test_set(&gate, 1);
  askers_join(20);
  void *thing = get(cache, 7);
  assert_non_null(thing);
  for (size_t t = 1; t < 20; t += 2) {
    assert_true(askers[t].got[0] == NULL ? askers[t].error == ECANCELED
                                         : askers[t].got[0] == thing);
  }
  memset(askers, 0, sizeof askers);
  all_forget();
}

/* ---- What a cache holds ---- */

static uintptr_t hidden[MANY];

#define CONTEXT 0x7ac4e0ff5a11e5ull

static void *create_with_context(const void *key, size_t key_size, void *ctx) {
  uint64_t *words = ctx;
  require(words[0] == CONTEXT && wane_base(words) != NULL);
  return create_thing(key, key_size, NULL);
}

static void make_with_context(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    uint64_t *words = wane_alloc(80);
    words[i % 8] = CONTEXT;
    caches[i] = cache_new(create_with_context, words + i % 8, i % 3);
    hidden[i] = test_hide(words);
  }
}

/* D13: ctx lives as long as the cache. */
static void the_context_is_kept_alive(void **state) {
  (void)state;
  test_apart(make_with_context, NULL);
  for (int round = 0; round < 2; round++) {
    assert_alive(hidden, MANY);
    for (size_t i = 0; i < MANY; i++) {
      assert_non_null(get(caches[i], i));
    }
  }
  all_forget();
  assert_dead(hidden, MANY);
}

/* A cache with all that it holds; the things point back to it. */
static void make_full(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    caches[i] = cache_new(create_thing, NULL, i % 2 == 0 ? 1000 : 0);
    hidden[i] = test_hide(caches[i]);
    struct thing *first = get(caches[i], 0);
    for (size_t n = 1; n < 10; n++) {
      struct thing *thing = get(caches[i], n);
      thing->other = caches[i];
      first->other = thing;
    }
    weak[i] = wane_weak_make(first);
    held[i] = i % 4 == 1 ? first : NULL;
  }
}

/* C1: a cache that is dropped holds nothing. */
static void a_dropped_cache_holds_nothing(void **state) {
  (void)state;
  test_apart(make_full, NULL);
  assert_alive(hidden, MANY);
  assert_in_range(test_weak_alive(weak, MANY), MANY * 3 / 4,
                  MANY * 3 / 4 + FEW);
  memset(held, 0, sizeof held);
  memset(caches, 0, sizeof caches);
  assert_dead(hidden, MANY);
  assert_in_range(weak_survivors(MANY), 0, FEW);
  all_forget();
}

/* ---- keep_recent ---- */

#define TRACE_KEYS 24

struct trace {
  size_t keep_recent;
  size_t caches;
  size_t alive; /* of what must have died */
};

#define TRACE_CACHES 40
static size_t last_used[TRACE_CACHES][TRACE_KEYS];

static void run_trace(void *arg) {
  struct trace *trace = arg;
  struct test_random random = {trace->keep_recent};
  memset(last_used, 0, sizeof last_used);
  for (size_t i = 0; i < trace->caches; i++) {
    caches[i] = cache_new(create_thing, NULL, trace->keep_recent);
  }
  for (size_t time = 1; time <= 60 * trace->caches; time++) {
    size_t i = test_below(&random, trace->caches);
    size_t key = test_below(&random, TRACE_KEYS);
    if (test_below(&random, 10) == 0) { /* no use of anything */
      require(get(caches[i], THINGS_FAIL + key) == NULL);
      (void)wane_cache_count(caches[i]);
      continue;
    }
    weak[i * TRACE_KEYS + key] = wane_weak_make(get(caches[i], key));
    last_used[i][key] = time;
  }
}

static TEST_NOINLINE void check_trace(struct trace *trace) {
  for (size_t i = 0; i < trace->caches; i++) {
    size_t alive_all = 0;
    for (size_t key = 0; key < TRACE_KEYS; key++) {
      size_t later = 0;
      for (size_t n = 0; n < TRACE_KEYS; n++) {
        later += last_used[i][n] > last_used[i][key];
      }
      bool used = last_used[i][key] != 0;
      bool alive = used && wane_weak_value(weak[i * TRACE_KEYS + key]) != NULL;
      bool kept = used && later < trace->keep_recent;
      require(!kept || alive);
      trace->alive += alive && !kept;
      alive_all += alive;
    }
    require(wane_cache_count(caches[i]) == alive_all);
  }
}

/* C1, D13: exactly those used last live, after any order of uses: also of
   what had fallen out before. Not used is what was not made. */
static void those_used_last_are_kept(void **state) {
  (void)state;
  static const size_t keeps[] = {0, 1, 2, 3, 10, 1000, SIZE_MAX};
  for (size_t k = 0; k < TEST_COUNT(keeps); k++) {
    struct trace trace = {.keep_recent = keeps[k], .caches = TRACE_CACHES};
    test_apart(run_trace, &trace);
    test_scrub();
    wane_collect();
    check_trace(&trace);
    assert_in_range(trace.alive, 0, 2 + trace.caches * TRACE_KEYS / 50);
    all_forget();
  }
}

static void fall_out_and_return(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    caches[i] = cache_new(create_thing, NULL, 2);
    held[i] = get(caches[i], 1);
    weak[i] = wane_weak_make(held[i]);
    for (size_t n = 2; n < 6; n++) {
      (void)get(caches[i], n);
    }
  }
  wane_collect();
  for (size_t i = 0; i < MANY; i++) {
    if (i % 2 == 0) {
      require(get(caches[i], 1) == held[i]);
      weak[MANY + i] = wane_weak_make(get(caches[i], 6));
    }
    held[i] = NULL;
  }
}

/* D13: a hit on what was not kept, but in use, keeps it again. */
static void a_hit_brings_back_what_had_fallen_out(void **state) {
  (void)state;
  test_apart(fall_out_and_return, NULL);
  test_scrub();
  wane_collect();
  size_t odd = 0;
  for (size_t i = 0; i < MANY; i++) {
    bool alive = wane_weak_value(weak[i]) != NULL;
    assert_true(alive || i % 2 == 1);
    assert_true(i % 2 == 1 || wane_weak_value(weak[MANY + i]) != NULL);
    odd += alive && i % 2 == 1;
  }
  assert_in_range(odd, 0, FEW);
  all_forget();
}

static void get_thousands(void *arg) {
  (void)arg;
  for (size_t i = 0; i < 4 * MANY; i++) {
    weak[i] = wane_weak_make(get(cache, i));
  }
}

static void a_thousand_may_be_kept(void **state) {
  (void)state;
  cache = cache_new(create_thing, NULL, 1000);
  for (int round = 0; round < 3; round++) {
    test_apart(get_thousands, NULL);
    assert_in_range(weak_survivors(4 * MANY), 1000, 1000 + FEW);
    for (size_t i = 4 * MANY - 1000; i < 4 * MANY; i++) {
      assert_non_null(wane_weak_value(weak[i]));
    }
    assert_int_equal(wane_cache_count(cache), test_weak_alive(weak, 4 * MANY));
  }
  all_forget();
}

/* ---- Deaths ---- */

static void hold_gate(void *arg) {
  (void)arg;
  test_wait_for(&gate);
}

static void with_gate(void *object, size_t idx) {
  (void)idx;
  require(wane_add_cleanup(object, hold_gate, NULL).id != 0);
}

/* C1: the entry of what has died takes no newer one with it, however late its
   going is noticed: the library's workers are all busy. */
static void a_dead_entry_takes_no_newer_one_with_it(void **state) {
  (void)state;
  cache = cache_new(create_thing, NULL, 0);
  for (int round = 0; round < 5; round++) {
    test_set(&gate, 0);
    test_make_with(40, NULL, with_gate);
    get_apart(MANY);
    test_scrub();
    wane_collect();
    assert_in_range(test_weak_alive(weak, MANY), 0, FEW);
    for (size_t i = 0; i < MANY; i++) {
      held[i] = get(cache, i);
    }
    assert_int_equal(wane_cache_count(cache), MANY);
    test_set(&things_created, 0);
    test_set(&gate, 1);
    for (int n = 0; n < 2; n++) {
      test_settle();
      for (size_t i = 0; i < MANY; i++) {
        assert_ptr_equal(get(cache, i), held[i]);
      }
      assert_int_equal(wane_cache_count(cache), MANY);
    }
    assert_int_equal(test_get(&things_created), 0);
    memset(held, 0, sizeof held);
  }
  all_forget();
}

static uint64_t cleaned;

static void count_cleaned(void *arg) {
  (void)arg;
  test_add(&cleaned);
}

static void *create_with_cleanup(const void *key, size_t key_size, void *ctx) {
  void *thing = create_thing(key, key_size, ctx);
  require(wane_add_cleanup(thing, count_cleaned, NULL).id != 0);
  return thing;
}

/* A server that never sees a key again does not grow. */
static void entries_go_with_their_objects(void **state) {
  (void)state;
  cache = cache_new(create_with_cleanup, NULL, 5);
  test_set(&cleaned, 0);
  uint64_t live = 0;
  for (int round = 0; round < 12; round++) {
    for (size_t i = 0; i < 10; i++) {
      get_apart(MANY); /* some are there from the last round */
    }
    test_settle();
    assert_in_range(wane_cache_count(cache), 5, 5 + FEW);
    if (round == 3) {
      live = test_live_bytes();
    }
  }
  assert_true(test_get(&cleaned) >= 11 * (MANY - 5 - FEW));
  assert_in_range(test_live_bytes(), 0, live + 100000);
  all_forget();
}

TEST_ROOT struct wane_cache *cache_anew; /* for late callbacks, too */
static uint64_t got_anew;
static uint64_t same_again;

/* It has died, so its key gives another one, even now. */
static void get_anew(void *arg) {
  size_t idx = (uintptr_t)arg;
  struct thing *thing = get(cache_anew, idx);
  if (thing == NULL || wane_weak_make(thing).id == weak[idx].id) {
    test_add(&same_again);
  }
  test_add(&got_anew);
}

static void get_with_callback(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    struct thing *thing = get(cache_anew, i);
    weak[i] = wane_weak_make(thing);
    require(wane_add_cleanup(thing, get_anew, (void *)i).id != 0);
  }
}

/* C1, X3. */
static void callbacks_may_ask_for_the_key_of_what_died(void **state) {
  (void)state;
  cache_anew = cache_new(create_thing, NULL, 0);
  test_set(&got_anew, 0);
  for (size_t round = 1; round <= 3; round++) {
    test_apart(get_with_callback, NULL);
    test_settle();
    assert_in_range(test_get(&got_anew), round * (MANY - FEW), round * MANY);
    assert_int_equal(test_get(&same_again), 0);
  }
  all_forget();
}

static void *create_key_itself(const void *key, size_t key_size, void *ctx) {
  (void)ctx;
  require(wane_base(key) != NULL && key_size == sizeof(size_t));
  return (char *)key + 1;
}

static void get_keys(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    held[i] = wane_cache_get(cache, &i, sizeof i);
    weak[i] = wane_weak_make(held[i]);
    require(memcmp((char *)held[i] - 1, &i, sizeof i) == 0);
  }
}

/* The cache's copy is an object, too, and dies like others. */
static void an_object_may_be_its_key(void **state) {
  (void)state;
  cache = cache_new(create_key_itself, NULL, 0);
  test_apart(get_keys, NULL);
  assert_int_equal(weak_survivors(MANY), MANY);
  for (size_t i = 0; i < MANY; i++) {
    assert_ptr_equal(wane_cache_get(cache, &i, sizeof i), held[i]);
  }
  memset(held, 0, sizeof held);
  assert_in_range(weak_survivors(MANY), 0, FEW);
  assert_int_equal(wane_cache_count(cache), test_weak_alive(weak, MANY));
  all_forget();
}

static int numbers[100];

static void *create_static(const void *key, size_t key_size, void *ctx) {
  unsigned char idx;
  (void)ctx;
  require(key_size == 1);
  memcpy(&idx, key, 1);
  test_add(&things_created);
  return &numbers[idx];
}

/* Header: what is not managed stays for ever. */
static void unmanaged_objects_stay(void **state) {
  (void)state;
  cache = cache_new(create_static, NULL, 1);
  test_set(&things_created, 0);
  for (int round = 0; round < 4; round++) {
    for (unsigned char i = 0; i < 100; i++) {
      assert_ptr_equal(wane_cache_get(cache, &i, 1), &numbers[i]);
    }
    test_settle();
    assert_int_equal(wane_cache_count(cache), 100);
  }
  assert_int_equal(test_get(&things_created), 100);
  all_forget();
}

/* One object for each four keys. */
static void *create_shared(const void *key, size_t key_size, void *ctx) {
  size_t number;
  (void)ctx;
  require(key_size == sizeof number);
  memcpy(&number, key, sizeof number);
  test_add(&things_created);
  if (held[number / 4] == NULL) {
    held[number / 4] = wane_alloc(64);
    weak[number / 4] = wane_weak_make(held[number / 4]);
  }
  return held[number / 4];
}

static void get_shared(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    void *object = wane_cache_get(cache, &i, sizeof i);
    require(object != NULL && object == held[i / 4]);
  }
}

static void an_object_may_have_several_keys(void **state) {
  (void)state;
  cache = cache_new(create_shared, NULL, 0);
  test_set(&things_created, 0);
  for (int i = 0; i < 2; i++) {
    test_apart(get_shared, NULL);
    test_scrub();
    wane_collect();
    assert_int_equal(wane_cache_count(cache), MANY);
  }
  assert_int_equal(test_get(&things_created), MANY);
  memset(held, 0, sizeof held);
  assert_in_range(weak_survivors(MANY / 4), 0, FEW);
  assert_int_equal(wane_cache_count(cache),
                   4 * test_weak_alive(weak, MANY / 4));
  all_forget();
}

static uint64_t allocated(void) { return test_stats().allocated_objects; }

/* Header, C1. */
static void hits_do_not_allocate(void **state) {
  (void)state;
  for (size_t keep = 0; keep < 20; keep += 9) {
    cache = cache_new(create_thing, NULL, keep);
    for (size_t i = 0; i < 20; i++) {
      held[i] = get(cache, i);
    }
    uint64_t before = allocated();
    for (size_t i = 0; i < 20000; i++) {
      if (get(cache, i * 7 % 20) != held[i * 7 % 20]) {
        fail();
      }
    }
    assert_in_range(allocated(), 0, before + 500);
    all_forget();
  }
}

/* ---- Mistakes ---- */

static void new_without_config(void *arg) {
  (void)arg;
  (void)wane_cache_new(NULL);
}

static void new_without_create(void *arg) {
  struct wane_cache_config config = {.ctx = arg};
  (void)wane_cache_new(&config);
}

static void get_without_cache(void *arg) { (void)get(arg, 1); }
static void count_without_cache(void *arg) { (void)wane_cache_count(arg); }

static void get_without_key(void *arg) {
  (void)arg;
  (void)wane_cache_get(cache, NULL, 1);
}

/* D1, D16. */
static void mistakes_are_fatal(void **state) {
  (void)state;
  cache = cache_new(create_thing, NULL, 0);
  test_assert_fatal_only("wane_cache_new", new_without_config, NULL);
  test_assert_fatal_only("wane_cache_new", new_without_create, NULL);
  test_assert_fatal_only("wane_cache_get", get_without_cache, NULL);
  test_assert_fatal_only("wane_cache_get", get_without_key, NULL);
  test_assert_fatal_only("wane_cache_count", count_without_cache, NULL);
  all_forget();
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"waiters", waiters},
      {"circle", circle},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_object_is_made_once_and_found),
      cmocka_unit_test(what_nobody_uses_dies),
      cmocka_unit_test(keys_are_bytes),
      cmocka_unit_test(keys_that_begin_alike_differ),
      cmocka_unit_test(keys_may_be_large),
      cmocka_unit_test(keys_live_as_long_as_their_objects),
      cmocka_unit_test(create_runs_once_for_all_who_ask_at_once),
      cmocka_unit_test(those_who_waited_keep_errno),
      cmocka_unit_test(a_failure_is_told_to_all_who_wait),
      cmocka_unit_test(failures_are_not_remembered),
      cmocka_unit_test(those_who_wait_sleep),
      cmocka_unit_test(creators_may_ask_for_other_keys),
      cmocka_unit_test(creators_may_collect),
      cmocka_unit_test(asking_for_a_key_in_its_own_creator_is_fatal),
      cmocka_unit_test(creators_that_wait_for_each_other_are_fatal),
      cmocka_unit_test(a_creator_may_leave_its_thread),
      cmocka_unit_test(those_who_wait_may_be_cancelled),
      cmocka_unit_test(the_context_is_kept_alive),
      cmocka_unit_test(a_dropped_cache_holds_nothing),
      cmocka_unit_test(those_used_last_are_kept),
      cmocka_unit_test(a_hit_brings_back_what_had_fallen_out),
      cmocka_unit_test(a_thousand_may_be_kept),
      cmocka_unit_test(a_dead_entry_takes_no_newer_one_with_it),
      cmocka_unit_test(entries_go_with_their_objects),
      cmocka_unit_test(callbacks_may_ask_for_the_key_of_what_died),
      cmocka_unit_test(an_object_may_be_its_key),
      cmocka_unit_test(unmanaged_objects_stay),
      cmocka_unit_test(an_object_may_have_several_keys),
      cmocka_unit_test(hits_do_not_allocate),
      cmocka_unit_test(mistakes_are_fatal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
