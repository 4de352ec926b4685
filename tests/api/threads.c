/* Threads: from the argument of one that has not begun to the result of one
   that has ended. API.md, heap; D10. */
/* link: dl */
#include "support/child.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

static void *make_tagged(uint64_t tag) {
  uint64_t *object = wane_alloc(256);
  require(object != NULL);
  for (size_t i = 0; i < 32; i++) {
    object[i] = ~(tag * 32 + i);
  }
  return object;
}

static void check_tagged(const uint64_t *object, uint64_t tag) {
  require(wane_base(object) == object);
  for (size_t i = 0; i < 32; i++) {
    require(object[i] == ~(tag * 32 + i));
  }
}

/* Garbage and cycles beside a test, until told to stop. */
static bool churn_stops; /* atomic */
static void *churn(void *arg) {
  (void)arg;
  while (!__atomic_load_n(&churn_stops, __ATOMIC_RELAXED)) {
    for (int i = 0; i < 200; i++) {
      memset(wane_alloc(256), 0xfe, 256);
    }
    wane_collect();
    test_breathe();
  }
  return NULL;
}

static pthread_t churn_thread;
static int churn_begin(void **state) {
  (void)state;
  churn_stops = false;
  return pthread_create(&churn_thread, NULL, churn, NULL);
}

static int churn_end(void **state) {
  (void)state;
  __atomic_store_n(&churn_stops, true, __ATOMIC_RELAXED);
  return pthread_join(churn_thread, NULL);
}

static void *take_and_return(void *arg) {
  check_tagged(arg, 5);
  return make_tagged(6);
}

static void *take_and_exit(void *arg) {
  check_tagged(arg, 5);
  pthread_exit(make_tagged(6));
}

/* The argument's only root is the thread that starts, and the result's the
   thread that ended. */
static void check_argument_and_result(void *(*fn)(void *)) {
  static pthread_t threads[50];
  for (int round = 0; round < 4; round++) {
    for (size_t t = 0; t < TEST_COUNT(threads); t++) {
      assert_int_equal(pthread_create(&threads[t], NULL, fn, make_tagged(5)),
                       0);
    }
    test_scrub();
    wane_collect();
    test_sleep_ms(2);
    wane_collect();
    for (size_t t = 0; t < TEST_COUNT(threads); t++) {
      void *result;
      assert_int_equal(pthread_join(threads[t], &result), 0);
      check_tagged(result, 6);
    }
  }
}

static void argument_and_result_are_roots(void **state) {
  (void)state;
  check_argument_and_result(take_and_return);
}

static void the_result_of_pthread_exit_is_a_root(void **state) {
  (void)state;
  check_argument_and_result(take_and_exit);
}

static _Thread_local uint64_t *local_pointer;
static _Thread_local void *local_array[300];
static _Thread_local char local_bytes[3];

static void check_thread_locals(void) {
  local_bytes[1] = 1;
  local_pointer = make_tagged(1);
  for (size_t i = 0; i < 300; i++) {
    local_array[i] = make_tagged(i);
  }
  test_scrub();
  wane_collect();
  for (size_t i = 0; i < 2000; i++) {
    memset(wane_alloc(256), 0xfe, 256);
  }
  check_tagged(local_pointer, 1);
  for (size_t i = 0; i < 300; i++) {
    check_tagged(local_array[i], i);
    local_array[i] = NULL;
  }
}

static void *thread_locals_thread(void *arg) {
  (void)arg;
  check_thread_locals();
  return NULL;
}

static void thread_locals_are_roots(void **state) {
  (void)state;
  check_thread_locals();
  pthread_t threads[4];
  for (size_t t = 0; t < 4; t++) {
    pthread_create(&threads[t], NULL, thread_locals_thread, NULL);
  }
  for (size_t t = 0; t < 4; t++) {
    pthread_join(threads[t], NULL);
  }
}

static pthread_key_t keys[100];
static size_t key_count;

