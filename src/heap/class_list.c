/* Lists of groups by kind and class; see class_list.h. */
#include "class_list.h"

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/lock.h"
#include "extent.h"
#include "hooks.h"
#include "outside.h"

struct class_queue {
  struct wane__block *first;
  struct wane__block *last;
};

struct class_lists {
  struct wane__lock lock;
  struct class_queue unswept; /* all lock: lock */
  struct class_queue room;
  struct class_queue full; /* for large objects: all swept ones */
} WANE_ALIGNED(WANE_CACHE_LINE);

/* Large objects use the entry behind the classes, of any kind. */
static struct class_lists class_lists[WANE__KIND_COUNT][WANE__CLASS_COUNT + 1] =
    {[0 ... WANE__KIND_COUNT - 1] = {
         [0 ... WANE__CLASS_COUNT] = {.lock =
                                          WANE__LOCK_INIT(WANE__RANK_CLASS)}}};

static struct class_lists *class_lists_of(const struct wane__block *block) {
  return &class_lists[block->kind][block->class];
}

static void queue_push(struct class_queue *queue, struct wane__block *block) {
  block->next = queue->first;
  queue->first = block;
  if (queue->last == NULL) {
    queue->last = block;
  }
}

static struct wane__block *queue_pop(struct class_queue *queue) {
  struct wane__block *block = queue->first;
  if (block != NULL) {
    wane__store_relaxed(&queue->first, block->next);
    if (block->next == NULL) {
      queue->last = NULL;
    }
    block->next = NULL;
  }
  return block;
}

static void queue_append(struct class_queue *to, struct class_queue *from) {
  if (from->first == NULL) {
    return;
  }
  if (to->last != NULL) {
    to->last->next = from->first;
  } else {
    to->first = from->first;
  }
  to->last = from->last;
  from->first = from->last = NULL;
}

struct wane__block *wane__class_take(enum wane__kind kind, unsigned class) {
  struct class_lists *lists = &class_lists[kind][class];
  for (;;) {
    wane__lock_acquire(&lists->lock);
    struct wane__block *block = queue_pop(&lists->room);
    bool swept = block != NULL;
    if (!swept) {
      block = queue_pop(&lists->unswept);
    }
    wane__lock_release(&lists->lock);
    if (block == NULL || swept) {
      return block;
    }
    wane__hooks.sweep(block);
    if (block->live < wane__classes[class].slots) {
      return block;
    }
    wane__class_give(block, false);
  }
}

void wane__class_give(struct wane__block *block, bool has_room) {
  struct class_lists *lists = class_lists_of(block);
  wane__block_check(block);
  wane__lock_acquire(&lists->lock);
  queue_push(has_room ? &lists->room : &lists->full, block);
  wane__lock_release(&lists->lock);
}

/* Looks first where it found one the last time. */
struct wane__block *wane__class_take_unswept(void) {
  static size_t last; /* relaxed */
  size_t count = sizeof class_lists / sizeof class_lists[0][0];
  size_t first = wane__load_relaxed(&last);
  for (size_t i = 0; i < count; i++) {
    size_t at = first + i < count ? first + i : first + i - count;
    struct class_lists *lists = &class_lists[0][0] + at;
    /* a hint; the list is read again under its lock */
    if (wane__load_relaxed(&lists->unswept.first) == NULL) {
      continue;
    }
    wane__lock_acquire(&lists->lock);
    struct wane__block *block = queue_pop(&lists->unswept);
    wane__lock_release(&lists->lock);
    if (block != NULL) {
      wane__store_relaxed(&last, at);
      return block;
    }
  }
  return NULL;
}

size_t wane__class_file_swept(struct wane__block *block) {
  if (block->live == 0 && block->outside != WANE__OUTSIDE_NOT) {
    wane__outside_swept(block);
    return 0;
  }
  if (block->live == 0) {
    size_t blocks = block->blocks;
    wane__block_unassign(block);
    wane__extent_give(block, blocks);
    return blocks << WANE__BLOCK_LOG2;
  }
  bool large = block->state == WANE__BLOCK_LARGE;
  wane__class_give(block,
                   !large && block->live < wane__classes[block->class].slots);
  return 0;
}

void wane__class_add_large(struct wane__block *block) {
  wane__class_give(block, false);
}

void wane__class_give_unswept_stw(struct wane__block *block) {
  queue_push(&class_lists_of(block)->unswept, block);
}

void wane__class_flip_stw(void) {
  struct class_lists *lists = &class_lists[0][0];
  size_t count = sizeof class_lists / sizeof class_lists[0][0];
  for (size_t i = 0; i < count; i++, lists++) {
    WANE_ASSERT(lists->unswept.first == NULL,
                "INV-list-1: nothing is unswept at a flip");
    queue_append(&lists->unswept, &lists->room);
    queue_append(&lists->unswept, &lists->full);
  }
}

void wane__class_rebuild(void) {
  struct class_lists *lists = &class_lists[0][0];
  size_t count = sizeof class_lists / sizeof class_lists[0][0];
  for (size_t i = 0; i < count; i++, lists++) {
    *lists = (struct class_lists){.lock = WANE__LOCK_INIT(WANE__RANK_CLASS)};
  }
  size_t blocks = wane__arena.committed >> WANE__BLOCK_LOG2;
  for (size_t i = 0; i < blocks;) {
    struct wane__block *block = &wane__blocks[i];
    if (block->state != WANE__BLOCK_SMALL &&
        block->state != WANE__BLOCK_LARGE) {
      i++;
      continue;
    }
    /* a vanished thread's cache may have handed out what counts as clean */
    block->clean = false;
    lists = class_lists_of(block);
    bool swept = block->epoch == wane__arena.epoch;
    bool small = block->state == WANE__BLOCK_SMALL;
    queue_push(!swept  ? &lists->unswept
               : small ? &lists->room
                       : &lists->full,
               block);
    i += block->blocks;
  }
}
