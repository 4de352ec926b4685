/* heap/extent: runs of free blocks against a map of who has what. */
/* timeout: 60 */
/* run: small WANE_OPTIONS=reserve_mb=256 */
#include "support/test.h"

#include "base/os.h"
#include "heap/extent.h"

#define BLOCKS 4096 /* of the model, from the first one ever taken */
#define RUNS 200

struct run {
  struct wane__block *block;
  size_t blocks;
  bool is_outside; /* the heap */
};

static struct run runs[RUNS];
static uint8_t taken[BLOCKS * 16];
static struct test_random random_state;

/* Blocks belong to one run at a time; taking aligns. */
static void take(struct run *run) {
  size_t alignment = (size_t)1 << test_below(&random_state, 4);
  size_t blocks = test_below(&random_state, 10) == 0
                      ? 1 + test_below(&random_state, 150)
                      : 1 + test_below(&random_state, 9);
  bool grow = test_below(&random_state, 2) == 0;
  struct wane__block *block = wane__extent_take(blocks, alignment, grow);
  if (block == NULL) {
    assert_false(grow);
    return;
  }
  size_t first = wane__block_idx(block);
  assert_int_equal(first % alignment, 0);
  assert_true(block->blocks == blocks);
  assert_true(first + blocks <= sizeof taken);
  for (size_t i = first; i < first + blocks; i++) {
    assert_int_equal(taken[i], 0);
    taken[i] = 1;
    assert_int_not_equal(wane__blocks[i].state, WANE__BLOCK_SMALL);
  }
  memset((void *)wane__block_start(block), 1, 64);
  for (size_t i = 0; i < blocks; i++) {
    wane__blocks[first + i].state = WANE__BLOCK_INSIDE;
    wane__blocks[first + i].clean = false;
  }
  *run = (struct run){block, blocks, false};
}

/* Addresses without memory: no state but that of the ends is touched. */
static void take_outside(struct run *run) {
  size_t blocks = 1 + test_below(&random_state, 9);
  struct wane__block *block = wane__extent_take_outside(blocks);
  assert_non_null(block);
  assert_true(block->blocks == blocks);
  size_t first = wane__block_idx(block);
  assert_true(first + blocks <= sizeof taken);
  for (size_t i = first; i < first + blocks; i++) {
    assert_int_equal(taken[i], 0);
    taken[i] = 2;
  }
  *run = (struct run){block, blocks, true};
}

static void give(struct run *run) {
  size_t first = wane__block_idx(run->block);
  memset(taken + first, 0, run->blocks);
  if (run->is_outside) {
    wane__extent_give_outside(run->block);
  } else {
    wane__extent_give(run->block, run->blocks);
  }
  run->block = NULL;
}

static size_t count_taken(uint8_t by) {
  size_t count = 0;
  for (size_t i = 0; i < sizeof taken; i++) {
    count += taken[i] == by;
  }
  return count;
}

static struct wane__extent_totals totals_now(void) {
  struct wane__extent_totals totals;
  wane__extent_read_totals(&totals);
  return totals;
}

/* Makes the lists anew. A run that is taken must look like a group's. */
static void rebuild(void) {
  for (size_t r = 0; r < RUNS; r++) {
    if (runs[r].block != NULL) {
      runs[r].block->state = WANE__BLOCK_LARGE;
    }
  }
  struct wane__extent_totals before = totals_now();
  wane__extent_rebuild();
  assert_int_equal(totals_now().used_bytes, before.used_bytes);
  assert_int_equal(totals_now().outside_used_blocks,
                   before.outside_used_blocks);
  for (size_t r = 0; r < RUNS; r++) {
    if (runs[r].block != NULL) {
      runs[r].block->state = WANE__BLOCK_INSIDE;
    }
  }
}

static void runs_never_overlap_and_totals_add_up(void **state) {
  (void)state;
  size_t used = totals_now().used_bytes;
  for (int i = 0; i < 20000; i++) {
    struct run *run = &runs[test_below(&random_state, RUNS)];
    if (run->block == NULL && test_below(&random_state, 3) == 0) {
      take_outside(run);
    } else if (run->block == NULL) {
      take(run);
    } else {
      give(run);
    }
    if (i % 500 == 0) {
      assert_int_equal(totals_now().used_bytes,
                       used + count_taken(1) * WANE__BLOCK_BYTES);
      assert_int_equal(totals_now().outside_used_blocks, count_taken(2));
    }
    if (i % 4999 == 0) { /* as the child of a fork does */
      rebuild();
    }
    if (i % 997 == 0) {
      size_t before = totals_now().free_dirty_bytes;
      size_t budget = test_below(&random_state, 40) * WANE__BLOCK_BYTES;
      size_t done = wane__extent_release(budget, wane__extent_tick());
      assert_true(done <= budget);
      assert_int_equal(totals_now().free_dirty_bytes, before - done);
    }
  }
  for (size_t r = 0; r < RUNS; r++) {
    if (runs[r].block != NULL) {
      give(&runs[r]);
    }
  }
  assert_int_equal(totals_now().used_bytes, used);
  assert_int_equal(totals_now().outside_used_blocks, 0);
}

