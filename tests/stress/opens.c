/*
 * A million openings of a handful of files, which are dropped without a close
 * and without wane_collect: none fails, though a process may have only 1,024
 * descriptors and 65,530 mappings. By one thread and by four, in each way of
 * opening; some of the last ones are held. Shared files change now and then,
 * so that there is something to map. P1, P2.
 *
 * opens [--opens N]: so many by each of the four tests
 */
/* timeout: 240 */
/* run: no_percent WANE_OPTIONS=gc_percent=-1 -- --opens 100000 */
/* run: stress WANE_OPTIONS=stress=alloc:997 -- --opens 100000 */
/* run: plain WANE_OPTIONS=background=0 -- --opens 100000 */
#include "support/files.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 5
#define THREADS_MAX 4
#define HELD 500
#define SAMPLES 20
#define DESCRIPTORS 1024

static size_t opens_asked = 250000;

enum way { OWN, SHARED, BYTES, WAYS };

static const char *const names[FILES] = {"a", "b", "c", "d", "e"};
static size_t size_of(size_t number) { return 1 + number * number * 5000; }

/* What each thread holds: pointers into bytes. */
static const char *held[THREADS_MAX][HELD];
static size_t threads_count;
static enum way way_first;
static enum way way_last;
static uint64_t maps_peak; /* of the first thread's samples */
static uint64_t descriptors_peak;

static void peak_raise(uint64_t *peak, uint64_t now) {
  *peak = now > *peak ? now : *peak;
}

static const char *open_one(enum way way, size_t number,
                            struct test_random *random) {
  size_t size = 0;
  const char *bytes = NULL;
  if (way == BYTES) {
    bytes = wane_map_bytes(names[number], &size);
  } else {
    if (way == SHARED && test_below(random, 2) == 0) {
      require(utimensat(AT_FDCWD, names[number], NULL, 0) == 0);
    }
    struct wane_mapped *m = way == OWN ? wane_mapped_open(names[number])
                                       : wane_mapped_open_shared(names[number]);
    bytes = m != NULL ? m->data : NULL;
    size = m != NULL ? m->size : 0;
  }
  if (bytes == NULL) {
    dprintf(STDERR_FILENO, "%s: %s, %zu mappings\n", names[number],
            strerror(errno), maps_total());
  }
  require(bytes != NULL && size == size_of(number));
  return bytes;
}

/* Some of the bytes, the last one among them. */
static void check_some(const char *bytes, size_t number) {
  size_t from = (size_of(number) - 1) / 64 * 64;
  require(file_matches(bytes + from, size_of(number) - from, number, from));
}

static void *open_many(void *arg) {
  size_t self = (uintptr_t)arg;
  size_t count = opens_asked / threads_count;
  struct test_random random = {self};
  for (size_t i = 0; i < count; i++) {
    size_t number = test_below(&random, FILES);
    enum way way =
        (enum way)(way_first + test_below(&random, way_last - way_first + 1));
    const char *bytes = open_one(way, number, &random);
    size_t slot = i % HELD;
    if (held[self][slot] != NULL) {
      check_some(held[self][slot] - slot % FILES, slot % FILES);
    }
    check_some(bytes, number);
    held[self][slot] = NULL;
    if (number == slot % FILES && size_of(number) > FILES) {
      held[self][slot] = bytes + number; /* interior */
    }
    bool has_samples = self == 0 && !TEST_TSAN; /* it mixes up descriptors */
    if (has_samples && i % (count / SAMPLES) == 0) {
      peak_raise(&maps_peak, maps_total());
      peak_raise(&descriptors_peak, descriptors_open());
    }
  }
  memset(held[self], 0, sizeof held[self]);
  test_scrub();
  return NULL;
}

static void open_in_threads(size_t threads, enum way first, enum way last) {
  const struct test_crew crew[] = {{open_many, threads}};
  struct wane_stats before = test_stats();
  double begin = test_now();
  threads_count = threads;
  way_first = first;
  way_last = last;
  maps_peak = 0;
  descriptors_peak = 0;
  test_crew_run(crew, 1, 0);
  double seconds = test_now() - begin;
  struct wane_stats after = test_stats();
  printf("%zu opens by %zu threads in %.1f s: %llu mapped, %llu cycles, "
         "%llu mappings and %llu descriptors at most\n",
         opens_asked, threads, seconds,
         (unsigned long long)(after.files_mapped - before.files_mapped),
         (unsigned long long)(after.cycles_full - before.cycles_full),
         (unsigned long long)maps_peak, (unsigned long long)descriptors_peak);
  assert_int_equal(after.cycles_forced, before.cycles_forced);
  assert_true(after.cycles_full > before.cycles_full);
  assert_true(maps_peak < maps_allowed() / 4 * 3);
  assert_true(descriptors_peak < 100);
  test_settle();
  assert_in_range(maps_of(NULL), 0, 20);
  maps_require_counted();
}

static void own_openings_never_run_out(void **state) {
  (void)state;
  open_in_threads(1, OWN, OWN);
}

static void shared_openings_never_run_out(void **state) {
  (void)state;
  open_in_threads(1, SHARED, SHARED);
}

static void bytes_never_run_out(void **state) {
  (void)state;
  open_in_threads(1, BYTES, BYTES);
}

static void four_threads_never_run_out(void **state) {
  (void)state;
  open_in_threads(4, OWN, BYTES);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(own_openings_never_run_out),
      cmocka_unit_test(shared_openings_never_run_out),
      cmocka_unit_test(bytes_never_run_out),
      cmocka_unit_test(four_threads_never_run_out),
  };
  for (int i = 1; i + 1 < argc; i++) {
    if (strcmp(argv[i], "--opens") == 0) {
      opens_asked = strtoull(argv[i + 1], NULL, 0);
    }
  }
  struct rlimit limit;
  require(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  if (limit.rlim_max > DESCRIPTORS) {
    limit.rlim_cur = DESCRIPTORS;
    require(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  }
  files_begin();
  for (size_t i = 0; i < FILES; i++) {
    file_make(names[i], i, size_of(i));
  }
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
