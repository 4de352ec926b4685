/* A log-linear histogram, as in HdrHistogram; see pauses.h. */
#include "pauses.h"

#include "../base/atomic.h"

#define STEPS_LOG2 4
#define STEPS (1u << STEPS_LOG2)
#define BUCKETS ((64 - STEPS_LOG2 + 1) * STEPS)

static uint64_t pause_buckets[BUCKETS]; /* relaxed */
static uint64_t pause_count;            /* relaxed */
static uint64_t pause_total_ns;         /* relaxed */
static uint64_t pause_max_ns;           /* relaxed */

static unsigned pause_bucket_of(uint64_t ns) {
  if (ns < STEPS) {
    return (unsigned)ns;
  }
  unsigned log2 = 63 - (unsigned)__builtin_clzll(ns);
  unsigned step = (unsigned)(ns >> (log2 - STEPS_LOG2)) & (STEPS - 1);
  return (log2 - STEPS_LOG2 + 1) * STEPS + step;
}

/* The highest value that falls in a bucket. */
static uint64_t pause_bucket_top(unsigned bucket) {
  if (bucket < STEPS) {
    return bucket;
  }
  unsigned shift = bucket / STEPS - 1;
  uint64_t low = (uint64_t)(STEPS + bucket % STEPS) << shift;
  return low + (((uint64_t)1 << shift) - 1);
}

void wane__pauses_add(uint64_t ns) {
  uint64_t *bucket = &pause_buckets[pause_bucket_of(ns)];
  wane__store_relaxed(bucket, *bucket + 1);
  wane__store_relaxed(&pause_count, pause_count + 1);
  wane__store_relaxed(&pause_total_ns, pause_total_ns + ns);
  if (ns > pause_max_ns) {
    wane__store_relaxed(&pause_max_ns, ns);
  }
}

static uint64_t pause_percentile(uint64_t count, unsigned per_thousand,
                                 uint64_t max) {
  uint64_t rank = (count * per_thousand + 999) / 1000;
  uint64_t seen = 0;
  for (unsigned b = 0; b < BUCKETS && rank != 0; b++) {
    seen += wane__load_relaxed(&pause_buckets[b]);
    if (seen >= rank) {
      uint64_t top = pause_bucket_top(b);
      return top < max ? top : max;
    }
  }
  return max;
}

void wane__pauses_read(struct wane__pauses *out) {
  out->count = wane__load_relaxed(&pause_count);
  out->total_ns = wane__load_relaxed(&pause_total_ns);
  out->max_ns = wane__load_relaxed(&pause_max_ns);
  out->p50_ns = pause_percentile(out->count, 500, out->max_ns);
  out->p99_ns = pause_percentile(out->count, 990, out->max_ns);
}
