/* The seed, and hashing of longer bytes; see hash.h. */
#include "hash.h"

#include <sys/auxv.h>

#include "../base/atomic.h"

uint64_t wane__hash_seed;

/* Whoever is first makes it; AT_RANDOM points to 16 random bytes. */
void wane__hash_init(void) {
  if (wane__load_relaxed(&wane__hash_seed) != 0) {
    return;
  }
  const void *random = (const void *)getauxval(AT_RANDOM);
  uint64_t seed = random != NULL ? wane__hash_read8(random) : WANE__HASH_B;
  uint64_t none = 0;
  (void)wane__cas(&wane__hash_seed, &none, seed | 1);
}

uint64_t wane__hash_long(const unsigned char *at, size_t size) {
  uint64_t state = wane__hash_seed ^ size;
  const unsigned char *last = at + size - 16;
  while (at < last) {
    state = wane__hash_fold(wane__hash_read8(at) ^ state,
                            wane__hash_read8(at + 8) ^ WANE__HASH_A);
    at += 16;
  }
  state = wane__hash_fold(wane__hash_read8(last) ^ state,
                          wane__hash_read8(last + 8) ^ WANE__HASH_A);
  return wane__hash_fold(state ^ WANE__HASH_B, WANE__HASH_A);
}
