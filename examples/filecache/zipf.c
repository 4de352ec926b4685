/*
 * Zipf's law, which requests for files follow well: the sums of the weights
 * 1, 1/2, 1/3, ... up to each thing, and a binary search for where a random
 * number falls among them.
 */
#include "filecache.h"

#include <wane.h>

struct zipf {
  size_t count;
  double sums[];
};

struct zipf *zipf_new(size_t count) {
  /* A leaf, since there are no pointers in it: the collector never reads it. */
  struct zipf *law =
      must(wane_alloc_leaf(sizeof(struct zipf) + count * sizeof law->sums[0]));
  double sum = 0;
  law->count = count;
  for (size_t i = 0; i < count; i++) {
    sum += 1 / (double)(i + 1);
    law->sums[i] = sum;
  }
  return law;
}

size_t zipf_pick(const struct zipf *law, uint64_t *random) {
  double unit = (double)(random_next(random) >> 11) * 0x1p-53; /* below 1 */
  double wanted = unit * law->sums[law->count - 1];
  size_t low = 0;
  size_t high = law->count - 1;
  while (low < high) { /* the first sum above what is wanted */
    size_t middle = low + (high - low) / 2;
    if (law->sums[middle] > wanted) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}
