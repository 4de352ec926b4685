/*
 * bench/tables.h: what maps.c, uniques.c and caches.c have in common: texts of
 * numbers, random orders, and phases that run in some threads at once and are
 * timed together. Include it after shim.h and report.h.
 *
 * What a phase prints is nanoseconds for one operation of one thread: wall time
 * by operations times threads, so that it stays the same if threads do not get
 * in each other's way.
 */
#ifndef BENCH_TABLES_H
#define BENCH_TABLES_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { TEXT_MAX = 24, THREADS_MAX = 64, ROUNDS_MAX = 100 };

/* Writes the text of a number, 8 to max letters and a zero byte, and gives its
   size. Texts of numbers below 2^40 differ in the first 8 letters. */
static inline size_t text_write(char *text, uint64_t number, unsigned max) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
  uint64_t random = number;
  size_t size = 8 + random_below(&random, max - 8 + 1);
  uint64_t first = number * 0x9e3779b97f4a7c15u & ((1ull << 40) - 1);
  uint64_t rest = random_next(&random);
  for (size_t i = 0; i < 8; i++) {
    text[i] = letters[first >> (5 * i) & 31];
  }
  for (size_t i = 8; i < size; i++) {
    text[i] = letters[rest >> (4 * (i - 8)) & 15];
  }
  text[size] = '\0';
  return size;
}

/* 0 to n - 1 in random order, to be freed. */
static inline uint32_t *order_new(size_t n, uint64_t seed) {
  uint32_t *order = calloc(n, sizeof order[0]);
  for (size_t i = 0; i < n; i++) {
    size_t at = random_below(&seed, (uint32_t)i + 1);
    order[i] = order[at];
    order[at] = (uint32_t)i;
  }
  return order;
}

struct text {
  const char *bytes;
  size_t size;
};

/* The texts of n numbers from first on, in that order or in a random one; each
   an object of its own, in the order of the array, which is one, too. */
static inline struct text *texts_new(size_t n, uint64_t first, unsigned max,
                                     bool shuffle) {
  char bytes[TEXT_MAX + 1];
  uint32_t *order = shuffle ? order_new(n, 1) : NULL;
  struct text *texts = bench_alloc(n * sizeof texts[0]);
  for (size_t i = 0; i < n; i++) {
    size_t at = shuffle ? order[i] : i;
    size_t size = text_write(bytes, first + at, max);
    char *copy = bench_alloc_leaf(size + 1);
    texts[i] = (struct text){memcpy(copy, bytes, size + 1), size};
  }
  free(order);
  return texts;
}

/* Where the part of one thread begins, of count things. */
static inline size_t share_of(long count, long threads, long thread) {
  return (size_t)(count * thread / threads);
}

/* One thread of a phase. work gives the number of operations that did what
   they should, of which the check is made. */
struct worker {
  uint64_t (*work)(long thread);
  atomic_long *arrived;
  long thread;
  long threads;
  uint64_t done;
  uint64_t start_ns;
  uint64_t end_ns;
};

static inline void *worker_run(void *arg) {
  struct worker *worker = arg;
  atomic_fetch_add(worker->arrived, 1);
  while (atomic_load(worker->arrived) < worker->threads) {
    sched_yield();
  }
  worker->start_ns = now_ns();
  worker->done = worker->work(worker->thread);
  worker->end_ns = now_ns();
  return NULL;
}

/* Runs work in so many threads, which begin at the same moment; gives the sum
   of what it returns, and adds to *ns the time from the first begin to the last
   end. */
static inline uint64_t phase_run(long threads, uint64_t (*work)(long thread),
                                 double *ns) {
  struct worker workers[THREADS_MAX];
  pthread_t ids[THREADS_MAX];
  atomic_long arrived = 0;
  uint64_t done = 0, start = UINT64_MAX, end = 0;
  for (long i = threads - 1; i >= 0; i--) {
    workers[i] = (struct worker){
        .work = work, .arrived = &arrived, .thread = i, .threads = threads};
    if (i == 0) {
      worker_run(&workers[0]);
    } else if (pthread_create(&ids[i], NULL, worker_run, &workers[i]) != 0) {
      abort();
    }
  }
  for (long i = 0; i < threads; i++) {
    if (i > 0) {
      pthread_join(ids[i], NULL);
    }
    done += workers[i].done;
    start = workers[i].start_ns < start ? workers[i].start_ns : start;
    end = workers[i].end_ns > end ? workers[i].end_ns : end;
  }
  *ns += (double)(end - start);
  return done;
}

/* What one phase took in each round. */
struct series {
  const char *name;
  double ns_each[ROUNDS_MAX];
  size_t rounds;
};

/* Runs one round of a phase; gives how many operations did what they should. */
static inline uint64_t series_run(struct series *series, long threads,
                                  uint64_t (*work)(long thread)) {
  double ns = 0;
  uint64_t done = phase_run(threads, work, &ns);
  series->ns_each[series->rounds++] = ns * (double)threads / (double)done;
  return done;
}

static inline void series_report(struct series *series) {
  if (series->rounds > 0) {
    report_number(series->name, median(series->ns_each, series->rounds));
  }
}

#endif
