/*
 * uvloop: counts the lines of files on libuv's thread pool, each within a time
 * limit. The requests have deadlines (deadline.h), the deadlines have timers of
 * the loop, and nobody closes them: a request is dropped when it is answered,
 * and the timers of what died are closed by cleanups that the loop runs.
 */
#include "deadline.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wane.h>

enum { AT_ONCE = 8, PIECE_BYTES = 64 << 10 };

/* libuv links uv into lists of its own. Whether the collector sees these is not
   known here: so a request is pinned until libuv has given it back. */
struct request {
  uv_work_t uv; /* first */
  struct deadline *deadline;
  const char *path;
  uint64_t lines;
  int error;
};

static struct {
  char **paths;
  size_t path_count, requests; /* requests in all */
  size_t started, answered;
  size_t late, failed;
  uint64_t limit_ms;
  uint64_t lines;
} job;

static uv_loop_t loop;

static void *must(void *ptr) {
  if (!ptr) {
    fprintf(stderr, "uvloop: %s\n", strerror(errno));
    exit(2);
  }
  return ptr;
}

static void close_deferred(void *file) { fclose(file); }

/* Counts the newlines: 0 or an error number. */
static int count_lines(struct request *request) {
  FILE *file = fopen(request->path, "re");
  char *piece = wane_alloc_leaf(PIECE_BYTES); /* dropped with the scope */
  size_t size;
  if (!file) {
    return errno;
  }
  WANE_DEFER(close_deferred, file);
  if (!piece) {
    return ENOMEM;
  }
  do {
    if (deadline_is_over(request->deadline)) {
      return ETIMEDOUT;
    }
    size = fread(piece, 1, PIECE_BYTES, file);
    for (size_t i = 0; i < size; i++) {
      request->lines += piece[i] == '\n';
    }
  } while (size == PIECE_BYTES);
  return ferror(file) ? errno : 0;
}

/* On a thread of libuv's pool. */
static void on_work(uv_work_t *uv) {
  struct request *request = (struct request *)uv;
  request->error = count_lines(request);
}

static void start_request(void);

/* Back on the loop's thread. */
static void on_answer(uv_work_t *uv, int status) {
  struct request *request = (struct request *)uv;
  int error = status != 0 ? ECANCELED : request->error;
  wane_unpin(request); /* dead when this function returns, its deadline too */
  if (error == ETIMEDOUT) {
    job.late++;
  } else if (error != 0) {
    fprintf(stderr, "uvloop: %s: %s\n", request->path, strerror(error));
    job.failed++;
  }
  job.lines += error == 0 ? request->lines : 0;
  job.answered++;
  start_request();
}

static void start_request(void) {
  struct request *request;
  if (job.started == job.requests) {
    return;
  }
  request = must(wane_new(struct request));
  request->path = job.paths[job.started++ % job.path_count];
  request->deadline = must(deadline_new(job.limit_ms));
  wane_pin(request);
  uv_queue_work(&loop, &request->uv, on_work, on_answer);
}

static int report(size_t closed_in_time) {
  struct deadline_counts counts = deadline_read_counts();
  int error = uv_loop_close(&loop);
  printf("requests %zu\nlines %" PRIu64 "\nlate %zu\nfailed %zu\n",
         job.answered, job.lines, job.late, job.failed);
  printf("timers %zu\nclosed while the loop ran %zu\nclosed %zu\nfreed %zu\n",
         counts.made, closed_in_time, counts.closed, counts.freed);
  printf("loop %s\n", error == 0 ? "empty" : uv_strerror(error));
  if (fflush(stdout) != 0 || ferror(stdout)) {
    fprintf(stderr, "uvloop: cannot write: %s\n", strerror(errno));
    return 2;
  }
  return job.failed > 0 || error != 0 ? 1 : 0;
}

static bool parse_number(const char *text, uint64_t *value) {
  char *end;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return *text >= '0' && *text <= '9' && !*end && !errno && *value > 0 &&
         *value <= INT32_MAX;
}

int main(int argc, char **argv) {
  uint64_t requests;
  int error;
  if (argc < 4 || !parse_number(argv[1], &requests) ||
      !parse_number(argv[2], &job.limit_ms)) {
    fprintf(stderr, "usage: uvloop REQUESTS LIMIT-MS FILE...\n");
    return 2;
  }
  job.requests = requests;
  job.paths = argv + 3;
  job.path_count = (size_t)argc - 3;
  error = uv_loop_init(&loop);
  if (error == 0) {
    error = deadlines_begin(&loop);
  }
  if (error != 0) {
    fprintf(stderr, "uvloop: %s\n", uv_strerror(error));
    return 2;
  }
  for (int i = 0; i < AT_ONCE; i++) {
    start_request();
  }
  while (job.answered < job.requests) {
    uv_run(&loop, UV_RUN_ONCE);
  }
  size_t closed_in_time = deadline_read_counts().closed;
  deadlines_end();
  return report(closed_in_time);
}
