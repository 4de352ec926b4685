/*
 * logwords: which patterns the lines of some files match, and which words the
 * matching lines are made of.
 *
 *     logwords [--threads N] PATTERNS FILE...
 *
 * PATTERNS has a POSIX extended regular expression in each line. The program is
 * a tour of the tables of wane. The threads share all of them, without a lock
 * and without a line that takes something out because nobody needs it any more:
 *
 * - wane_cache compiles a pattern when it is asked for, once, however many
 *   threads ask. Those used last stay; another is given back by a cleanup when
 *   no thread uses it, and compiled again when one asks.
 * - wane_intern makes equal words one pointer, so maps compare pointers only.
 * - wane_map `counts`: how often each word came. It keeps the words alive.
 * - wane_map `notes`, with weak keys: where a word was seen first. When a word
 *   is dropped from `counts`, its note goes by itself.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <regex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wane.h>

enum { KEEP_RECENT = 4, TOP = 10, THREADS_MAX = 64 };

struct pattern {
  regex_t *regex;
};
struct note { /* where a word was seen first */
  const char *file;
  size_t line;
};
struct tally {
  const char *word;
  size_t count;
};
typedef void line_visitor(char *line, const char *path, size_t number);

static const char **patterns; /* their texts */
static char **files;
static size_t pattern_count, file_count;
static struct wane_cache *cache; /* struct pattern by its text */
static struct wane_map *counts;  /* a number by word */
static struct wane_map *notes;   /* struct note by word; keys are weak */
static atomic_size_t *matches;   /* by pattern */
static atomic_size_t next_file, lines, words, asked, compiled, freed, unread;
static _Thread_local bool *is_bad; /* by pattern: has been reported */

static void *must(const void *ptr) {
  if (!ptr) {
    fprintf(stderr, "logwords: out of memory\n");
    exit(2);
  }
  return (void *)ptr;
}

/* The cleanup of a pattern: what regcomp took from malloc must be given back,
   and nobody knows who uses the pattern last. It gets the regex only. */
static void pattern_free(void *regex) {
  regfree(regex);
  freed++;
}

/* Called by the cache. NULL, with errno, goes to all who wait for the key. */
static void *pattern_create(const void *text, size_t size, void *ctx) {
  struct pattern *pattern = must(wane_new(struct pattern));
  (void)size, (void)ctx;
  pattern->regex = must(wane_new_leaf(regex_t));
  if (regcomp(pattern->regex, text, REG_EXTENDED | REG_NOSUB) != 0) {
    errno = EINVAL;
    return NULL;
  }
  compiled++;
  wane_cleanup back = wane_add_cleanup(pattern, pattern_free, pattern->regex);
  return must(back.id != 0 ? pattern : NULL);
}

/* Whether any pattern matches; counts those that do. */
static bool line_matches(const char *line) {
  bool any = false;
  for (size_t i = 0; i < pattern_count; i++) {
    const char *text = patterns[i];
    if (is_bad[i]) {
      continue;
    }
    /* a key is bytes; this one has its zero, since regcomp needs one */
    struct pattern *pattern = wane_cache_get(cache, text, strlen(text) + 1);
    asked++;
    if (!pattern) { /* the cache does not remember failures, so we do */
      fprintf(stderr, "logwords: '%s': %s\n", text, strerror(errno));
      is_bad[i] = true;
    } else if (regexec(pattern->regex, line, 0, NULL, 0) == 0) {
      matches[i]++;
      any = true;
    }
    wane_keep_alive(pattern); /* or its cleanup could run during regexec */
  }
  return any;
}

/* Adds one to a word's count: the value is the number itself, and is changed if
   nobody else has changed it meanwhile. */
static void word_count(const char *word, const char *file, size_t line) {
  bool loaded;
  void *count = must(wane_map_load_or_store(counts, word, (void *)1, &loaded));
  if (!loaded) { /* the first time, for all threads together */
    struct note *note = must(wane_new(struct note));
    *note = (struct note){file, line};
    must(wane_map_load_or_store(notes, word, note, NULL));
  }
  while (loaded &&
         !wane_map_compare_and_swap(counts, word, count, (char *)count + 1)) {
    wane_map_load(counts, word, &count);
  }
}

