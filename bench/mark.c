/*
 * bench/mark.c: how fast is marking? Builds a live heap of one shape, runs
 * full collections one after the other, and prints objects and MB per second.
 *
 *   mark [--shape tree|list|array|mixed] [--mib N] [--collections K] [--seed N]
 *
 *   tree   a balanced binary tree of 32-byte nodes: easy to share out
 *   list   64 lists of 32-byte nodes, neighbours 2 KiB apart: nothing to
 *          share out but the lists, every step waits for memory
 *   array  one array of pointers, in random order, to objects of 16 to 128
 *          bytes: every object is a cache miss, known long beforehand
 *   mixed  a third of each
 *
 * A collection is timed whole: stopping, marking, sweeping. Bytes are those
 * asked for. For Wane the CPU time of the collector gives the rates per thread.
 */
/* peers: wane bdwgc */
#include "shim.h"

#include "report.h"

enum { TREE, LIST, ARRAY, MIXED, LISTS = 64, GRANULE = 16 };

static const char *const shapes[] = {"tree", "list", "array", "mixed", NULL};
static long shape = MIXED;
static long mib = 256;
static long collections = 10;
static long seed = 1;

struct node {
  struct node *left;
  struct node *right;
  uint64_t data[2];
};

/* The live heap, and what it amounts to. */
static struct node *tree;
static struct node *lists[LISTS];
static void ***array;
static void *target; /* what every object of the array points to, outside */
static uint64_t objects, bytes;

static void *make(size_t size) {
  objects++;
  bytes += size;
  return bench_alloc(size);
}

/* Builds a balanced tree of n nodes. */
static struct node *tree_new(size_t n) {
  struct node *node;
  if (n == 0) {
    return NULL;
  }
  node = make(sizeof *node);
  node->left = tree_new((n - 1) / 2);
  node->right = tree_new(n - 1 - (n - 1) / 2);
  return node;
}

static void build_lists(size_t room) {
  for (size_t i = 0; i < room / sizeof(struct node); i++) {
    struct node *node = make(sizeof *node);
    node->left = lists[i % LISTS];
    lists[i % LISTS] = node;
  }
}

static void shuffle(void ***items, size_t n, uint64_t *random) {
  for (size_t i = n; i > 1; i--) {
    size_t other = random_below(random, (uint32_t)i);
    void **item = items[i - 1];
    items[i - 1] = items[other];
    items[other] = item;
  }
}

static void build_array(size_t room, uint64_t *random) {
  size_t n = room / (sizeof(void *) + GRANULE * 9 / 2); /* mean of 1..8 */
  array = make(n * sizeof(void *));
  for (size_t i = 0; i < n; i++) {
    array[i] = make((size_t)GRANULE * (1 + random_below(random, 8)));
    array[i][0] = &target;
  }
  shuffle(array, n, random);
}

static void build(void) {
  uint64_t random = (uint64_t)seed;
  size_t room = (size_t)mib << 20;
  if (shape == MIXED) {
    room /= 3;
  }
  if (shape == TREE || shape == MIXED) {
    tree = tree_new(room / sizeof(struct node));
  }
  if (shape == LIST || shape == MIXED) {
    build_lists(room);
  }
  if (shape == ARRAY || shape == MIXED) {
    build_array(room, &random);
  }
  bench_use(&tree); /* or the compiler sees that no one reads them */
  bench_use(&lists);
  bench_use(&array);
}

static uint64_t collector_cpu_ns(void) {
#if defined(BENCH_WANE)
  struct wane_stats stats = {.size = sizeof stats};
  wane_read_stats(&stats);
  return stats.gc_cpu_ns;
#else
  return 0;
#endif
}

static void report_rates(double *seconds, uint64_t cpu_ns) {
  double typical = median(seconds, (size_t)collections);
  double cpu = (double)cpu_ns / 1e9 / (double)collections;
  report_count("live_objects", objects);
  report_count("live_bytes", bytes);
  report_number("collect_s", typical);
  report_number("collect_min_s", seconds[0]);
  report_number("objects_per_s", (double)objects / typical);
  report_number("mb_per_s", (double)bytes / 1e6 / typical);
  if (cpu > 0) {
    report_number("objects_per_cpu_s", (double)objects / cpu);
    report_number("mb_per_cpu_s", (double)bytes / 1e6 / cpu);
  }
}

int main(int argc, char **argv) {
  const struct option options[] = {
      {.name = "shape", .value = &shape, .words = shapes},
      {.name = "mib", .value = &mib},
      {.name = "collections", .value = &collections},
      {.name = "seed", .value = &seed},
      {0}};
  double *seconds;
  uint64_t cpu_ns;
  bench_init();
  read_options(argc, argv, options);
  if (mib < 1 || mib > 65536 || collections < 1) {
    options_fail(argv[0], options);
  }
  seconds = calloc((size_t)collections, sizeof seconds[0]);
  report_start("mark", options);
  build();
  bench_collect();
  report_number("build_s", (double)(now_ns() - report.start_ns) / 1e9);
  cpu_ns = collector_cpu_ns();
  for (long i = 0; i < collections; i++) {
    uint64_t start = now_ns();
    bench_collect();
    seconds[i] = (double)(now_ns() - start) / 1e9;
  }
  report_stop();
  report_rates(seconds, collector_cpu_ns() - cpu_ns);
  report_end();
  free(seconds);
  return 0;
}
