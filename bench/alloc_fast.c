/*
 * bench/alloc_fast.c: nanoseconds per allocation of 16 bytes when nothing is
 * in the way: one thread, memory in cache, no cycle in the timed part.
 *
 *   alloc_fast [--batch N] [--batches N] [--size BYTES]
 *
 * A batch allocates N objects and links them through their first word, as any
 * use would at least write to them. Only this is timed. Between batches all
 * of them go: a full collection with its sweep, or free in a loop. So the next
 * batch gets the memory of the last one, which the cache still holds: a batch
 * (128 KiB by default) is larger than the first level of a cache and smaller
 * than the second. Automatic cycles are off, and a batch during which a cycle
 * ran all the same is left out (batches_used).
 *
 * What it takes to hand out recycled memory is included: zeroing where there
 * is a contract to zero, and refilling a thread's run or free list. To make
 * calloc of malloc would be to time something else, so malloc and mimalloc
 * need not zero here; the difference is in their favour.
 */
/* peers: wane bdwgc malloc mimalloc */
#include "shim.h"

#include "report.h"

struct link {
  struct link *next;
};

static long batch = 8192;
static long batches = 1000;
static long size = 16;

/* One batch; gives the ns per object, and the list of what it made. */
__attribute__((noinline)) static double allocate(struct link **list) {
  size_t bytes = (size_t)size;
  struct link *head = NULL;
  uint64_t start = now_ns();
  for (long i = 0; i < batch; i++) {
    struct link *link = bench_alloc_init(bytes);
    link->next = head;
    head = link;
  }
  *list = head;
  return (double)(now_ns() - start) / (double)batch;
}

/* Lets go of a list; gives the ns per object if that means freeing each. */
__attribute__((noinline)) static double release(struct link **list) {
  uint64_t start = now_ns();
#if BENCH_COLLECTED
  *list = NULL;
  bench_collect();
#else
  for (struct link *next, *link = *list; link != NULL; link = next) {
    next = link->next;
    bench_free(link);
  }
  *list = NULL;
#endif
  return (double)(now_ns() - start) / (double)batch;
}

static void run(double *made, double *released, size_t *used) {
  for (long i = -batches / 10; i < batches; i++) { /* the first warm up */
    static struct link *list;
    uint64_t before = bench_cycles();
    double ns = allocate(&list);
    bool kept = i >= 0 && bench_cycles() == before;
    double ns_released = release(&list);
    if (kept) {
      made[*used] = ns;
      released[*used] = ns_released;
      ++*used;
    }
  }
}

int main(int argc, char **argv) {
  const struct option options[] = {{.name = "batch", .value = &batch},
                                   {.name = "batches", .value = &batches},
                                   {.name = "size", .value = &size},
                                   {0}};
  double *made, *released;
  size_t used = 0;
  bench_init();
  read_options(argc, argv, options);
  if (batch < 1 || batches < 1 || size < (long)sizeof(struct link)) {
    options_fail(argv[0], options);
  }
  made = calloc((size_t)batches, sizeof made[0]);
  released = calloc((size_t)batches, sizeof released[0]);
  bench_cycles_off();
  report_start("alloc_fast", options);
  run(made, released, &used);
  report_stop();
  report_count("batches_used", used);
  if (used > 0) {
    report_number("alloc_ns", median(made, used));
    report_number("alloc_min_ns", made[0]);
    report_number(BENCH_COLLECTED ? "collect_ns" : "free_ns",
                  median(released, used));
  }
  report_end();
  free(made);
  free(released);
  return 0;
}
