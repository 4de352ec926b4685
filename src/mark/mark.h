/*
 * Marking: from the roots to everything that can be reached.
 *
 * A word is a pointer if it lies in the arena and its slot's mark byte is not
 * 0 (and, for a large object, it is not beyond the end). Such words go on the
 * marker's stack unseen; at the other end a word is taken off, its slot and
 * mark byte are computed and prefetched, and it enters a ring of 32. What
 * leaves the ring is looked at: if its byte has the old colour, it gets the
 * new one and its own words go on the stack. So the two cache misses of each
 * object (mark byte, contents) overlap with the work on the others (16 to 64
 * entries were measured: 32 saves an eighth over 16, 64 nothing more); the
 * price is a stack entry for each pointer and not for each object.
 *
 * Marking is a plain store. Two markers may find one object at once and scan
 * it twice, which is harmless.
 *
 * Markers work in rounds (wane__mark_all), with the world stopped or beside the
 * program. Beside it, what they read may change behind them; that they are told
 * of it is the dirty tracker's affair, and collect/beside.h's. A word that
 * leads beyond the arena as it was when a marker began to drain, or to take a
 * piece of a range, is dropped: it was stored later than that, so after the
 * fetch that came before the round, and its page is handed out by the next one.
 *
 * Large objects and roots are ranges on a common queue, and taken in pieces.
 *
 * Sharing: each marker works on a private stack. When some marker is hungry,
 * the others put the older half of theirs (the larger subgraphs) in a buffer
 * from which it steals (Acar, Chargueraud, Rainey: Scheduling parallel
 * programs by work stealing with private deques, 2013). A marker ends when
 * all are hungry at once: then there is no work, and none can appear, since
 * only one that is not hungry makes any.
 *
 * Words that point outside the arena are looked at once more while there are
 * adopted ranges, in a pass of its own over the same words (heap/foreign.h).
 *
 * Overflow: a full stack drops words, never objects. The object whose words
 * did not fit is marked, and afterwards the whole heap is searched for
 * marked objects with unmarked children, until there are none.
 *
 * INV-mark-1: after wane__mark_all every object into which a word leads that a
 *   marker was given, or read in an object it marked, has the current colour;
 *   so after the last one of a cycle, with the world stopped, has every object
 *   that a root or a marked object points into (INV-beside-1).
 */
#ifndef WANE_MARK_MARK_H
#define WANE_MARK_MARK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wane_type;

/* Of what was marked, what is not memory of the heap (heap/outside.h). */
struct wane__mark_outside {
  uint64_t files;
  uint64_t bytes;
  uint64_t adopted_bytes; /* among bytes */
};

struct wane__mark_totals {
  uint64_t objects;
  uint64_t bytes;          /* of marked slots */
  uint64_t cpu_ns;         /* of all markers */
  uint64_t helpers_cpu_ns; /* of all but the calling thread */
  uint64_t waiting_bytes;  /* of table entries to be cleared; among bytes */
  struct wane__mark_outside outside; /* among objects and bytes */
  unsigned rescans;                  /* of the heap, after overflow */
};

/* Before the stop: makes markers ready, up to wanted; fewer if threads or
   memory cannot be had. 0 with ENOMEM if not even one. Cycle lock held. */
unsigned wane__mark_prepare(unsigned wanted);

/* Adds a range of words to be scanned: a wane__root_visit. A copy is scanned
   before the call returns. Between rounds. */
void wane__mark_add_range(void *unused, uintptr_t start, uintptr_t end,
                          bool is_copy);

/* Adds what an object points to, less what points into it, and not the object
   itself. Between rounds. */
struct wane__found;
void wane__mark_add_fields(const struct wane__found *object);

/* Marks until nothing is left, by so many of the markers that were prepared,
   and adds to the totals. STW, without rest; or beside the program with the
   dirty tracker armed (mark/dirty.h). */
void wane__mark_all(unsigned markers, void (*rest)(void),
                    struct wane__mark_totals *totals);

/* Not 0: somebody wants all that marks to stand still for a moment. Markers
   then leave their work as it is, and rest is called on the calling thread;
   when it returns they go on. atomic */
extern uint32_t wane__mark_rest;

/* Has what is marked of memory that was written scanned once more: of the heap,
   or a root outside it, which is scanned before the call returns. As above. */
void wane__mark_again(uintptr_t start, uintptr_t end);
/* The same at once. For what the first fetch of a cycle hands out, of which
   hardly anything is marked: what the first stop had no room for, or what a
   cycle that was left had marked. Before anything else is. */
void wane__mark_again_now(uintptr_t start, uintptr_t end);
/* And all memory: it is not known what was written. */
void wane__mark_all_again(void);

/* Has threads that do not mark yet join those that do, in this round and the
   others of the cycle, up to all that were prepared. Any thread. */
void wane__mark_invite(void);
/* No others join from here on. Between rounds. */
void wane__mark_close(void);
/* Bytes marked in this cycle so far, not exact. Any thread. */
uint64_t wane__mark_progress(void);
/* Since wane__mark_prepare nothing has been marked; a cycle that was left may
   have. Between rounds. */
bool wane__mark_has_nothing(void);

/* The marker threads are gone. What was still to be scanned is forgotten: in a
   child that was born while marking all that is marked is scanned again. */
void wane__mark_fork_child(void);

#endif
