/* Chains of ephemerons that wait; see ephemeron.h. */
#include "ephemeron.h"

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/meta.h"

#define WAITING_BYTES_MAX                                                      \
  (sizeof(struct wane__waiting) +                                              \
   WANE__BLOCK_BYTES / WANE__GRANULE_BYTES * sizeof(uintptr_t))

/* Slots between one whose ephemeron is needed and one whose is fetched. */
#define NEIGHBOUR 6u

const char wane__gone;
bool wane__ephemerons_exist;
bool wane__ephemerons_end;

static struct {
  struct wane__waiting *fresh; /* got a chain since the last look. atomic */
  uintptr_t aside;             /* a chain. atomic */
  uintptr_t noted;             /* a chain: to be cleared. atomic */
  unsigned groups;             /* that got an array in this cycle. atomic */
} ephemerons;

/* Arrays not in use, by their size in cache lines. */
static struct wane__meta_list
    waiting_free[WAITING_BYTES_MAX / WANE_CACHE_LINE + 2];

static size_t waiting_bytes(const struct wane__block *group) {
  size_t bytes = sizeof(struct wane__waiting) +
                 wane__block_slots(group) * sizeof(uintptr_t);
  return (bytes + WANE_CACHE_LINE - 1) / WANE_CACHE_LINE * WANE_CACHE_LINE;
}

/* Its chains are empty: it was new, or is as wane__waiting_drop left it. */
static struct wane__waiting *waiting_new(struct wane__block *group) {
  size_t bytes = waiting_bytes(group);
  struct wane__waiting *waiting =
      wane__meta_take(&waiting_free[bytes / WANE_CACHE_LINE], bytes);
  if (waiting == NULL) {
    return NULL;
  }
  waiting->next_fresh = NULL;
  waiting->is_fresh = 0;
  waiting->group = group;
  struct wane__waiting *expected = NULL;
  if (!wane__cas(&group->waiting, &expected, waiting)) {
    wane__meta_give(&waiting_free[bytes / WANE_CACHE_LINE], waiting);
    return expected;
  }
  wane__add_relaxed(&ephemerons.groups, 1);
  return waiting;
}

/* The group of a slot has one more chain to look at. */
static void waiting_set_fresh(struct wane__waiting *waiting) {
  if (wane__load_relaxed(&waiting->is_fresh) != 0 ||
      wane__exchange(&waiting->is_fresh, 1) != 0) {
    return;
  }
  struct wane__waiting *first = wane__load_relaxed(&ephemerons.fresh);
  do {
    waiting->next_fresh = first;
  } while (!wane__cas(&ephemerons.fresh, &first, waiting));
}

static void pair_set_link(struct wane__pair *pair, uintptr_t link) {
  uintptr_t old = wane__load_relaxed(&pair->wait);
  while (!wane__cas(&pair->wait, &old, link | (old & WANE__WAIT_CHANGED))) {
  }
}

/* Whoever gets true may put it on a chain. What changed before does not count:
   the words are read after this. */
static bool pair_claim(struct wane__pair *pair) {
  uintptr_t old = wane__load_relaxed(&pair->wait);
  while ((old & ~WANE__WAIT_CHANGED) == 0) {
    if (wane__cas(&pair->wait, &old, WANE__WAIT_LAST)) {
      return true;
    }
  }
  return false;
}

static void chain_push(uintptr_t *chain, uintptr_t object,
                       struct wane__pair *pair) {
  uintptr_t first = wane__load_relaxed(chain);
  do {
    pair_set_link(pair, first != 0 ? first : WANE__WAIT_LAST);
  } while (!wane__cas(chain, &first, object));
}

uintptr_t wane__ephemeron_unchain(struct wane__pair *pair) {
  uintptr_t next = wane__exchange(&pair->wait, 0) & ~WANE__WAIT_CHANGED;
  return next == WANE__WAIT_LAST ? 0 : next;
}

static uintptr_t *chain_of(const struct wane__waiting *waiting,
                           const struct wane__found *slot) {
  return (uintptr_t *)&waiting
      ->chains[slot->mark - wane__block_marks(waiting->group)];
}

static void chain_push_once(uintptr_t *chain, uintptr_t object,
                            struct wane__pair *pair) {
  if (pair_claim(pair)) {
    chain_push(chain, object, pair);
  }
}

void wane__ephemeron_put_aside(uintptr_t object, struct wane__pair *pair) {
  chain_push_once(&ephemerons.aside, object, pair);
}

void wane__ephemeron_note(uintptr_t object, struct wane__pair *pair) {
  chain_push_once(&ephemerons.noted, object, pair);
}

