/*
 * Ephemerons as marking sees them: objects with a pair of words of which the
 * second, held, is marked only if the object of the first, weak, is.
 *
 * An ephemeron is a typed object whose layout is a struct
 * wane__ephemeron_type. A marker that meets one puts it by until there is
 * nothing else to mark: then most weak words have been marked by other ways,
 * and what is looked at can be fetched ahead. If the weak word's object is not
 * marked then, the ephemeron waits: it goes on a chain that belongs to that
 * object's slot, and a bit in the slot's mark byte says so. Whoever marks a
 * slot with that bit takes the chain and looks at each ephemeron in it again.
 * So each is looked at twice at most (of those with two weak words three
 * times), whatever their order, and marking n of them costs O(n). No table is
 * searched: a slot has a place of its own in its group's array of chains,
 * which exists only while some ephemeron waits for an object of the group.
 *
 * When marking ends, what still waits has a dead weak word, and the chains say
 * exactly where. Nothing more is done in the last stop: the sweep of the group
 * clears those ephemerons before it frees a slot (special/ephemeron.h).
 *
 * Beside the program a weak word may change, in a map with weak values, while
 * its ephemeron waits for the old one. Who changes it notes that beside the
 * link (WANE__WAIT_CHANGED), and the page is written, so that it is looked at
 * again: then both words are marked, and the sweep, which looks at the words as
 * well, leaves it alone.
 *
 * Two markers. One that makes an ephemeron wait puts it on the chain and
 * then sets the bit by compare-and-swap; one that finds the bit exchanges the
 * byte for the colour and then takes the chain. So either the first sees
 * that the slot is marked, or the second finds the ephemeron. But marking
 * without the bit is a plain store (mark.h), which can run over a bit that
 * came between its load and its store. Therefore, when all markers have come
 * to an end, chains of slots that are marked are taken once more, in the
 * groups that got a chain since the last time; what they wake begins another
 * round.
 *
 * Without memory for an array, or room on the marker's stack, an ephemeron is
 * put aside and looked at again after each round; what is left of these at the
 * end is cleared in the stop.
 *
 * INV-ephemeron-1: when marking is complete, each marked ephemeron whose weak
 *   word has an unmarked object is on the chain of that object's slot.
 * INV-ephemeron-2: while a group is not swept its chains hold only ephemerons
 *   that are alive: marked, or dead with a finalizer, which brings them back.
 */
#ifndef WANE_MARK_EPHEMERON_H
#define WANE_MARK_EPHEMERON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../include/wane/heap.h"
#include "../base/atomic.h"
#include "../base/attr.h"
#include "../heap/block.h"
#include "../heap/heap.h"

/* In the mark byte of an unmarked slot: ephemerons wait for it. */
#define WANE__MARK_AWAITED 4u

struct wane__pair {
  uintptr_t weak; /* WANE__GONE once it was found dead. atomic */
  uintptr_t held; /* the same. atomic */
  uintptr_t wait; /* 0; or the next ephemeron of the chain, 1 in the last.
                     markers, sweep */
};

struct wane__ephemeron_type {
  struct wane_type type; /* its pointers are always marked, as is the type
                            itself if it is managed */
  uint32_t pair_offset;
  bool is_both_weak; /* held is not marked either, and counts as weak */
  bool weak_changes; /* a word that counts as weak may, while both live */
  bool ends_at_shutdown;
  uint32_t cleared_bytes; /* memory that clearing one makes garbage */
  /* The ephemeron has been cleared by a sweep: guarded, or on a thread of the
     library; stripe held. Or STW. May be NULL. */
  void (*on_cleared)(const struct wane__ephemeron_type *type, void *object);
};

/* What is in a pair's words when it is cleared. No user has this address. */
extern const char wane__gone;
#define WANE__GONE ((uintptr_t)&wane__gone)

/* Some have been made that end at shutdown. relaxed */
extern bool wane__ephemerons_exist;
/* This cycle ends them: those whose weak words live are cleared, too, when it
   has marked. Cycle lock. */