/* Counts the words of a line that matches: letters, without case. */
static void line_visit(char *line, const char *file, size_t number) {
  lines++;
  if (!line_matches(line)) {
    return;
  }
  for (char *c = line; *c; c++) {
    *c = isalpha((unsigned char)*c) ? (char)tolower((unsigned char)*c) : ' ';
  }
  for (char *word; (word = strsep(&line, " ")) != NULL;) {
    if (*word) {
      word_count(must(wane_intern(word)), file, number);
      words++;
    }
  }
}

/* Called for each word: finds those with the highest counts. */
static bool top_visit(const void *word, void *value, void *top) {
  struct tally *at = (struct tally *)top + TOP;
  for (; at > (struct tally *)top && at[-1].count < (size_t)value; at--) {
    *at = at[-1];
  }
  *at = (struct tally){word, (size_t)value};
  return true;
}

/* Drops the words that came once: visit may change the map. */
static bool rare_visit(const void *word, void *value, void *dropped) {
  *(size_t *)dropped += value == (void *)1 && wane_map_delete(counts, word);
  return true;
}

static void close_file(void *file) { fclose(file); }
/* Calls visit for each line. False, after a message: the file is unreadable. */
static bool file_read(const char *path, line_visitor *visit) {
  char *line = NULL;
  size_t number = 0, room = 0;
  FILE *file = fopen(path, "re");
  if (file) {
    WANE_DEFER(close_file, file);
    while (getline(&line, &room, file) >= 0) {
      line[strcspn(line, "\n")] = '\0';
      visit(line, path, ++number);
    }
    free(line);
    if (!ferror(file)) {
      return true;
    }
  }
  fprintf(stderr, "logwords: %s: %s\n", path, strerror(errno));
  return false;
}

static void add_pattern(char *line, const char *path, size_t number) {
  (void)path;
  patterns = must(wane_realloc(patterns, number * sizeof *patterns));
  patterns[number - 1] = must(wane_strdup(line));
  pattern_count = number;
}

static void *worker_main(void *arg) {
  size_t i;
  is_bad = must(wane_new_leaf_array(bool, pattern_count));
  while ((i = next_file++) < file_count) {
    unread += !file_read(files[i], line_visit);
  }
  return arg;
}

static void report(void) {
  struct tally top[TOP + 1] = {0};
  size_t dropped = 0;
  for (size_t i = 0; i < pattern_count; i++) {
    printf("match %zu %s\n", matches[i], patterns[i]);
  }
  wane_map_range(counts, top_visit, top);
  for (struct tally *at = top; at < top + TOP && at->word; at++) {
    void *note;
    wane_map_load(notes, at->word, &note);
    printf("word %zu %s first in %s:%zu\n", at->count, at->word,
           ((struct note *)note)->file, ((struct note *)note)->line);
  }
  printf("files %zu unreadable %zu lines %zu words %zu distinct %zu\n",
         file_count, unread, lines, words, wane_map_count(counts));
  wane_map_range(counts, rare_visit, &dropped);
  wane_collect(); /* takes the notes of these words, and unused patterns */
  wane_drain(-1); /* their cleanups have run */
  printf("words dropped %zu left %zu notes left %zu\n", dropped,
         wane_map_count(counts), wane_map_count(notes));
  printf("patterns asked %zu compiled %zu freed %zu\n", asked, compiled, freed);
}

int main(int argc, char **argv) {
  pthread_t threads[THREADS_MAX];
  size_t started = 0, wanted = 4;
  char *end = "";
  if (argc > 2 && strcmp(argv[1], "--threads") == 0) {
    wanted = strtoul(argv[2], &end, 10);
    argc -= 2, argv += 2;
  }
  if (argc < 3 || wanted < 1 || wanted > THREADS_MAX || *end) {
    fprintf(stderr, "usage: logwords [--threads N] PATTERNS FILE...\n");
    return 2;
  }
  if (!file_read(argv[1], add_pattern)) {
    return 2;
  }
  files = argv + 2;
  file_count = (size_t)argc - 2;
  matches = must(wane_new_leaf_array(atomic_size_t, pattern_count));
  cache = must(wane_cache_new(&(struct wane_cache_config){
      .create = pattern_create, .keep_recent = KEEP_RECENT}));
  counts = must(wane_map_new(NULL, 0));
  notes = must(wane_map_new(NULL, WANE_WEAK_KEYS));
  while (started < wanted &&
         pthread_create(&threads[started], NULL, worker_main, NULL) == 0) {
    started++;
  }
  if (started == 0) {
    worker_main(NULL);
  }
  while (started > 0) {
    pthread_join(threads[--started], NULL);
  }
  report();
  return unread != 0; /* 1: a file was passed over */
}
