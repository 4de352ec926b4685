/*
 * The timers, the queue, and the poll handle between the queue and the loop.
 */
#include "deadline.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <wane.h>

enum { CLEANUPS_PER_TURN = 64 }; /* so that other events have their turn */

struct timer {
  uv_timer_t uv; /* first: libuv gives its address back */
  atomic_bool is_over;
};

struct deadline {
  struct timer *timer; /* in malloc memory */
};

static struct {
  uv_loop_t *loop;
  pthread_t thread;
  struct wane_queue *queue;
  uv_poll_t poll;
  struct deadline_counts counts; /* the loop's thread only */
} module;

static void require_loop_thread(const char *what) {
  if (!pthread_equal(pthread_self(), module.thread)) {
    fprintf(stderr, "deadline: %s: not on the loop's thread\n", what);
    abort();
  }
}

static void on_timer(uv_timer_t *uv) {
  struct timer *timer = (struct timer *)uv;
  require_loop_thread("on_timer");
  atomic_store(&timer->is_over, true);
}

static void on_timer_closed(uv_handle_t *uv) {
  require_loop_thread("on_timer_closed");
  module.counts.freed++;
  free(uv);
}

/* The cleanup of a deadline. */
static void close_timer(void *arg) {
  struct timer *timer = arg;
  require_loop_thread("close_timer");
  module.counts.closed++;
  uv_close((uv_handle_t *)&timer->uv, on_timer_closed);
}

static void on_queue_readable(uv_poll_t *poll, int status, int events) {
  (void)poll;
  (void)status;
  (void)events;
  wane_queue_run(module.queue, CLEANUPS_PER_TURN);
}

int deadlines_begin(uv_loop_t *loop) {
  int error;
  module.loop = loop;
  module.thread = pthread_self();
  module.queue = wane_queue_new();
  if (!module.queue) {
    return uv_translate_sys_error(errno);
  }
  error = uv_poll_init(loop, &module.poll, wane_queue_fd(module.queue));
  if (error == 0) {
    error = uv_poll_start(&module.poll, UV_READABLE, on_queue_readable);
  }
  if (error != 0) {
    wane_queue_free(module.queue);
  }
  return error;
}

void deadlines_end(void) {
  require_loop_thread("deadlines_end");
  wane_shutdown(WANE_RUN_CLEANUPS);
  uv_close((uv_handle_t *)&module.poll, NULL);
  uv_run(module.loop, UV_RUN_DEFAULT); /* calls on_timer_closed */
  wane_queue_free(module.queue);       /* after the poll on its descriptor */
}

struct deadline *deadline_new(uint64_t limit_ms) {
  struct deadline *deadline = wane_new(struct deadline);
  struct timer *timer = malloc(sizeof *timer);
  require_loop_thread("deadline_new");
  if (!deadline || !timer || uv_timer_init(module.loop, &timer->uv) != 0) {
    free(timer);
    errno = ENOMEM;
    return NULL;
  }
  module.counts.made++;
  atomic_init(&timer->is_over, false);
  if (wane_add_cleanup_on(module.queue, deadline, close_timer, timer).id == 0) {
    close_timer(timer);
    errno = ENOMEM;
    return NULL;
  }
  deadline->timer = timer;
  uv_timer_start(&timer->uv, on_timer, limit_ms, 0);
  uv_unref((uv_handle_t *)&timer->uv); /* no reason for the loop to go on */
  return deadline;
}

bool deadline_is_over(const struct deadline *deadline) {
  bool is_over = atomic_load(&deadline->timer->is_over);
  wane_keep_alive(deadline); /* the timer is there while the deadline is */
  return is_over;
}

struct deadline_counts deadline_read_counts(void) {
  return module.counts;
}
