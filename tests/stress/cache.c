/*
 * A cache that hundreds of threads use while its objects die, with creators
 * that fail, ask for other keys, collect, and now and then leave their thread;
 * and caches around fork. C1, D13, G4.
 *
 * A value stands for a resource that its cleanup releases: it has a number and
 * a canary made of it, and the cleanup notes the number. No get may give a
 * value whose cleanup has run; as long as one is held, its key gives no other;
 * and no key is being created twice at a time. Creators ask only for keys
 * greater than their own, so they never wait in a circle. After each round all
 * is dropped: all but what is kept must die, and the heap does not grow.
 *
 * cache [--seed N] [--seconds S]
 */
/* timeout: 240 */
/* run: verify WANE_OPTIONS=verify=1,stress=alloc:500 */
/* run: stress WANE_OPTIONS=stress=alloc:60 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,huge_pages=0 */
#include "support/things.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY 300
#define FEW (2 + MANY / 50)

TEST_ROOT struct wane_cache *cache;
TEST_ROOT void *held[MANY];
static struct test_args args;

static void all_forget(void) {
  memset(held, 0, sizeof held);
  memset(askers, 0, sizeof askers);
  cache = NULL;
  test_scrub();
}

/* ---- Deaths, failures and exits ---- */

#define THREADS (TEST_TSAN ? 40 : TEST_ASAN ? 100 : 200)
#define KEYS 400
#define KEY_BYTES_MAX 100
#define KEEP 7
#define IDS (1u << 22)
#define HELD 4
#define ROUND_SECONDS 0.5
#define FAILED 1000 /* errno of a failed creator, with the key added */

struct value {
  uint64_t id;
  uint64_t canary;
  size_t key;
  struct value *other;
};

static double round_end;
static uint64_t ids;                   /* atomic */
static uint8_t released[IDS];          /* atomic: its cleanup has run */
static uint8_t creating[KEYS];         /* atomic */
static uint64_t hits, failures, exits; /* atomic */
static _Thread_local struct test_random *random_self;
static _Thread_local unsigned depth_self; /* creators the thread is in */

#define CANARY(id) (((id)*0x9e3779b97f4a7c15ull) | 1ull << 63)

static bool is_released(const struct value *value) {
  return __atomic_load_n(&released[value->id], __ATOMIC_SEQ_CST) != 0;
}

static void release(void *arg) {
  uintptr_t id = (uintptr_t)arg;
  require(__atomic_exchange_n(&released[id], 1, __ATOMIC_SEQ_CST) == 0);
}

static void check_value(const struct value *value, size_t key) {
  require(value->key == key && value->canary == CANARY(value->id));
  require(!is_released(value));
  if (value->other != NULL) {
    require(value->other->canary == CANARY(value->other->id));
    require(value->other->key > key && !is_released(value->other));
  }
}

static struct value *ask(struct wane_cache *c, size_t key) {
  unsigned char bytes[KEY_BYTES_MAX + sizeof key];
  memset(bytes, (int)key, sizeof bytes);
  memcpy(bytes, &key, sizeof key);
  return wane_cache_get(c, bytes, sizeof key + key % KEY_BYTES_MAX);
}

static struct value *value_new(size_t key, struct value *other) {
  uint64_t id = test_add(&ids);
  if (id >= IDS) {
    return NULL;
  }
  struct value *value = wane_alloc(sizeof *value + key);
  require(value != NULL);
  *value = (struct value){id, CANARY(id), key, other};
  require(wane_add_cleanup(value, release, (void *)(uintptr_t)id).id != 0);
  return value;
}

static void creating_set(size_t key, bool begins) {
  require(__atomic_exchange_n(&creating[key], begins, __ATOMIC_SEQ_CST) ==
          !begins);
}

