/* The sweeper; see sweep.h. */
#include "sweep.h"

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../base/poison.h"
#include "../heap/block.h"
#include "../heap/class_list.h"
#include "../special/death.h"
#include "../special/group.h"
#include "cycle.h"

#define SWEEP_WAIT_NS 20000
#define BYTES_OF_ONE 0x0101010101010101ull

/* Keeps the bytes of the current colour; returns how many there are. Words
   beyond the last slot are 0 up to the next cache line. */
static size_t sweep_marks(uint8_t *marks, size_t slots) {
  uint8_t colour = wane__arena.colour;
  uint64_t keep = BYTES_OF_ONE * colour;
  size_t live = 0;
  for (size_t i = 0; i < slots; i += 8) {
    uint64_t *words = (uint64_t *)(void *)(marks + i); /* a line's multiple */
    uint64_t word = wane__load_relaxed(words) & keep;
    wane__store_relaxed(words, word);
    live += (word >> (colour - 1)) * BYTES_OF_ONE >> 56;
  }
  return live;
}

/* Fills what dies and forbids it, before its byte says so. */
static void sweep_poison(struct wane__block *block, size_t slots,
                         size_t slot_bytes) {
  const uint8_t *marks = wane__block_marks(block);
  uintptr_t start = wane__block_start(block);
  for (size_t i = 0; i < slots; i++) {
    if (marks[i] != 0 && marks[i] != wane__arena.colour) {
      wane__poison_forbid((void *)(start + i * slot_bytes), slot_bytes);
    }
  }
}

void wane__sweep_group(struct wane__block *block) {
  WANE_ASSERT(!wane__is_marking(),
              "INV-beside-2: nothing is swept while marking");
  WANE_CHECK(block->epoch == wane__arena.epoch - 1,
             "INV-sweep-1: a group is swept once after each flip");
  size_t slots = wane__block_slots(block);
  wane__death_sweep(block); /* may bring objects back */
  if (wane__options.poison != 0 && block->outside == WANE__OUTSIDE_NOT) {
    sweep_poison(block, slots,
                 block->state == WANE__BLOCK_SMALL
                     ? wane__classes[block->class].slot_bytes
                     : block->large_bytes);
  }
  if (block->state == WANE__BLOCK_SMALL) {
    block->live = (uint16_t)sweep_marks(wane__block_marks(block), slots);
  } else {
    block->live = block->mark == wane__arena.colour;
  }
  block->epoch = wane__arena.epoch;
}

bool wane__sweep_some(unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    struct wane__block *block = wane__class_take_unswept();
    if (block == NULL) {
      return false;
    }
    wane__sweep_group(block);
    wane__class_file_swept(block);
  }
  return true;
}

void wane__sweep_finish(void) {
  while (wane__sweep_some(64)) {
    wane__cycle_rest();
  }
}

void wane__sweep_finish_records(void) {
  wane__sweep_finish();
  while (wane__load(&wane__groups_undone) != 0) {
    wane__os_sleep_ns(SWEEP_WAIT_NS);
  }
}
