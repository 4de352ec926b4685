/* Callback queues, and the user's calls on them; see queue.h. */
#include "queue.h"

#include <errno.h>

#include "../../include/wane/lifetime.h"
#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/meta.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../heap/context.h"
#include "../heap/hooks.h"
#include "runner.h"

/* So much waiting may be too much. */
#define QUEUE_LONG 65536u
#define QUEUE_INIT                                                             \
  {                                                                            \
    .lock = WANE__SPIN_INIT(WANE__RANK_QUEUE), .drain_target = UINT64_MAX,     \
    .fd = -1                                                                   \
  }

struct wane_queue wane__worker_queue = QUEUE_INIT;
struct wane_queue wane__finalizer_queue = QUEUE_INIT;

static struct wane__lock queues_lock = WANE__LOCK_INIT(WANE__RANK_QUEUES);
/* By number, from 1; NULL: free. The list itself is const once it is there.
   lock: queues; read without by those whose record keeps the queue. */
static struct wane_queue **queue_list;
static uint32_t queue_list_count;         /* numbers ever used. lock: queues */
static struct wane__meta_list queue_free; /* lock: meta */

static uint64_t queues_gone_ran[WANE__SORT_COUNT]; /* lock: queues */

static uint32_t *queue_link(uint32_t ref) {
  return &wane__record_at(wane__ref_sort(ref), wane__ref_index(ref))->head.next;
}

void wane__queue_chain_add(struct wane__queue_chain *chain, uint32_t ref) {
  *queue_link(ref) = 0;
  if (chain->count == 0) {
    chain->first = ref;
  } else {
    *queue_link(chain->last) = ref;
  }
  chain->last = ref;
  chain->count++;
}

static struct wane_queue *queue_library(enum wane__sort sort) {
  return sort == WANE__SORT_FINALIZER ? &wane__finalizer_queue
                                      : &wane__worker_queue;
}

/* The fd says whether records wait. lock: lock. */
static void queue_raise_fd(const struct wane_queue *q, bool is_up) {
  if (q->fd >= 0) {
    wane__os_eventfd_set(q->fd, is_up);
  }
}

static void queue_append_locked(struct wane_queue *q,
                                const struct wane__queue_chain *chain) {
  if (q->first == 0) {
    q->first = chain->first;
    queue_raise_fd(q, true);
  } else {
    *queue_link(q->last) = chain->first;
  }
  q->last = chain->last;
  wane__store_relaxed(&q->pushed, q->pushed + chain->count);
}

/* False if the queue was freed. Not inlined where q is one of two: clang reads
   both, which ThreadSanitizer takes for a race. */
static WANE_NOINLINE bool queue_push_to(struct wane_queue *q,
                                        const struct wane__queue_chain *chain) {
  wane__spin_acquire(&q->lock);
  if (q->is_freed) {
    wane__spin_release(&q->lock);
    return false;
  }
  queue_append_locked(q, chain);
  bool is_long = q->pushed - q->taken > QUEUE_LONG;
  uint32_t idle = q->idle;
  if (idle != 0) {
    wane__add(&q->wake, 1);
  }
  wane__spin_release(&q->lock);
  if (idle != 0) {
    uint32_t wanted = chain->count < idle ? chain->count : idle;
    wane__os_futex_wake(&q->wake, (int)wanted);
  }
  if (is_long) {
    wane__runners_note_backlog();
  }
  return true;
}

void wane__queue_push(uint16_t number, enum wane__sort sort,
                      struct wane__queue_chain *chain) {
  if (chain->count == 0) {
    return;
  }
  if (number == 0 || !queue_push_to(queue_list[number], chain)) {
    (void)queue_push_to(queue_library(sort), chain);
  }
}

uint32_t wane__queue_take_locked(struct wane_queue *q, uint64_t *number) {
  uint32_t ref = q->first;
  WANE_CHECK(q->taken <= q->pushed && (ref == 0) == (q->taken == q->pushed),
             "INV-queue-1: a queue knows how much is in it");
  if (ref == 0) {
    return 0;
  }
  q->first = *queue_link(ref);
  wane__store_relaxed(&q->taken, q->taken + 1);
  *number = q->taken;
  if (q->first == 0) {
    queue_raise_fd(q, false);
  }
  return ref;
}

