/*
 * bench/special_pause.c: does a stop of the world grow with the number of
 * cleanups or of weak pointers?
 *
 *   special_pause [--count N] [--rounds N]
 *
 * Each round makes N objects of 32 bytes three times: as they are, with a
 * cleanup each (argument NULL), with a weak pointer each; and each time
 * collects them once while they live and once when they are dead. Stops of
 * these cycles are taken from the statistics; printed is the shortest of the
 * rounds, since what else the machine does only adds, and what grows with N
 * adds to all. Nothing else is in the heap, and automatic cycles are off.
 *
 *   live_plain_ns, live_cleanup_ns, live_weak_ns    the stop marks N objects
 *   dead_plain_ns, dead_cleanup_ns, dead_weak_ns    it marks nothing
 */
/* peers: wane */
#include "shim.h"

#include <stdatomic.h>

#include "report.h"

enum { PLAIN, CLEANUP, WEAK, KINDS, OBJECT_BYTES = 32 };

static long count = 1000000;
static long rounds = 7;

static const char *const live_names[] = {"live_plain_ns", "live_cleanup_ns",
                                         "live_weak_ns"};
static const char *const dead_names[] = {"dead_plain_ns", "dead_cleanup_ns",
                                         "dead_weak_ns"};

static atomic_ulong called;
static void ***table;

static void on_cleanup(void *arg) {
  (void)arg;
  atomic_fetch_add_explicit(&called, 1, memory_order_relaxed);
}

__attribute__((noinline)) static void objects_make(size_t n, int kind) {
  table = bench_alloc(n * sizeof table[0]);
  for (size_t i = 0; i < n; i++) {
    table[i] = bench_alloc(OBJECT_BYTES);
    table[i][0] = &called;
    if (kind == CLEANUP) {
      wane_add_cleanup(table[i], on_cleanup, NULL);
    } else if (kind == WEAK) {
      wane_weak_make(table[i]);
    }
  }
}

__attribute__((noinline)) static void objects_drop(size_t n) {
  memset(table, 0, n * sizeof table[0]);
  table = NULL;
}

/* One collection: how long its stops took, together. */
static double stop_ns(void) {
  struct wane_stats before = {.size = sizeof before};
  struct wane_stats after = {.size = sizeof after};
  wane_read_stats(&before);
  wane_collect();
  wane_read_stats(&after);
  return (double)(after.pause_total_ns - before.pause_total_ns);
}

int main(int argc, char **argv) {
  const struct option options[] = {{.name = "count", .value = &count},
                                   {.name = "rounds", .value = &rounds},
                                   {0}};
  double *live[KINDS], *dead[KINDS];
  bench_init();
  read_options(argc, argv, options);
  if (count < 1 || rounds < 1) {
    options_fail(argv[0], options);
  }
  bench_cycles_off();
  for (int kind = 0; kind < KINDS; kind++) {
    live[kind] = calloc((size_t)rounds, sizeof live[kind][0]);
    dead[kind] = calloc((size_t)rounds, sizeof dead[kind][0]);
  }
  report_start("special_pause", options);
  for (long round = -1; round < rounds; round++) { /* the first warms up */
    for (int kind = 0; kind < KINDS; kind++) {
      long at = round < 0 ? 0 : round;
      objects_make((size_t)count, kind);
      live[kind][at] = stop_ns();
      objects_drop((size_t)count);
      dead[kind][at] = stop_ns();
      wane_drain(-1);
    }
  }
  report_stop();
  for (int kind = 0; kind < KINDS; kind++) {
    median(live[kind], (size_t)rounds); /* sorts them */
    median(dead[kind], (size_t)rounds);
    report_number(live_names[kind], live[kind][0]);
    report_number(dead_names[kind], dead[kind][0]);
    free(live[kind]);
    free(dead[kind]);
  }
  report_count("called", atomic_load(&called));
  report_end();
  return 0;
}
