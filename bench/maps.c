/*
 * bench/maps.c: the map for many threads, beside Go's sync.Map.
 *
 *   maps [--keys word|string] [--count N] [--maps M] [--ops N] [--threads T]
 *        [--rounds N]
 *
 * Each round makes M empty maps and collects. Then are timed
 *
 *   new_ns       load-or-store of N new keys in each of the maps, with the
 *                cycles that it takes
 *   existing_ns  load-or-store of keys that are there, in the first map
 *   load_ns      load of keys that are there, in the first map
 *   delete_ns    compare-and-delete of all keys of all maps, hits
 *
 * in ns per operation of one thread, medians of the rounds. Threads share the
 * maps; when storing and deleting each has its part of the keys, when reading
 * each begins at another one. Keys are stored in one random order and asked for
 * in another.
 *
 * Keys are the numbers 1 to N, or strings of 8 to 16 letters. Strings are asked
 * for with copies of those that were stored. Copies lie in memory in the order
 * in which they are used, as if they had just been read from somewhere. Values
 * are objects of 16 bytes.
 */
/* peers: wane */
#include "shim.h"

#include "report.h"
#include "tables.h"

enum { WORD, STRING, KEY_TEXT_MAX = 16, VALUE_BYTES = 16 };
enum { NEW, EXISTING, LOAD, DELETE, PHASES };

struct pair {
  const void *key;
  uint64_t *value;
};

static const char *const kinds[] = {"word", "string", NULL};
static long kind = WORD;
static long count = 1000000;
static long number = 1;
static long ops = 1000000;
static long threads = 1;
static long rounds = 3;

/* All managed. */
static struct pair *stored;
static struct pair *asked;
static struct wane_map **maps;

static const void *key_new(uint64_t n) {
  char text[TEXT_MAX + 1];
  if (kind == WORD) {
    return (const void *)(uintptr_t)n;
  }
  text_write(text, n, KEY_TEXT_MAX);
  return wane_strdup(text);
}

__attribute__((noinline)) static struct pair *pairs_make(uint64_t **values,
                                                         uint64_t seed) {
  struct pair *pairs = bench_alloc((size_t)count * sizeof pairs[0]);
  uint32_t *order = order_new((size_t)count, seed);
  for (size_t i = 0; i < (size_t)count; i++) {
    pairs[i].key = key_new((uint64_t)order[i] + 1);
    pairs[i].value = values[order[i]];
  }
  free(order);
  return pairs;
}

__attribute__((noinline)) static void all_pairs_make(void) {
  uint64_t **values = bench_alloc((size_t)count * sizeof values[0]);
  for (size_t i = 0; i < (size_t)count; i++) {
    values[i] = bench_alloc(VALUE_BYTES);
    *values[i] = i;
  }
  stored = pairs_make(values, 1);
  asked = pairs_make(values, 2);
}

__attribute__((noinline)) static void maps_make(void) {
  maps = bench_alloc((size_t)number * sizeof maps[0]);
  for (long i = 0; i < number; i++) {
    maps[i] = wane_map_new(kind == STRING ? &wane_string_keys : NULL, 0);
  }
}

static uint64_t store_new(long thread) {
  size_t first = share_of(count, threads, thread);
  size_t end = share_of(count, threads, thread + 1);
  uint64_t done = 0;
  for (long m = 0; m < number; m++) {
    for (size_t i = first; i < end; i++) {
      bool loaded;
      wane_map_load_or_store(maps[m], stored[i].key, stored[i].value, &loaded);
      done += !loaded;
    }
  }
  return done;
}

static uint64_t load_or_store(long thread) {
  struct wane_map *m = maps[0];
  size_t at = share_of(count, threads, thread);
  uint64_t done = 0;
  for (long i = 0; i < ops / threads; i++) {
    bool loaded;
    wane_map_load_or_store(m, asked[at].key, asked[at].value, &loaded);
    done += loaded;
    at = at + 1 < (size_t)count ? at + 1 : 0;
  }
  return done;
}

static uint64_t load(long thread) {
  struct wane_map *m = maps[0];
  size_t at = share_of(count, threads, thread);
  uint64_t done = 0;
  for (long i = 0; i < ops / threads; i++) {
    void *value;
    done += wane_map_load(m, asked[at].key, &value);
    at = at + 1 < (size_t)count ? at + 1 : 0;
  }
  return done;
}

static uint64_t compare_and_delete(long thread) {
  size_t first = share_of(count, threads, thread);
  size_t end = share_of(count, threads, thread + 1);
  uint64_t done = 0;
  for (long m = 0; m < number; m++) {
    for (size_t i = first; i < end; i++) {
      done +=
          wane_map_compare_and_delete(maps[m], asked[i].key, asked[i].value);
    }
  }
  return done;
}

int main(int argc, char **argv) {
  const struct option options[] = {
      {.name = "keys", .value = &kind, .words = kinds},
      {.name = "count", .value = &count},
      {.name = "maps", .value = &number},
      {.name = "ops", .value = &ops},
      {.name = "threads", .value = &threads},
      {.name = "rounds", .value = &rounds},
      {0}};
  static struct series series[PHASES] = {[NEW] = {.name = "new_ns"},
                                         [EXISTING] = {.name = "existing_ns"},
                                         [LOAD] = {.name = "load_ns"},
                                         [DELETE] = {.name = "delete_ns"}};
  uint64_t check = 0;
  bench_init();
  read_options(argc, argv, options);
  if (count < 1 || number < 1 || threads < 1 || threads > THREADS_MAX ||
      ops < threads || rounds < 1 || rounds > ROUNDS_MAX) {
    options_fail(argv[0], options);
  }
  report_start("maps", options);
  all_pairs_make();
  for (long round = 0; round < rounds; round++) {
    maps_make();
    bench_collect();
    check += series_run(&series[NEW], threads, store_new);
    check += series_run(&series[EXISTING], threads, load_or_store);
    check += series_run(&series[LOAD], threads, load);
    check += series_run(&series[DELETE], threads, compare_and_delete);
  }
  report_stop();
  for (int phase = 0; phase < PHASES; phase++) {
    series_report(&series[phase]);
  }
  report_count("check", check);
  report_end();
  return 0;
}
