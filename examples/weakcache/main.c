/*
 * weakcache: several threads ask a cache for the files under a directory, at
 * random, each holding on to the last few documents it used.
 * What no thread holds any more the collector takes from the cache, and the
 * next request reads the file again.
 *
 * The program checks the cache as it goes: while a thread holds a document,
 * requests for the same path must give that very object.
 */
#define _GNU_SOURCE
#include "cache.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 64, HELD = 8, WALK_DESCRIPTORS = 32 };

static struct {
  char **paths;
  size_t count, room;
} files;

static struct cache *cache;
static size_t requests_each;

struct reader {
  uint64_t seed;
  uint64_t lines; /* in all documents it got */
  uint64_t failed;
  uint64_t doubles; /* two objects for one path at once: a bug of the cache */
};

static void *must(void *ptr) {
  if (!ptr) {
    fprintf(stderr, "weakcache: %s\n", strerror(errno));
    _Exit(2);
  }
  return ptr;
}

static int note_file(const char *path, const struct stat *st, int type,
                     struct FTW *where) {
  (void)where;
  if (type != FTW_F || !S_ISREG(st->st_mode)) {
    return 0;
  }
  if (files.count == files.room) {
    files.room = files.room * 2 + 64;
    files.paths = must(wane_realloc(files.paths, files.room * sizeof(char *)));
  }
  files.paths[files.count++] = must(wane_strdup(path));
  return 0;
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

/* Whether one of those held is another object for the path of document. */
static bool is_double(struct document *const *held,
                      const struct document *document) {
  for (size_t i = 0; i < HELD; i++) {
    if (held[i] && held[i] != document &&
        strcmp(held[i]->path, document->path) == 0) {
      return true;
    }
  }
  return false;
}

static void *reader_main(void *arg) {
  struct reader *reader = arg;
  struct document *held[HELD] = {0};
  for (size_t i = 0; i < requests_each; i++) {
    size_t which = next_random(&reader->seed) % files.count;
    struct document *document = cache_get(cache, files.paths[which]);
    if (!document) {
      reader->failed++;
      continue;
    }
    reader->doubles += is_double(held, document);
    held[i % HELD] = document;
    reader->lines += document->line_count;
  }
  return NULL;
}

/* Runs the readers; false with errno if one of them could not be started. */
static bool run_readers(struct reader *readers, size_t count) {
  pthread_t ids[THREADS_MAX];
  size_t started = 0;
  int error = 0;
  while (started < count && error == 0) {
    readers[started].seed = started + 1;
    error = pthread_create(&ids[started], NULL, reader_main, &readers[started]);
    started += error == 0;
  }
  for (size_t i = 0; i < started; i++) {
    pthread_join(ids[i], NULL);
  }
  errno = error;
  return error == 0;
}

static void report(const struct reader *readers, size_t count) {
  struct reader sum = {0};
  struct wane_stats gc = {.size = sizeof gc};
  for (size_t i = 0; i < count; i++) {
    sum.lines += readers[i].lines;
    sum.failed += readers[i].failed;
    sum.doubles += readers[i].doubles;
  }
  printf("files %zu\nlines %" PRIu64 "\nfailed %" PRIu64 "\ndoubles %" PRIu64
         "\n",
         files.count, sum.lines, sum.failed, sum.doubles);
  printf("hits %" PRIuFAST64 "\nloads %" PRIuFAST64 "\nraced %" PRIuFAST64 "\n",
         cache->hits, cache->loads, cache->raced);
  printf("entries %zu\n", cache_count(cache));
  wane_collect(); /* nobody holds a document now */
  wane_drain(-1);
  printf("entries after a collection %zu\n", cache_count(cache));
  printf("removed %" PRIuFAST64 "\nspared %" PRIuFAST64 "\n", cache->removed,
         cache->spared);
  wane_read_stats(&gc);
  printf("cycles %" PRIu64 "\n", gc.cycles_full);
}

static bool parse_number(const char *text, size_t max, size_t *value) {
  char *end;
  errno = 0;
  *value = strtoul(text, &end, 10);
  return *text >= '0' && *text <= '9' && !*end && !errno && *value > 0 &&
         *value <= max;
}

int main(int argc, char **argv) {
  size_t threads;
  struct reader *readers;
  if (argc != 4 || !parse_number(argv[1], THREADS_MAX, &threads) ||
      !parse_number(argv[2], SIZE_MAX, &requests_each)) {
    fprintf(stderr, "usage: weakcache THREADS REQUESTS-EACH DIRECTORY\n"
                    "THREADS: at most 64\n");
    return 2;
  }
  if (nftw(argv[3], note_file, WALK_DESCRIPTORS, FTW_PHYS) != 0) {
    fprintf(stderr, "weakcache: %s: %s\n", argv[3], strerror(errno));
    return 2;
  }
  if (files.count == 0) {
    fprintf(stderr, "weakcache: %s: no files\n", argv[3]);
    return 2;
  }
  cache = must(cache_new());
  readers = must(wane_new_array(struct reader, threads));
  if (!run_readers(readers, threads)) {
    fprintf(stderr, "weakcache: cannot start a thread: %s\n", strerror(errno));
    return 2;
  }
  report(readers, threads);
  if (fflush(stdout) != 0 || ferror(stdout)) {
    fprintf(stderr, "weakcache: cannot write: %s\n", strerror(errno));
    return 2;
  }
  return 0;
}
