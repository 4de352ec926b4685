/* Objects outside the heap: made, and ended; see outside.h. */
#include "outside.h"

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/os.h"
#include "class_list.h"
#include "extent.h"
#include "foreign.h"

/* Of `ends`. */
#define OUTSIDE_SWEPT 1u
#define OUTSIDE_ENDED 2u
#define OUTSIDE_LOST 4u
#define OUTSIDE_ORPHAN 8u
#define OUTSIDE_RETRY 512u
/* What the records of an adopted range take. */
#define OUTSIDE_ADOPTED_EXTRA 512u

struct wane__outside_meter wane__outside_meter = {.trigger = 1024,
                                                  .trigger_blocks = 1u << 20,
                                                  .trigger_adopted_bytes =
                                                      64u << 20};

struct wane__block *wane__outside_take(size_t bytes) {
  size_t blocks = (bytes + WANE__BLOCK_BYTES - 1) >> WANE__BLOCK_LOG2;
  struct wane__block *block = wane__extent_take_outside(blocks);
  if (block != NULL) {
    block->ends = 0;
    block->ticket++;
  }
  return block;
}

void wane__outside_give(struct wane__block *block) {
  wane__extent_give_outside(block);
}

void wane__outside_publish(struct wane__block *block, enum wane__outside sort,
                           size_t bytes, uintptr_t stands_for) {
  struct wane__outside_meter *meter = &wane__outside_meter;
  wane__add_relaxed(&meter->live, 1);
  if (sort == WANE__OUTSIDE_FILE) {
    wane__add_relaxed(&meter->since_flip, 1);
    wane__add_relaxed(&meter->mapped, 1);
    wane__add_relaxed(&meter->file_bytes, bytes);
  } else {
    wane__add_relaxed(&meter->adopted_bytes, bytes);
    wane__add_relaxed(&meter->since_flip_adopted_bytes,
                      bytes + OUTSIDE_ADOPTED_EXTRA);
  }
  wane__add_relaxed(&meter->since_flip_blocks, block->blocks);
  wane__block_assign_outside(block, sort, bytes, stands_for);
  wane__class_add_large(block);
}

/* A number above all addresses, as long as tickets are. */
uint64_t wane__outside_name(const struct wane__block *block) {
  return ~((uint64_t)block->ticket << 32 | wane__block_idx(block));
}

struct wane__block *wane__outside_find(uint64_t name) {
  struct wane__block *block = &wane__blocks[(uint32_t)~name];
  return block->ticket == (uint32_t)(~name >> 32) ? block : NULL;
}

/* Both ends have come. */
static void outside_free(struct wane__block *block, uint8_t ends) {
  if ((ends & OUTSIDE_LOST) != 0) {
    wane__store_relaxed(&block->state, WANE__BLOCK_LOST);
  } else {
    wane__extent_give_outside(block);
  }
}

static void outside_count_end(const struct wane__block *block) {
  struct wane__outside_meter *meter = &wane__outside_meter;
  wane__sub(&meter->live, 1);
  if (block->outside == WANE__OUTSIDE_FILE) {
    wane__add_relaxed(&meter->unmapped, 1);
    wane__sub(&meter->file_bytes, block->large_bytes);
  } else {
    wane__sub(&meter->adopted_bytes, block->large_bytes);
  }
}

static void outside_count_dying(const struct wane__block *block, bool is_in) {
  struct wane__outside_meter *meter = &wane__outside_meter;
  uint64_t sign = is_in ? 1 : UINT64_MAX;
  wane__add_relaxed(&meter->dying, sign);
  if (block->outside == WANE__OUTSIDE_STANDIN) {
    wane__add_relaxed(&meter->dying_adopted_bytes, sign * block->large_bytes);
  }
}

