/*
 * bench/latency.c: latency as a program sees it. Not how long the collector
 * says that it stopped the world, but how long threads that do nothing but
 * allocate and store get nowhere, whatever holds them up: stops, waiting for
 * memory, helping to mark or to sweep, page faults, the other threads that
 * want the same CPUs.
 *
 *   latency [--objects N] [--threads T] [--seconds S] [--warm-up-ms M]
 *           [--gc-percent P] [--incremental] [--seed N]
 *
 * N objects of 32 bytes, all of whose words may be pointers, are held by one
 * array. Each thread, the main thread one of them, picks a random index,
 * allocates an object, writes two words into it and stores it in the array.
 * Every 16 of these replacements it reads the clock: what passed since the
 * last reading is one gap, and goes into a histogram of the thread's own.
 * After M milliseconds of that, S seconds are measured. In the end every
 * object must still hold what was written to it, or the program fails.
 *
 *   gap_p50_ns ... gap_max_ns, gaps   over all threads' gaps
 *   stops, stop_p99_ns, stop_max_ns   of the collector, in the same time
 *
 * The longest gap is exact, the others are at most 3 % too high. The
 * collector's stops are bdwgc's own events of stopping and starting the world,
 * and what Wane's statistics grew by since the main thread read them last,
 * every 2 ms. Stops between the same two readings, as when it is this thread
 * that runs the whole cycle, cannot be told apart: each counts as if it had
 * been as long as all of them together, or as the longest so far. stops_merged
 * is how many such there were.
 *
 * --gc-percent is wane_set_gc_percent's, set once the array is full (until
 * then 100, so that filling a large heap takes few cycles). --incremental:
 * GC_enable_incremental, for bdwgc alone.
 */
/* peers: wane bdwgc */
#include "shim.h"

#include <pthread.h>

#include "histogram.h"
#include "report.h"

enum { BATCH = 16, MAX_THREADS = 256, POLL_NS = 2000000 };

static long objects = 8000000;
static long threads = 1;
static long seconds = 12;
static long warm_up_ms = 3000;
static long gc_percent = 100;
static long incremental;
static long seed = 1;

struct object {
  uint64_t index;
  uint64_t check; /* of the index */
  void *unused[2];
};

struct mutator {
  uint64_t random;
  uint64_t gaps_end_ns;
  struct histogram *gaps;
  bool is_main;
};

static struct object **array;
static pthread_barrier_t barrier;
static struct histogram *stops;
static uint64_t stops_merged;
static uint64_t begin_ns, cycles; /* when the measured time began */

/* The collector's stops. */

#if defined(BENCH_WANE)

static struct wane_stats seen;

static void stops_forget(void) {
  seen.size = sizeof seen;
  wane_read_stats(&seen);
  histogram_clear(stops);
}

/* Total and count are not written at once: where only one of them has grown,
   the next reading will know. */
static void stops_poll(void) {
  struct wane_stats now = {.size = sizeof now};
  uint64_t count, total;
  wane_read_stats(&now);
  count = now.pause_count - seen.pause_count;
  total = now.pause_total_ns - seen.pause_total_ns;
  if (count == 0 || total == 0) {
    return;
  }
  if (total > now.pause_max_ns) {
    total = now.pause_max_ns;
  }
  for (uint64_t i = 0; i < count; i++) {
    histogram_add(stops, total);
  }
  stops_merged += count - 1;
  seen = now;
}

static void collector_start(void) { wane_set_gc_percent(100); }
static void collector_filled(void) { wane_set_gc_percent((int)gc_percent); }

#elif defined(BENCH_BDWGC)

/* Called with the allocation lock held. */
static void stops_event(GC_EventType event) {
  static uint64_t stop_ns;
  if (event == GC_EVENT_PRE_STOP_WORLD) {
    stop_ns = now_ns();
  } else if (event == GC_EVENT_POST_START_WORLD) {
    histogram_add(stops, now_ns() - stop_ns);
  }
}

static void stops_forget(void) { histogram_clear(stops); }
static void stops_poll(void) {}

static void collector_start(void) {
  if (incremental) {
    GC_enable_incremental();
  }
  GC_set_on_collection_event(stops_event);
}
static void collector_filled(void) {}

#endif

/* The program. */

static uint64_t check_of(uint64_t index) {
  return (index + 1) * 0x9e3779b97f4a7c15u;
}

static void replace(uint64_t index) {
  struct object *made = bench_alloc(sizeof *made);
  made->index = index;
  made->check = check_of(index);
  /* another thread may store there at the same time */
  __atomic_store_n(&array[index], made, __ATOMIC_RELAXED);
}

