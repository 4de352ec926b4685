/* Bump allocation from the low end of a reserved range for records, and from
   its high end for large arrays; see meta.h. */
#include "meta.h"

#include <errno.h>
#include <stdint.h>

#include "attr.h"
#include "check.h"
#include "lock.h"
#include "options.h"
#include "os.h"

/* Small programs stay small; in large ones the mark bytes are worth huge
   pages, as marking goes over them at random. */
#define META_SMALL_BYTES (2u << 20)
#define META_COMMIT_SMALL (256u << 10)
#define META_COMMIT_LARGE (2u << 20)

/* lock: meta_lock. */
static struct wane__lock meta_lock = WANE__LOCK_INIT(WANE__RANK_META);
static uintptr_t meta_next;      /* start of what is not handed out */
static uintptr_t meta_committed; /* end of what can be touched */
static uintptr_t meta_end;       /* end of the range for records */
static uintptr_t meta_large;     /* where huge pages begin */

void wane__meta_init(void *start, size_t bytes) {
  meta_next = meta_committed = (uintptr_t)start;
  meta_end = meta_next + bytes;
  meta_large = meta_next + META_SMALL_BYTES;
}

static size_t meta_round(size_t bytes, size_t to) {
  return (bytes + to - 1) & ~(to - 1);
}

/* Commits up to end and on to a whole step; false if that cannot be had. */
static bool meta_commit_step_locked(uintptr_t end, size_t step) {
  uintptr_t upto = meta_committed + meta_round(end - meta_committed, step);
  upto = upto < meta_end ? upto : meta_end;
  bool large = step == META_COMMIT_LARGE;
  if (end > upto ||
      !wane__os_commit((void *)meta_committed, upto - meta_committed)) {
    return false;
  }
  if (large && wane__options.huge_pages != 0) {
    wane__os_huge_pages((void *)meta_committed, upto - meta_committed);
  }
  meta_committed = upto;
  return true;
}

/* Under a tight limit a small step may still be possible. */
static bool meta_commit_locked(uintptr_t end) {
  if (end <= meta_committed) {
    return true;
  }
  int saved = errno;
  if (end > meta_large && meta_commit_step_locked(end, META_COMMIT_LARGE)) {
    return true;
  }
  errno = saved;
  return meta_commit_step_locked(end, META_COMMIT_SMALL);
}

static void *meta_alloc_locked(size_t bytes) {
  size_t rounded = meta_round(bytes, WANE_CACHE_LINE);
  if (rounded < bytes || rounded > meta_end - meta_next ||
      !meta_commit_locked(meta_next + rounded)) {
    errno = ENOMEM;
    return NULL;
  }
  void *record = (void *)meta_next;
  meta_next += rounded;
  return record;
}

bool wane__meta_ensure(size_t bytes) {
  wane__lock_acquire(&meta_lock);
  bool ok =
      bytes <= meta_end - meta_next && meta_commit_locked(meta_next + bytes);
  wane__lock_release(&meta_lock);
  return ok;
}

void *wane__meta_alloc(size_t bytes) {
  wane__lock_acquire(&meta_lock);
  void *record = meta_alloc_locked(bytes);
  wane__lock_release(&meta_lock);
  return record;
}

void *wane__meta_take(struct wane__meta_list *list, size_t bytes) {
  wane__lock_acquire(&meta_lock);
  void *record = list->first;
  if (record != NULL) {
    list->first = *(void **)record;
    *(void **)record = NULL;
  } else {
    record = meta_alloc_locked(bytes);
  }
  wane__lock_release(&meta_lock);
  return record;
}

void wane__meta_give(struct wane__meta_list *list, void *record) {
  wane__lock_acquire(&meta_lock);
  *(void **)record = list->first;
  list->first = record;
  wane__lock_release(&meta_lock);
}

void *wane__meta_reserve(size_t bytes) {
  wane__lock_acquire(&meta_lock);
  size_t rounded = meta_round(bytes, 65536);
  void *start = NULL;
  if (rounded >= bytes && rounded < meta_end - meta_committed) {
    meta_end = (meta_end - rounded) & ~(uintptr_t)65535;
    start = (void *)meta_end;
  } else {
    errno = ENOMEM;
  }
  wane__lock_release(&meta_lock);
  return start;
}

void wane__meta_fork_prepare(void) { wane__lock_acquire(&meta_lock); }
void wane__meta_fork_parent(void) { wane__lock_release(&meta_lock); }
void wane__meta_fork_child(void) { wane__lock_reset(&meta_lock); }
