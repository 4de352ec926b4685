/*
 * A thread's caches: finding, colouring and zeroing runs of free slots. See
 * context.h for what a run is and what a flip does to it.
 */
#include <string.h>

#include "../base/check.h"
#include "../base/options.h"
#include "../base/poison.h"
#include "cache.h"
#include "class_list.h"
#include "extent.h"
#include "heap.h"
#include "hooks.h"

/* A run is at most so long, so that the zeroed memory is still in the first
   cache level when the program writes to it. */
#define RUN_BYTES 4096u
/* Of one while marking wants the program slow. */
#define RUN_BYTES_SLOW 512u
/* Before the arena grows, so many unswept groups are looked into. */
#define SWEEP_BEFORE_GROWTH 16

static struct wane__cache empty_cache_with(uint32_t slot_bytes) {
  return (struct wane__cache){.slot_bytes = slot_bytes};
}

/* Slots of one byte in an empty run: every allocation takes the slow path. */
struct wane__context wane__no_context = {
    .caches = {[0 ... WANE__KIND_COUNT -
                1] = {[0 ... WANE__CLASS_COUNT - 1] = {.slot_bytes = 1}}}};

WANE_TLS struct wane__context *wane__self = &wane__no_context;

void wane__context_init(struct wane__context *context) {
  memset(context, 0, sizeof *context);
  for (unsigned k = 0; k < WANE__KIND_COUNT; k++) {
    for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
      context->caches[k][c] = empty_cache_with(wane__classes[c].slot_bytes);
    }
  }
  context->attached = true;
}

/* Slots of a run that starts at idx, which is free. */
static size_t run_length(const uint8_t *marks, size_t idx, size_t limit) {
  size_t end = idx;
  uint64_t word = 0;
  while (word == 0 && end + sizeof word <= limit) { /* eight at a time */
    memcpy(&word, marks + end, sizeof word);
    end += word == 0 ? sizeof word : 0;
  }
  while (end < limit && marks[end] == 0) {
    end++;
  }
  return end - idx;
}

static size_t run_slots_max(uint32_t slot_bytes) {
  if (wane__options.stress != 0 || wane__options.poison != 0) {
    return 1; /* every allocation comes by the slow path */
  }
  uint32_t bytes = wane__load_relaxed(&wane__heap_meter.is_slow)
                       ? RUN_BYTES_SLOW
                       : RUN_BYTES;
  return slot_bytes >= bytes ? 1 : bytes / slot_bytes;
}

/* Cuts the next run from the cache's group; false if it has none. */
static bool cache_next_run(struct wane__context *self,
                           struct wane__cache *cache) {
  struct wane__block *block = cache->block;
  uint8_t *marks = wane__block_marks(block);
  size_t slots = wane__classes[block->class].slots;
  size_t from = cache->next_idx;
  uint8_t *zero = memchr(marks + from, 0, slots - from);
  if (zero == NULL) {
    return false;
  }
  size_t idx = (size_t)(zero - marks);
  size_t max = run_slots_max(cache->slot_bytes);
  size_t limit = slots - idx < max ? slots : idx + max;
  size_t length = run_length(marks, idx, limit);
  size_t bytes = length * cache->slot_bytes;
  uintptr_t start = wane__block_start(block) + idx * cache->slot_bytes;
  WANE_CHECK(length > 0 && idx + length <= slots,
             "INV-block-1: a run is of free slots of its group");
  wane__poison_allow((void *)start, bytes);
  if (!block->clean) {
    memset((void *)start, 0, bytes);
  }
  /* only then: a marker may look at what has the colour */
  wane__fence_release();
  memset(marks + idx, wane__arena.fresh, length);
  /* what comes next is most likely free too: it is on its way while the
     program fills this run */
  for (size_t ahead = 0; ahead < RUN_BYTES; ahead += WANE_CACHE_LINE) {
    __builtin_prefetch((const char *)start + bytes + ahead, 1);
  }
  cache->next_idx = (uint32_t)(idx + length);
  wane__store_relaxed(&cache->end, start + bytes); /* statistics read it */
  wane__store_relaxed(&cache->cur, start);
  wane__store_relaxed(&self->run_bytes, self->run_bytes + bytes);
  wane__store_relaxed(&self->run_objects, self->run_objects + length);
  wane__store_relaxed(&self->pending_bytes, self->pending_bytes + bytes);
  return true;
}

static void cache_drop_group(struct wane__cache *cache, bool has_room) {
  cache->block->clean = false;
  wane__class_give(cache->block, has_room);
  cache->block = NULL;
}

