/*
 * bench/lifetimes.c: what cleanups, finalizers and weak pointers cost.
 *
 *   lifetimes [--what cleanup|finalizer|weak|offsets] [--count N] [--rounds N]
 *
 * Objects of 32 bytes are allocated, written, and kept in a table; automatic
 * cycles are off. Then, by --what:
 *
 *   cleanup    one for each object: ns each and bytes each, the growth of the
 *   finalizer  RSS. Then the table is emptied, and what is timed is a full
 *              collection up to the end of the last callback. A callback adds
 *              one to a counter; a cleanup's argument is its address.
 *   weak       a weak pointer to each object: ns and bytes each; ns to read
 *              all of them in order, and one of them again and again, all
 *              alive (medians of the rounds). Then all objects die, and all
 *              are read once more.
 *   offsets    weak pointers to the starts of N objects, and to N places in
 *              one: ns each and their ratio, medians of the rounds.
 *
 * A stale word on the stack may keep an object: the last callback is that of
 * the last object but SLACK.
 *
 * Of the peers bdwgc has no cleanups. Its finalizers are of the kind that
 * ignores order, the fastest; they run in the thread that collects. Its weak
 * pointer is a word of hidden pointer in an object of its own, registered as
 * a disappearing link, and read under the allocation lock, as its manual says.
 */
/* peers: wane bdwgc */
#include "shim.h"

#include <stdatomic.h>

#include "report.h"

enum { CLEANUP, FINALIZER, WEAK, OFFSETS, OBJECT_BYTES = 32, SLACK = 8 };
enum { HOT_READS = 10 };
#define WAIT_STEP_NS 50000
#define WAIT_END_NS 60000000000u

static const char *const kinds[] = {"cleanup", "finalizer", "weak", "offsets",
                                    NULL};
static long what;
static long count = 1000000;
static long rounds = 5;

static atomic_ulong called;
static void ***table; /* managed, as what it points to */

/* The peers. */

#if defined(BENCH_WANE)

typedef wane_weak weak_pointer;

static void on_cleanup(void *counter) {
  atomic_fetch_add_explicit((atomic_ulong *)counter, 1, memory_order_relaxed);
}

static void on_death(void *object) {
  (void)object;
  atomic_fetch_add_explicit(&called, 1, memory_order_relaxed);
}

static void attach(void *object) {
  if (what == CLEANUP) {
    wane_add_cleanup(object, on_cleanup, &called);
  } else {
    wane_set_finalizer(object, on_death);
  }
}

static weak_pointer weak_of(void *pointer) { return wane_weak_make(pointer); }
static void *weak_value(weak_pointer weak) { return wane_weak_value(weak); }
static weak_pointer *weak_table(size_t n) {
  return calloc(n, sizeof(weak_pointer));
}
static void weak_table_free(weak_pointer *weak) { free(weak); }
static void run_callbacks(void) {}

#elif defined(BENCH_BDWGC)

typedef GC_hidden_pointer *weak_pointer;

static void GC_CALLBACK on_death(void *object, void *data) {
  (void)object;
  (void)data;
  atomic_fetch_add_explicit(&called, 1, memory_order_relaxed);
}

static void attach(void *object) {
  GC_register_finalizer_no_order(object, on_death, NULL, NULL, NULL);
}

static weak_pointer weak_of(void *pointer) {
  weak_pointer weak = GC_MALLOC_ATOMIC(sizeof *weak);
  *weak = GC_HIDE_POINTER(pointer);
  GC_general_register_disappearing_link((void **)weak, GC_base(pointer));
  return weak;
}

static void *GC_CALLBACK weak_reveal(void *weak) {
  GC_hidden_pointer hidden = *(weak_pointer)weak;
  return hidden != 0 ? GC_REVEAL_POINTER(hidden) : NULL;
}

static void *weak_value(weak_pointer weak) {
  return GC_call_with_alloc_lock(weak_reveal, weak);
}

static weak_pointer *weak_table(size_t n) {
  return GC_MALLOC_UNCOLLECTABLE(n * sizeof(weak_pointer));
}
static void weak_table_free(weak_pointer *weak) { GC_FREE(weak); }
static void run_callbacks(void) { GC_invoke_finalizers(); }

#endif

/* Objects. */

static void **object_new(size_t bytes) {
  void **object = bench_alloc(bytes);
  object[bytes / sizeof *object - 1] = &called;
  return object;
}

__attribute__((noinline)) static void objects_make(size_t n) {
  table = bench_alloc(n * sizeof table[0]);
  for (size_t i = 0; i < n; i++) {
    table[i] = object_new(OBJECT_BYTES);
  }
}

__attribute__((noinline)) static void objects_drop(size_t n) {
  memset(table, 0, n * sizeof table[0]);
  table = NULL;
}

/* Makes what is only made once: threads, first chunks of memory. */
static void warm_up(void) {
  objects_make(1000);
  for (size_t i = 0; i < 1000; i++) {
    if (what == CLEANUP || what == FINALIZER) {
      attach(table[i]);
    } else {
      weak_of(table[i]);
    }
  }
}

/* Counts to n, less what may be stuck; the check gets n all the same. */
static uint64_t nearly(uint64_t value, uint64_t n) {
  return value + SLACK >= n && value <= n ? n : value;
}

/* Cleanups and finalizers. */