uint16_t wane__queue_number(const char *function, const struct wane_queue *q) {
  if (q == NULL) {
    wane__fatal(function, "the queue is NULL");
  }
  if (q->number == 0 || wane__load_relaxed(&q->is_freed) ||
      wane__load_relaxed(&q->free_wanted)) {
    wane__fatal(function, "%p is no queue, or has been freed", (const void *)q);
  }
  return q->number;
}

void wane__queue_use(uint16_t number) {
  if (number != 0) {
    wane__lock_acquire(&queues_lock);
    queue_list[number]->uses++;
    wane__lock_release(&queues_lock);
  }
}

void wane__queue_disuse(uint16_t number) {
  if (number == 0) {
    return;
  }
  wane__lock_acquire(&queues_lock);
  struct wane_queue *q = queue_list[number];
  if (--q->uses == 0) {
    queue_list[number] = NULL;
    for (int sort = 0; sort < WANE__SORT_COUNT; sort++) {
      queues_gone_ran[sort] += q->ran[sort];
    }
    wane__meta_give(&queue_free, q);
  }
  wane__lock_release(&queues_lock);
}

/* Its memory, once. lock: queues. */
static bool queue_list_prepare_locked(void) {
  size_t bytes = WANE__QUEUES_MAX * sizeof(struct wane_queue *);
  if (queue_list == NULL) {
    queue_list = wane__meta_reserve(bytes);
  }
  bool ok = queue_list != NULL && wane__os_commit(queue_list, bytes);
  queue_list_count = ok;
  return ok;
}

/* A free number, lowest first; 0 with errno. lock: queues. */
static uint16_t queue_number_locked(void) {
  if (queue_list_count == 0 && !queue_list_prepare_locked()) {
    errno = ENOMEM;
    return 0;
  }
  for (uint32_t i = 1; i < queue_list_count; i++) {
    if (queue_list[i] == NULL) {
      return (uint16_t)i;
    }
  }
  if (queue_list_count == WANE__QUEUES_MAX) {
    errno = EMFILE;
    return 0;
  }
  return (uint16_t)queue_list_count++;
}

static struct wane_queue *queue_new_locked(int fd) {
  uint16_t number = queue_number_locked();
  struct wane_queue *q =
      number != 0 ? wane__meta_take(&queue_free, sizeof *q) : NULL;
  if (q != NULL) {
    *q = (struct wane_queue)QUEUE_INIT;
    q->number = number;
    q->fd = fd;
    q->uses = 1;
    queue_list[number] = q;
  }
  return q;
}

