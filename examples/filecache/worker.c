/*
 * The threads. Each picks files by Zipf's law, opens them, searches a small
 * window of each for a byte string, and holds on to some of the windows until
 * others push them out.
 */
#define _GNU_SOURCE
#include "filecache.h"

#include <errno.h>
#include <string.h>
#include <wane.h>

#define NEEDLE "the"

enum {
  WINDOW_BYTES = 1024,
  HELD = 2048, /* views that a thread holds */
  HOLD_ONE_IN = 4
};

/* A window of a file: what a thread keeps of it. The file stays mapped because
   bytes points into it. */
struct view {
  const unsigned char *bytes;
  size_t size;
  uint64_t sum; /* of the bytes, to see that they stay what they are */
};

/* The counts are written by the worker, read by who watches. */
struct worker {
  struct job *job;
  pthread_t thread;
  uint64_t random;
  atomic_uint_fast64_t asked, failed, matches, changed, held;
};

struct job {
  struct tree *tree;
  struct zipf *law;
  bool share;
  size_t thread_count;
  struct worker **workers;
  atomic_bool stopping;
  pthread_barrier_t
      turn; /* once when all have stopped, once to go on and end */
};

static uint64_t view_sum(const struct view *view) {
  uint64_t sum = 0;
  for (size_t i = 0; i < view->size; i++) {
    sum = sum * 31 + view->bytes[i];
  }
  return sum;
}

/* Opens a file picked at random. NULL if that gave no bytes. */
static struct wane_mapped *worker_open(struct worker *worker) {
  struct job *job = worker->job;
  struct tree *tree = job->tree;
  struct file *file = &tree->files[zipf_pick(job->law, &worker->random)];
  struct wane_mapped *mapped;
  enum skip reason;
  if (atomic_load(&file->skipped)) {
    return NULL;
  }
  worker->asked++;
  mapped = job->share ? wane_mapped_open_shared(file->path)
                      : wane_mapped_open(file->path);
  if (mapped && mapped->size > 0) {
    if (!atomic_load(&file->opened)) {
      atomic_store(&file->opened, true);
    }
    return mapped;
  }
  reason = mapped ? SKIP_EMPTY : tree_skip_reason(errno);
  worker->failed++;
  if (reason != SKIP_NOT) {
    tree_skip(tree, file, reason);
  }
  return NULL;
}

/* Searches a window of the file. NULL if there is no memory for the view. */
static struct view *worker_look(struct worker *worker,
                                const struct wane_mapped *mapped) {
  struct view *view = wane_new(struct view);
  size_t start = random_next(&worker->random) % mapped->size;
  size_t rest = mapped->size - start;
  if (!view) {
    return NULL;
  }
  view->bytes = (const unsigned char *)mapped->data + start;
  view->size = rest < WINDOW_BYTES ? rest : WINDOW_BYTES;
  worker->matches +=
      memmem(view->bytes, view->size, NEEDLE, strlen(NEEDLE)) != NULL;
  return view;
}

/* Puts view in the place of another one, which is thereby dropped. A file that
   nobody else looks at may be unmapped from now on; nothing need be done. */
static void worker_hold(struct worker *worker, struct view **place,
                        struct view *view) {
  view->sum = view_sum(view);
  if (!*place) {
    worker->held++;
  } else if (view_sum(*place) != (*place)->sum) {
    worker->changed++; /* somebody wrote to the file */
  }
  *place = view;
}

/* The views are on the stack of their thread and nowhere else: no list of what
   is mapped is kept, and they end with it. */
static void *worker_main(void *arg) {
  struct worker *worker = arg;
  struct job *job = worker->job;
  struct view *held[HELD] = {0};
  while (!atomic_load(&job->stopping)) {
    struct wane_mapped *mapped = worker_open(worker);
    struct view *view = mapped ? worker_look(worker, mapped) : NULL;
    uint64_t choice = random_next(&worker->random);
    if (view && choice % HOLD_ONE_IN == 0) {
      worker_hold(worker, &held[choice / HOLD_ONE_IN % HELD], view);
    }
  }
  pthread_barrier_wait(&job->turn);
  pthread_barrier_wait(&job->turn);
  wane_keep_alive(held); /* up to here, whatever the compiler thinks */
  return NULL;
}

struct job *job_start(struct tree *tree, size_t threads, bool share) {
  struct job *job = must(wane_new(struct job));
  int error = pthread_barrier_init(&job->turn, NULL, (unsigned)threads + 1);
  job->tree = tree;
  job->law = zipf_new(tree->count);
  job->share = share;
  job->workers = must(wane_new_array(struct worker *, threads));
  for (size_t i = 0; i < threads && error == 0; i++) {
    struct worker *worker = must(wane_new(struct worker));
    worker->job = job;
    worker->random = i + 1;
    error = pthread_create(&worker->thread, NULL, worker_main, worker);
    job->workers[job->thread_count++] = worker;
  }
  errno = error;
  return error == 0 ? job : NULL;
}

struct counts job_count(const struct job *job) {
  struct counts sum = {0};
  for (size_t i = 0; i < job->thread_count; i++) {
    const struct worker *worker = job->workers[i];
    sum.asked += worker->asked;
    sum.failed += worker->failed;
    sum.matches += worker->matches;
    sum.changed += worker->changed;
    sum.held += worker->held;
  }
  return sum;
}

void job_stop(struct job *job) {
  atomic_store(&job->stopping, true);
  pthread_barrier_wait(&job->turn);
}

void job_finish(struct job *job) {
  pthread_barrier_wait(&job->turn);
  for (size_t i = 0; i < job->thread_count; i++) {
    pthread_join(job->workers[i]->thread, NULL);
  }
  pthread_barrier_destroy(&job->turn);
}