__attribute__((noinline)) static void attach_all(size_t n) {
  long before = rss_bytes();
  uint64_t start = now_ns();
  for (size_t i = 0; i < n; i++) {
    attach(table[i]);
  }
  double ns = (double)(now_ns() - start);
  report_number("attach_ns", ns / (double)n);
  report_number("bytes_each", (double)(rss_bytes() - before) / (double)n);
}

static uint64_t callbacks(size_t n) {
  const struct timespec step = {.tv_nsec = WAIT_STEP_NS};
  warm_up();
  objects_drop(1000);
  bench_collect();
  while (run_callbacks(), atomic_load(&called) + SLACK < 1000) {
    nanosleep(&step, NULL);
  }
  objects_make(n);
  attach_all(n);
  objects_drop(n);
  nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  atomic_store(&called, 0);
  uint64_t start = now_ns();
  bench_collect();
  report_number("collect_s", (double)(now_ns() - start) / 1e9);
  run_callbacks();
  while (atomic_load(&called) + SLACK < n && now_ns() - start < WAIT_END_NS) {
    nanosleep(&step, NULL);
  }
  report_number("run_s", (double)(now_ns() - start) / 1e9);
  nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  return nearly(atomic_load(&called), n);
}

/* Weak pointers. */

__attribute__((noinline)) static uint64_t read_all(const weak_pointer *weak,
                                                   size_t n) {
  uint64_t alive = 0;
  for (size_t i = 0; i < n; i++) {
    alive += weak_value(weak[i]) != NULL;
  }
  return alive;
}

__attribute__((noinline)) static uint64_t read_one(weak_pointer weak,
                                                   size_t n) {
  uint64_t alive = 0;
  for (size_t i = 0; i < n; i++) {
    alive += weak_value(weak) != NULL;
  }
  return alive;
}

static uint64_t read_rounds(const weak_pointer *weak, size_t n) {
  double *all = calloc((size_t)rounds, sizeof all[0]);
  double *one = calloc((size_t)rounds, sizeof one[0]);
  uint64_t alive = 0;
  for (long i = 0; i < rounds; i++) {
    uint64_t start = now_ns();
    alive += read_all(weak, n);
    all[i] = (double)(now_ns() - start) / (double)n;
    start = now_ns();
    alive += read_one(weak[n / 2], n * HOT_READS);
    one[i] = (double)(now_ns() - start) / (double)(n * HOT_READS);
  }
  report_number("read_ns", median(all, (size_t)rounds));
  report_number("read_hot_ns", median(one, (size_t)rounds));
  free(all);
  free(one);
  return alive;
}

__attribute__((noinline)) static void make_all(weak_pointer *weak, size_t n) {
  long before = rss_bytes();
  uint64_t start = now_ns();
  for (size_t i = 0; i < n; i++) {
    weak[i] = weak_of(table[i]);
  }
  double ns = (double)(now_ns() - start);
  report_number("attach_ns", ns / (double)n);
  report_number("bytes_each", (double)(rss_bytes() - before) / (double)n);
}

static uint64_t weak_pointers(size_t n) {
  weak_pointer *weak = weak_table(n);
  warm_up();
  weak_pointer first = weak_of(table[0]);
  for (size_t i = 0; i < n; i++) { /* so that its memory is not counted */
    weak[i] = first;
  }
  objects_make(n);
  make_all(weak, n);
  uint64_t alive = read_rounds(weak, n);
  objects_drop(n);
  bench_collect();
  uint64_t start = now_ns();
  uint64_t dead = n - read_all(weak, n);
  report_number("read_dead_ns", (double)(now_ns() - start) / (double)n);
  weak_table_free(weak);
  return alive + nearly(dead, n);
}

static uint64_t offsets(size_t n) {
  double *apart = calloc((size_t)rounds, sizeof apart[0]);
  double *together = calloc((size_t)rounds, sizeof together[0]);
  double *ratios = calloc((size_t)rounds, sizeof ratios[0]);
  weak_pointer *weak = weak_table(2 * n);
  uint64_t alive = 0;
  warm_up();
  for (long round = 0; round < rounds; round++) {
    objects_make(n);
    void **big = object_new(n * sizeof big[0]);
    uint64_t start = now_ns();
    for (size_t i = 0; i < n; i++) {
      weak[i] = weak_of(table[i]);
    }
    uint64_t between = now_ns();
    for (size_t i = 0; i < n; i++) {
      weak[n + i] = weak_of(&big[i]);
    }
    uint64_t end = now_ns();
    apart[round] = (double)(between - start) / (double)n;
    together[round] = (double)(end - between) / (double)n;
    ratios[round] = together[round] / apart[round];
    alive += read_all(weak, 2 * n);
    bench_use(big);
  }
  report_number("apart_ns", median(apart, (size_t)rounds));
  report_number("together_ns", median(together, (size_t)rounds));
  report_number("ratio", median(ratios, (size_t)rounds));
  free(apart);
  free(together);
  free(ratios);
  weak_table_free(weak);
  return alive;
}

int main(int argc, char **argv) {
  const struct option options[] = {
      {.name = "what", .value = &what, .words = kinds},
      {.name = "count", .value = &count},
      {.name = "rounds", .value = &rounds},
      {0}};
  bench_init();
  read_options(argc, argv, options);
  if (count < 2 || rounds < 1) {
    options_fail(argv[0], options);
  }
  bench_cycles_off();
  report_start("lifetimes", options);
  size_t n = (size_t)count;
  uint64_t check = what == WEAK      ? weak_pointers(n)
                   : what == OFFSETS ? offsets(n)
                                     : callbacks(n);
  report_stop();
  report_count("check", check);
  report_end();
  return 0;
}
