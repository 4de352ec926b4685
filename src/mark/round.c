/* Markers' threads, and the rounds in which they mark; see mark.h. */
#include <sched.h>

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../mutator/thread.h"
#include "ephemeron.h"
#include "mark.h"
#include "marker.h"
#include "range.h"

/* More than the markers of a round, whose number it is part of. */
#define ROUND_STEP 128u

uint32_t wane__mark_rest;

struct wane__marker *wane__markers[WANE__MARKERS_MAX];
struct wane__mark_state wane__mark_state;
static unsigned marker_threads; /* cycle lock */

static void marker_leave(void) {
  if (wane__sub(&wane__mark_state.working, 1) == 1) {
    wane__os_futex_wake(&wane__mark_state.working, 1);
  }
}

/* What the thread of a marker does in a round. */
static void marker_take_part(struct wane__marker *m) {
  wane__marker_work(m);
  marker_leave();
}

/* Joins the round, which has begun without the calling thread, if it was
   invited. Until then it counted as hungry. Whether it is still that round, and
   whether the cycle has so many markers, is only certain once it keeps the
   round from ending. */
static bool marker_join(unsigned index, uint32_t round) {
  uint32_t working = wane__load(&wane__mark_state.working);
  if (wane__load_relaxed(&wane__mark_state.invited) == 0 ||
      wane__load_relaxed(&wane__mark_state.is_closed) != 0 ||
      wane__load(&wane__mark_state.joinable) != round) {
    return false;
  }
  while (working != 0) {
    if (!wane__cas(&wane__mark_state.working, &working, working + 1)) {
      continue;
    }
    if (wane__load(&wane__mark_state.joinable) == round &&
        index < wane__mark_state.active) {
      wane__sub(&wane__mark_state.hungry, 1);
      return true;
    }
    marker_leave();
    return false;
  }
  return false;
}

static void *marker_thread(void *arg) {
  struct wane__marker *m = arg;
  unsigned index = 0;
  while (wane__markers[index] != m) {
    index++;
  }
  uint32_t seen = wane__load(&wane__mark_state.round);
  wane__store(&wane__mark_state.starting, 0);
  wane__os_futex_wake(&wane__mark_state.starting, 1);
  bool took_part = true; /* once in each round */
  for (;;) {
    uint32_t round = wane__load(&wane__mark_state.round);
    if (round != seen) {
      seen = round;
      took_part = index < round % ROUND_STEP;
      if (took_part) {
        marker_take_part(m);
      }
    } else if (!took_part && marker_join(index, round)) {
      took_part = true;
      marker_take_part(m);
    } else {
      wane__os_futex_wait(&wane__mark_state.round, seen, -1);
    }
  }
  return NULL;
}

/* Waits until the word, which others change, is 0. */
static void mark_wait_for(const uint32_t *word) {
  for (unsigned spins = 0;; spins++) {
    uint32_t left = wane__load(word);
    if (left == 0) {
      return;
    }
    if (spins < 1000) {
      wane__cpu_relax();
    } else {
      wane__os_futex_wait(word, left, -1);
    }
  }
}

unsigned wane__mark_prepare(unsigned wanted) {
  wanted = wanted < WANE__MARKERS_MAX ? wanted : WANE__MARKERS_MAX;
  unsigned ready = 0;
  if (!wane__range_prepare()) {
    return 0;
  }
  while (ready < wanted) {
    if (wane__markers[ready] == NULL) {
      wane__store_release(&wane__markers[ready], wane__marker_new());
    }
    if (wane__markers[ready] == NULL) {
      break;
    }
    ready++;
  }
  while (marker_threads + 1 < ready) { /* the first marker is the caller */
    wane__store(&wane__mark_state.starting, 1);
    if (!wane__thread_create_internal(
            marker_thread, wane__markers[marker_threads + 1], false)) {
      ready = marker_threads + 1;
      break;
    }
    mark_wait_for(&wane__mark_state.starting);
    marker_threads++;
  }
  wane__store_relaxed(&wane__mark_state.invited, 0);
  wane__store_relaxed(&wane__mark_state.is_closed, 0);
  wane__mark_state.active = ready;
  for (unsigned i = 0; i < ready; i++) {
    wane__markers[i]->done_bytes = 0;
    wane__store_relaxed(&wane__markers[i]->progress_bytes, 0);
  }
  return ready;
}

/* One round, until no marker has work: begun by so many, and others may join.
 */
static void mark_round(unsigned begun_by, bool may_rest) {
  for (unsigned i = 0; i < wane__mark_state.active; i++) {
    wane__markers[i]->may_rest = may_rest;
  }
  if (wane__load_relaxed(&wane__mark_state.invited) != 0 &&
      wane__load_relaxed(&wane__mark_state.is_closed) == 0) {
    begun_by = wane__mark_state.active;
  }
  wane__store(&wane__mark_state.joinable, 0); /* no number of a round */
  wane__store(&wane__mark_state.hungry, wane__mark_state.active - begun_by);
  wane__store(&wane__mark_state.working, begun_by);
  uint32_t number = wane__load(&wane__mark_state.round) / ROUND_STEP + 1;
  wane__store(&wane__mark_state.round, number * ROUND_STEP + begun_by);
  wane__store(&wane__mark_state.joinable, number * ROUND_STEP + begun_by);
  if (begun_by > 1) {
    wane__os_futex_wake(&wane__mark_state.round, INT32_MAX);
  }
  wane__marker_work(wane__markers[0]);
  wane__sub(&wane__mark_state.working, 1);
  mark_wait_for(&wane__mark_state.working);
  for (unsigned i = 0; i < wane__mark_state.active; i++) {
    wane__markers[i]->may_rest = false;
  }
}