enum wane__wait wane__ephemeron_wait(uintptr_t object, struct wane__pair *pair,
                                     const struct wane__pair *seen,
                                     const struct wane__found *slot) {
  if (!pair_claim(pair)) {
    return (wane__load(&pair->wait) & WANE__WAIT_CHANGED) != 0
               ? WANE__WAIT_STALE
               : WANE__WAIT_ELSEWHERE;
  }
  if (wane__load(&pair->weak) != seen->weak ||
      wane__load(&pair->held) != seen->held) {
    (void)wane__exchange(&pair->wait, 0);
    return WANE__WAIT_AGAIN;
  }
  struct wane__block *group = wane__block_at(wane__head_start(slot->head));
  struct wane__waiting *waiting = wane__load_acquire(&group->waiting);
  if (waiting == NULL && (waiting = waiting_new(group)) == NULL) {
    chain_push(&ephemerons.aside, object, pair);
    return WANE__WAIT_ELSEWHERE;
  }
  waiting_set_fresh(waiting);
  chain_push(chain_of(waiting, slot), object, pair);
  uint8_t old = (uint8_t)(3 - wane__arena.colour);
  uint8_t byte = old;
  if (wane__cas(slot->mark, &byte, (uint8_t)(old | WANE__MARK_AWAITED)) ||
      byte != wane__arena.colour) {
    return WANE__WAIT_DONE;
  }
  return WANE__WAIT_MARKED;
}

/* Objects that lie side by side are often marked one after the other. */
static void chain_prefetch(const struct wane__waiting *waiting, size_t slot) {
  if (slot < wane__block_slots(waiting->group)) { /* also if below 0 */
    uintptr_t object = wane__load_relaxed(&waiting->chains[slot]);
    __builtin_prefetch((const void *)object, 1);
    __builtin_prefetch((const void *)(object + WANE_CACHE_LINE - 17), 1);
  }
}

uintptr_t wane__ephemeron_take(const struct wane__found *slot) {
  const struct wane__block *group =
      wane__block_at(wane__head_start(slot->head));
  const struct wane__waiting *waiting = wane__load_acquire(&group->waiting);
  if (waiting == NULL) {
    return 0;
  }
  uintptr_t *chain = chain_of(waiting, slot);
  chain_prefetch(waiting, (size_t)(chain - waiting->chains) + NEIGHBOUR);
  chain_prefetch(waiting, (size_t)(chain - waiting->chains) - NEIGHBOUR);
  return wane__exchange(chain, 0);
}

/* Calls wake for all of a chain; they may come to wait again. */
static void chain_wake(uintptr_t *chain,
                       void (*wake)(uintptr_t object, bool has_waited)) {
  bool has_waited = chain != &ephemerons.aside;
  uintptr_t object = wane__exchange(chain, 0);
  while (object != 0) {
    uintptr_t next = wane__ephemeron_unchain(
        wane__ephemeron_pair(wane__ephemeron_type_at(object), object));
    wake(object, has_waited);
    object = next;
  }
}

void wane__ephemerons_settle_stw(unsigned markers,
                                 void (*wake)(uintptr_t object,
                                              bool has_waited)) {
  struct wane__waiting *waiting = wane__exchange(&ephemerons.fresh, NULL);
  while (waiting != NULL) {
    struct wane__waiting *next = waiting->next_fresh;
    waiting->is_fresh = 0;
    /* a marker alone runs over nobody's bit */
    size_t slots = markers > 1 ? wane__block_slots(waiting->group) : 0;
    const uint8_t *marks = wane__block_marks(waiting->group);
    for (size_t i = 0; i < slots; i++) {
      if (marks[i] == wane__arena.colour && waiting->chains[i] != 0) {
        chain_wake(&waiting->chains[i], wake);
      }
    }
    waiting = next;
  }
  chain_wake(&ephemerons.aside, wake);
}

void wane__ephemeron_clear(uintptr_t object, struct wane__pair *pair) {
  struct wane__found found = wane__block_slot_of(object);
  const struct wane__ephemeron_type *type =
      wane__ephemeron_type_of(wane__found_type(&found));
  WANE_CHECK(wane__load_relaxed(found.mark) != 0,
             "INV-ephemeron-2: what waits for a dead object is alive");
  wane__store_relaxed(&pair->weak, WANE__GONE);
  wane__store_relaxed(&pair->held, WANE__GONE);
  if (type->on_cleared != NULL) {
    type->on_cleared(type, (void *)object);
  }
}

static void ephemeron_clear_now(uintptr_t object, bool has_waited) {
  (void)has_waited;
  wane__ephemeron_clear(
      object, wane__ephemeron_pair(wane__ephemeron_type_at(object), object));
}

unsigned wane__ephemerons_finish_stw(void) {
  chain_wake(&ephemerons.aside, ephemeron_clear_now);
  chain_wake(&ephemerons.noted, ephemeron_clear_now);
  ephemerons.fresh = NULL; /* what came after the last look is all right */
  unsigned groups = ephemerons.groups;
  ephemerons.groups = 0;
  return groups;
}

void wane__waiting_drop(struct wane__block *group) {
  struct wane__waiting *waiting = group->waiting;
  wane__store_relaxed(&group->waiting, NULL);
  size_t bytes = waiting_bytes(group);
  wane__meta_give(&waiting_free[bytes / WANE_CACHE_LINE], waiting);
}
