/*
 * wordindex: a word-frequency index of every text file under a directory,
 * built by several threads on a collected heap.
 *
 * Who owns what: nobody. Paths, jobs, file contents, the word list of each
 * file, hash tables and posting lists are made with wane_* functions and
 * dropped when no longer needed; there is not one free() in the program.
 * What that gives:
 *   - the words counted in a file point into its contents (interior
 *     pointers), so the contents live exactly as long as that word list;
 *   - a word that is new to the index moves there as it is;
 *   - a growing table or posting list leaves its old array to the collector;
 *   - a path is shared by the job, the worker and every posting naming it.
 *
 * index.c is the data structure, scan.c the threads that walk and read, and
 * main.c the options, the progress line and the report.
 */
#ifndef WORDINDEX_H
#define WORDINDEX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ptr, unless it is NULL: then says "out of memory" and exits with 1. */
void *must(void *ptr);

/* ---- index.c ---- */

enum { SHARDS = 64, SHARD_SHIFT = 58, WORD_MIN = 2, WORD_MAX = 64 };

struct posting {
  const char *path;
  uint64_t count;
};

/* In a file's own table a word has no postings and its text no end; in the
   index it has a posting per file, and room for a power of two of them. */
struct word {
  struct word *next; /* in the same slot */
  uint64_t hash;
  uint64_t count;
  const char *text;
  uint32_t length;
  uint32_t files;
  struct posting *postings;
};

struct table {
  struct word **slots;
  size_t slot_count; /* a power of two, or 0 */
  size_t used;
};

struct index {
  struct shard {
    pthread_mutex_t lock;
    struct table words; /* lock: lock; free to read once the scan is over */
  } shards[SHARDS];
};

/* Counts the words of text, lowering it in place: how many there were. */
uint64_t table_count_words(struct table *table, char *text, size_t size);
struct index *index_new(void);
/* Moves the words of one file into the index: how many were new to it. */
size_t index_merge(struct index *index, struct table *file, const char *path);
/* Finds the most frequent words, at most max: how many there are in top. */
size_t index_top(struct index *index, struct word **top, size_t max);

/* ---- scan.c ---- */

enum skip {
  SKIP_BINARY, /* a NUL or broken UTF-8 near the start */
  SKIP_LARGE,  /* more than 8 MiB */
  SKIP_UNREADABLE,
  SKIP_VANISHED,
  SKIP_SYMLINK,
  SKIP_SPECIAL, /* a device, socket or pipe */
  SKIP_DIRECTORY,
  SKIP_KINDS
};

struct scan {
  struct index *index;
  int done_fd; /* readable when a thread found nothing left to do */
  unsigned threads;
  pthread_t *thread_ids;
  pthread_mutex_t lock; /* of the four members below */
  pthread_cond_t work;  /* a job to take, or nothing left to do */
  struct job *jobs;     /* last in, first out */
  size_t pending;       /* jobs waiting or being worked on */
  bool stopped;         /* leave what is pending */
  atomic_uint_fast64_t files, bytes, words, distinct, skipped[SKIP_KINDS];
};

/* Starts indexing path, a directory or a file. NULL with errno when not even
   one thread starts. */
struct scan *scan_start(const char *path, unsigned threads);
/* Whether all is done, or is within timeout_ms; signals cut that short. */
bool scan_wait(const struct scan *scan, int timeout_ms);
/* Has the threads finish the files they are at, and begin no others. */
void scan_stop(struct scan *scan);
/* Waits for the threads to end. */
void scan_finish(struct scan *scan);

/* Whether bytes are valid UTF-8; cut: the end may be missing. */
bool is_utf8(const char *bytes, size_t size, bool cut);

#endif
