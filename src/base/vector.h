/*
 * Growing arrays in the collector's own memory. Growing doubles, and leaves
 * the old array behind: at most as much again as the array that is in use.
 */
#ifndef WANE_BASE_VECTOR_H
#define WANE_BASE_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "meta.h"

/* Makes room for needed items of item_bytes each, of which count are in use.
   False with ENOMEM; the array is as it was. */
static inline bool wane__vector_reserve(void **items, size_t *capacity,
                                        size_t count, size_t needed,
                                        size_t item_bytes) {
  if (needed <= *capacity) {
    return true;
  }
  size_t larger = *capacity < 8 ? 8 : *capacity * 2;
  larger = larger < needed ? needed : larger;
  void *copy = wane__meta_alloc(larger * item_bytes);
  if (copy == NULL) {
    return false;
  }
  if (count != 0) {
    memcpy(copy, *items, count * item_bytes);
  }
  *items = copy;
  *capacity = larger;
  return true;
}

#endif
