/* wane/collect.h: cycles and their pace, the numbers, memory given back.
   G1, D4, D8, D19. */
/* no-variants */
/* run: none WANE_OPTIONS=dirty=none */
#include "support/child.h"

#include <pthread.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static bool is_forbidden(const char *backend) {
  const char *options = getenv("WANE_OPTIONS");
  return strcmp(backend, "none") != 0 && options != NULL &&
         strstr(options, "dirty=none") != NULL;
}

/* How many times a cycle stops the world: once; or for the beginning and the
   end of marking, and for a look at the stacks before each round. */
static bool are_pauses_of(uint64_t pauses, uint64_t cycles) {
  bool is_beside = strcmp(test_stats().dirty_backend, "none") != 0;
  return is_beside ? pauses >= 2 * cycles && pauses <= 8 * cycles
                   : pauses == cycles;
}

static void a_collection_is_one_forced_cycle(void **state) {
  (void)state;
  struct wane_stats before = test_stats();
  for (int i = 0; i < 10; i++) {
    wane_collect();
  }
  struct wane_stats after = test_stats();
  assert_int_equal(after.cycles_forced, before.cycles_forced + 10);
  assert_in_range(after.cycles_full, before.cycles_full + 10,
                  before.cycles_full + 11);
  assert_true(are_pauses_of(after.pause_count - before.pause_count,
                            after.cycles_full - before.cycles_full));
  assert_true(after.pause_total_ns > before.pause_total_ns);
  assert_true(after.pause_p50_ns <= after.pause_p99_ns);
  assert_true(after.pause_p99_ns <= after.pause_max_ns);
  assert_true(after.pause_max_ns <= after.pause_total_ns);
  assert_true(after.gc_cpu_ns > before.gc_cpu_ns);
  assert_true(after.mark_threads >= 1);
}

static void *collect_often(void *arg) {
  for (int i = 0; i < 100; i++) {
    wane_collect();
    test_breathe();
  }
  return arg;
}

/* G1: each is a cycle begun after the call; calls at once may share one. */
static void threads_collect_at_once(void **state) {
  (void)state;
  pthread_t threads[4];
  uint64_t before = test_stats().cycles_full;
  for (size_t t = 0; t < 4; t++) {
    pthread_create(&threads[t], NULL, collect_often, NULL);
  }
  for (size_t t = 0; t < 4; t++) {
    pthread_join(threads[t], NULL);
  }
  assert_in_range(test_stats().cycles_full - before, 100, 400 + 1);
}

static void collecting_makes_room(void **state) {
  (void)state;
  static uintptr_t hidden[1000];
  test_make_hidden(hidden, 1000, test_make_small);
  assert_dead(hidden, 1000);
  uint64_t used = test_stats().heap_used_bytes;
  for (int i = 0; i < 100; i++) {
    memset(wane_alloc(100000), 1, 100000);
    test_scrub();
    wane_collect();
  }
  assert_true(test_stats().heap_used_bytes < used + MIB);
}

static void live_bytes_are_those_of_live_objects(void **state) {
  (void)state;
  uint64_t before = test_live_bytes();
  char **objects = wane_new_array(char *, 1000);
  uint64_t bytes = wane_size(objects);
  for (size_t i = 0; i < 1000; i++) {
    objects[i] = i % 2 == 0 ? wane_alloc(i * 8) : wane_alloc_leaf(i * 8);
    bytes += wane_size(objects[i]);
  }
  uint64_t live = test_live_bytes();
  assert_in_range(live, before + bytes - 20000, before + bytes + 100000);
  wane_keep_alive(objects);
}

static void allocation_is_counted(void **state) {
  (void)state;
  struct wane_stats before = test_stats();
  for (int i = 0; i < 10000; i++) {
    (void)wane_alloc(64);
  }
  (void)wane_alloc(100000);
  struct wane_stats after = test_stats();
  uint64_t objects = after.allocated_objects - before.allocated_objects;
  uint64_t bytes = after.allocated_bytes - before.allocated_bytes;
  assert_in_range(objects, 10001, 10001);
  assert_in_range(bytes, 740000, 740000 + 32768);
  assert_true(after.heap_peak_bytes >= after.heap_used_bytes);
  assert_true(after.heap_committed_bytes > 0);
  assert_true(after.threads_attached >= 1);
}

static void the_dirty_backend_has_a_name(void **state) {
  (void)state;
  static const char *const names[] = {"uffd", "softdirty", "none"};
  const char *backend = test_stats().dirty_backend;
  size_t i = 0;
  while (i < TEST_COUNT(names) && strcmp(names[i], backend) != 0) {
    i++;
  }
  assert_true(i < TEST_COUNT(names));
  assert_false(is_forbidden(backend));
}

/* D8: no more than size bytes are written, and what is unknown is 0. */
static void stats_of_any_size_are_filled(void **state) {
  (void)state;
  union {
    struct wane_stats stats;
    unsigned char bytes[sizeof(struct wane_stats) + 200];
  } out;
  for (size_t size = sizeof(size_t); size <= sizeof out - 8; size++) {
    memset(&out, 0xa7, sizeof out);
    out.stats.size = size;
    wane_read_stats(&out.stats);
    assert_int_equal(out.stats.size, size);
    for (size_t i = sizeof(struct wane_stats); i < size; i++) {
      assert_int_equal(out.bytes[i], 0);
    }
    for (size_t i = size; i < sizeof out; i++) {
      assert_int_equal(out.bytes[i], 0xa7);
    }
  }
}

static void read_stats(void *size) {
  struct wane_stats stats = {.size = *(size_t *)size};
  wane_read_stats(&stats);
}

