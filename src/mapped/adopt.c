/*
 * wane_adopt: pages that the program mapped, kept as long as something points
 * into them.
 *
 * The range gets a stand-in in the arena (heap/outside.h), to which every
 * pointer into it leads (heap/foreign.h). The stand-in's death is the range's:
 * a cleanup on it ends the range, then calls release.
 */
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "../../include/wane/heap.h"
#include "../../include/wane/lifetime.h"
#include "../../include/wane/mapped.h"
#include "../base/check.h"
#include "../collect/cycle.h"
#include "../heap/context.h"
#include "../heap/foreign.h"
#include "../heap/hooks.h"
#include "../heap/outside.h"
#include "../special/cleanup.h"
#include "mapping.h"

/* The argument of the cleanup. Only arg counts as a pointer: the range must not
   keep itself alive. */
struct adopted {
  uintptr_t start;
  size_t bytes;
  void (*release)(void *addr, size_t size, void *arg);
  void *arg;
  uint64_t name;
};

static const size_t adopted_pointers[] = {offsetof(struct adopted, arg)};
static const struct wane_type adopted_type = {.name = "adopted range",
                                              .size = sizeof(struct adopted),
                                              .pointer_count = 1,
                                              .pointer_offsets =
                                                  adopted_pointers};

/* From here on it is the program's range again. */
static void adopted_end(const struct adopted *range) {
  struct wane__context *self = wane__guard_enter_any();
  struct wane__block *block = wane__outside_find(range->name);
  if (block != NULL) {
    wane__foreign_remove(range->start);
    wane__outside_end(block, false);
  }
  wane__guard_leave_any(self);
}

static void adopted_died(void *arg) {
  const struct adopted *range = arg;
  adopted_end(range);
  if (range->release != NULL) {
    range->release((void *)range->start, range->bytes, range->arg);
  }
}

static bool adopt_is_valid(const struct adopted *range) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  uintptr_t start = range->start;
  uintptr_t end = start + range->bytes;
  uintptr_t arena_end = wane__arena.start + wane__arena.reserved;
  return start != 0 && range->bytes != 0 && start % page == 0 &&
         range->bytes % page == 0 && end > start &&
         (end <= wane__arena.start || start >= arena_end) &&
         (uintptr_t)range->arg - start >= range->bytes;
}

/* 0, or an errno value. */
static int adopt_publish(struct wane__context *self, struct adopted *range) {
  wane__guard_enter(self);
  int error = ENOMEM;
  struct wane__block *block = wane__outside_take(1);
  if (block != NULL) {
    error = wane__foreign_add(range->start, range->start + range->bytes,
                              wane__block_start(block));
    if (error == 0) {
      range->name = wane__outside_name(block);
      wane__outside_publish(block, WANE__OUTSIDE_STANDIN, range->bytes,
                            range->start);
    } else {
      wane__outside_give(block);
    }
  }
  wane__guard_leave(self);
  return error;
}

WANE_PUBLIC int wane_adopt(void *addr, size_t size,
                           void (*release)(void *addr, size_t size, void *arg),
                           void *arg) {
  int saved = errno;
  struct wane__context *self = wane__attach();
  struct adopted given = {
      .start = (uintptr_t)addr, .bytes = size, .release = release, .arg = arg};
  int error = self == NULL ? ENOMEM : adopt_is_valid(&given) ? 0 : EINVAL;
  struct adopted *range =
      error == 0 ? wane_alloc_typed(&adopted_type, 1) : NULL;
  if (error == 0 && range == NULL) {
    error = ENOMEM;
  }
  if (error == 0) {
    *range = given;
    wane__mapping_make_way();
    error = adopt_publish(self, range);
    if (error == ENOMEM) {
      wane__cycle_for_room();
      error = adopt_publish(self, range);
    }
  }
  if (error == 0 &&
      wane__cleanup_add(WANE__CALL_ADOPT, addr, adopted_died, range).id == 0) {
    adopted_end(range);
    error = ENOMEM;
  }
  wane_keep_alive(addr);
  wane_keep_alive(arg);
  errno = error == 0 ? saved : error;
  return error == 0 ? 0 : -1;
}