static void *create_value(const void *bytes, size_t size, void *ctx) {
  struct wane_cache **own = ctx;
  size_t key;
  require((uintptr_t)bytes % 16 == 0 && size >= sizeof key);
  memcpy(&key, bytes, sizeof key);
  require(size == sizeof key + key % KEY_BYTES_MAX);
  creating_set(key, true);
  depth_self++;
  struct value *other = NULL;
  if (test_below(random_self, 20) == 0 && key + 1 < KEYS) {
    other = ask(*own, key + 1 + test_below(random_self, KEYS - key - 1));
  }
  if (test_below(random_self, 500) == 0) {
    wane_collect();
  } else if (test_below(random_self, 50) == 0) {
    sched_yield();
  }
  bool fails = test_below(random_self, 8) == 0;
  struct value *value = fails ? NULL : value_new(key, other);
  creating_set(key, false);
  bool may_exit = --depth_self == 0 && !TEST_ASAN; /* which forbids it */
  if (may_exit && test_below(random_self, 1000) == 0) {
    test_add(&exits);
    pthread_exit(NULL);
  }
  errno = FAILED + (int)key;
  return value;
}

/* Most of the time one of few, so that many ask for the same; these few change,
   so that the others die. */
static size_t random_key(void) {
  if (test_below(random_self, 10) == 0) {
    return test_below(random_self, KEYS);
  }
  size_t window = test_get(&hits) / 1024 * 7;
  return (window + test_below(random_self, 20)) % KEYS;
}

static struct value *ask_and_check(size_t key) {
  errno = 0;
  struct value *value = ask(cache, key);
  if (value == NULL) {
    require(errno == FAILED + (int)key || errno == ECANCELED);
    test_add(&failures);
    return NULL;
  }
  require(errno == 0);
  check_value(value, key);
  test_add(&hits);
  return value;
}

static void *user(void *arg) {
  struct test_random random = {args.seed * 1000 + (uintptr_t)arg};
  struct value *mine[HELD] = {0};
  size_t keys[HELD] = {0};
  random_self = &random;
  while (test_now() < round_end && test_get(&ids) < IDS) {
    for (int i = 0; i < 20; i++) {
      size_t h = test_below(&random, HELD);
      if (mine[h] != NULL) { /* held, so it is still the one of its key */
        check_value(mine[h], keys[h]);
        require(ask(cache, keys[h]) == mine[h]);
      }
      keys[h] = random_key();
      mine[h] = ask_and_check(keys[h]);
    }
    if (test_below(&random, 4) == 0) {
      memset(mine, 0, sizeof mine);
      sched_yield();
    }
  }
  memset(mine, 0, sizeof mine);
  test_scrub();
  return NULL;
}

static void after_collection(struct test_random *random) {
  (void)random;
  require(wane_cache_count(cache) <= 2 * KEYS); /* dead ones, too */
}

static void *collector(void *arg) {
  test_collect_until(round_end, args.seed * 1000 + 999, 8, after_collection);
  return arg;
}

static void run_users(uint64_t round) {
  const struct test_crew crew[] = {{user, THREADS}, {collector, 1}};
  round_end = test_now() + ROUND_SECONDS;
  test_crew_run(crew, TEST_COUNT(crew), round * THREADS);
}

/* All but what is kept is released; its keys are out of the cache. */
static void check_released(void) {
  for (int i = 0; i < 2; i++) { /* what values held goes with them */
    test_settle();
  }
  uint64_t count = test_get(&ids) < IDS ? test_get(&ids) : IDS;
  uint64_t living = 0;
  for (uint64_t id = 0; id < count; id++) {
    living += __atomic_load_n(&released[id], __ATOMIC_SEQ_CST) == 0;
  }
  require(living <= 2 * KEEP + 40);
  require(wane_cache_count(cache) <= 2 * KEEP + 40);
  for (size_t key = 0; key < KEYS; key++) {
    require(creating[key] == 0);
  }
}

