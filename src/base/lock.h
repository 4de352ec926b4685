/*
 * A small futex lock. Not recursive, no owner, four bytes; zero is unlocked.
 *
 * A thread that is attached takes a lock only with stops held off (see
 * heap/context.h), so that no lock is held while the world is stopped
 * (INV-stop-1) and the collector may touch what the locks guard. Only
 * the cycle lock and the thread registry's lock are held across a stop, by
 * the collecting thread itself; markers take those of rank MARK.
 *
 * INV-lock-1: a lock is only taken while locks of lower rank are held. Check
 *   builds note the ranks that a thread holds and abort on a violation.
 */
#ifndef WANE_BASE_LOCK_H
#define WANE_BASE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"

enum wane__lock_rank {
  WANE__RANK_CYCLE = 1, /* one cycle at a time */
  WANE__RANK_STAGE,     /* what a cycle does, but for its rests */
  WANE__RANK_THREADS,   /* the thread registry */
  WANE__RANK_ROOTS,     /* added roots and pins */
  WANE__RANK_CLASS,     /* the block lists of one size class */
  WANE__RANK_PAGES,     /* free runs of blocks */
  WANE__RANK_STRIPE,    /* the records of a part of the heap's groups */
  WANE__RANK_QUEUES,    /* the list of callback queues, places of nets */
  WANE__RANK_QUEUE,     /* one callback queue */
  WANE__RANK_POOL,      /* free records of one kind */
  WANE__RANK_FOREIGN,   /* ranges outside the arena */
  WANE__RANK_GREY,      /* what marking must still see */
  WANE__RANK_META,      /* memory for records */
  WANE__RANK_MARK,      /* queues between markers */
};

struct wane__lock {
  uint32_t word; /* 0 free, 1 held, 2 held and somebody waits */
  uint32_t rank;
};

#define WANE__LOCK_INIT(r)                                                     \
  { 0, (r) }

void wane__lock_acquire(struct wane__lock *lock);
/* The same for the next of several locks of one rank, which are all taken, in
   a fixed order: around fork only. */
void wane__lock_acquire_peer(struct wane__lock *lock);
bool wane__lock_try(struct wane__lock *lock);
void wane__lock_release(struct wane__lock *lock);

/* Check builds: which ranks the calling thread holds (INV-lock-1). */
#if WANE_CHECK_LEVEL >= 1
void wane__lock_note_acquire(uint32_t rank);
void wane__lock_note_release(uint32_t rank);
#else
static inline void wane__lock_note_acquire(uint32_t rank) { (void)rank; }
static inline void wane__lock_note_release(uint32_t rank) { (void)rank; }
#endif

/* In the child of fork: the lock is free, whoever held it. */
void wane__lock_reset(struct wane__lock *lock);

#endif
