/* fork: the child works on, with the forking thread alone. SEMANTICS G4, and
   D9, D10 in the child. */
/* skip: tsan, whose runtime deadlocks when a child of threads forks again */
#include "support/child.h"

#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 3
#define MANY 400

static bool stopping; /* atomic */

static void *allocating_thread(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  unsigned char *list = NULL;
  for (uint64_t i = 0; !__atomic_load_n(&stopping, __ATOMIC_RELAXED); i++) {
    size_t size = i % 64 == 0 ? test_below(&random, 60000)
                              : sizeof list + test_below(&random, 300);
    size = size < 16 ? 16 : size;
    unsigned char *fresh =
        i % 3 == 0 ? wane_alloc_leaf(size) : wane_alloc(size);
    require(fresh != NULL);
    for (size_t b = 0; b < size; b++) {
      require(fresh[b] == 0);
      fresh[b] = 0xe1;
    }
    if (i % 3 != 0 && i % 500 != 0) {
      memcpy(fresh, &list, sizeof list);
      list = fresh;
    } else if (i % 500 == 0) {
      list = NULL;
    }
  }
  return NULL;
}

static pthread_t threads[THREADS];

static void threads_begin(void) {
  stopping = false;
  for (size_t t = 0; t < THREADS; t++) {
    assert_int_equal(
        pthread_create(&threads[t], NULL, allocating_thread, (void *)(t + 1)),
        0);
  }
}

static void threads_end(void) {
  __atomic_store_n(&stopping, true, __ATOMIC_RELAXED);
  for (size_t t = 0; t < THREADS; t++) {
    pthread_join(threads[t], NULL);
  }
}

TEST_ROOT uint64_t *before_fork[MANY];

static void make_before_fork(void) {
  for (size_t i = 0; i < MANY; i++) {
    before_fork[i] = wane_alloc(sizeof(uint64_t) * (2 + i));
    for (size_t w = 0; w < 2 + i; w++) {
      before_fork[i][w] = ~(uint64_t)(i * w);
    }
  }
}

static void check_before_fork(void) {
  for (size_t i = 0; i < MANY; i++) {
    require(wane_base(before_fork[i]) == before_fork[i]);
    for (size_t w = 0; w < 2 + i; w++) {
      require(before_fork[i][w] == ~(uint64_t)(i * w));
    }
  }
}

/* Allocates, zeroed memory as ever, collects, keeps what is old. */
static void use_heap(void *arg) {
  (void)arg;
  for (int round = 0; round < 5; round++) {
    for (size_t i = 0; i < 3000; i++) {
      size_t size = i % 50 == 0 ? 40000 + i : 16 + i % 700;
      unsigned char *fresh =
          i % 3 == 0 ? wane_alloc_leaf(size) : wane_alloc(size);
      require(fresh != NULL);
      for (size_t b = 0; b < size; b++) {
        require(fresh[b] == 0);
      }
      memset(fresh, 0xe7, size);
    }
    wane_collect();
  }
  check_before_fork();
}

static void fork_and_check(void (*fn)(void *), const char *what) {
  struct test_child child;
  test_fork(fn, NULL, &child);
  test_assert_exit_0(&child, what);
}

static void a_child_allocates_and_collects(void **state) {
  (void)state;
  make_before_fork();
  fork_and_check(use_heap, "child of one thread");
}

static void a_child_of_many_threads_allocates_and_collects(void **state) {
  (void)state;
  make_before_fork();
  threads_begin();
  for (int i = 0; i < 12; i++) {
    fork_and_check(use_heap, "child of threads");
  }
  threads_end();
  use_heap(NULL);
}

static void child_with_threads(void *arg) {
  (void)arg;
  stopping = false;
  for (size_t t = 0; t < THREADS; t++) {
    require(pthread_create(&threads[t], NULL, allocating_thread,
                           (void *)(t + 7)) == 0);
  }
  use_heap(NULL);
  __atomic_store_n(&stopping, true, __ATOMIC_RELAXED);
  for (size_t t = 0; t < THREADS; t++) {
    require(pthread_join(threads[t], NULL) == 0);
  }
  use_heap(NULL);
}

static void a_child_creates_threads(void **state) {
  (void)state;
  make_before_fork();
  threads_begin();
  for (int i = 0; i < 8; i++) {
    fork_and_check(child_with_threads, "child that creates threads");
  }
  threads_end();
}

