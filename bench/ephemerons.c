/*
 * bench/ephemerons.c: what ephemerons add to a full collection. Wane alone:
 * neither bdwgc nor Go has any.
 *
 *   ephemerons [--shape map|array|chain|reverse|shuffled] [--count N]
 *              [--collections N] [--rounds N]
 *
 * Each round makes the same objects of 32 bytes three times, without
 * ephemerons, with N of them, and with N pairs that are held strongly instead;
 * and collects them by wane_collect, some times while they live and once when
 * all keys have died. Automatic cycles are off. Shapes:
 *
 *   map       keys held by an array, values by the entries of one map with
 *             weak keys, stored in random order; without: by a second array
 *   array     keys as above, values by an array of ephemerons in random order
 *             of keys; without: by a second array
 *   chain     the value of each ephemeron is the key of the next, and only the
 *             first key is held otherwise, so that one is found alive after the
 *             other; without: a linked list. Ephemerons are made, and lie in
 *             the array that holds them, in the order of the chain,
 *   reverse   against it,
 *   shuffled  or in random order.
 *
 * Strong pairs lie in memory as the ephemerons do: entries of a map without
 * flags, objects of two words. What holds ephemerons lives on when their keys
 * die. Printed are medians:
 *
 *   plain_ns, live_ns            a collection of the living, without and with
 *   added_ns                     the difference
 *   strong_ns                    a collection of them with strong pairs
 *   plain_stop_ns, live_stop_ns  the stop in it
 *   dead_plain_ns, dead_ns, dead_plain_stop_ns, dead_stop_ns
 *                                the same of the dead, the sweep included
 *   left                         most ephemerons that did not die; a stale word
 *                                may keep a key, and with it the chain after it
 */
/* peers: wane */
#include "shim.h"

#include "report.h"
#include "tables.h"

enum { MAP, ARRAY, CHAIN, REVERSE, SHUFFLED, OBJECT_BYTES = 32 };

static const char *const shapes[] = {"map",     "array",    "chain",
                                     "reverse", "shuffled", NULL};
static long shape = MAP;
static long count = 1000000;
static long collections = 3;
static long rounds = 3;

/* All managed. */
static void ***keys; /* in a chain only during the making, but for the first */
static void **values;
static struct wane_ephemeron **ephemerons;
static void ***pairs;
static struct wane_map *map;

enum variant { PLAIN, WITH, STRONG };

enum {
  LIVE_PLAIN,
  LIVE,
  LIVE_STRONG,
  ADDED,
  LIVE_PLAIN_STOP,
  LIVE_STOP,
  DEAD_PLAIN,
  DEAD,
  DEAD_PLAIN_STOP,
  DEAD_STOP,
  TIMES
};

static struct series times[TIMES] = {
    [LIVE_PLAIN] = {.name = "plain_ns"},
    [LIVE] = {.name = "live_ns"},
    [LIVE_STRONG] = {.name = "strong_ns"},
    [ADDED] = {.name = "added_ns"},
    [LIVE_PLAIN_STOP] = {.name = "plain_stop_ns"},
    [LIVE_STOP] = {.name = "live_stop_ns"},
    [DEAD_PLAIN] = {.name = "dead_plain_ns"},
    [DEAD] = {.name = "dead_ns"},
    [DEAD_PLAIN_STOP] = {.name = "dead_plain_stop_ns"},
    [DEAD_STOP] = {.name = "dead_stop_ns"}};

static void add_time(int which, double ns) {
  times[which].ns_each[times[which].rounds++] = ns;
}

static uint64_t stops_ns(void) {
  struct wane_stats stats = {.size = sizeof stats};
  wane_read_stats(&stats);
  return stats.pause_total_ns;
}

/* Medians of n collections: of the time and of the stop. */
static void collect(long n, double *ns, double *stop_ns) {
  double all[ROUNDS_MAX], stops[ROUNDS_MAX];
  for (long i = 0; i < n; i++) {
    uint64_t stop = stops_ns(), start = now_ns();
    wane_collect();
    all[i] = (double)(now_ns() - start);
    stops[i] = (double)(stops_ns() - stop);
  }
  *ns = median(all, (size_t)n);
  *stop_ns = median(stops, (size_t)n);
}

/* Of the i-th ephemeron the number of its key. */
static size_t key_of(const uint32_t *order, size_t i) {
  return shape == CHAIN     ? i
         : shape == REVERSE ? (size_t)count - 1 - i
                            : order[i];
}

static bool is_chain(void) { return shape != MAP && shape != ARRAY; }

/* A strong pair; in a chain the key leads to it. */
static void strong_make(size_t at, size_t key, void **value) {
  pairs[at] = bench_alloc(2 * sizeof(void *));
  pairs[at][0] = keys[key];
  pairs[at][1] = value;
  if (is_chain()) {
    keys[key][0] = pairs[at];
  }
}

