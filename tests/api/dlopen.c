/* Modules loaded and unloaded at any time: their writable data and their
   thread-locals are roots as long as they are there. API.md, heap. */
/* link: dl */
/* plugin: holder.c caller.c */
#include "support/test.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

typedef void **holder_fn(size_t *count);

static void *open_module(const char *path) {
  void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (module == NULL) {
    fprintf(stderr, "%s\n", dlerror());
  }
  require(module != NULL);
  return module;
}

static void **get_holds(void *module, const char *name, size_t *count) {
  holder_fn *fn;
  void *symbol = dlsym(module, name);
  require(symbol != NULL);
  memcpy(&fn, &symbol, sizeof fn);
  return fn(count);
}

static void **holds;

static void *make_held(size_t idx) { return holds[idx] = wane_alloc(64); }

/* In some thread of its own, and the addresses hidden. */
static void fill_holds(void **where, uintptr_t *hidden, size_t count) {
  holds = where;
  test_make_hidden(hidden, count, make_held);
  holds = NULL;
}

static void modules_data_is_a_root_until_dlclose(void **state) {
  (void)state;
  uintptr_t hidden[64];
  size_t count;
  void *module = open_module(PLUGIN_HOLDER);
  fill_holds(get_holds(module, "holder_data", &count), hidden, 64);
  assert_alive(hidden, count);
  assert_int_equal(dlclose(module), 0);
  assert_dead(hidden, count);
}

static void modules_thread_locals_are_roots_until_dlclose(void **state) {
  (void)state;
  uintptr_t hidden[64];
  size_t count;
  void *module = open_module(PLUGIN_HOLDER);
  fill_holds(get_holds(module, "holder_tls", &count), hidden, 64);
  assert_alive(hidden, count);
  assert_int_equal(dlclose(module), 0);
  assert_dead(hidden, count);
}

static void *tls_module;
static pthread_barrier_t tls_barrier;

/* Each thread has its own; what they hold is whole until they end. */
static void *hold_in_tls(void *arg) {
  size_t count;
  void **tls = get_holds(tls_module, "holder_tls", &count);
  uint64_t tag = (uintptr_t)arg;
  for (size_t i = 0; i < count; i++) {
    require(tls[i] == NULL);
    uint64_t *object = wane_alloc(64);
    object[3] = ~(tag * 100 + i);
    tls[i] = object;
  }
  test_scrub();
  pthread_barrier_wait(&tls_barrier);
  pthread_barrier_wait(&tls_barrier); /* the main thread has collected */
  for (size_t i = 0; i < count; i++) {
    const uint64_t *object = tls[i];
    require(wane_base(object) == object);
    require(object[3] == ~(tag * 100 + i));
  }
  return NULL;
}

static void modules_thread_locals_of_all_threads_are_roots(void **state) {
  (void)state;
  pthread_t threads[3];
  for (int round = 0; round < 3; round++) {
    pthread_barrier_init(&tls_barrier, NULL, 4);
    tls_module = open_module(PLUGIN_HOLDER);
    for (uintptr_t t = 0; t < 3; t++) {
      assert_int_equal(
          pthread_create(&threads[t], NULL, hold_in_tls, (void *)(t + 1)), 0);
    }
    pthread_barrier_wait(&tls_barrier);
    wane_collect();
    for (int i = 0; i < 3000; i++) {
      memset(wane_alloc(64), 0xfe, 64);
    }
    wane_collect();
    pthread_barrier_wait(&tls_barrier);
    for (size_t t = 0; t < 3; t++) {
      pthread_join(threads[t], NULL);
    }
    dlclose(tls_module);
    pthread_barrier_destroy(&tls_barrier);
  }
}

static void run_caller(void) {
  int (*run)(void);
  void *module = open_module(PLUGIN_CALLER);
  void *symbol = dlsym(module, "caller_run");
  require(symbol != NULL);
  memcpy(&run, &symbol, sizeof run);
  require(run() == 0);
  require(dlclose(module) == 0);
}

static void a_module_allocates(void **state) {
  (void)state;
  for (int i = 0; i < 5; i++) {
    run_caller();
  }
}

static bool storm_stops; /* atomic */

static void *open_and_close(void *arg) {
  size_t count;
  while (!__atomic_load_n(&storm_stops, __ATOMIC_RELAXED)) {
    void *module = open_module(PLUGIN_HOLDER);
    void **data = get_holds(module, "holder_data", &count);
    void **tls = get_holds(module, "holder_tls", &count);
    for (size_t i = 0; i < count; i++) {
      data[i] = wane_alloc(64);
      tls[i] = wane_alloc(64);
      memset(data[i], 0x11, 64);
      memset(tls[i], 0x22, 64);
    }
    for (size_t i = 0; i < count; i++) {
      require(*(uint64_t *)data[i] == 0x1111111111111111);
      require(*(uint64_t *)tls[i] == 0x2222222222222222);
    }
    dlclose(module);
    run_caller();
  }
  return arg;
}

static void *collect_beside(void *arg) {
  while (!__atomic_load_n(&storm_stops, __ATOMIC_RELAXED)) {
    for (int i = 0; i < 500; i++) {
      memset(wane_alloc(64), 0xfe, 64);
    }
    wane_collect();
    test_breathe();
  }
  return arg;
}

static void modules_come_and_go_beside_collections(void **state) {
  (void)state;
  pthread_t threads[3];
  storm_stops = false;
  pthread_create(&threads[0], NULL, open_and_close, NULL);
  pthread_create(&threads[1], NULL, collect_beside, NULL);
  pthread_create(&threads[2], NULL, collect_beside, NULL);
  test_sleep_ms(1500);
  __atomic_store_n(&storm_stops, true, __ATOMIC_RELAXED);
  for (size_t t = 0; t < 3; t++) {
    pthread_join(threads[t], NULL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(modules_data_is_a_root_until_dlclose),
      cmocka_unit_test(modules_thread_locals_are_roots_until_dlclose),
      cmocka_unit_test(modules_thread_locals_of_all_threads_are_roots),
      cmocka_unit_test(a_module_allocates),
      cmocka_unit_test(modules_come_and_go_beside_collections),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
