/*
 * Hashing: words and bytes to 64 bits of which the high ones are good, since
 * tables use those. Both multiply to 128 bits and fold the halves together,
 * with a seed that is another in each process, so that nobody outside can
 * choose colliding keys. Not for keeping: values differ from run to run.
 */
#ifndef WANE_TABLES_HASH_H
#define WANE_TABLES_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../base/attr.h"

extern uint64_t wane__hash_seed; /* const once a table exists */

/* Chooses the seed, once. */
void wane__hash_init(void);

/* Odd constants with about as many ones as zeros: digits of pi. */
#define WANE__HASH_A 0x243f6a8885a308d3ull
#define WANE__HASH_B 0x13198a2e03707345ull

WANE_INLINE uint64_t wane__hash_fold(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

WANE_INLINE uint64_t wane__hash_word(uint64_t word) {
  return wane__hash_fold(word ^ wane__hash_seed, WANE__HASH_A);
}

WANE_INLINE uint64_t wane__hash_read8(const unsigned char *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return word;
}

WANE_INLINE uint64_t wane__hash_read4(const unsigned char *at) {
  uint32_t word;
  memcpy(&word, at, sizeof word);
  return word;
}

uint64_t wane__hash_long(const unsigned char *at, size_t size);

WANE_INLINE uint64_t wane__hash_bytes(const void *bytes, size_t size) {
  const unsigned char *at = bytes;
  uint64_t a = 0;
  uint64_t b = 0;
  if (size > 16) {
    return wane__hash_long(at, size);
  }
  if (size >= 8) { /* the two halves overlap */
    a = wane__hash_read8(at);
    b = wane__hash_read8(at + size - 8);
  } else if (size >= 4) {
    a = wane__hash_read4(at);
    b = wane__hash_read4(at + size - 4);
  } else if (size > 0) {
    a = (uint64_t)at[0] << 16 | (uint64_t)at[size / 2] << 8 | at[size - 1];
  }
  uint64_t mixed =
      wane__hash_fold(a ^ wane__hash_seed ^ size, b ^ WANE__HASH_A);
  return wane__hash_fold(mixed ^ WANE__HASH_B, WANE__HASH_A);
}

#endif