static void a_released_value_is_never_given(void **state) {
  (void)state;
  uint64_t live = 0;
  double end = test_now() + args.seconds;
  cache = cache_new(create_value, &cache, KEEP);
  for (uint64_t round = 0; test_now() < end || round < 3; round++) {
    run_users(round);
    check_released();
    live = round == 1 ? test_live_bytes() : live;
  }
  assert_in_range(test_live_bytes(), 0, live + (1u << 20));
  printf("%llu values, %llu gets, %llu failures, %llu exits\n",
         (unsigned long long)ids, (unsigned long long)hits,
         (unsigned long long)failures, (unsigned long long)exits);
  assert_true(hits > 0 && failures > 0);
  all_forget();
}

/* ---- fork ---- */

static uint64_t arrived;
static uint64_t gate;
static pthread_barrier_t barrier;

static void get_many(void *arg) {
  size_t count = *(size_t *)arg;
  for (size_t i = 0; i < count; i++) {
    require(get(cache, i) != NULL);
  }
}

static void use_in_child(void *arg) {
  (void)arg;
  test_set(&things_created, 0);
  require(wane_cache_count(cache) == MANY);
  for (size_t i = 0; i < MANY; i++) {
    require(get(cache, i) == held[i]);
  }
  require(test_get(&things_created) == 0);
  require(get(cache, MANY) != NULL && test_get(&things_created) == 1);
  memset(held, 0, sizeof held);
  test_scrub();
  test_settle();
  require(wane_cache_count(cache) <= 3 + FEW);
  size_t count = MANY;
  test_apart(get_many, &count);
  require(test_get(&things_created) >= MANY - 3 - FEW);
}

static struct test_child forked;

/* Its runtime deadlocks in children of threads. */
static void skip_with_tsan(void) {
  if (TEST_TSAN) {
    skip();
  }
}

/* G4. */
static void a_child_has_the_cache(void **state) {
  (void)state;
  skip_with_tsan();
  cache = cache_new(create_thing, NULL, 3);
  for (size_t i = 0; i < MANY; i++) {
    held[i] = get(cache, i);
  }
  test_fork(use_in_child, NULL, &forked);
  test_assert_exit_0(&forked, "a cache in a child");
  assert_int_equal(wane_cache_count(cache), MANY);
  all_forget();
}

static pid_t parent;

/* In the parent as long as the gate is closed. */
static void *create_in_parent(const void *key, size_t key_size, void *ctx) {
  struct thing *thing = create_thing(key, key_size, ctx);
  while (getpid() == parent && test_get(&gate) == 0) {
    test_sleep_ms(1);
  }
  return thing;
}

static void *ask_at_gate(void *arg) {
  struct asker *asker = arg;
  test_add(&arrived);
  asker->got[0] = get(cache, (size_t)(asker - askers) % 3);
  return NULL;
}

static void get_in_child(void *arg) {
  (void)arg;
  test_set(&things_created, 0);
  for (size_t i = 0; i < 3; i++) {
    held[i] = get(cache, i); /* anew, not for ever waited for */
    require(held[i] != NULL);
  }
  require(test_get(&things_created) == 3);
  for (size_t i = 0; i < 3; i++) {
    require(get(cache, i) == held[i]);
  }
  require(wane_cache_count(cache) == 3);
  askers_get_all(cache, 20);
  require(test_get(&things_created) == ASKER_KEYS);
}

/* Nine threads ask for three keys, whose creators stay. */
static void creators_begin(void) {
  parent = getpid();
  cache = cache_new(create_in_parent, NULL, 0);
  test_set(&things_created, 0);
  test_set(&gate, 0);
  test_set(&arrived, 0);
  askers_run(ask_at_gate, 9);
  assert_true(test_until(&things_created, 3) && test_until(&arrived, 9));
}

