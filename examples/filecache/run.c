/*
 * One run: the walk, the job, the drop, and the proof that nothing is left.
 *
 * The main thread never has a pointer into a file, nor has any object that
 * outlives the threads: views are on their stacks. So when they have ended
 * there is no word, not even a stale one, that could keep a file mapped, and
 * the proof can ask for nothing less than none.
 */
#define _GNU_SOURCE
#include "filecache.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <wane.h>

enum {
  TICK_NS = 10000000,
  TICKS_PER_LINE = 10,
  NAMED_MAX = 10, /* files that are still mapped, by name */
};

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static enum run_end run_fail(const char *what, const char *why) {
  fprintf(stderr, "filecache: %s: %s\n", what, why);
  return RUN_FAILED;
}

/* The directory without symbolic links, as /proc/self/maps names it, and with
   a '/' behind. NULL with errno. */
static const char *run_resolve(const char *dir) {
  char *path = must(wane_alloc_leaf(PATH_MAX));
  if (!realpath(dir, path)) {
    return NULL;
  }
  return strcmp(path, "/") == 0 ? path : must(wane_printf("%s/", path));
}

static struct wane_stats run_stats(struct result *result) {
  struct wane_stats stats = {.size = sizeof stats};
  wane_read_stats(&stats);
  if (stats.foreign_live > result->mappings_peak) {
    result->mappings_peak = stats.foreign_live;
  }
  return stats;
}

/* Lets the threads work until their time is over, or all files are gone, or
   somebody wants to see the report. */
static void run_watch(const struct options *options, struct job *job,
                      const struct tree *tree, const char *label,
                      struct result *result) {
  struct timespec tick = {.tv_nsec = TICK_NS};
  uint64_t start_ns = now_ns();
  double seconds = 0;
  for (size_t ticks = 1; seconds < options->seconds && !interrupted &&
                         atomic_load(&tree->left) > 0;
       ticks++) {
    struct wane_stats stats;
    nanosleep(&tick, NULL); /* a collection may cut it short: no harm */
    stats = run_stats(result);
    seconds = (double)(now_ns() - start_ns) / 1e9;
    if (ticks % TICKS_PER_LINE == 0) {
      progress_show(label, seconds, job_count(job).asked, &stats);
    }
  }
  job_stop(job);
  result->run_ns = now_ns() - start_ns;
  progress_show(label, 0, 0, NULL);
}

static void run_count(const struct job *job, const struct tree *tree,
                      struct result *result) {
  struct counts counts = job_count(job);
  result->opens_asked = counts.asked;
  result->opens_failed = counts.failed;
  result->opens_per_second =
      (uint64_t)((double)counts.asked * 1e9 / (double)result->run_ns);
  result->windows_matched = counts.matches;
  result->windows_changed = counts.changed;
  result->views_held = counts.held;
  for (size_t i = 0; i < tree->count; i++) {
    result->files_opened += atomic_load(&tree->files[i].opened);
  }
}

/* The job, up to the end of its threads. */
static enum run_end run_job(const struct options *options, struct tree *tree,
                            bool share, const struct maps *before,
                            const char *root, struct result *result) {
  struct job *job = job_start(tree, options->threads, share);
  struct maps *now;
  if (!job) {
    return run_fail("cannot start a thread", strerror(errno));
  }
  run_watch(options, job, tree, share ? "shared" : "not shared", result);
  run_count(job, tree, result);
  /* The threads still hold their views. If the maps do not show even those
     files, then their silence later on would prove nothing. */
  now = maps_read();
  if (!now) {
    return run_fail("/proc/self/maps", strerror(errno));
  }
  result->mapped_before = maps_find_ours(before, now, root)->count;
  if (result->views_held > 0 && result->mapped_before == 0) {
    return run_fail("/proc/self/maps", "shows none of the files that are held");
  }
  run_stats(result);
  job_finish(job);
  return RUN_DONE;
}

/* After the drop: a collection finds all files dead, their cleanups unmap them,
   and the kernel is asked whether that is so. */
static enum run_end run_prove(const struct maps *before, const char *root,
                              struct result *result) {
  struct maps *now;
  struct maps *ours;
  wane_collect();
  wane_drain(-1);
  now = maps_read();
  if (!now) {
    return run_fail("/proc/self/maps", strerror(errno));
  }
  ours = maps_find_ours(before, now, root);
  result->mapped_after = ours->count;
  for (size_t i = 0; i < ours->count && i < NAMED_MAX; i++) {
    run_fail("still mapped", maps_path(ours->lines[i]));
  }
  return ours->count == 0 ? RUN_DONE : RUN_LEFT_MAPPED;
}

static void run_sum_up(struct result *result) {
  struct wane_stats stats = run_stats(result);
  uint64_t opens = result->opens_asked - result->opens_failed;
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  result->mmap_calls = stats.files_mapped;
  result->calls_saved =
      opens > stats.files_mapped ? opens - stats.files_mapped : 0;
  result->unmapped = stats.files_unmapped;
  result->mappings_live = stats.foreign_live;
  result->cycles = stats.cycles_full;
  result->pause_p50_ns = stats.pause_p50_ns;
  result->pause_p99_ns = stats.pause_p99_ns;
  result->pause_max_ns = stats.pause_max_ns;
  result->heap_peak_bytes = stats.heap_peak_bytes;
  result->rss_peak_bytes = (uint64_t)usage.ru_maxrss * 1024;
}

enum run_end run(const struct options *options, bool share,
                 struct result *result) {
  const char *root = run_resolve(options->dir);
  struct maps *before = maps_read(); /* what is mapped already is not ours */
  struct tree *tree = root ? tree_walk(root, options->files) : NULL;
  enum run_end end = RUN_DONE;
  if (!tree) {
    return run_fail(options->dir, strerror(errno));
  }
  if (!before) {
    return run_fail("/proc/self/maps", strerror(errno));
  }
  if (tree->count == 0 && !interrupted) {
    return run_fail(options->dir, "no regular files that can be read");
  }
  *result = (struct result){.files = tree->count};
  if (!interrupted) {
    end = run_job(options, tree, share, before, root, result);
  }
  for (size_t i = 0; i < SKIP_KINDS; i++) {
    result->skipped[i] = tree->skipped[i];
  }
  if (end == RUN_DONE) {
    end = run_prove(before, root, result);
  }
  run_sum_up(result);
  return end;
}
