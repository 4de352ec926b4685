/*
 * Pacing: how much may be allocated until the next cycle, as a pure function
 * of numbers, all in bytes.
 *
 *   growth = max(live, minimum) * percent / 100,
 *   minimum = 4 MiB for each thread that allocates, up to the number of CPUs:
 *   they reach it together, and each cycle stops them all
 *   as long as no percentage was set: growth += min(growth / 4, 64 MiB)
 *   with a memory limit: at most limit - live - overhead, but at least
 *   live / 16 or 1 MiB, so that a live heap near the limit does not make every
 *   allocation a collection. (The CPU share of limit-driven cycles is bounded
 *   in cycle.c besides.)
 *
 * The extra growth is for programs that do not care: a small heap is cheap in
 * bytes and dear in cycles, since what a cycle costs is in proportion to the
 * live heap and what it brings is the growth. Best is a growth that rises with
 * the square root of the live size (Kirisame, Shenoy, Panchekha: Optimal heap
 * limits for reducing browser memory use, 2022); a quarter more below 256 MiB
 * of live heap, and a fixed amount above, is near enough to it.
 *
 * The world is stopped while marking, so a cycle ends where it begins and the
 * growth needs no head start.
 */
#ifndef WANE_COLLECT_PACE_H
#define WANE_COLLECT_PACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wane__pace_input {
  uint64_t live_bytes;
  unsigned threads;        /* that can allocate at once */
  uint64_t overhead_bytes; /* of the limit, taken by other than live objects */
  bool is_percent_set;     /* by the program or an option */
  int percent;             /* negative: no cycles but limit-driven ones */
  uint64_t limit_bytes;    /* UINT64_MAX: none */
};

struct wane__pace_output {
  uint64_t growth_bytes; /* UINT64_MAX: never */
  bool by_limit;         /* the limit made it smaller */
  bool tight;            /* the limit would have made it smaller still */
};

struct wane__pace_output wane__pace(const struct wane__pace_input *in);

/* The settings. Reads relaxed; set by the public calls. */
int wane__pace_percent(void);
uint64_t wane__pace_limit(void);
/* Asks the cgroup for its limit, once, by reading files. Not in a stop. */
void wane__pace_prepare(void);
/* How many threads there are, for the minimum. lock: cycle. */
void wane__pace_set_threads(unsigned threads);
/* Sets the trigger from the last cycle's result and the settings. */
void wane__pace_set_trigger(void);
bool wane__pace_is_by_limit(void);
bool wane__pace_is_tight(void);
void wane__pace_init(void);

#endif