WANE_PUBLIC struct wane_queue *wane_queue_new(void) {
  struct wane__context *self = wane__hooks.attach();
  if (self == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  int saved = errno;
  int fd = wane__os_eventfd();
  if (fd < 0) {
    return NULL;
  }
  wane__guard_enter(self);
  wane__lock_acquire(&queues_lock);
  struct wane_queue *q = queue_new_locked(fd);
  wane__lock_release(&queues_lock);
  wane__guard_leave(self);
  if (q == NULL) {
    int error = errno;
    wane__os_close(fd);
    errno = error;
    return NULL;
  }
  errno = saved;
  return q;
}

WANE_PUBLIC int wane_queue_fd(struct wane_queue *q) {
  (void)wane__hooks.attach(); /* after fork, it may be another */
  (void)wane__queue_number("wane_queue_fd", q);
  return q->fd;
}

/* What waits, by sort, in order. lock: lock. */
static void queue_empty_locked(struct wane_queue *q,
                               struct wane__queue_chain chains[]) {
  uint64_t number;
  for (uint32_t ref; (ref = wane__queue_take_locked(q, &number)) != 0;) {
    wane__queue_chain_add(&chains[wane__ref_sort(ref)], ref);
  }
}

void wane__queue_close_and_unlock(struct wane_queue *q) {
  struct wane__queue_chain chains[WANE__SORT_COUNT] = {0};
  q->free_wanted = true;
  bool is_now = q->runs == 0;
  int fd = q->fd;
  uint16_t number = q->number;
  if (is_now) {
    queue_empty_locked(q, chains);
    q->is_freed = true;
    q->fd = -1;
  }
  wane__spin_release(&q->lock);
  if (!is_now) {
    return;
  }
  if (fd >= 0) {
    wane__os_close(fd);
  }
  for (int sort = WANE__SORT_CLEANUP; sort < WANE__SORT_COUNT; sort++) {
    wane__queue_push(0, (enum wane__sort)sort, &chains[sort]);
  }
  wane__queue_disuse(number);
}

WANE_PUBLIC void wane_queue_free(struct wane_queue *q) {
  struct wane__context *self = wane__hooks.attach();
  (void)wane__queue_number("wane_queue_free", q);
  if (self == NULL) {
    wane__fatal("wane_queue_free", "out of memory for the thread's record");
  }
  wane__guard_enter(self);
  wane__spin_acquire(&q->lock);
  wane__queue_close_and_unlock(q);
  wane__guard_leave(self);
}

struct wane_queue *wane__queue_next(uint32_t *at) {
  for (; *at < queue_list_count; ++*at) {
    struct wane_queue *q = queue_list[*at];
    if (q != NULL && !q->is_freed) {
      return q;
    }
  }
  return NULL;
}

/* Freed ones too, as long as a record names them. */
static void queues_each(void (*visit)(struct wane_queue *q)) {
  for (uint32_t i = 1; i < queue_list_count; i++) {
    if (queue_list[i] != NULL) {
      visit(queue_list[i]);
    }
  }
}

uint64_t wane__queues_ran(enum wane__sort sort) {
  struct wane__context *self = wane__self;
  wane__guard_enter(self);
  wane__lock_acquire(&queues_lock);
  uint64_t ran = queues_gone_ran[sort] +
                 wane__load_relaxed(&wane__worker_queue.ran[sort]) +
                 wane__load_relaxed(&wane__finalizer_queue.ran[sort]);
  for (uint32_t i = 1; i < queue_list_count; i++) {
    ran += queue_list[i] != NULL ? wane__load_relaxed(&queue_list[i]->ran[sort])
                                 : 0;
  }
  wane__lock_release(&queues_lock);
  wane__guard_leave(self);
  return ran;
}

void wane__queues_count_elsewhere(enum wane__sort sort, uint64_t count) {
  queues_gone_ran[sort] += count;
}

static void queue_lock_one(struct wane_queue *q) {
  wane__spin_acquire_peer(&q->lock);
}

static void queue_unlock_one(struct wane_queue *q) {
  wane__spin_release(&q->lock);
}

/* The eventfd is shared with the parent: the child's takes its number. */
static void queue_reset_one(struct wane_queue *q) {
  wane__spin_release(&q->lock);
  q->runs = 0;
  if (q->fd >= 0) {
    bool is_up = q->first != 0 && wane__options.fork != 0;
    q->fd = wane__os_eventfd_replace(q->fd, is_up);
  }
}

void wane__queues_fork_prepare(void) {
  wane__lock_acquire_peer(&queues_lock);
  wane__spin_acquire(&wane__worker_queue.lock);
  queue_lock_one(&wane__finalizer_queue);
  queues_each(queue_lock_one);
}

void wane__queues_fork_parent(void) {
  queues_each(queue_unlock_one);
  wane__spin_release(&wane__finalizer_queue.lock);
  wane__spin_release(&wane__worker_queue.lock);
  wane__lock_release(&queues_lock);
}

static void queue_forget_runners(struct wane_queue *q) {
  wane__spin_release(&q->lock);
  q->runners = NULL;
  q->idle = 0;
  q->drain_target = UINT64_MAX;
}

void wane__queues_fork_child(void) {
  queues_each(queue_reset_one);
  queue_forget_runners(&wane__worker_queue);
  queue_forget_runners(&wane__finalizer_queue);
  wane__lock_reset(&queues_lock);
}