static void wait_for(pid_t pid) {
  int status = -1;
  require(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

/* With and without the use of the heap between the forks, and in each. */
static void fork_nested(void *arg) {
  (void)arg;
  uint64_t **local = wane_new_array(uint64_t *, 100);
  for (size_t i = 0; i < 100; i++) {
    local[i] = wane_alloc(64);
    local[i][3] = ~(uint64_t)i;
  }
  for (int variant = 0; variant < 4; variant++) {
    pid_t pid = fork();
    if (pid == 0) {
      if (variant & 1) {
        use_heap(NULL);
      }
      pid_t inner = fork();
      if (inner == 0) {
        pid_t innermost = fork();
        if (innermost == 0) {
          use_heap(NULL);
          _exit(0);
        }
        wait_for(innermost);
        use_heap(NULL);
      } else if (variant & 2) {
        use_heap(NULL);
        wait_for(inner);
      } else {
        wait_for(inner);
        use_heap(NULL);
      }
      for (size_t i = 0; i < 100; i++) {
        require(wane_base(local[i]) == local[i]);
        require(local[i][3] == ~(uint64_t)i);
      }
      _exit(0);
    }
    wait_for(pid);
  }
}

static void forks_nest(void **state) {
  (void)state;
  make_before_fork();
  fork_and_check(fork_nested, "nested");
  threads_begin();
  for (int i = 0; i < 3; i++) {
    fork_and_check(fork_nested, "nested, with threads");
  }
  threads_end();
}

static void *fork_in_thread(void *arg) {
  uint64_t *local = wane_alloc(64);
  local[0] = ~7ull;
  pid_t pid = fork();
  if (pid == 0) {
    if (arg != NULL) {
      wane_thread_detach();
    }
    use_heap(NULL);
    require(arg != NULL || (wane_base(local) == local && local[0] == ~7ull));
    _exit(0);
  }
  wait_for(pid);
  return NULL;
}

static void any_thread_may_fork(void **state) {
  (void)state;
  make_before_fork();
  threads_begin();
  for (uintptr_t i = 0; i < 6; i++) {
    pthread_t thread;
    assert_int_equal(
        pthread_create(&thread, NULL, fork_in_thread, (void *)(i % 2)), 0);
    pthread_join(thread, NULL);
  }
  threads_end();
}

/* fork and exec in a loop while others allocate. */
static void fork_and_exec_run_beside_allocation(void **state) {
  (void)state;
  extern char **environ;
  threads_begin();
  for (int i = 0; i < 30; i++) {
    pid_t pid = 0;
    if (i % 2 == 0) {
      pid = fork();
      if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(127);
      }
    } else {
      char *argv[] = {"true", NULL};
      assert_int_equal(
          posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ), 0);
    }
    wait_for(pid);
  }
  threads_end();
}

/* A thread has dirtied part of a fresh group when the process forks; some of
   what it made lives on, the rest dies in the child. */
TEST_ROOT void *half_kept[4][400];
static uint32_t half_made; /* atomic */

static void *half_fill(void *arg) {
  static const size_t sizes[] = {48, 208, 416, 832};
  (void)arg;
  for (size_t s = 0; s < 4; s++) {
    for (size_t i = 0; i < 400; i++) {
      void *object = wane_alloc(sizes[s]);
      memset(object, 0xe9, sizes[s]);
      half_kept[s][i] = i % 10 == 0 ? object : NULL;
    }
  }
  __atomic_store_n(&half_made, 1, __ATOMIC_RELEASE);
  while (!__atomic_load_n(&stopping, __ATOMIC_RELAXED)) {
    test_sleep_ms(1);
  }
  return NULL;
}

static void a_child_gets_zeroed_memory_from_vanished_threads(void **state) {
  (void)state;
  pthread_t thread;
  make_before_fork();
  stopping = false;
  assert_int_equal(pthread_create(&thread, NULL, half_fill, NULL), 0);
  while (!__atomic_load_n(&half_made, __ATOMIC_ACQUIRE)) {
    test_sleep_ms(1);
  }
  struct test_child child;
  test_fork(use_heap, NULL, &child);
  stopping = true;
  pthread_join(thread, NULL);
  test_assert_exit_0(&child, "half filled groups");
  memset(half_kept, 0, sizeof half_kept);
}

/* What died before the fork but was not swept, and the runs and groups of the
   threads that are gone, can be used in the child. */
static void grow_in_child(void *arg) {
  (void)arg;
  wane_collect();
  uint64_t before = test_stats().heap_committed_bytes;
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < 20000; i++) {
      require(wane_alloc(100) != NULL);
    }
    wane_collect();
  }
  require(test_stats().heap_committed_bytes < before + (48u << 20));
}

static void the_childs_heap_does_not_leak(void **state) {
  (void)state;
  threads_begin();
  for (int i = 0; i < 3; i++) {
    fork_and_check(grow_in_child, "growth");
  }
  threads_end();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_child_gets_zeroed_memory_from_vanished_threads),
      cmocka_unit_test(a_child_allocates_and_collects),
      cmocka_unit_test(a_child_of_many_threads_allocates_and_collects),
      cmocka_unit_test(a_child_creates_threads),
      cmocka_unit_test(forks_nest),
      cmocka_unit_test(any_thread_may_fork),
      cmocka_unit_test(fork_and_exec_run_beside_allocation),
      cmocka_unit_test(the_childs_heap_does_not_leak),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