static void check_specific(void) {
  for (size_t k = 0; k < key_count; k++) {
    require(pthread_setspecific(keys[k], make_tagged(k)) == 0);
  }
  test_scrub();
  wane_collect();
  for (size_t i = 0; i < 2000; i++) {
    memset(wane_alloc(256), 0xfe, 256);
  }
  for (size_t k = 0; k < key_count; k++) {
    check_tagged(pthread_getspecific(keys[k]), k);
    pthread_setspecific(keys[k], NULL);
  }
}

static void *specific_thread(void *arg) {
  (void)arg;
  check_specific();
  return NULL;
}

/* Keys from 32 on have their values in memory from malloc. */
static void thread_specific_values_are_roots(void **state) {
  (void)state;
  for (key_count = 0; key_count < TEST_COUNT(keys); key_count++) {
    assert_int_equal(pthread_key_create(&keys[key_count], NULL), 0);
  }
  check_specific();
  pthread_t threads[2];
  for (size_t t = 0; t < 2; t++) {
    pthread_create(&threads[t], NULL, specific_thread, NULL);
  }
  for (size_t t = 0; t < 2; t++) {
    pthread_join(threads[t], NULL);
  }
  for (size_t k = 0; k < key_count; k++) {
    pthread_key_delete(keys[k]);
  }
}

static pthread_key_t exit_key;
static uint32_t exit_calls; /* atomic */

/* Runs in every round that there is, before and after Wane's own. */
static void exit_destructor(void *value) {
  check_tagged(value, 77);
  for (int i = 0; i < 15; i++) {
    memset(wane_alloc(64), 0xab, 64);
  }
  __atomic_fetch_add(&exit_calls, 1, __ATOMIC_RELAXED);
  pthread_setspecific(exit_key, make_tagged(77));
}

static void *thread_with_destructor(void *arg) {
  (void)arg;
  pthread_setspecific(exit_key, make_tagged(77));
  return make_tagged(6);
}

static void exit_destructors_may_allocate(void **state) {
  (void)state;
  exit_calls = 0;
  assert_int_equal(pthread_key_create(&exit_key, exit_destructor), 0);
  for (int round = 0; round < 25; round++) {
    pthread_t threads[8];
    for (size_t t = 0; t < 8; t++) {
      assert_int_equal(
          pthread_create(&threads[t], NULL, thread_with_destructor, NULL), 0);
    }
    for (size_t t = 0; t < 8; t++) {
      void *result;
      pthread_join(threads[t], &result);
      check_tagged(result, 6);
    }
  }
  assert_int_equal(exit_calls, 25 * 8 * PTHREAD_DESTRUCTOR_ITERATIONS);
  pthread_key_delete(exit_key);
  wane_collect();
  assert_true(test_stats().threads_attached < 20);
}

static void *short_life(void *arg) {
  void **object = wane_alloc(64);
  object[0] = arg;
  return object[0] == arg ? NULL : arg;
}

static void thousands_of_threads_leave_nothing(void **state) {
  (void)state;
  uint64_t attached = test_stats().threads_attached;
  for (int i = 0; i < 2000; i++) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, short_life, NULL), 0);
    void *result = &result;
    pthread_join(thread, &result);
    assert_null(result);
  }
  assert_int_equal(test_stats().threads_attached, attached);
  assert_true(test_live_bytes() < 2u << 20);
}

static sem_t detached_done;

static void *detached_life(void *arg) {
  void *object = make_tagged(3);
  check_tagged(arg, 5);
  check_tagged(object, 3);
  sem_post(&detached_done);
  return object;
}

static void detached_threads_come_and_go(void **state) {
  (void)state;
  sem_init(&detached_done, 0, 0);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  for (int i = 0; i < 408; i++) {
    pthread_t thread;
    int error = EAGAIN;
    while (error == EAGAIN) {
      error = pthread_create(&thread, i % 2 == 0 ? &attr : NULL, detached_life,
                             make_tagged(5));
    }
    assert_int_equal(error, 0);
    if (i % 2 != 0) {
      pthread_detach(thread);
    }
    if (i % 16 == 15) {
      for (int n = 0; n < 16; n++) {
        sem_wait(&detached_done);
      }
    }
  }
  pthread_attr_destroy(&attr);
  for (int i = 0; i < 8; i++) { /* the eight still posting */
    sem_wait(&detached_done);
  }
  sem_destroy(&detached_done);
}

