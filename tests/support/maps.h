/*
 * For tests of maps: words and numbers as keys, and ranges that count.
 */
#ifndef WANE_TEST_MAPS_H
#define WANE_TEST_MAPS_H

#include "test.h"

/* As a key or a value: not an address, not NULL, another for each number. */
static inline void *word(uintptr_t number) { return (void *)(2 * number + 1); }

/* Keys that point to a uint64_t and are compared by it. */
uint64_t number_hash(const void *key);
bool number_equal(const void *a, const void *b);
extern const struct wane_map_ops number_ops;
/* Bits of the hash that are used, all at first. */
extern uint64_t hash_mask;
/* Such a key, a leaf. Never NULL. */
void *make_number(size_t idx);

/* 50 words, or numbers from a million on if there are ops. */
struct wane_map *map_filled(const struct wane_map_ops *ops);

/* Visits: of an empty map; one that adds 1 to the size_t in ctx. */
bool never_visit(const void *key, void *value, void *ctx);
bool count_visit(const void *key, void *value, void *ctx);

#endif