static void pair_make(size_t at, size_t key, void **value,
                      enum variant variant) {
  if (shape == MAP && variant != PLAIN) {
    wane_map_store(map, keys[key], value);
  } else if (variant == WITH) {
    ephemerons[at] = wane_ephemeron_new(keys[key], value);
  } else if (variant == STRONG) {
    strong_make(at, key, value);
  } else if (is_chain()) {
    keys[key][0] = value;
  } else {
    values[at] = value;
  }
}

__attribute__((noinline)) static void make(enum variant variant) {
  size_t n = (size_t)count;
  uint32_t *order = order_new(n, 1);
  keys = bench_alloc((n + 1) * sizeof keys[0]);
  for (size_t i = 0; i <= n; i++) {
    keys[i] = bench_alloc(OBJECT_BYTES);
  }
  if (variant == PLAIN) {
    values = bench_alloc(n * sizeof values[0]);
  } else if (shape == MAP) {
    map = wane_map_new(NULL, variant == WITH ? WANE_WEAK_KEYS : 0);
  } else if (variant == WITH) {
    ephemerons = bench_alloc(n * sizeof ephemerons[0]);
  } else {
    pairs = bench_alloc(n * sizeof pairs[0]);
  }
  for (size_t i = 0; i < n; i++) {
    size_t key = key_of(order, i);
    void **value = is_chain() ? keys[key + 1] : bench_alloc(OBJECT_BYTES);
    pair_make(i, key, value, variant);
  }
  if (is_chain()) {
    memset(&keys[1], 0, n * sizeof keys[0]);
  }
  free(order);
}

__attribute__((noinline)) static void kill_keys(void) {
  memset(keys, 0, ((size_t)count + 1) * sizeof keys[0]);
  if (values != NULL) {
    memset(values, 0, (size_t)count * sizeof values[0]);
  }
}

/* Overwrites what the calls before have left on the stack. */
__attribute__((noinline)) static void clear_stack(void) {
  char bytes[16384];
  memset(bytes, 0, sizeof bytes);
  bench_use(bytes);
}

/* How many ephemerons have their value. */
__attribute__((noinline)) static size_t alive(void) {
  size_t n = 0;
  if (shape == MAP) {
    return wane_map_count(map);
  }
  for (size_t i = 0; i < (size_t)count; i++) {
    n += wane_ephemeron_value(ephemerons[i]) != NULL;
  }
  return n;
}

__attribute__((noinline)) static void drop_all(void) {
  keys = NULL;
  values = NULL;
  ephemerons = NULL;
  pairs = NULL;
  map = NULL;
}

/* Gives how many ephemerons have not died. */
static size_t variant_run(enum variant variant, uint64_t *check) {
  double ns, stop_ns;
  size_t left = 0;
  make(variant);
  clear_stack();
  collect(collections, &ns, &stop_ns);
  add_time(variant == PLAIN  ? LIVE_PLAIN
           : variant == WITH ? LIVE
                             : LIVE_STRONG,
           ns);
  if (variant != STRONG) {
    *check += variant == WITH ? alive() : 0;
    add_time(variant == WITH ? LIVE_STOP : LIVE_PLAIN_STOP, stop_ns);
    kill_keys();
    clear_stack();
    collect(1, &ns, &stop_ns);
    add_time(variant == WITH ? DEAD : DEAD_PLAIN, ns);
    add_time(variant == WITH ? DEAD_STOP : DEAD_PLAIN_STOP, stop_ns);
    left = variant == WITH ? alive() : 0;
  }
  drop_all();
  clear_stack();
  wane_collect();
  return left;
}

int main(int argc, char **argv) {
  const struct option options[] = {
      {.name = "shape", .value = &shape, .words = shapes},
      {.name = "count", .value = &count},
      {.name = "collections", .value = &collections},
      {.name = "rounds", .value = &rounds},
      {0}};
  uint64_t check = 0;
  size_t left = 0;
  bench_init();
  read_options(argc, argv, options);
  if (count < 1 || collections < 1 || collections > ROUNDS_MAX || rounds < 1 ||
      rounds > ROUNDS_MAX) {
    options_fail(argv[0], options);
  }
  bench_cycles_off();
  report_start("ephemerons", options);
  for (long round = 0; round < rounds; round++) {
    variant_run(PLAIN, &check);
    size_t now = variant_run(WITH, &check);
    variant_run(STRONG, &check);
    left = now > left ? now : left;
    size_t at = times[LIVE].rounds - 1;
    add_time(ADDED, times[LIVE].ns_each[at] - times[LIVE_PLAIN].ns_each[at]);
  }
  report_stop();
  for (int i = 0; i < TIMES; i++) {
    series_report(&times[i]);
  }
  report_count("left", left);
  report_count("check", check);
  report_end();
  return 0;
}
