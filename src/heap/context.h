/*
 * The allocator's half of a thread: caches to bump through, and the guard
 * that holds off a stop.
 *
 * A cache is one class of one kind: a run of free slots [cur, end), zeroed
 * and ready, and the group of blocks it was cut from, where the next run will
 * be looked for.
 *
 * The guard. The stop signal may come between any two instructions, except
 * that a thread with guard > 0 first finishes what it is doing: the handler
 * sets stop_wanted and returns, and the thread stops itself when the guard
 * drops to 0. Everything that takes a lock or changes shared structures runs
 * guarded.
 *
 * INV-stop-1: while the world is stopped no attached thread is guarded, so no
 *   lock of the heap is held and every structure is whole.
 *
 * The fast path is not guarded. A thread stopped inside it holds a pointer to
 * the slot it is taking, and may not have advanced `cur` yet; the collector
 * therefore never takes a run away. A run that is cut while marking has the old
 * colour, as new objects have then; when marking ends the last stop gives
 * [cur, end) the current one, or these slots would count as dead (INV-block-1).
 * That costs at most a run for each cache that is in use. Only the group is let
 * go of, as it is unswept from then on. The other stops of a cycle change
 * nothing in a cache.
 */
#ifndef WANE_HEAP_CONTEXT_H
#define WANE_HEAP_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "block.h"

struct wane__cache {
  uintptr_t cur; /* owner thread; others read it when the world is stopped */
  uintptr_t end; /* owner thread */
  uint32_t slot_bytes;       /* const after init */
  uint32_t next_idx;         /* where in the group to look for the next run */
  struct wane__block *block; /* the group, or NULL. owner thread; STW */
};

struct wane__context {
  struct wane__cache caches[WANE__KIND_COUNT][WANE__CLASS_COUNT];
  uint32_t guard;       /* owner thread and its signal handler */
  uint32_t stop_wanted; /* the handler came while guarded */
  bool attached;        /* false only in wane__no_context */

  /* Counts since attach, of whole runs; owner thread, relaxed for readers. */
  uint64_t run_bytes;
  uint64_t run_objects;
  uint64_t flip_bytes;    /* run_bytes at the last flip. STW */
  uint64_t pending_bytes; /* not yet added to the heap's total */

  const struct wane_type *checked_types[8]; /* last types found consistent */
  uint64_t stress_count;                    /* allocations, in stress mode */
};

/* The calling thread's context; before it is attached, one whose caches are
   empty, so that the fast path needs no test. */
extern WANE_TLS struct wane__context *wane__self;
extern struct wane__context wane__no_context;

/* Ready for a thread: all caches empty. */
void wane__context_init(struct wane__context *context);
/* Returns what its caches hold to the heap. Guarded, or STW. */
void wane__context_flush(struct wane__context *context);
/* In the last stop, before what is left is marked: the rest of each run, which
   the thread will go on handing out, gets the current colour. marked is called
   for slots that have to be marked as objects are. STW. */
void wane__context_colour_stw(struct wane__context *context,
                              void (*marked)(uintptr_t slot));
/* After marking: lets go of the groups, which are unswept now. STW. */
void wane__context_let_go_stw(struct wane__context *context);

WANE_INLINE void wane__guard_enter(struct wane__context *self) {
  wane__store_relaxed(&self->guard, self->guard + 1);
  wane__signal_fence();
}

void wane__guard_stop(struct wane__context *self);

WANE_INLINE void wane__guard_leave(struct wane__context *self) {
  wane__signal_fence();
  wane__store_relaxed(&self->guard, self->guard - 1);
  wane__signal_fence();
  if (WANE_UNLIKELY(wane__load_relaxed(&self->stop_wanted) != 0) &&
      self->guard == 0) {
    wane__guard_stop(self);
  }
}

/* The same for what a thread may do that is not attached, such as one of the
   library's own: it is never stopped, and has nothing to guard. */
static inline struct wane__context *wane__guard_enter_any(void) {
  struct wane__context *self = wane__self->attached ? wane__self : NULL;
  if (self != NULL) {
    wane__guard_enter(self);
  }
  return self;
}

static inline void wane__guard_leave_any(struct wane__context *self) {
  if (self != NULL) {
    wane__guard_leave(self);
  }
}

#endif