void wane__outside_end(struct wane__block *block, bool is_lost) {
  uint8_t ends = (uint8_t)(OUTSIDE_ENDED | (is_lost ? OUTSIDE_LOST : 0));
  outside_count_end(block);
  uint8_t before = wane__or(&block->ends, ends);
  WANE_CHECK((before & OUTSIDE_ENDED) == 0,
             "INV-outside-1: the memory of an object goes once");
  if ((before & OUTSIDE_SWEPT) != 0) {
    outside_count_dying(block, false);
    outside_free(block, ends);
  }
}

/* Nobody else ends it. */
static void outside_end_orphan(struct wane__block *block) {
  bool is_lost = false;
  if (block->outside == WANE__OUTSIDE_STANDIN) {
    wane__foreign_remove(block->stands_for);
  } else {
    is_lost =
        !wane__os_unmap_to_reserve((void *)wane__block_start(block),
                                   (size_t)block->blocks << WANE__BLOCK_LOG2);
  }
  wane__outside_end(block, is_lost);
}

void wane__outside_swept(struct wane__block *block) {
  wane__block_unassign(block);
  if ((wane__load(&block->ends) & OUTSIDE_ORPHAN) != 0) {
    outside_end_orphan(block);
  }
  outside_count_dying(block, true);
  uint8_t before = wane__or(&block->ends, OUTSIDE_SWEPT);
  if ((before & OUTSIDE_ENDED) != 0) {
    outside_count_dying(block, false);
    outside_free(block, before);
  }
}

bool wane__outside_is_due(void) {
  const struct wane__outside_meter *meter = &wane__outside_meter;
  return wane__load_relaxed(&meter->since_flip) >=
             wane__load_relaxed(&meter->trigger) ||
         wane__load_relaxed(&meter->since_flip_blocks) >=
             wane__load_relaxed(&meter->trigger_blocks);
}

bool wane__outside_bytes_are_due(void) {
  const struct wane__outside_meter *meter = &wane__outside_meter;
  return wane__load_relaxed(&meter->since_flip_adopted_bytes) >=
         wane__load_relaxed(&meter->trigger_adopted_bytes);
}

void wane__outside_settle(bool (*has_cleanup)(const struct wane__block *)) {
  struct wane__outside_meter *meter = &wane__outside_meter;
  uint64_t files = 0;
  meter->live = meter->file_bytes = meter->adopted_bytes = 0;
  meter->dying = meter->dying_adopted_bytes = 0;
  size_t count = wane__arena.committed >> WANE__BLOCK_LOG2;
  for (size_t i = 1; i < count; i++) {
    struct wane__block *block = &wane__blocks[i];
    if (block->state != WANE__BLOCK_LARGE ||
        block->outside == WANE__OUTSIDE_NOT ||
        (block->ends & OUTSIDE_ENDED) != 0) {
      continue;
    }
    meter->live++;
    files += block->outside == WANE__OUTSIDE_FILE;
    *(block->outside == WANE__OUTSIDE_FILE ? &meter->file_bytes
                                           : &meter->adopted_bytes) +=
        block->large_bytes;
    if (!has_cleanup(block)) {
      block->ends |= OUTSIDE_ORPHAN;
      block->ticket++; /* with fork=run its cleanup may still come */
    }
  }
  meter->unmapped = meter->mapped - files;
}

/* As many again. */
void wane__outside_put_off(void) {
  struct wane__outside_meter *meter = &wane__outside_meter;
  wane__add_relaxed(&meter->trigger, OUTSIDE_RETRY);
  wane__add_relaxed(&meter->trigger_blocks, OUTSIDE_RETRY);
  wane__add_relaxed(&meter->trigger_adopted_bytes,
                    (uint64_t)OUTSIDE_RETRY << WANE__BLOCK_LOG2);
}

void wane__outside_flip_stw(void) {
  struct wane__outside_meter *meter = &wane__outside_meter;
  wane__store_relaxed(&meter->since_flip, 0);
  wane__store_relaxed(&meter->since_flip_blocks, 0);
  wane__store_relaxed(&meter->since_flip_adopted_bytes, 0);
}
