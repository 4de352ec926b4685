/* A locked stack of ranges; see range.h. Its lock is taken once for 32 KiB of
   scanning, so it does not limit the markers. */
#include "range.h"

#include "../../include/wane/heap.h"
#include "../base/atomic.h"
#include "../base/lock.h"
#include "../base/meta.h"
#include "../base/os.h"

#define RANGE_CAPACITY 65536u

static struct wane__lock range_lock = WANE__LOCK_INIT(WANE__RANK_MARK);
static struct wane__mark_range *ranges; /* const after preparation */
static uint32_t range_count;            /* lock: range_lock; hint: relaxed */

bool wane__range_prepare(void) {
  if (ranges != NULL) {
    return true;
  }
  size_t bytes = RANGE_CAPACITY * sizeof *ranges;
  struct wane__mark_range *memory = wane__meta_reserve(bytes);
  if (memory == NULL || !wane__os_commit(memory, bytes)) {
    return false;
  }
  ranges = memory;
  return true;
}

bool wane__range_push(struct wane__mark_range range) {
  wane__lock_acquire(&range_lock);
  bool fits = range_count < RANGE_CAPACITY;
  if (fits) {
    ranges[range_count] = range;
    wane__store_relaxed(&range_count, range_count + 1);
  }
  wane__lock_release(&range_lock);
  return fits;
}

static uintptr_t range_piece_bytes(const struct wane__mark_range *range) {
  if (range->type == NULL || range->type->size == 0) {
    return WANE__RANGE_PIECE_BYTES;
  }
  uintptr_t size = range->type->size;
  return size >= WANE__RANGE_PIECE_BYTES
             ? size
             : WANE__RANGE_PIECE_BYTES / size * size;
}

bool wane__range_take(struct wane__mark_range *out) {
  if (!wane__range_is_left()) {
    return false;
  }
  wane__lock_acquire(&range_lock);
  bool taken = range_count > 0;
  if (taken) {
    struct wane__mark_range *last = &ranges[range_count - 1];
    uintptr_t piece = range_piece_bytes(last);
    *out = *last;
    if (last->end - last->start > piece) {
      out->end = last->start + piece;
      last->start = out->end;
    } else {
      wane__store_relaxed(&range_count, range_count - 1);
    }
  }
  wane__lock_release(&range_lock);
  return taken;
}

bool wane__range_is_left(void) { return wane__load_relaxed(&range_count) != 0; }

void wane__range_fork_child(void) {
  wane__lock_reset(&range_lock);
  range_count = 0;
}
