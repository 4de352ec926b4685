/*
 * The distribution of pauses: a histogram of powers of two cut in 16 steps,
 * so that a percentile is at most 1/16 above the true value. Written with the
 * cycle lock held, read at any time.
 */
#ifndef WANE_COLLECT_PAUSES_H
#define WANE_COLLECT_PAUSES_H

#include <stdint.h>

struct wane__pauses {
  uint64_t count;
  uint64_t total_ns;
  uint64_t max_ns;
  uint64_t p50_ns;
  uint64_t p99_ns;
};

void wane__pauses_add(uint64_t ns);
void wane__pauses_read(struct wane__pauses *out);

#endif
