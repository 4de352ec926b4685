/*
 * A marker, and the round that markers are in: what scanning (mark.c) and the
 * threads that do it (round.c) know of each other. What markers are for is in
 * mark.h.
 */
#ifndef WANE_MARK_MARKER_H
#define WANE_MARK_MARKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../include/wane/heap.h"
#include "../base/attr.h"
#include "../base/lock.h"
#include "ephemeron.h"
#include "mark.h"

#define WANE__MARKERS_MAX 64u
#define WANE__MARKER_SHARE_WORDS 256u

struct wane__marker {
  uintptr_t *stack;  /* const after preparation */
  uintptr_t *end;    /* of its address space; const after preparation */
  uintptr_t *limit;  /* of what has memory; owner */
  uintptr_t *bottom; /* owner; words in use are [bottom, top) */
  uintptr_t *top;
  uintptr_t *highest; /* seen now and then */
  /* Ephemerons to look at when there is nothing else to do: most of their weak
     words are marked then. Behind the stack's address space. owner */
  uintptr_t *later;
  size_t later_count;
  size_t later_room;
  const struct wane__ephemeron_type *last_type; /* pushed last, or NULL */
  uint64_t objects;
  uint64_t bytes;
  uint64_t cpu_ns;
  uint64_t waiting_bytes;  /* of entries that wait, less those woken */
  uint64_t done_bytes;     /* in this cycle, before the round */
  uint64_t progress_bytes; /* and in it, seen now and then. relaxed */
  struct wane__mark_outside outside;
  bool may_rest; /* in this round. const in a round */
  bool overflowed;
  bool has_put_aside; /* an ephemeron, for want of room */

  struct wane__lock share_lock WANE_ALIGNED(WANE_CACHE_LINE);
  uint32_t share_count; /* lock: share_lock; read relaxed as a hint */
  uintptr_t share_words[WANE__MARKER_SHARE_WORDS];
};

/* Cycle lock; const in a round. */
extern struct wane__marker *wane__markers[WANE__MARKERS_MAX];

struct wane__mark_state {
  uint32_t round;     /* number of the round and markers in it, as one word, so
                         that a marker which wakes late sees the two of one
                         run; a futex. seq_cst */
  uint32_t active;    /* markers that may take part in it. const in a round */
  uint32_t hungry;    /* of these, without work, or not in it yet. seq_cst */
  uint32_t working;   /* markers not done; 0: no round. a futex. seq_cst */
  uint32_t joinable;  /* the round, once it has begun. seq_cst */
  uint32_t invited;   /* threads may join a round. atomic */
  uint32_t is_closed; /* or not any more. atomic */
  uint32_t starting;  /* a marker thread is; a futex. seq_cst */
} WANE_ALIGNED(WANE_CACHE_LINE);
extern struct wane__mark_state wane__mark_state;

/* One with an empty stack; NULL without memory. */
struct wane__marker *wane__marker_new(void);
/* Gives back what a deep stack took, and empties it. Between rounds. */
void wane__marker_release(struct wane__marker *m);

/* Marks until no marker has work, or all are to rest. */
void wane__marker_work(struct wane__marker *m);
/* Empties the marker's own stack. */
void wane__marker_drain(struct wane__marker *m);
/* There is work that any marker can take. */
bool wane__mark_is_work_left(void);
/* After overflow: every marked object's children once more. By the first marker
   alone. */
void wane__marker_search_heap(struct wane__marker *m);
/* Has the first marker look at an ephemeron between rounds; has_waited: it was
   not merely put aside. */
void wane__mark_wake_ephemeron(uintptr_t object, bool has_waited);

#endif
