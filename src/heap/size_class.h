/*
 * Size classes: which slot serves a request, and how many slots a block has.
 *
 * A class is a slot size, a multiple of the 16-byte granule. Up to 128 bytes
 * there is one for each multiple; above, eight to a doubling, so that at most
 * 12.5 % of a slot is unused (a little more where slots are stretched to
 * fill their blocks). Slots above 4 KiB come in groups of 2, 4 or 8 blocks,
 * so that every class has at least eight slots in a group. Above 32 KiB an
 * object is large and has blocks of its own.
 *
 * An object index is (offset in granules * reciprocal) >> 32: exact for all
 * offsets and sizes here, since both are below 2^16 granules.
 */
#ifndef WANE_HEAP_SIZE_CLASS_H
#define WANE_HEAP_SIZE_CLASS_H

#include <stddef.h>
#include <stdint.h>

#define WANE__GRANULE_LOG2 4
#define WANE__GRANULE_BYTES 16u
#define WANE__BLOCK_LOG2 15
#define WANE__BLOCK_BYTES (1u << WANE__BLOCK_LOG2)
#define WANE__SMALL_BYTES_MAX 32768u
#define WANE__CLASS_COUNT 72
/* Large objects look themselves up like a class whose reciprocal is 0, so
   that every offset gives index 0. */
#define WANE__CLASS_LARGE 72

struct wane__class {
  uint64_t reciprocal; /* ceil(2^32 / granules of a slot); see above */
  uint32_t slot_bytes;
  uint16_t slots;  /* in a group */
  uint16_t blocks; /* in a group: 1, 2, 4 or 8 */
};

/* Both const after wane__class_init. */
extern struct wane__class wane__classes[WANE__CLASS_COUNT + 1];
extern uint8_t wane__class_by_granules[WANE__SMALL_BYTES_MAX / 16 + 1];

void wane__class_init(void);

/* The class that serves bytes, at most WANE__SMALL_BYTES_MAX. */
static inline unsigned wane__class_of(size_t bytes) {
  return wane__class_by_granules[(bytes + WANE__GRANULE_BYTES - 1) >>
                                 WANE__GRANULE_LOG2];
}

#endif
