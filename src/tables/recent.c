/* The heap of items by use; see recent.h. */
#include "recent.h"

#include <errno.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../base/os.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"

#define CAPACITY_MIN 8u

uint64_t wane__recent_now(void) {
  static WANE_TLS uint64_t last;
  uint64_t now = wane__os_ticks();
  last = now > last ? now : last + 1;
  return last;
}

static void slot_put(struct wane__recent *recent, size_t place,
                     struct wane__recent_slot slot) {
  recent->slots[place - 1] = slot;
  wane__store_relaxed(&slot.item->place, place);
}

static void recent_sink(struct wane__recent *recent, size_t place,
                        struct wane__recent_slot slot) {
  for (;;) {
    size_t child = 2 * place;
    if (child > recent->count) {
      break;
    }
    if (child < recent->count &&
        recent->slots[child].noted < recent->slots[child - 1].noted) {
      child++;
    }
    if (slot.noted <= recent->slots[child - 1].noted) {
      break;
    }
    slot_put(recent, place, recent->slots[child - 1]);
    place = child;
  }
  slot_put(recent, place, slot);
}

static void recent_rise(struct wane__recent *recent, size_t place,
                        struct wane__recent_slot slot) {
  while (place > 1 && slot.noted < recent->slots[place / 2 - 1].noted) {
    slot_put(recent, place, recent->slots[place / 2 - 1]);
    place /= 2;
  }
  slot_put(recent, place, slot);
}

/* Puts the slot in place of the one used least recently; or about so, if others
   use those held faster than they can be looked at. */
static void recent_replace_locked(struct wane__recent *recent,
                                  struct wane__recent_slot slot) {
  for (size_t turns = 0;; turns++) {
    struct wane__recent_slot top = recent->slots[0];
    uint64_t used = wane__load_relaxed(&top.item->used);
    if (used == top.noted || turns > recent->count) {
      wane__store_relaxed(&top.item->place, 0);
      recent_sink(recent, 1, slot);
      return;
    }
    top.noted = used;
    recent_sink(recent, 1, top);
  }
}

/* False: there is no room for one more. */
static bool recent_hold_locked(struct wane__recent *recent,
                               struct wane__recent_slot slot) {
  if (slot.item->place != 0) {
    return true;
  }
  if (recent->count == recent->limit) {
    recent_replace_locked(recent, slot);
    return true;
  }
  if (recent->count == recent->capacity) {
    return false;
  }
  recent_rise(recent, ++recent->count, slot);
  return true;
}

static size_t recent_more(const struct wane__recent *recent, size_t capacity) {
  size_t more = capacity < CAPACITY_MIN / 2 ? CAPACITY_MIN : 2 * capacity;
  return more < recent->limit ? more : recent->limit;
}

/* Goes over to larger slots, unless another thread did. */
static void recent_move_locked(struct wane__recent *recent,
                               struct wane__recent_slot *slots,
                               size_t capacity) {
  if (capacity > recent->capacity) {
    if (recent->count != 0) {
      memcpy(slots, recent->slots, recent->count * sizeof *slots);
    }
    recent->slots = slots;
    recent->capacity = capacity;
  }
}

void wane__recent_hold(struct wane__recent *recent,
                       struct wane__recent_item *item, void *value) {
  struct wane__context *self = wane__self;
  struct wane__recent_slot *slots = NULL;
  size_t capacity = 0;
  int saved = errno;
  for (;;) {
    wane__guard_enter(self);
    wane__spin_acquire(&recent->lock->lock);
    if (slots != NULL) {
      recent_move_locked(recent, slots, capacity);
    }
    bool is_held = recent_hold_locked(
        recent, (struct wane__recent_slot){item, value,
                                           wane__load_relaxed(&item->used)});
    capacity = recent_more(recent, recent->capacity);
    wane__spin_release(&recent->lock->lock);
    wane__guard_leave(self);
    if (is_held) {
      return;
    }
    slots = wane_new_array(struct wane__recent_slot, capacity);
    if (slots == NULL) {
      errno = saved;
      return;
    }
  }
}
