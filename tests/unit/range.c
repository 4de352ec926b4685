/* mark/range: every byte that is pushed is taken once, in pieces. */
#include "support/test.h"

#include <pthread.h>

#include "mark/range.h"

#define BYTES (4u << 20)

static uint8_t taken[BYTES]; /* relaxed */

static void take_piece(const struct wane__mark_range *piece) {
  size_t unit = piece->type != NULL ? piece->type->size : 8;
  require(piece->start < piece->end && piece->end <= BYTES);
  require((piece->end - piece->start) % unit == 0);
  require(piece->end - piece->start <= WANE__RANGE_PIECE_BYTES ||
          piece->end - piece->start == unit);
  for (uintptr_t at = piece->start; at < piece->end; at++) {
    require(__atomic_fetch_add(&taken[at], 1, __ATOMIC_RELAXED) == 0);
  }
}

static void *take_all(void *arg) {
  struct wane__mark_range piece;
  while (wane__range_is_left()) {
    if (wane__range_take(&piece)) {
      take_piece(&piece);
    }
  }
  return arg;
}

static void check_all_taken(uintptr_t end) {
  assert_false(wane__range_is_left());
  for (uintptr_t at = 0; at < BYTES; at++) {
    assert_int_equal(taken[at], at < end);
  }
  memset(taken, 0, sizeof taken);
}

static void pieces_cover_every_range_once(void **state) {
  (void)state;
  static const size_t offset = 0;
  static const struct wane_type types[] = {{"small", 24, 1, &offset},
                                           {"odd", 20000, 1, &offset},
                                           {"piece", 32768, 1, &offset},
                                           {"large", 100000, 1, &offset}};
  struct test_random random = {3};
  for (int threads = 1; threads <= 3; threads++) {
    uintptr_t end = 0;
    while (end < BYTES - 300000) {
      size_t t = test_below(&random, 8);
      const struct wane_type *type = t < 4 ? &types[t] : NULL;
      size_t unit = type != NULL ? type->size : 8;
      size_t units = 1 + test_below(&random, unit < 100 ? 9000 : 3);
      assert_true(wane__range_push((struct wane__mark_range){
          .start = end, .end = end + unit * units, .type = type}));
      end += unit * units;
    }
    pthread_t others[2];
    for (int i = 1; i < threads; i++) {
      pthread_create(&others[i - 1], NULL, take_all, NULL);
    }
    (void)take_all(NULL);
    for (int i = 1; i < threads; i++) {
      pthread_join(others[i - 1], NULL);
    }
    check_all_taken(end);
  }
}

static void a_full_queue_declines(void **state) {
  (void)state;
  size_t pushed = 0;
  while (pushed < 10000000 && wane__range_push((struct wane__mark_range){
                                  .start = 0, .end = 8, .type = NULL})) {
    pushed++;
  }
  assert_in_range(pushed, 1000, 1000000);
  struct wane__mark_range piece;
  for (size_t i = 0; i < pushed; i++) {
    assert_true(wane__range_take(&piece));
    assert_int_equal(piece.end, 8);
  }
  assert_false(wane__range_take(&piece));
  assert_false(wane__range_is_left());
}

static int set_up(void **state) {
  (void)state;
  return wane__range_prepare() && wane__range_prepare() ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pieces_cover_every_range_once),
      cmocka_unit_test(a_full_queue_declines),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