static void *attach_and_detach(void *arg) {
  (void)arg;
  for (int i = 0; i < 15; i++) {
    wane_thread_attach();
    wane_thread_attach();
    void *object = make_tagged(2);
    wane_collect();
    check_tagged(object, 2);
    wane_thread_detach();
    wane_thread_detach();
    object = make_tagged(9); /* attaches again */
    check_tagged(object, 9);
  }
  return NULL;
}

static void attaching_and_detaching_twice_is_harmless(void **state) {
  (void)state;
  wane_thread_attach();
  pthread_t threads[3];
  for (size_t t = 0; t < 3; t++) {
    pthread_create(&threads[t], NULL, attach_and_detach, NULL);
  }
  for (size_t t = 0; t < 3; t++) {
    pthread_join(threads[t], NULL);
  }
}

/* The C library's own pthread_create: a thread that Wane has not seen. */
static void foreign_threads_attach_at_their_first_call(void **state) {
  (void)state;
  int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *),
                void *) = NULL;
  void *symbol = dlsym(RTLD_NEXT, "pthread_create");
  if (symbol == NULL || TEST_TSAN) {
    skip();
  }
  memcpy(&create, &symbol, sizeof create);
  for (int i = 0; i < 25; i++) {
    pthread_t threads[4];
    for (size_t t = 0; t < 4; t++) {
      assert_int_equal(create(&threads[t], NULL,
                              t % 2 == 0 ? attach_and_detach : short_life,
                              NULL),
                       0);
    }
    for (size_t t = 0; t < 4; t++) {
      pthread_join(threads[t], NULL);
    }
  }
}

static void *small_stack_thread(void *arg) {
  check_tagged(arg, 5);
  void *object = make_tagged(4);
  test_sleep_ms(1);
  wane_collect();
  check_tagged(object, 4);
  return object;
}

static void the_smallest_stacks_suffice(void **state) {
  (void)state;
  if (TEST_ASAN || TEST_TSAN) {
    skip();
  }
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN);
  for (int i = 0; i < 15; i++) {
    pthread_t thread;
    void *result;
    assert_int_equal(
        pthread_create(&thread, &attr, small_stack_thread, make_tagged(5)), 0);
    pthread_join(thread, &result);
    check_tagged(result, 4);
  }
  pthread_attr_destroy(&attr);
}

/* A thread that was never to start leaves nothing behind. */
static void a_failing_pthread_create_is_told(void **state) {
  (void)state;
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, (size_t)1 << 46);
  uint64_t attached = test_stats().threads_attached;
  for (int i = 0; i < 25; i++) {
    pthread_t thread;
    assert_int_not_equal(pthread_create(&thread, &attr, short_life, NULL), 0);
  }
  pthread_attr_destroy(&attr);
  wane_collect();
  assert_int_equal(test_stats().threads_attached, attached);
}

#define with_churn(test)                                                       \
  cmocka_unit_test_setup_teardown(test, churn_begin, churn_end)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(thousands_of_threads_leave_nothing),
      with_churn(argument_and_result_are_roots),
      with_churn(the_result_of_pthread_exit_is_a_root),
      with_churn(thread_locals_are_roots),
      with_churn(thread_specific_values_are_roots),
      with_churn(exit_destructors_may_allocate),
      with_churn(detached_threads_come_and_go),
      with_churn(attaching_and_detaching_twice_is_harmless),
      with_churn(foreign_threads_attach_at_their_first_call),
      with_churn(the_smallest_stacks_suffice),
      cmocka_unit_test(a_failing_pthread_create_is_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