static void mutate(struct mutator *self, uint64_t end_ns) {
  uint64_t random = self->random;
  uint64_t before = now_ns();
  uint64_t poll_ns = self->is_main ? before + POLL_NS : UINT64_MAX;
  while (before < end_ns) {
    uint64_t now;
    for (int i = 0; i < BATCH; i++) {
      replace(random_below(&random, (uint32_t)objects));
    }
    now = now_ns();
    histogram_add(self->gaps, now - before);
    before = now;
    if (now >= poll_ns) { /* it counts as part of the next gap */
      stops_poll();
      poll_ns = now + POLL_NS;
    }
  }
  self->random = random;
  self->gaps_end_ns = before;
}

static const struct option options[] = {
    {.name = "objects", .value = &objects},
    {.name = "threads", .value = &threads},
    {.name = "seconds", .value = &seconds},
    {.name = "warm-up-ms", .value = &warm_up_ms},
    {.name = "gc-percent", .value = &gc_percent},
    {.name = "incremental", .value = &incremental, .flag = true},
    {.name = "seed", .value = &seed},
    {0}};

static void *run(void *mutator) {
  struct mutator *self = mutator;
  pthread_barrier_wait(&barrier);
  mutate(self, now_ns() + (uint64_t)warm_up_ms * 1000000u);
  pthread_barrier_wait(&barrier);
  histogram_clear(self->gaps);
  if (self->is_main) { /* while the others wait */
    stops_forget();
    stops_merged = 0;
    cycles = bench_cycles();
    report_start("latency", options);
    begin_ns = report.start_ns;
  }
  pthread_barrier_wait(&barrier);
  mutate(self, begin_ns + (uint64_t)seconds * 1000000000u);
  return NULL;
}

static void run_threads(struct mutator *mutators) {
  static pthread_t ids[MAX_THREADS];
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (long i = 0; i < threads; i++) {
    mutators[i].random = (uint64_t)(seed + i);
    mutators[i].gaps = histogram_new();
    mutators[i].is_main = i == 0;
  }
  for (long i = 1; i < threads; i++) {
    if (pthread_create(&ids[i], NULL, run, &mutators[i]) != 0) {
      abort();
    }
  }
  run(&mutators[0]);
  for (long i = 1; i < threads; i++) {
    pthread_join(ids[i], NULL);
  }
  stops_poll();
}

static void report_gaps(const struct mutator *mutators) {
  struct histogram *gaps = histogram_new();
  uint64_t end_ns = begin_ns;
  for (long i = 0; i < threads; i++) {
    histogram_merge(gaps, mutators[i].gaps);
    if (mutators[i].gaps_end_ns > end_ns) {
      end_ns = mutators[i].gaps_end_ns;
    }
  }
  report_count("measured_from_ns", begin_ns);
  report_count("measured_to_ns", end_ns);
  report_number("replacements_per_s", (double)(gaps->count * BATCH) * 1e9 /
                                          (double)(end_ns - begin_ns));
  report_count("gap_p50_ns", histogram_beyond(gaps, 0.5));
  report_count("gap_p99_ns", histogram_beyond(gaps, 0.01));
  report_count("gap_p999_ns", histogram_beyond(gaps, 0.001));
  report_count("gap_p9999_ns", histogram_beyond(gaps, 0.0001));
  report_count("gap_max_ns", gaps->max);
  printf(", \"gaps\": ");
  histogram_print(gaps);
  free(gaps);
}

/* The sum of all checks, the same for all peers; fails if an object does not
   hold what was written to it. */
static uint64_t verify(void) {
  uint64_t sum = 0, wrong = 0;
  for (uint64_t i = 0; i < (uint64_t)objects; i++) {
    const struct object *object = array[i];
    if (object->index != i || object->check != check_of(i)) {
      wrong++;
    }
    sum += object->check;
  }
  if (wrong != 0) {
    fprintf(stderr,
            "latency: %" PRIu64 " of %ld objects were LOST: they do not hold "
            "what was written to them\n",
            wrong, objects);
    exit(1);
  }
  return sum;
}

int main(int argc, char **argv) {
  static struct mutator mutators[MAX_THREADS];
  uint64_t check;
  bench_init();
  read_options(argc, argv, options);
  if (objects < 1 || objects > UINT32_MAX || threads < 1 ||
      threads > MAX_THREADS || seconds < 1 || gc_percent > 1000000 ||
      (incremental && strcmp(BENCH_PEER, "bdwgc") != 0)) {
    options_fail(argv[0], options);
  }
  stops = histogram_new();
  collector_start();
  array = bench_alloc((size_t)objects * sizeof array[0]);
  for (uint64_t i = 0; i < (uint64_t)objects; i++) {
    replace(i);
  }
  collector_filled();
  run_threads(mutators);
  cycles = bench_cycles() - cycles;
  report_stop();
  check = verify();
  report_gaps(mutators);
  report_count("collections", cycles);
  report_count("stops", stops->count);
  report_count("stops_merged", stops_merged);
  if (stops->count != 0) {
    report_count("stop_p99_ns", histogram_beyond(stops, 0.01));
    report_count("stop_max_ns", stops->max);
  }
  report_count("check", check);
  report_end();
  return 0;
}
