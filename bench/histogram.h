/*
 * bench/histogram.h: how often which length of time was seen, in one array of
 * counts: each power of two cut in 32 steps, so that a value is known to 3 %.
 *
 * One thread adds. A histogram lies in memory of its own from the C library,
 * all of it written before use: adding neither allocates nor faults, and no
 * collector takes the counts for pointers.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  HISTOGRAM_STEPS_LOG2 = 5,
  HISTOGRAM_STEPS = 1 << HISTOGRAM_STEPS_LOG2,
  HISTOGRAM_BUCKETS = (64 - HISTOGRAM_STEPS_LOG2 + 1) * HISTOGRAM_STEPS
};

struct histogram {
  uint64_t count;
  uint64_t max; /* exact */
  uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_clear(struct histogram *h) {
  memset(h, 0, sizeof *h);
}

static inline struct histogram *histogram_new(void) {
  struct histogram *h = malloc(sizeof *h);
  if (h == NULL) {
    abort();
  }
  histogram_clear(h);
  return h;
}

static inline unsigned histogram_bucket_of(uint64_t value) {
  unsigned shift;
  if (value < HISTOGRAM_STEPS) {
    return (unsigned)value;
  }
  shift = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_STEPS_LOG2;
  return shift * HISTOGRAM_STEPS + (unsigned)(value >> shift);
}

/* The highest value that falls in a bucket. */
static inline uint64_t histogram_top(unsigned bucket) {
  unsigned shift;
  if (bucket < 2 * HISTOGRAM_STEPS) {
    return bucket;
  }
  shift = bucket / HISTOGRAM_STEPS - 1;
  return (((uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) + 1)
          << shift) -
         1;
}

static inline void histogram_add(struct histogram *h, uint64_t value) {
  h->count++;
  h->buckets[histogram_bucket_of(value)]++;
  if (value > h->max) {
    h->max = value;
  }
}

static inline void histogram_merge(struct histogram *h,
                                   const struct histogram *other) {
  h->count += other->count;
  h->max = other->max > h->max ? other->max : h->max;
  for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
    h->buckets[i] += other->buckets[i];
  }
}

/* What all but this share of the values do not exceed, at most 3 % more. */
static inline uint64_t histogram_beyond(const struct histogram *h,
                                        double share) {
  double allowed = (double)h->count * share;
  uint64_t beyond = h->count;
  for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
    beyond -= h->buckets[i];
    if ((double)beyond <= allowed) {
      return histogram_top(i) < h->max ? histogram_top(i) : h->max;
    }
  }
  return h->max;
}

/* Prints [[value, count], ...]: each bucket that has any, by its top. */
static inline void histogram_print(const struct histogram *h) {
  const char *between = "";
  printf("[");
  for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
    if (h->buckets[i] != 0) {
      printf("%s[%" PRIu64 ", %" PRIu64 "]", between, histogram_top(i),
             h->buckets[i]);
      between = ", ";
    }
  }
  printf("]");
}

#endif
