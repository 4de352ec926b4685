/* See maps.h. */
#include "maps.h"

uint64_t hash_mask = UINT64_MAX;

uint64_t number_hash(const void *key) {
  struct test_random random = {*(const uint64_t *)key};
  return test_random(&random) & hash_mask;
}

bool number_equal(const void *a, const void *b) {
  return *(const uint64_t *)a == *(const uint64_t *)b;
}

const struct wane_map_ops number_ops = {number_hash, number_equal};

void *make_number(size_t idx) {
  uint64_t *number = wane_alloc_leaf(sizeof *number);
  require(number != NULL);
  *number = idx;
  return number;
}

struct wane_map *map_filled(const struct wane_map_ops *ops) {
  struct wane_map *m = wane_map_new(ops, 0);
  for (size_t i = 0; i < 50; i++) {
    wane_map_store(m, ops != NULL ? make_number(1000000 + i) : word(i),
                   word(i));
  }
  return m;
}

bool never_visit(const void *key, void *value, void *ctx) {
  (void)key, (void)value, (void)ctx;
  require(!"an empty map shows nothing");
  return false;
}

bool count_visit(const void *key, void *value, void *ctx) {
  (void)key, (void)value;
  ++*(size_t *)ctx;
  return true;
}
