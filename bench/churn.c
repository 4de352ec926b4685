/*
 * bench/churn.c: objects of 16 to 2048 bytes in a table of a million entries,
 * of which random ones are replaced again and again: a large live heap of
 * mixed sizes with random deaths, as a cache or an in-memory index has.
 *
 *   churn [--entries N] [--replace N] [--leaf] [--seed N]
 *
 * Sizes are uniform from a seeded generator, the same in every language. Of
 * each object the first and the last word are written and, when it goes, read
 * again. They are pointers to one of 256 small heap objects; the rest of the
 * object stays zero, but may hold pointers, so collectors scan it. With
 * --leaf they are numbers and objects are not scanned. The check (sum of what
 * was read) must be the same for every peer.
 */
/* peers: wane bdwgc malloc mimalloc */
#include "shim.h"

#include "report.h"

enum { MIN_WORDS = 2, MAX_WORDS = 256, CELLS = 256 };

union word {
  union word *cell;
  uint64_t number;
};

static long entries = 1000000;
static long replace = 10000000;
static long leaf;
static long seed = 1;

static union word *cells[CELLS];
static union word **table;
static uint16_t *words; /* of each entry; beside the heap, as sizes would be */

/* Takes the old object of a slot out of the table; gives what it held. */
static uint64_t entry_drop(size_t index) {
  union word *object = table[index];
  const union word *last = &object[words[index] - 1];
  uint64_t held = leaf ? object->number + last->number
                       : object->cell->number + last->cell->number;
  bench_free(object);
  return held;
}

static void entry_make(size_t index, uint64_t *random) {
  uint64_t bits = random_next(random);
  size_t n =
      MIN_WORDS + (size_t)(((bits >> 32) * (MAX_WORDS - MIN_WORDS + 1)) >> 32);
  size_t size = n * sizeof(union word);
  union word *object = leaf ? bench_alloc_leaf(size) : bench_alloc(size);
  union word *last = &object[n - 1];
  if (leaf) {
    object->number = bits % CELLS;
    last->number = bits / CELLS % CELLS;
  } else {
    object->cell = cells[bits % CELLS];
    last->cell = cells[bits / CELLS % CELLS];
  }
  table[index] = object;
  words[index] = (uint16_t)n;
}

static void build(uint64_t *random) {
  for (uint64_t i = 0; i < CELLS; i++) {
    cells[i] = bench_alloc(16);
    cells[i]->number = i;
  }
  table = bench_alloc((size_t)entries * sizeof table[0]);
  words = calloc((size_t)entries, sizeof words[0]);
  for (size_t i = 0; i < (size_t)entries; i++) {
    entry_make(i, random);
  }
}

static uint64_t churn(uint64_t *random) {
  uint64_t check = 0;
  for (long i = 0; i < replace; i++) {
    size_t index = random_below(random, (uint32_t)entries);
    check += entry_drop(index);
    entry_make(index, random);
  }
  for (size_t i = 0; i < (size_t)entries; i++) {
    check += entry_drop(i);
  }
  return check;
}

int main(int argc, char **argv) {
  const struct option options[] = {
      {.name = "entries", .value = &entries},
      {.name = "replace", .value = &replace},
      {.name = "leaf", .value = &leaf, .flag = true},
      {.name = "seed", .value = &seed},
      {0}};
  uint64_t random, check;
  bench_init();
  read_options(argc, argv, options);
  if (entries < 1 || entries > UINT32_MAX) {
    options_fail(argv[0], options);
  }
  random = (uint64_t)seed;
  report_start("churn", options);
  build(&random);
  report_number("build_s", (double)(now_ns() - report.start_ns) / 1e9);
  check = churn(&random);
  report_stop();
  report_count("check", check);
  report_end();
  return 0;
}
