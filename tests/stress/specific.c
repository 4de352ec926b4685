/* Thread-specific values stay while the world is stopped again and again: the
   first use of a key in a thread is where a stop could take one. D8. */
#include "support/test.h"

#include <pthread.h>
#include <threads.h>

enum { KEYS = 900, THREADS_MIN = 300, CYCLES_MIN = 300 };

static pthread_key_t keys[KEYS];
static uint32_t done; /* atomic */
static uint32_t threads_made;

static uint64_t *numbered(uint64_t number) {
  uint64_t *object = wane_alloc(sizeof *object);
  *object = number;
  return object;
}

static void *set_all(void *arg) {
  for (size_t i = 0; i < KEYS; i++) {
    if (i % 2 == 0) {
      require(pthread_setspecific(keys[i], numbered(i)) == 0);
    } else {
      require(tss_set(keys[i], numbered(i)) == thrd_success);
    }
  }
  for (size_t i = 0; i < KEYS; i++) {
    const uint64_t *object = pthread_getspecific(keys[i]);
    require(object != NULL && *object == i);
  }
  return arg;
}

static void *make_threads(void *arg) {
  while (__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 0 ||
         threads_made < THREADS_MIN) {
    pthread_t thread;
    require(pthread_create(&thread, NULL, set_all, NULL) == 0);
    require(pthread_join(thread, NULL) == 0);
    threads_made++;
  }
  return arg;
}

static void no_value_is_lost(void **state) {
  (void)state;
  pthread_t maker;
  for (size_t i = 0; i < KEYS; i++) {
    require(pthread_key_create(&keys[i], NULL) == 0);
  }
  require(pthread_create(&maker, NULL, make_threads, NULL) == 0);
  for (int i = 0; i < CYCLES_MIN; i++) {
    wane_collect();
  }
  __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
  require(pthread_join(maker, NULL) == 0);
  for (size_t i = 0; i < KEYS; i++) {
    require(pthread_key_delete(keys[i]) == 0);
  }
}

/* A key that is made again, often with the number that it had: each setting is
   a first one, and nothing takes time besides. */
static void *set_again_and_again(void *arg) {
  uint64_t *object = numbered(1);
  while (__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 0) {
    pthread_key_t key;
    require(pthread_key_create(&key, NULL) == 0);
    require(pthread_setspecific(key, object) == 0);
    require(pthread_getspecific(key) == object);
    require(pthread_key_delete(key) == 0);
  }
  return arg;
}

static void no_first_value_is_lost(void **state) {
  (void)state;
  pthread_t threads[2];
  double end = test_now() + 3;
  __atomic_store_n(&done, 0, __ATOMIC_RELEASE);
  for (size_t i = 0; i < TEST_COUNT(threads); i++) {
    require(pthread_create(&threads[i], NULL, set_again_and_again, NULL) == 0);
  }
  for (int i = 0; i < 10 * CYCLES_MIN && test_now() < end; i++) {
    wane_collect();
  }
  __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
  for (size_t i = 0; i < TEST_COUNT(threads); i++) {
    require(pthread_join(threads[i], NULL) == 0);
  }
}

/* One that the C library takes is given back as it was, also a failure. */
static void what_fails_says_so(void **state) {
  (void)state;
  pthread_key_t key;
  require(pthread_key_create(&key, NULL) == 0);
  require(pthread_key_delete(key) == 0);
  require(pthread_setspecific(key, NULL) == EINVAL);
  require(tss_set(key, NULL) == thrd_error);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_value_is_lost),
      cmocka_unit_test(no_first_value_is_lost),
      cmocka_unit_test(what_fails_says_so),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
