/*
 * bench/caches.c: objects made on demand and held weakly, beside Go's
 * cache of weak pointers in a sync.Map (https://go.dev/blog/cleanups-and-weak).
 *
 *   caches [--count N] [--ops N] [--threads T] [--rounds N]
 *
 * Each round gets N new objects of 32 bytes, holds them, and then gets them
 * again in random order, ops times, with copies of the keys, strings of 8 to
 * 24 letters:
 *
 *   create_ns  the first get of an object, which makes it
 *   get_ns     a get of one that lives
 *   recent_ns  the same in a cache that itself holds the 100 used last; Go's
 *              has no such thing
 *
 * in ns per operation of one thread, medians of the rounds.
 */
/* peers: wane */
#include "shim.h"

#include "report.h"
#include "tables.h"

enum { OBJECT_BYTES = 32, KEEP_RECENT = 100 };

static long count = 1000;
static long ops = 1000000;
static long threads = 1;
static long rounds = 3;

/* All managed. */
static struct text *texts;
static void **held;
static struct wane_cache *cache;

static void *create(const void *key, size_t size, void *ctx) {
  size_t *object = bench_alloc(OBJECT_BYTES);
  (void)key;
  (void)ctx;
  *object = size;
  return object;
}

static void texts_make(void) {
  texts = texts_new((size_t)count, 1, TEXT_MAX, true);
}

__attribute__((noinline)) static void cache_make(size_t keep_recent) {
  const struct wane_cache_config config = {.create = create,
                                           .keep_recent = keep_recent};
  cache = wane_cache_new(&config);
  held = bench_alloc((size_t)count * sizeof held[0]);
  texts_make();
  bench_collect();
}

static uint64_t get_new(long thread) {
  size_t first = share_of(count, threads, thread);
  size_t end = share_of(count, threads, thread + 1);
  for (size_t i = first; i < end; i++) {
    held[i] = wane_cache_get(cache, texts[i].bytes, texts[i].size);
  }
  return end - first;
}

static uint64_t get_again(long thread) {
  size_t at = share_of(count, threads, thread);
  uint64_t done = 0;
  for (long i = 0; i < ops / threads; i++) {
    done += wane_cache_get(cache, texts[at].bytes, texts[at].size) == held[at];
    at = at + 1 < (size_t)count ? at + 1 : 0;
  }
  return done;
}

int main(int argc, char **argv) {
  const struct option options[] = {{.name = "count", .value = &count},
                                   {.name = "ops", .value = &ops},
                                   {.name = "threads", .value = &threads},
                                   {.name = "rounds", .value = &rounds},
                                   {0}};
  static struct series creates = {.name = "create_ns"};
  static struct series gets = {.name = "get_ns"};
  static struct series recent = {.name = "recent_ns"};
  uint64_t check = 0;
  bench_init();
  read_options(argc, argv, options);
  if (count < 1 || threads < 1 || threads > THREADS_MAX || ops < threads ||
      rounds < 1 || rounds > ROUNDS_MAX) {
    options_fail(argv[0], options);
  }
  report_start("caches", options);
  for (long round = 0; round < rounds; round++) {
    cache_make(0);
    check += series_run(&creates, threads, get_new);
    texts_make(); /* other copies */
    check += series_run(&gets, threads, get_again);
    cache_make(KEEP_RECENT);
    get_new(0);
    for (long thread = 1; thread < threads; thread++) {
      get_new(thread);
    }
    texts_make();
    series_run(&recent, threads, get_again);
  }
  report_stop();
  series_report(&creates);
  series_report(&gets);
  series_report(&recent);
  report_count("check", check);
  report_end();
  return 0;
}