/* G4, C1: their creators have stayed in the parent. */
static void a_child_creates_what_is_under_way_in_the_parent(void **state) {
  (void)state;
  skip_with_tsan();
  for (int round = 0; round < 3; round++) {
    creators_begin();
    test_fork(get_in_child, NULL, &forked);
    test_set(&gate, 1);
    askers_join(9);
    test_assert_exit_0(&forked, "creations under way");
    assert_int_equal(test_get(&things_created), 3);
    for (size_t t = 0; t < 9; t++) {
      assert_ptr_equal(askers[t].got[0], get(cache, t % 3));
    }
  }
  all_forget();
}

static void *fork_and_get(void *arg) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_barrier_wait(&barrier); /* then one after the other */
  pthread_mutex_lock(&mutex);
  pid_t pid = fork();
  require(pid >= 0);
  if (pid == 0) {
    alarm(20);
    get_in_child(arg);
    _exit(0);
  }
  int status;
  require(waitpid(pid, &status, 0) == pid);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  pthread_mutex_unlock(&mutex);
  return NULL;
}

/* The child's threads come where the parent's creators were, and fork. */
static void fork_again(void *arg) {
  static pthread_t threads[12];
  pthread_barrier_init(&barrier, NULL, TEST_COUNT(threads));
  for (size_t t = 0; t < TEST_COUNT(threads); t++) {
    require(pthread_create(&threads[t], NULL, fork_and_get, arg) == 0);
  }
  for (size_t t = 0; t < TEST_COUNT(threads); t++) {
    require(pthread_join(threads[t], NULL) == 0);
  }
}

/* G4, C1. */
static void a_grandchild_creates_what_is_under_way_in_the_parent(void **state) {
  (void)state;
  skip_with_tsan();
  creators_begin();
  test_fork(fork_again, NULL, &forked);
  test_set(&gate, 1);
  askers_join(9);
  test_assert_exit_0(&forked, "creations under way in the grandparent");
  all_forget();
}

static pid_t forked_in_create = -1;
static pthread_t asking_in_child;

static void *ask_in_child(void *arg) {
  test_add(&arrived);
  *(void **)arg = get(cache, 7);
  return NULL;
}

/* The child goes on creating, and another thread of it waits for that. */
static void *create_forking(const void *key, size_t key_size, void *ctx) {
  struct thing *thing = create_thing(key, key_size, ctx);
  if (thing->number != 7 || forked_in_create >= 0) {
    return thing;
  }
  forked_in_create = fork();
  require(forked_in_create >= 0);
  if (forked_in_create == 0) {
    test_set(&arrived, 0);
    require(get(cache, 8) != NULL);
    require(pthread_create(&asking_in_child, NULL, ask_in_child, ctx) == 0);
    require(test_until(&arrived, 1));
    test_sleep_ms(50);
  }
  return thing;
}

/* Not beside cmocka, which catches signals. */
static void fork_in_create(const char *arg) {
  static void *asked;
  (void)arg;
  cache = cache_new(create_forking, &asked, 0);
  void *thing = get(cache, 7);
  require(thing != NULL && get(cache, 7) == thing);
  if (forked_in_create == 0) {
    require(pthread_join(asking_in_child, NULL) == 0);
    require(asked == thing && test_get(&things_created) == 2);
    return;
  }
  require(test_get(&things_created) == 1);
  int status;
  require(waitpid(forked_in_create, &status, 0) == forked_in_create);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* C1, G4: in the child, too, create runs once at a time. */
static void a_creator_may_fork(void **state) {
  (void)state;
  skip_with_tsan();
  test_exec("fork_in_create", "", NULL, &forked);
  test_assert_exit_0(&forked, "fork in a creator");
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"fork_in_create", fork_in_create}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  args = test_args_read(argc, argv, 2);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_released_value_is_never_given),
      cmocka_unit_test(a_child_has_the_cache),
      cmocka_unit_test(a_child_creates_what_is_under_way_in_the_parent),
      cmocka_unit_test(a_grandchild_creates_what_is_under_way_in_the_parent),
      cmocka_unit_test(a_creator_may_fork),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