/* Between rounds: is there work that a marker left? */
static bool mark_is_left(void) {
  bool left = wane__mark_is_work_left();
  for (unsigned i = 0; i < wane__mark_state.active; i++) {
    left = left || wane__markers[i]->top != wane__markers[i]->bottom ||
           wane__markers[i]->later_count != 0;
  }
  return left;
}

void wane__mark_invite(void) {
  if (wane__load_relaxed(&wane__mark_state.is_closed) != 0) {
    return;
  }
  wane__store_relaxed(&wane__mark_state.invited, 1);
  wane__os_futex_wake(&wane__mark_state.round, INT32_MAX);
}

void wane__mark_close(void) {
  wane__store_relaxed(&wane__mark_state.is_closed, 1);
  wane__store_relaxed(&wane__mark_state.invited, 0);
}

uint64_t wane__mark_progress(void) {
  uint64_t bytes = 0;
  for (unsigned i = 0; i < WANE__MARKERS_MAX; i++) {
    const struct wane__marker *m = wane__load_acquire(&wane__markers[i]);
    if (m == NULL) {
      break;
    }
    bytes += wane__load_relaxed(&m->progress_bytes);
  }
  return bytes;
}

bool wane__mark_has_nothing(void) {
  uint64_t objects = 0;
  for (unsigned i = 0; i < wane__mark_state.active; i++) {
    objects += wane__markers[i]->objects + wane__markers[i]->done_bytes;
  }
  return objects == 0;
}

/* Repairs overflows, by the first marker alone; returns how many searches of
   the heap it took. */
static unsigned mark_rescan(void) {
  wane__store(&wane__mark_state.hungry, 0); /* a rescan does not share */
  for (unsigned rescans = 0;; rescans++) {
    bool again = false;
    for (unsigned i = 0; i < wane__mark_state.active; i++) {
      again = again || wane__markers[i]->overflowed;
      wane__markers[i]->overflowed = false;
    }
    if (!again) {
      return rescans;
    }
    wane__marker_search_heap(wane__markers[0]);
  }
}

/* Rounds until one ends because there is no work left. */
static void mark_rounds(unsigned begun_by, void (*rest)(void)) {
  do {
    mark_round(begun_by, rest != NULL);
    if (rest != NULL && wane__load_relaxed(&wane__mark_rest) != 0) {
      rest();
    }
  } while (mark_is_left());
}

void wane__mark_all(unsigned begun_by, void (*rest)(void),
                    struct wane__mark_totals *totals) {
  struct wane__marker *first = wane__markers[0];
  unsigned active = wane__mark_state.active;
  do {
    mark_rounds(begun_by, rest);
    totals->rescans += mark_rescan();
    first->has_put_aside = false;
    wane__ephemerons_settle_stw(active, wane__mark_wake_ephemeron);
  } while (first->top != first->bottom || first->later_count != 0 ||
           first->overflowed || first->has_put_aside);
  for (unsigned i = 0; i < active; i++) {
    struct wane__marker *m = wane__markers[i];
    WANE_ASSERT(m->top == m->bottom && m->share_count == 0 &&
                    m->later_count == 0,
                "INV-mark-1: no marker leaves work behind");
    totals->objects += m->objects;
    totals->bytes += m->bytes;
    totals->cpu_ns += m->cpu_ns;
    totals->waiting_bytes += m->waiting_bytes;
    totals->outside.files += m->outside.files;
    totals->outside.bytes += m->outside.bytes;
    totals->outside.adopted_bytes += m->outside.adopted_bytes;
    totals->helpers_cpu_ns += i != 0 ? m->cpu_ns : 0;
    m->done_bytes += m->bytes;
    wane__store_relaxed(&m->progress_bytes, m->done_bytes);
    m->objects = m->bytes = m->cpu_ns = m->waiting_bytes = 0;
    m->outside = (struct wane__mark_outside){0};
    wane__marker_release(m);
  }
}

void wane__mark_fork_child(void) {
  marker_threads = 0;
  wane__store(&wane__mark_state.working, 0);
  wane__store(&wane__mark_state.starting, 0);
  wane__range_fork_child();
  for (unsigned i = 0; i < WANE__MARKERS_MAX && wane__markers[i] != NULL; i++) {
    struct wane__marker *m = wane__markers[i];
    wane__lock_reset(&m->share_lock);
    m->bottom = m->top = m->stack;
    m->later_count = m->share_count = 0;
    m->overflowed = m->has_put_aside = false;
    m->last_type = NULL;
  }
}