/* Neighbours merge, so that what was cut to pieces is one run again. */
static void freed_neighbours_merge(void **state) {
  (void)state;
  struct wane__block *whole = wane__extent_take(256, 1, true);
  assert_non_null(whole);
  size_t committed = wane__arena.committed;
  for (size_t i = 0; i < 256; i++) {
    whole[i].state = WANE__BLOCK_INSIDE;
  }
  for (int order = 0; order < 3; order++) {
    for (size_t i = 0; i < 256; i++) { /* forwards, backwards, odd ones last */
      size_t at = order == 0   ? i
                  : order == 1 ? 255 - i
                  : i < 128    ? 2 * i
                               : 2 * (i - 128) + 1;
      wane__extent_give(&whole[at], 1);
    }
    struct wane__block *again = wane__extent_take(256, 1, false);
    assert_non_null(again);
    whole = again;
    for (size_t i = 0; i < 256; i++) {
      whole[i].state = WANE__BLOCK_INSIDE;
    }
  }
  assert_int_equal(wane__arena.committed, committed);
  wane__extent_give(whole, 256);
}

/* What is released reads as zero and is marked clean; what is too fresh for
   the tick stays. */
static void released_memory_is_clean(void **state) {
  (void)state;
  struct wane__block *block = wane__extent_take(8, 1, true);
  unsigned char *memory = (unsigned char *)wane__block_start(block);
  memset(memory, 7, 8 * WANE__BLOCK_BYTES);
  for (size_t i = 0; i < 8; i++) {
    block[i].state = WANE__BLOCK_INSIDE;
    block[i].clean = false;
  }
  uint32_t tick = wane__extent_tick();
  wane__extent_give(block, 8);
  (void)wane__extent_release((size_t)1 << 40, tick);
  assert_false(block[3].clean);
  (void)wane__extent_release((size_t)1 << 40, wane__extent_tick());
  assert_int_equal(totals_now().free_dirty_bytes, 0);
  for (size_t i = 0; i < 8; i++) {
    assert_true(block[i].clean);
  }
  for (size_t i = 0; i < 8 * WANE__BLOCK_BYTES; i++) {
    assert_int_equal(memory[i], 0);
  }
}

/* Where the arena cannot grow, either space gets what is free of the other. */
static void spaces_trade_when_the_arena_is_full(void **state) {
  (void)state;
  if (wane__arena.reserved > (size_t)1 << 30) {
    skip(); /* the run with a small arena does it */
  }
  size_t half = (wane__arena.reserved - wane__arena.committed) / 2;
  size_t blocks = half / WANE__BLOCK_BYTES / 8;
  struct wane__block *held[64];
  size_t n = 0;
  while (n < 64 && (held[n] = wane__extent_take_outside(blocks)) != NULL) {
    n++;
  }
  assert_in_range(n, 8, 63);
  assert_null(wane__extent_take(2 * blocks, 1, true));
  for (size_t i = 0; i < n; i++) {
    wane__extent_give_outside(held[i]);
  }
  struct wane__block *heap = wane__extent_take(2 * blocks, 1, true);
  assert_non_null(heap);
  memset((void *)wane__block_start(heap), 1, 1000); /* it is memory */
  for (size_t i = 0; i < 2 * blocks; i++) {
    heap[i].state = WANE__BLOCK_INSIDE;
    heap[i].clean = false;
  }
  wane__extent_give(heap, 2 * blocks);
  rebuild(); /* the walls are where they belong */
  n = 0;
  while (n < 64 && (held[n] = wane__extent_take_outside(blocks)) != NULL) {
    n++;
  }
  assert_in_range(n, 8, 63);
  unsigned char seen;
  assert_int_equal(
      wane__os_copy_memory(&seen, wane__block_start(held[n - 1]), 1), 0);
  for (size_t i = 0; i < n; i++) {
    wane__extent_give_outside(held[i]);
  }
}

/* Nothing short lies at a multiple of 4 GiB, where words of which only the low
   half was written point to; what is long may. */
static void nothing_short_at_multiples_of_4_gib(void **state) {
  (void)state;
  const size_t period = ((size_t)1 << 32) / WANE__BLOCK_BYTES;
  if (wane__arena.reserved < (size_t)16 << 30) {
    skip();
  }
  for (size_t blocks = 1; blocks < period; blocks = blocks * 5 + 3) {
    for (size_t sum = 0; sum < 5 * period / 2;) { /* 10 GiB of addresses */
      struct wane__block *block = wane__extent_take_outside(blocks);
      assert_non_null(block);
      uintptr_t start = wane__block_start(block);
      uintptr_t next = (start + 0xffffffff) >> 32 << 32;
      assert_true(start - (start >> 32 << 32) >= 2 * WANE__BLOCK_BYTES ||
                  blocks >= period / 2);
      assert_true(next >= start + blocks * WANE__BLOCK_BYTES ||
                  blocks >= period / 2);
      sum += blocks;
    }
    blocks = blocks < 100 ? 20000 : blocks; /* small ones take long */
  }
  assert_non_null(wane__extent_take_outside(2 * period));
}

int main(int argc, char **argv) {
  random_state.state = test_args_read(argc, argv, 0).seed;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(runs_never_overlap_and_totals_add_up),
      cmocka_unit_test(freed_neighbours_merge),
      cmocka_unit_test(released_memory_is_clean),
      cmocka_unit_test(spaces_trade_when_the_arena_is_full),
      cmocka_unit_test(nothing_short_at_multiples_of_4_gib),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