extern bool wane__ephemerons_end;

/* NULL: the type is not one of an ephemeron. The library has no others. */
WANE_INLINE const struct wane__ephemeron_type *
wane__ephemeron_type_of(const struct wane_type *type) {
  return type->name == wane__type_of_library
             ? (const struct wane__ephemeron_type *)type
             : NULL;
}

WANE_INLINE struct wane__pair *
wane__ephemeron_pair(const struct wane__ephemeron_type *type,
                     uintptr_t object) {
  return (struct wane__pair *)(object + type->pair_offset);
}

/* Of an object that is known to be one. */
static inline const struct wane__ephemeron_type *
wane__ephemeron_type_at(uintptr_t object) {
  struct wane__found found = wane__block_slot_of(object);
  return wane__ephemeron_type_of(wane__found_type(&found));
}

/* The chains of a group's slots. */
struct wane__waiting {
  struct wane__waiting *next_fresh; /* since the last look. atomic */
  uint32_t is_fresh;
  struct wane__block *group; /* const */
  uintptr_t chains[];        /* an ephemeron, or 0. atomic */
};

/* Ends a chain. */
#define WANE__WAIT_LAST ((uintptr_t)1)
/* Beside the link, or alone: while marking, a word that counts as weak has
   changed, so it may not be what the ephemeron waits for. */
#define WANE__WAIT_CHANGED ((uintptr_t)2)

/* What follows in the chain; it is 0 at the end. Out of the chain, it can wait
   again. */
uintptr_t wane__ephemeron_unchain(struct wane__pair *pair);

enum wane__wait {
  WANE__WAIT_DONE,
  WANE__WAIT_MARKED,    /* it does, but the slot is marked: take its chain */
  WANE__WAIT_ELSEWHERE, /* another marker scans it, too; or it is put aside */
  WANE__WAIT_STALE,     /* it does, but has changed since */
  WANE__WAIT_AGAIN,     /* it does not: its words are others than were seen */
};

/* Makes an ephemeron wait for an unmarked slot, because of the words that were
   seen in it. Markers. */
enum wane__wait wane__ephemeron_wait(uintptr_t object, struct wane__pair *pair,
                                     const struct wane__pair *seen,
                                     const struct wane__found *slot);

/* It is looked at again between rounds. Markers; between rounds. */
void wane__ephemeron_put_aside(uintptr_t object, struct wane__pair *pair);

/* In a cycle that ends them: it is to be cleared. Markers, STW: such a cycle
   marks in one stop. */
void wane__ephemeron_note(uintptr_t object, struct wane__pair *pair);

/* Takes the chain of a slot; 0: there is none. Markers; between rounds. */
uintptr_t wane__ephemeron_take(const struct wane__found *slot);

/* Begins to fetch what the two above use. */
WANE_INLINE void
wane__ephemeron_prefetch_chain(const struct wane__found *slot) {
  const struct wane__block *group =
      wane__block_at(wane__head_start(slot->head));
  const struct wane__waiting *waiting = wane__load_relaxed(&group->waiting);
  if (waiting != NULL) {
    __builtin_prefetch(&waiting->chains[slot->mark - wane__block_marks(group)],
                       1);
  }
}

/* Between rounds: calls wake for each ephemeron that must be looked at again,
   out of its chain; has_waited: it was not merely put aside. The world need
   not be stopped; no marker runs, but the collecting thread's. */
void wane__ephemerons_settle_stw(unsigned markers,
                                 void (*wake)(uintptr_t object,
                                              bool has_waited));

/* After the last round: clears those that were put aside, and those noted.
   Returns how many groups have chains. STW. */
unsigned wane__ephemerons_finish_stw(void);

/* Sets both words to WANE__GONE and tells the type. */
void wane__ephemeron_clear(uintptr_t object, struct wane__pair *pair);

/* The group's chains are all empty: takes away the array. The caller owns the
   group. */
void wane__waiting_drop(struct wane__block *group);

#endif