/* An extent without growing, if sweeping a little more finds one. */
static struct wane__block *group_find_free(size_t blocks) {
  struct wane__block *block = wane__extent_take(blocks, 1, false);
  for (int i = 0; block == NULL && i < SWEEP_BEFORE_GROWTH; i++) {
    struct wane__block *unswept = wane__class_take_unswept();
    if (unswept == NULL) {
      break;
    }
    wane__hooks.sweep(unswept);
    if (wane__class_file_swept(unswept) != 0) {
      block = wane__extent_take(blocks, 1, false);
    }
  }
  return block != NULL ? block : wane__extent_take(blocks, 1, true);
}

static struct wane__block *group_new(enum wane__kind kind, unsigned class) {
  size_t blocks = wane__classes[class].blocks;
  struct wane__block *block = group_find_free(blocks);
  if (block == NULL) {
    return NULL;
  }
  for (size_t i = 1; i < blocks; i++) {
    block->clean = block->clean && block[i].clean;
  }
  if (!wane__block_assign_small(block, kind, class)) {
    wane__extent_give(block, blocks);
    return NULL;
  }
  return block;
}

bool wane__cache_refill(struct wane__context *self, enum wane__kind kind,
                        unsigned class) {
  struct wane__cache *cache = &self->caches[kind][class];
  for (;;) {
    if (cache->block != NULL) {
      if (cache_next_run(self, cache)) {
        return true;
      }
      cache_drop_group(cache, false);
    }
    struct wane__block *block = wane__class_take(kind, class);
    if (block != NULL && wane__is_marking() && kind != WANE__KIND_LEAF) {
      uintptr_t start = wane__block_start(block);
      wane__hooks.will_write(
          start, start + ((uintptr_t)block->blocks << WANE__BLOCK_LOG2));
    }
    if (block == NULL) {
      block = group_new(kind, class);
    }
    if (block == NULL) {
      return false;
    }
    cache->block = block;
    cache->next_idx = 0;
  }
}

/* While marking, something may wait for whoever marks a slot: that one is free
   after the next sweep. */
static void cache_free_slots(uint8_t *marks, size_t slots) {
  for (size_t i = 0; i < slots; i++) {
    uint8_t byte = wane__load_relaxed(&marks[i]);
    if (byte == 1 || byte == 2) {
      (void)wane__cas(&marks[i], &byte, (uint8_t)0);
    }
  }
}

/* A rest in the cache's own group is free again. One in a group that a flip
   took away stays coloured, and is free after the next cycle: another thread
   may be changing that group's mark bytes now. */
static void cache_flush(struct wane__context *context,
                        struct wane__cache *cache) {
  size_t rest = cache->end - cache->cur;
  if (rest != 0) {
    struct wane__found found = wane__block_slot_of(cache->cur);
    size_t slots = rest / cache->slot_bytes;
    context->run_bytes -= rest;
    context->run_objects -= slots;
    if (cache->block != NULL &&
        wane__block_start(cache->block) == wane__head_start(found.head)) {
      cache_free_slots(found.mark, slots);
      wane__poison_forbid((void *)cache->cur, rest);
    }
  }
  if (cache->block != NULL) {
    cache_drop_group(cache, true);
  }
  *cache = empty_cache_with(cache->slot_bytes);
}

void wane__context_flush(struct wane__context *context) {
  for (unsigned k = 0; k < WANE__KIND_COUNT; k++) {
    for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
      struct wane__cache *cache = &context->caches[k][c];
      if (cache->end != 0) {
        cache_flush(context, cache);
      }
    }
  }
}

static void cache_colour(struct wane__cache *cache,
                         void (*marked)(uintptr_t slot)) {
  size_t rest = cache->end - wane__load_relaxed(&cache->cur);
  if (rest == 0) {
    return;
  }
  struct wane__found found = wane__block_slot_of(cache->cur);
  for (size_t i = 0; i < rest / cache->slot_bytes; i++) {
    if (found.mark[i] == 1 || found.mark[i] == 2) {
      found.mark[i] = wane__arena.colour;
    } else { /* something waits for whoever marks it */
      marked(cache->cur + i * cache->slot_bytes);
    }
  }
}

static void cache_let_go(struct wane__cache *cache) {
  if (cache->block != NULL) {
    cache->block->clean = false;
    wane__class_give_unswept_stw(cache->block);
    cache->block = NULL;
  }
}

void wane__context_colour_stw(struct wane__context *context,
                              void (*marked)(uintptr_t slot)) {
  for (unsigned k = 0; k < WANE__KIND_COUNT; k++) {
    for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
      if (context->caches[k][c].end != 0) {
        cache_colour(&context->caches[k][c], marked);
      }
    }
  }
}

void wane__context_let_go_stw(struct wane__context *context) {
  for (unsigned k = 0; k < WANE__KIND_COUNT; k++) {
    for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
      if (context->caches[k][c].end != 0) {
        cache_let_go(&context->caches[k][c]);
      }
    }
  }
}