static void read_null(void *arg) { wane_read_stats(arg); }

static void stats_without_a_size_are_fatal(void **state) {
  (void)state;
  size_t sizes[] = {0, 1, sizeof(size_t) - 1};
  for (size_t i = 0; i < TEST_COUNT(sizes); i++) {
    test_assert_fatal("wane_read_stats", read_stats, &sizes[i]);
  }
  test_assert_fatal("wane_read_stats", read_null, NULL);
}

static void gc_percent_is_as_it_was_set(void **state) {
  (void)state;
  int first = wane_set_gc_percent(50);
  assert_int_equal(first, 100);
  assert_int_equal(wane_set_gc_percent(0), 50);
  assert_int_equal(wane_set_gc_percent(-1), 1); /* 0 means 1 */
  assert_true(wane_set_gc_percent(1000) < 0);
  assert_int_equal(wane_set_gc_percent(100), 1000);
}

/* Cycles while bytes of garbage are allocated beside a live heap. */
static uint64_t cycles_for(size_t bytes) {
  uint64_t before = test_stats().cycles_full;
  for (size_t done = 0; done < bytes; done += 1024) {
    (void)wane_alloc(1024);
  }
  return test_stats().cycles_full - before;
}

static void the_heap_grows_by_the_percentage(void **state) {
  (void)state;
  void **live = wane_new_array(void *, 20 * 1024);
  for (size_t i = 0; i < 20 * 1024; i++) {
    live[i] = wane_alloc(1024);
  }
  wane_set_gc_percent(100);
  wane_collect();
  /* each begins early enough to end before so much is allocated */
  assert_in_range(cycles_for(105 * MIB), 4, 8);
  wane_set_gc_percent(400);
  wane_collect();
  assert_in_range(cycles_for(105 * MIB), 1, 3);
  wane_set_gc_percent(20);
  wane_collect();
  assert_in_range(cycles_for(105 * MIB), 15, 30);
  wane_set_gc_percent(-1);
  wane_collect();
  assert_int_equal(cycles_for(105 * MIB), 0);
  wane_set_gc_percent(100);
  wane_keep_alive(live);
}

static void a_memory_limit_of_0_is_refused(void **state) {
  (void)state;
  size_t limit = wane_set_memory_limit(100 * MIB);
  errno = 0;
  assert_int_equal(wane_set_memory_limit(0), 100 * MIB);
  assert_int_equal(errno, EINVAL);
  errno = 55;
  assert_int_equal(wane_set_memory_limit(200 * MIB), 100 * MIB);
  assert_int_equal(wane_set_memory_limit(SIZE_MAX), 200 * MIB);
  assert_true(wane_set_memory_limit(limit) == SIZE_MAX);
  assert_int_equal(errno, 55);
}

/* Even with gc_percent off; and the live heap may outgrow it. */
static void the_memory_limit_brings_cycles(void **state) {
  (void)state;
  wane_collect();
  wane_set_gc_percent(-1);
  size_t limit = wane_set_memory_limit(64 * MIB);
  assert_in_range(cycles_for(1024 * MIB), 8, 200);
  assert_true(test_stats().heap_committed_bytes < 128 * MIB);
  void **live = wane_new_array(void *, 100 * 1024);
  for (size_t i = 0; i < 100 * 1024; i++) {
    live[i] = wane_alloc(1024); /* to 100 MiB: soft */
    assert_non_null(live[i]);
  }
  wane_keep_alive(live);
  wane_set_memory_limit(limit);
  wane_set_gc_percent(100);
}

static void make_garbage(void *arg) {
  (void)arg;
  void **chain = NULL;
  for (size_t i = 0; i < 200 * 1024; i++) {
    void **link = wane_alloc(i % 100 == 0 ? 100000 : 900);
    memset(link + 1, 0x5a, 900 - sizeof *link);
    link[0] = chain;
    chain = link;
  }
}

static void an_idle_programs_memory_goes_back(void **state) {
  (void)state;
  wane_set_gc_percent(100);
  wane_set_memory_limit(SIZE_MAX);
  wane_collect();
  size_t before = test_resident_bytes();
  test_apart(make_garbage, NULL);
  size_t full = test_resident_bytes();
  assert_true(full > before + 100 * MIB);
  size_t now = full;
  for (int i = 0; i < 150 && now > before + 24 * MIB; i++) {
    test_sleep_ms(100);
    now = test_resident_bytes();
  }
  assert_in_range(now, 0, before + 24 * MIB);
  assert_true(test_stats().released_bytes > 50 * MIB);
  char *again = wane_alloc(40 * MIB); /* and reads as zero */
  for (size_t i = 0; i < 40 * MIB; i += 512) {
    assert_int_equal(again[i], 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gc_percent_is_as_it_was_set),
      cmocka_unit_test(a_collection_is_one_forced_cycle),
      cmocka_unit_test(threads_collect_at_once),
      cmocka_unit_test(collecting_makes_room),
      cmocka_unit_test(live_bytes_are_those_of_live_objects),
      cmocka_unit_test(allocation_is_counted),
      cmocka_unit_test(the_dirty_backend_has_a_name),
      cmocka_unit_test(stats_of_any_size_are_filled),
      cmocka_unit_test(stats_without_a_size_are_fatal),
      cmocka_unit_test(the_heap_grows_by_the_percentage),
      cmocka_unit_test(a_memory_limit_of_0_is_refused),
      cmocka_unit_test(the_memory_limit_brings_cycles),
      cmocka_unit_test(an_idle_programs_memory_goes_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
