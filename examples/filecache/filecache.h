/*
 * filecache: threads that know nothing of each other read the files under a
 * directory through mappings that they share, and nobody unmaps one.
 *
 * Who owns what: nobody. A thread opens a file by its path; if any thread has
 * it mapped already, that mapping is what it gets. What it keeps is a struct
 * view, a pointer to where it looked: a pointer into the bytes of a file, from
 * anywhere, keeps that file mapped. So there is no handle to pass around, no
 * count of users, no close. A view that is dropped is forgotten, and once the
 * last one into a file is gone, the collector has a cleanup unmap it. Paths,
 * tables and reports are managed objects as well; there is not one free() in
 * the program.
 *
 * tree.c finds the files, zipf.c says how popular each of them is, worker.c is
 * the job of the threads, run.c one run from the walk to the proof that nothing
 * is left, which maps.c reads from /proc/self/maps. progress.c shows how it
 * goes, report.c what came of it, and main.c has a run with sharing and one
 * without, each in a process of its own.
 */
#ifndef FILECACHE_H
#define FILECACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- main.c ---- */

/* Set by SIGINT and SIGTERM: end now, with the report. */
extern atomic_bool interrupted;

/* ptr, unless it is NULL: then says "out of memory" and exits with 1. */
void *must(void *ptr);

static inline uint64_t random_next(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

/* ---- options.c ---- */

struct options {
  size_t threads;
  double seconds;
  size_t files; /* at most so many; SIZE_MAX: all */
  bool no_share, json;
  const char *dir;
};

/* Exits with 0 after --help, and with 2 if the arguments are wrong. */
struct options options_parse(int argc, char **argv);

/* ---- tree.c ---- */

enum skip {
  SKIP_UNREADABLE, /* directories, too */
  SKIP_VANISHED,
  SKIP_SPECIAL, /* a device, socket or pipe */
  SKIP_EMPTY,
  SKIP_SYMLINK, /* not followed: what it points to is met by itself, if at all
                 */
  SKIP_MOUNT,   /* a directory of another file system, not entered */
  SKIP_KINDS,
  SKIP_NOT = SKIP_KINDS /* the file is not to blame */
};

struct file {
  const char *path;
  atomic_bool opened;  /* by some thread, some time */
  atomic_bool skipped; /* from now on, since it could not be opened */
};

struct tree {
  struct file *files; /* most popular first */
  size_t count;
  atomic_size_t left; /* of these, not skipped */
  atomic_uint_fast64_t skipped[SKIP_KINDS];
};

/* The regular files under root, an absolute path that ends in '/', in random
   order, at most max. NULL with errno if root itself cannot be read. */
struct tree *tree_walk(const char *root, size_t max);

/* Why a file is to be skipped whose opening gave this errno. */
enum skip tree_skip_reason(int error);

/* Has all threads skip a file from now on, and counts it once. */
void tree_skip(struct tree *tree, struct file *file, enum skip reason);

/* ---- zipf.c ---- */

struct zipf;

/* Of count things the first is picked twice as often as the second, three times
   as often as the third, and so on. */
struct zipf *zipf_new(size_t count);
size_t zipf_pick(const struct zipf *law, uint64_t *random);

/* ---- worker.c ---- */

struct counts {
  uint64_t asked;   /* opens */
  uint64_t failed;  /* of these, without any bytes to show for it */
  uint64_t matches; /* windows with the byte string in it */
  uint64_t changed; /* windows that were another when they were dropped */
  uint64_t held;    /* views at the end */
};

struct job;

/* Starts the threads. NULL with errno if not all of them start; those that do
   are at work all the same. */
struct job *job_start(struct tree *tree, size_t threads, bool share);
struct counts job_count(const struct job *job);
/* Returns when all threads have stopped, each with the views that it holds. */
void job_stop(struct job *job);
/* Has them end, and their views with them. */
void job_finish(struct job *job);

/* ---- maps.c ---- */

/* The lines of /proc/self/maps that are of files. */
struct maps {
  size_t count;
  size_t room;
  char **lines;
};

/* NULL with errno. */
struct maps *maps_read(void);
/* Those of now that are of files under root and not in before. */
struct maps *maps_find_ours(const struct maps *before, const struct maps *now,
                            const char *root);
/* The path in such a line. */
const char *maps_path(const char *line);

/* ---- run.c ---- */

/* What came of a run. Only numbers: it goes through a pipe. */
struct result {
  uint64_t files, skipped[SKIP_KINDS];
  uint64_t run_ns; /* how long the threads were at work */
  uint64_t opens_asked, opens_failed, opens_per_second;
  uint64_t files_opened;
  uint64_t mmap_calls, calls_saved;
  uint64_t mappings_peak; /* looked at a hundred times a second */
  uint64_t unmapped;
  uint64_t windows_matched, windows_changed;
  uint64_t cycles, pause_p50_ns, pause_p99_ns, pause_max_ns;
  uint64_t heap_peak_bytes, rss_peak_bytes;
  uint64_t views_held;    /* when the threads had stopped */
  uint64_t mapped_before; /* files of DIR in /proc/self/maps then */
  uint64_t mapped_after;  /* and when all was dropped and collected */
  uint64_t mappings_live; /* what the library says to that */
};

enum run_end { RUN_DONE, RUN_LEFT_MAPPED, RUN_FAILED };

/* Walks, works, drops everything, and looks whether all is unmapped. Complains
   on stderr about what went wrong. RUN_FAILED: there is no result. */
enum run_end run(const struct options *options, bool share,
                 struct result *result);

/* ---- progress.c ---- */

struct wane_stats;

/* The line on the terminal: NULL stats take it away. Does nothing if stderr is
   not a terminal. */
void progress_show(const char *label, double seconds, uint64_t opens,
                   const struct wane_stats *stats);

/* ---- report.c ---- */

/* A result that is NULL is left out. */
void report_table(const struct options *options, const struct result *shared,
                  const struct result *not_shared);
void report_json(const struct options *options, const struct result *shared,
                 const struct result *not_shared);

#endif
