/*
 * Callback queues: first in, first out, of records whose objects died.
 *
 * Two queues are the library's own: cleanups for the workers, finalizers for
 * their thread. The others are the user's. A record names its queue by number
 * (0: the library's own of its sort), and the queue stays, freed or not, as
 * long as a record names it; what is pushed to a freed queue goes to the
 * library's.
 *
 * A user's queue has an eventfd that is readable exactly while records wait:
 * it is written when the first comes and read when the last goes, both under
 * the queue's lock.
 *
 * Each record pushed has a number, counted from 1 for each queue, and they are
 * taken in that order, each by one runner (special/runner.h). A drain waits
 * until all up to the number of its beginning are taken and no runner is still
 * at one of them.
 *
 * What happened before a push happens before the callback: both take the lock.
 *
 * INV-queue-1: taken <= pushed, and first is 0 if and only if they are equal.
 */
#ifndef WANE_SPECIAL_QUEUE_H
#define WANE_SPECIAL_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/spin.h"
#include "cleanup.h"
#include "group.h"

#define WANE__QUEUES_MAX 65536u

struct wane__runner;

/* struct wane_queue of the public face. */
struct wane_queue {
  struct wane__spin lock;
  uint32_t first; /* references, linked by next. lock: lock */
  uint32_t last;
  uint64_t pushed; /* lock: lock; read relaxed */
  uint64_t taken;
  uint64_t ran[WANE__SORT_COUNT]; /* callbacks returned, by sort. the same */
  struct wane__runner *runners;   /* those of the library. lock: lock */
  uint64_t drain_target;          /* lowest number waited for. lock: lock */
  uint32_t drained; /* bumped when it is reached; a futex. seq_cst */
  uint32_t wake;    /* bumped for idle runners; a futex. seq_cst */
  uint32_t idle;    /* runners that sleep. lock: lock */
  uint64_t ends[5]; /* numbers at steps of a shutdown. of its thread */
  uint32_t uses;    /* records that name it, and its owner. lock: queues */
  uint32_t runs;    /* wane_queue_run under way. lock: lock */
  int fd;           /* -1: the library's own, or freed. lock: lock */
  uint16_t number;  /* const */
  bool is_freed;    /* lock: lock */
  bool free_wanted; /* when no run is under way. lock: lock */
};

extern struct wane_queue wane__worker_queue;
extern struct wane_queue wane__finalizer_queue;

/* Checks a user's pointer; fatal in the name of function. */
uint16_t wane__queue_number(const char *function, const struct wane_queue *q);
/* A record begins, or ceases, to name a queue. Guarded. */
void wane__queue_use(uint16_t number);
void wane__queue_disuse(uint16_t number);

/* Records in the order in which they are to be queued, for one queue. */
struct wane__queue_chain {
  uint32_t first;
  uint32_t last;
  uint32_t count;
};
void wane__queue_chain_add(struct wane__queue_chain *chain, uint32_t ref);

/* Appends; wakes runners or raises the fd. Guarded; stripes may be held. */
void wane__queue_push(uint16_t number, enum wane__sort sort,
                      struct wane__queue_chain *chain);

/* Callbacks that have returned, of all queues there have been. */
uint64_t wane__queues_ran(enum wane__sort sort);
/* The same for those that run in the parent of this process. */
void wane__queues_count_elsewhere(enum wane__sort sort, uint64_t count);

/* Takes the first record; 0: none waits. *number is its own. lock: lock. */
uint32_t wane__queue_take_locked(struct wane_queue *q, uint64_t *number);

/* Closes a freed queue, if no run is under way: its records go to the
   library's queues. lock: lock; released. */
void wane__queue_close_and_unlock(struct wane_queue *q);

/* The user's queue in use at number *at or next after it, where *at is moved;
   NULL at the end. */
struct wane_queue *wane__queue_next(uint32_t *at);

void wane__queues_fork_prepare(void);
void wane__queues_fork_parent(void);
void wane__queues_fork_child(void);

#endif
