/* Builds the tables of size classes; see size_class.h. */
#include "size_class.h"

#include "../base/check.h"

struct wane__class wane__classes[WANE__CLASS_COUNT + 1];
uint8_t wane__class_by_granules[WANE__SMALL_BYTES_MAX / 16 + 1];

static uint16_t class_blocks(uint32_t slot_bytes) {
  uint16_t blocks = 1;
  while (slot_bytes > blocks * WANE__BLOCK_BYTES / 8) {
    blocks *= 2;
  }
  return blocks;
}

static void class_set(struct wane__class *class, uint32_t slot_bytes) {
  class->blocks = class_blocks(slot_bytes);
  uint32_t group_bytes = class->blocks * WANE__BLOCK_BYTES;
  class->slots = (uint16_t)(group_bytes / slot_bytes);
  if (slot_bytes > 1024) { /* give the rest of the group to the slots */
    slot_bytes =
        group_bytes / class->slots / WANE__GRANULE_BYTES * WANE__GRANULE_BYTES;
  }
  class->slot_bytes = slot_bytes;
  uint64_t granules = slot_bytes / WANE__GRANULE_BYTES;
  class->reciprocal = ((1ull << 32) + granules - 1) / granules;
}

void wane__class_init(void) {
  unsigned count = 0;
  for (uint32_t bytes = 16; bytes <= 128; bytes += 16) {
    class_set(&wane__classes[count++], bytes);
  }
  for (uint32_t base = 128; base < WANE__SMALL_BYTES_MAX; base *= 2) {
    for (uint32_t step = 1; step <= 8; step++) {
      class_set(&wane__classes[count++], base + base / 8 * step);
    }
  }
  WANE_ASSERT(count == WANE__CLASS_COUNT, "size classes fill their table");
  unsigned class = 0;
  for (size_t i = 0; i < sizeof wane__class_by_granules; i++) {
    while (wane__classes[class].slot_bytes < i * WANE__GRANULE_BYTES) {
      class ++;
    }
    wane__class_by_granules[i] = (uint8_t) class;
  }
}
