/*
 * bench/uniques.c: one object for all equal strings, beside Go's unique.Make.
 *
 *   uniques [--what hit|miss|drop] [--count N] [--ops N] [--threads T]
 *           [--rounds N]
 *
 * Strings have 8 to 16 letters. By --what:
 *
 *   hit   N values exist and are held, and are made again in random order, ops
 *         times, of copies of the bytes they were made of.
 *   miss  N new values are made and held. Each round has other ones; those of
 *         the last are dropped before and collected.
 *   drop  N new values are made, and none is held: what the table keeps shows
 *         in the peak RSS. Letters are written in batches, which is not timed.
 *
 * Printed is ns per operation of one thread, medians of the rounds (drop has
 * one): make_ns of wane_unique_make, and where all is held intern_ns of
 * wane_intern, which is told no size. Cycles are part of it.
 */
/* peers: wane */
#include "shim.h"

#include "report.h"
#include "tables.h"

enum { HIT, MISS, DROP, VALUE_TEXT_MAX = 16, BATCH = 1000 };

static const char *const kinds[] = {"hit", "miss", "drop", NULL};
static long what = HIT;
static long count = 1000;
static long ops = 2000000;
static long threads = 1;
static long rounds = 3;

/* All managed. */
static struct text *texts;
static const void **made;
static const void **interned;

static struct series make_series = {.name = "make_ns"};
static struct series intern_series = {.name = "intern_ns"};

static void texts_make(uint64_t first, bool shuffle) {
  texts = texts_new((size_t)count, first, VALUE_TEXT_MAX, shuffle);
}

static const void **held_new(void) {
  return bench_alloc((size_t)count * sizeof(void *));
}

/* Of values that exist. */

static uint64_t make_again(long thread) {
  size_t at = share_of(count, threads, thread);
  uint64_t done = 0;
  for (long i = 0; i < ops / threads; i++) {
    done += wane_unique_make(texts[at].bytes, texts[at].size).ptr == made[at];
    at = at + 1 < (size_t)count ? at + 1 : 0;
  }
  return done;
}

static uint64_t intern_again(long thread) {
  size_t at = share_of(count, threads, thread);
  uint64_t done = 0;
  for (long i = 0; i < ops / threads; i++) {
    done += wane_intern(texts[at].bytes) == interned[at];
    at = at + 1 < (size_t)count ? at + 1 : 0;
  }
  return done;
}

/* Of values that do not. */

static uint64_t make_new(long thread) {
  size_t first = share_of(count, threads, thread);
  size_t end = share_of(count, threads, thread + 1);
  for (size_t i = first; i < end; i++) {
    made[i] = wane_unique_make(texts[i].bytes, texts[i].size).ptr;
  }
  return end - first;
}

static uint64_t intern_new(long thread) {
  size_t first = share_of(count, threads, thread);
  size_t end = share_of(count, threads, thread + 1);
  for (size_t i = first; i < end; i++) {
    interned[i] = wane_intern(texts[i].bytes);
  }
  return end - first;
}

static uint64_t hits(long round) {
  if (round == 0) {
    made = held_new();
    interned = held_new();
    texts_make(1, true);
    for (long thread = 0; thread < threads; thread++) {
      make_new(thread);
      intern_new(thread);
    }
    texts_make(1, true); /* other copies */
  }
  /* Go has but one kind: the check is of that. */
  series_run(&intern_series, threads, intern_again);
  return series_run(&make_series, threads, make_again);
}

static uint64_t misses(long round) {
  made = interned = NULL;
  texts_make((uint64_t)round * (uint64_t)count + 1, false);
  bench_collect();
  interned = held_new();
  series_run(&intern_series, threads, intern_new);
  interned = NULL;
  bench_collect();
  made = held_new();
  return series_run(&make_series, threads, make_new);
}

/* Of values that nobody holds. */

static double spent_ns[THREADS_MAX];

__attribute__((noinline)) static uint64_t make_batch(const struct text *batch) {
  uint64_t done = 0;
  for (size_t i = 0; i < BATCH; i++) {
    done += wane_unique_make(batch[i].bytes, batch[i].size).ptr != made[0];
  }
  return done;
}

static uint64_t make_and_drop(long thread) {
  char(*letters)[TEXT_MAX + 1] = calloc(BATCH, sizeof letters[0]);
  struct text *batch = calloc(BATCH, sizeof batch[0]);
  uint64_t next = ((uint64_t)thread << 36) + 1, done = 0, ns = 0;
  for (long i = 0; i < count / threads; i += BATCH) {
    for (size_t j = 0; j < BATCH; j++) {
      batch[j].size = text_write(letters[j], next++, VALUE_TEXT_MAX);
      batch[j].bytes = letters[j];
    }
    uint64_t start = now_ns();
    done += make_batch(batch);
    ns += now_ns() - start;
  }
  spent_ns[thread] = (double)ns;
  free(letters);
  free(batch);
  return done;
}

static uint64_t drops(long round) {
  double all_ns = 0, ns = 0;
  (void)round;
  made = bench_alloc(sizeof made[0]);
  made[0] = wane_unique_make("", 0).ptr;
  uint64_t done = phase_run(threads, make_and_drop, &all_ns);
  for (long thread = 0; thread < threads; thread++) {
    ns += spent_ns[thread];
  }
  make_series.ns_each[make_series.rounds++] = ns / (double)done;
  return done;
}

int main(int argc, char **argv) {
  const struct option options[] = {
      {.name = "what", .value = &what, .words = kinds},
      {.name = "count", .value = &count},
      {.name = "ops", .value = &ops},
      {.name = "threads", .value = &threads},
      {.name = "rounds", .value = &rounds},
      {0}};
  uint64_t (*const run[])(long round) = {hits, misses, drops};
  uint64_t check = 0;
  bench_init();
  read_options(argc, argv, options);
  if (count < 1 || threads < 1 || threads > THREADS_MAX || ops < threads ||
      rounds < 1 || rounds > ROUNDS_MAX) {
    options_fail(argv[0], options);
  }
  rounds = what == DROP ? 1 : rounds;
  report_start("uniques", options);
  for (long round = 0; round < rounds; round++) {
    check += run[what](round);
  }
  report_stop();
  series_report(&make_series);
  series_report(&intern_series);
  report_count("check", check);
  report_end();
  return 0;
}
