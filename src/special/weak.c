/* Weak handles: made, read, cleared; see weak.h. */
#include "weak.h"

#include <assert.h>
#include <errno.h>

#include "../../include/wane/lifetime.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../heap/context.h"
#include "../heap/grey.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "static.h"

static_assert(sizeof(struct wane__weak_slot) == 16,
              "a weak pointer costs 16 bytes and its entry in a table");

/* The slot for a pointer into a group's live object, or to static data (NULL).
   Guarded. 0: no memory. */
static uint64_t weak_handle_for(struct wane__block *group, uintptr_t pointer) {
  struct wane__pool *pool = &wane__pools[WANE__SORT_WEAK];
  struct wane__stripe *stripe = wane__stripe_of(group);
  uint64_t handle = 0;
  wane__spin_acquire(&stripe->lock);
  uint32_t index = wane__group_find_locked(group, WANE__SORT_WEAK, pointer);
  if (index == 0 && wane__group_reserve_locked(group) &&
      (index = wane__pool_take(pool, &stripe->supplies[WANE__SORT_WEAK])) !=
          0) {
    /* pairs with the acquire in weak_read: what it reads after this pointer
       is at least the slot's new generation */
    wane__store_release(&wane__weak_slot_at(index)->pointer, pointer);
    wane__group_insert_locked(group, WANE__SORT_WEAK, pointer, index);
    wane__store_relaxed(&stripe->registered[WANE__SORT_WEAK],
                        stripe->registered[WANE__SORT_WEAK] + 1);
  }
  if (index != 0) {
    handle = wane__pool_handle(wane__pool_at(pool, index), index);
  }
  wane__spin_release(&stripe->lock);
  return handle;
}

WANE_PUBLIC wane_weak wane_weak_make(const void *ptr) {
  wane_weak weak = {0};
  if (ptr == NULL) {
    return weak;
  }
  struct wane__context *self = wane__attach();
  if (self == NULL) {
    errno = ENOMEM;
    return weak;
  }
  struct wane__found found;
  wane__guard_enter(self);
  bool is_object = wane__object_find(ptr, &found);
  if (is_object) {
    weak.id = weak_handle_for(wane__group_of(&found), (uintptr_t)ptr);
  }
  wane__guard_leave(self);
  if (!is_object) {
    uint64_t closed = wane__static_closed();
    wane__static_require("wane_weak_make", ptr);
    wane__guard_enter(self);
    weak.id = weak_handle_for(NULL, (uintptr_t)ptr);
    wane__guard_leave(self);
    if (wane__static_closed() != closed) {
      wane__static_forget_closed(); /* it might have been this module */
    }
  }
  if (weak.id == 0) {
    errno = ENOMEM;
  }
  wane_keep_alive(ptr);
  return weak;
}

/* Note [weak read] in weak.h has the steps. Guarded. */
WANE_INLINE WANE_SCANS_MEMORY void *weak_read(uint64_t id) {
  uint32_t generation = (uint32_t)(id >> 32);
  const struct wane__weak_slot *slot =
      wane__pool_find(&wane__pools[WANE__SORT_WEAK], (uint32_t)id);
  if (slot == NULL ||
      wane__load_acquire(&slot->head.generation) != generation) { /* 1 */
    return NULL;
  }
  uintptr_t pointer = wane__load_acquire(&slot->pointer); /* 2 */
  uintptr_t target = pointer - wane__arena.start < wane__arena.reserved
                         ? pointer
                         : wane__foreign_stand_in(pointer);
  if (target != 0 && !wane__target_lives(target)) { /* 3 */
    return NULL;
  }
  wane__fence_acquire();
  if (wane__load_relaxed(&slot->head.generation) != generation) { /* 4 */
    return NULL;
  }
  if (WANE_UNLIKELY(wane__is_marking())) {
    wane__grey_hint(target);
  }
  return (void *)pointer;
}

WANE_PUBLIC WANE_HOT WANE_SCANS_MEMORY void *wane_weak_value(wane_weak weak) {
  struct wane__context *self = wane__self;
  if (WANE_UNLIKELY(!self->attached)) {
    self = wane__hooks.attach();
    if (self == NULL) {
      wane__fatal("wane_weak_value", "out of memory for the thread's record");
    }
  }
  wane__guard_enter(self);
  void *value = weak_read(weak.id);
  wane__guard_leave(self); /* may stop here: the object is in a register */
  __asm__ volatile("" : : "r"(value) : "memory");
  return value;
}

void wane__weak_clear_locked(uint32_t index, struct wane__pool_chain *chain) {
  struct wane__weak_slot *slot = wane__weak_slot_at(index);
  WANE_CHECK(slot->pointer != 0, "INV-weak-1: a slot in a table has a pointer");
  wane__store_relaxed(&slot->pointer, 0);
  wane__pool_retire(&wane__pools[WANE__SORT_WEAK], index, chain);
}
