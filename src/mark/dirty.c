/* The dirty tracker: choosing a backend, and which memory of the heap is
   tracked; see dirty.h. */
#include "dirty.h"

#include <errno.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../heap/block.h"
#include "../heap/extent.h"

/* Values of the option. */
enum dirty_choice {
  DIRTY_CHOICE_NONE,
  DIRTY_CHOICE_AUTO,
  DIRTY_CHOICE_SOFT,
  DIRTY_CHOICE_UFFD,
};

static const struct wane__dirty_ops dirty_none = {.name = "none"};
static const struct wane__dirty_ops *dirty_ops; /* NULL: not known yet.
                                                   relaxed */
static size_t dirty_watched = 1; /* blocks below are, if of the heap. cycle
                                    lock, as is the next */
static bool dirty_is_outside;    /* the space of the last of them */

static void dirty_set(const struct wane__dirty_ops *ops) {
  wane__store_relaxed(&dirty_ops, ops);
  dirty_watched = 1;
  dirty_is_outside = false;
}

/* It may work another time. */
static bool dirty_is_passing(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM ||
         error == EAGAIN;
}

static bool dirty_try(const struct wane__dirty_ops *ops, bool *is_passing) {
  if (ops->open()) {
    dirty_set(ops);
    return true;
  }
  *is_passing = *is_passing || dirty_is_passing(errno);
  ops->close();
  return false;
}

static void dirty_choose(void) {
  int64_t choice = wane__options.dirty;
  bool is_passing = false;
  bool may = choice != DIRTY_CHOICE_NONE && !wane__os_has_tsan();
  if (may && choice != DIRTY_CHOICE_SOFT &&
      dirty_try(&wane__dirty_uffd, &is_passing)) {
    return;
  }
  if (may && choice != DIRTY_CHOICE_UFFD &&
      dirty_try(&wane__dirty_soft, &is_passing)) {
    return;
  }
  if (choice > DIRTY_CHOICE_AUTO) {
    wane__log("WANE_OPTIONS: the system does not offer dirty=%s",
              choice == DIRTY_CHOICE_UFFD ? "uffd" : "softdirty");
  }
  if (!is_passing) {
    dirty_set(&dirty_none);
  }
}

/* Without it, what is open is counted among the program's own. */
bool wane__dirty_is_available(void) {
  if (dirty_ops == NULL) {
    int saved = errno;
    dirty_choose();
    errno = saved;
  }
  return dirty_ops != NULL && dirty_ops != &dirty_none;
}

const char *wane__dirty_backend(void) {
  const struct wane__dirty_ops *ops = wane__load_relaxed(&dirty_ops);
  return ops != NULL ? ops->name : dirty_none.name;
}

/* Its files stay open: another thread may be using them. */
static void dirty_give_up(void) { dirty_set(&dirty_none); }

/* The next part of the arena that is the heap's, from block *at on; *is_outside
   is the space of the block before it. False: there is none below count. */
static bool dirty_next_part(size_t *at, bool *is_outside, size_t count,
                            uintptr_t *start, uintptr_t *end) {
  size_t i = *at;
  bool found = false;
  while (i < count && !found) {
    size_t from = i;
    do {
      i++;
    } while (i < count && !wane__blocks[i].is_wall);
    *is_outside = *is_outside != wane__blocks[from].is_wall;
    found = !*is_outside;
    *start = wane__block_start(&wane__blocks[from]);
    *end = wane__arena.start + (i << WANE__BLOCK_LOG2);
  }
  *at = i;
  return found;
}

/* What the heap has grown by since. */
static bool dirty_watch_new(void) {
  size_t count = wane__extent_block_count();
  uintptr_t start;
  uintptr_t end;
  while (
      dirty_next_part(&dirty_watched, &dirty_is_outside, count, &start, &end)) {
    if (!dirty_ops->watch(start, end)) {
      return false;
    }
  }
  return true;
}

bool wane__dirty_begin(void) {
  if (dirty_ops->begin()) {
    return true;
  }
  /* the program closed our files, perhaps */
  const struct wane__dirty_ops *ops = dirty_ops;
  ops->close();
  dirty_give_up();
  bool is_passing = false;
  return dirty_try(ops, &is_passing) && ops->begin();
}

/* The next stretch of groups that may hold pointers, from block *at on. */
static bool dirty_next(size_t *at, uintptr_t *start, uintptr_t *end) {
  size_t i = *at;
  size_t from = 0;
  while (i < dirty_watched) {
    uint64_t head = wane__load_acquire(&wane__block_map[i].head);
    if (head == 0 || wane__head_kind(head) == WANE__KIND_LEAF) {
      if (from != 0) {
        break;
      }
      i++;
      continue;
    }
    from = from != 0 ? from : i;
    i++;
  }
  *at = i;
  *start = wane__arena.start + (from << WANE__BLOCK_LOG2);
  *end = wane__arena.start + (i << WANE__BLOCK_LOG2);
  return from != 0;
}

/* is_lost: what a fetch that failed has armed is not known; all is handed out.
 */
static bool dirty_fetch_all(enum wane__dirty_fetch which, bool is_lost,
                            wane__dirty_visit *visit, void *ctx,
                            size_t *pages) {
  uintptr_t start;
  uintptr_t end;
  if (!dirty_watch_new()) {
    return false;
  }
  for (size_t at = 1; dirty_next(&at, &start, &end);) {
    if (!dirty_ops->fetch(which, start, end, visit, ctx, pages)) {
      return false;
    }
    if (is_lost) {
      visit(ctx, start, end);
      *pages += (end - start) / WANE__PAGE_BYTES_MIN;
    }
  }
  return true;
}

size_t wane__dirty_fetch(enum wane__dirty_fetch which, wane__dirty_visit *visit,
                         void *ctx) {
  size_t pages = 0;
  if (dirty_fetch_all(which, false, visit, ctx, &pages)) {
    return pages;
  }
  /* addresses may have changed hands between the heap and mapped files
     (heap/extent.h) and are not watched */
  pages = 0;
  dirty_watched = 1;
  dirty_is_outside = false;
  if (dirty_fetch_all(which, true, visit, ctx, &pages)) {
    return pages;
  }
  dirty_give_up();
  return SIZE_MAX;
}

bool wane__dirty_watch(uintptr_t start, uintptr_t end) {
  return dirty_ops->watch(start, end);
}

bool wane__dirty_fetch_range(enum wane__dirty_fetch which, uintptr_t start,
                             uintptr_t end, wane__dirty_visit *visit, void *ctx,
                             size_t *pages) {
  return dirty_ops->fetch(which, start, end, visit, ctx, pages);
}

/* Groups may have been swept and given back by now, so it is all that has been
   watched. */
void wane__dirty_end(void) {
  uintptr_t start;
  uintptr_t end;
  bool is_outside = false;
  for (size_t at = 1;
       dirty_ops->disarm != NULL &&
       dirty_next_part(&at, &is_outside, dirty_watched, &start, &end);) {
    dirty_ops->disarm(start, end);
  }
}

void wane__dirty_will_write(uintptr_t start, uintptr_t end) {
  const struct wane__dirty_ops *ops = wane__load_relaxed(&dirty_ops);
  if (ops != NULL && ops->disarm != NULL) {
    ops->disarm(start, end);
  }
}

bool wane__dirty_may_retry(void) { return !dirty_ops->is_cumulative; }

void wane__dirty_fork_child(void) {
  if (dirty_ops != NULL && dirty_ops != &dirty_none) {
    dirty_ops->close();
    dirty_set(NULL);
    (void)wane__dirty_is_available();
  }
}
