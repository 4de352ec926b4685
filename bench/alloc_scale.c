/*
 * bench/alloc_scale.c: does allocation scale with threads? T threads each
 * allocate M small objects (16 to 128 bytes, mixed) that soon die: only the
 * last thousand of a thread are alive, in a ring on its stack.
 *
 *   alloc_scale [--threads T] [--count M] [--seed N]
 *
 * Prints allocations per second of all threads together; that with 2 threads
 * over that with 1 is the scaling. Collection is part of it.
 */
/* peers: wane bdwgc malloc mimalloc */
#include "shim.h"

#include <pthread.h>

#include "report.h"

enum { RING = 1024, MAX_THREADS = 256, GRANULE = 16 };

static long threads = 1;
static long count = 20000000;
static long seed = 1;
static pthread_barrier_t barrier;
static uint64_t begin_ns; /* written by the main thread, number 0 */

/* Each object's first word is its number; the check sums those that die. */
static uint64_t allocate(uint64_t random) {
  uint64_t *ring[RING] = {NULL};
  uint64_t check = 0;
  for (uint64_t i = 0; i < (uint64_t)count; i++) {
    uint64_t **slot = &ring[i % RING];
    size_t size = GRANULE * (1 + random_next(&random) % 8);
    if (*slot != NULL) {
      check += **slot;
      bench_free(*slot);
    }
    *slot = bench_alloc(size);
    **slot = i;
  }
  for (size_t i = 0; i < RING; i++) {
    bench_free(ring[i]);
  }
  return check;
}

static void *run(void *result) {
  uint64_t number = *(uint64_t *)result;
  pthread_barrier_wait(&barrier);
  if (number == 0) {
    begin_ns = now_ns();
  }
  *(uint64_t *)result = allocate((uint64_t)seed + number);
  return NULL;
}

static uint64_t run_threads(void) {
  static uint64_t results[MAX_THREADS]; /* each starts as the thread's number */
  pthread_t ids[MAX_THREADS];
  uint64_t check = 0;
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (long i = 1; i < threads; i++) {
    results[i] = (uint64_t)i;
    if (pthread_create(&ids[i], NULL, run, &results[i]) != 0) {
      abort();
    }
  }
  run(&results[0]);
  for (long i = 1; i < threads; i++) {
    pthread_join(ids[i], NULL);
  }
  for (long i = 0; i < threads; i++) {
    check += results[i];
  }
  return check;
}

int main(int argc, char **argv) {
  const struct option options[] = {{.name = "threads", .value = &threads},
                                   {.name = "count", .value = &count},
                                   {.name = "seed", .value = &seed},
                                   {0}};
  uint64_t check;
  double seconds;
  bench_init();
  read_options(argc, argv, options);
  if (threads < 1 || threads > MAX_THREADS) {
    options_fail(argv[0], options);
  }
  report_start("alloc_scale", options);
  check = run_threads();
  seconds = (double)(now_ns() - begin_ns) / 1e9;
  report_stop();
  report_number("allocations_per_s", (double)(threads * count) / seconds);
  report_count("check", check);
  report_end();
  return 0;
}
