/* The checker of histories itself: it accepts what a map may do, and rejects
   what it may not. It proves what stress/map.c says of M1. */
#include "support/history.h"

static struct history history;

static void begin(void) { memset(&history, 0, sizeof history); }

/* [begin, end] call(key, value, old): ok, got. */
static void add(uint64_t from, uint64_t to, enum history_call call, uint8_t key,
                uint8_t value, uint8_t old, bool ok, uint8_t got) {
  history.events[history.count++] = (struct history_event){
      from, to, (uint8_t)call, key, 0, value, old, got, ok};
}

#define assert_good() assert_true(history_is_linearizable(&history))
#define assert_bad() assert_false(history_is_linearizable(&history))

/* One after the other, each call hit and miss. */
static void sequential_histories_are_told_apart(void **state) {
  (void)state;
  begin();
  assert_good();
  add(1, 2, HISTORY_LOAD, 0, 0, 0, false, 0);
  add(3, 4, HISTORY_STORE, 0, 1, 0, false, 0);
  add(5, 6, HISTORY_LOAD, 0, 0, 0, true, 1);
  add(7, 8, HISTORY_LOAD_OR_STORE, 0, 2, 0, true, 1);
  add(9, 10, HISTORY_SWAP, 0, 3, 0, true, 1);
  add(11, 12, HISTORY_COMPARE_AND_SWAP, 0, 4, 1, false, 0);
  add(13, 14, HISTORY_COMPARE_AND_SWAP, 0, 4, 3, true, 0);
  add(15, 16, HISTORY_COMPARE_AND_DELETE, 0, 0, 3, false, 0);
  add(17, 18, HISTORY_COMPARE_AND_DELETE, 0, 0, 4, true, 0);
  add(19, 20, HISTORY_COMPARE_AND_DELETE, 0, 0, 4, false, 0);
  add(21, 22, HISTORY_COMPARE_AND_SWAP, 0, 4, 4, false, 0);
  add(23, 24, HISTORY_DELETE, 0, 0, 0, false, 0);
  add(25, 26, HISTORY_LOAD_OR_STORE, 0, 5, 0, false, 5);
  add(27, 28, HISTORY_LOAD_AND_DELETE, 0, 0, 0, true, 5);
  add(29, 30, HISTORY_LOAD_AND_DELETE, 0, 0, 0, false, 0);
  add(31, 32, HISTORY_SWAP, 0, 6, 0, false, 0);
  add(33, 34, HISTORY_DELETE, 0, 0, 0, true, 0);
  assert_good();
  for (size_t i = 0; i < history.count; i++) { /* any other answer is wrong */
    if (history.events[i].call != HISTORY_STORE) {
      history.events[i].ok = !history.events[i].ok;
      assert_bad();
      history.events[i].ok = !history.events[i].ok;
    }
    switch (history.events[i].call) {
    case HISTORY_LOAD:
    case HISTORY_LOAD_OR_STORE:
    case HISTORY_LOAD_AND_DELETE:
    case HISTORY_SWAP:
      history.events[i].got += 1;
      assert_bad();
      history.events[i].got -= 1;
      break;
    default:
      break;
    }
  }
  assert_good();
}

/* What overlaps may come in any order, what does not may not. */
static void stamps_give_the_order(void **state) {
  (void)state;
  for (uint64_t end = 1; end < 6; end++) {
    begin();
    add(3, 5, HISTORY_STORE, 0, 1, 0, false, 0);
    add(end - 1, end, HISTORY_LOAD, 0, 0, 0, true, 1);
    assert_true(history_is_linearizable(&history) == (end > 3));
    begin();
    add(1, 2, HISTORY_STORE, 0, 1, 0, false, 0);
    add(3, 5, HISTORY_STORE, 0, 2, 0, false, 0);
    add(4, 6, HISTORY_LOAD, 0, 0, 0, true, 2);
    add(end + 2, end + 3, HISTORY_LOAD, 0, 0, 0, true, 1);
    assert_true(history_is_linearizable(&history) == (end <= 2));
  }
}

static void reading_the_new_then_the_old_is_bad(void **state) {
  (void)state;
  begin();
  add(1, 2, HISTORY_STORE, 0, 1, 0, false, 0);
  add(3, 20, HISTORY_STORE, 0, 2, 0, false, 0);
  add(4, 5, HISTORY_LOAD, 0, 0, 0, true, 2);
  add(6, 7, HISTORY_LOAD, 0, 0, 0, true, 2);
  assert_good();
  add(8, 9, HISTORY_LOAD, 0, 0, 0, true, 1);
  assert_bad();
}

/* #70970: of a swap and a deletion that compare with one word, one wins. */
static void both_of_two_comparers_is_bad(void **state) {
  (void)state;
  static const enum history_call calls[] = {
      HISTORY_COMPARE_AND_SWAP, HISTORY_COMPARE_AND_DELETE,
      HISTORY_LOAD_AND_DELETE, HISTORY_SWAP};
  for (size_t i = 0; i < TEST_COUNT(calls); i++) {
    bool compares = i < 2;
    begin();
    add(1, 2, HISTORY_STORE, 0, 1, 0, false, 0);
    add(3, 9, HISTORY_COMPARE_AND_DELETE, 0, 0, 1, true, 0);
    add(4, 8, calls[i], 0, 2, 1, true, compares ? 0 : 1);
    assert_bad();
    history.events[2].ok = false;
    history.events[2].got = 0;
    assert_good();
  }
}

static void a_lost_store_is_bad(void **state) {
  (void)state;
  begin();
  add(1, 2, HISTORY_STORE, 1, 1, 0, false, 0);
  add(3, 6, HISTORY_STORE, 1, 2, 0, false, 0);
  add(4, 7, HISTORY_STORE, 1, 3, 0, false, 0);
  add(8, 9, HISTORY_LOAD, 1, 0, 0, true, 3);
  assert_good();
  history.events[3].got = 2;
  assert_good();
  history.events[3].got = 1;
  assert_bad();
  history.events[3].got = 0;
  history.events[3].ok = false;
  assert_bad();
}

static void two_inserters_are_bad(void **state) {
  (void)state;
  begin();
  add(1, 9, HISTORY_LOAD_OR_STORE, 2, 1, 0, false, 1);
  add(2, 8, HISTORY_LOAD_OR_STORE, 2, 2, 0, true, 1);
  assert_good();
  history.events[1].ok = false;
  history.events[1].got = 2;
  assert_bad();
  add(3, 7, HISTORY_DELETE, 2, 0, 0, true, 0);
  assert_good();
}

/* Other keys do not mix in; clear is of all at once. */
static void clear_is_of_all_keys_at_one_moment(void **state) {
  (void)state;
  begin();
  add(1, 2, HISTORY_STORE, 0, 1, 0, false, 0);
  add(3, 4, HISTORY_STORE, 1, 2, 0, false, 0);
  add(5, 20, HISTORY_CLEAR, 0, 0, 0, false, 0);
  add(6, 7, HISTORY_LOAD, 0, 0, 0, false, 0);
  add(8, 9, HISTORY_LOAD, 1, 0, 0, false, 0);
  assert_good();
  history.events[4].ok = true;
  history.events[4].got = 2;
  assert_bad();
  history.events[4].begin = 4;
  assert_good();
}

static void without_clear_keys_are_apart(void **state) {
  (void)state;
  begin();
  add(1, 2, HISTORY_STORE, 0, 1, 0, false, 0);
  add(3, 4, HISTORY_LOAD, 3, 0, 0, false, 0);
  add(5, 6, HISTORY_LOAD, 0, 0, 0, true, 1);
  assert_good();
  history.events[1].ok = true;
  history.events[1].got = 1;
  assert_bad();
}

/* D11: which key object there is decides whose death takes the entry. */
static void an_entry_goes_with_what_was_dropped_only(void **state) {
  (void)state;
  begin();
  add(1, 2, HISTORY_STORE, 0, 1, 0, false, 0);
  history.events[0].object = 7;
  add(3, 4, HISTORY_STORE, 0, 2, 0, false, 0);
  history.events[1].object = 8;
  add(9, 10, HISTORY_LOAD, 0, 0, 0, false, 0);
  assert_bad();
  history.key_dropped[7] = 5;
  assert_good();
  history.key_dropped[7] = 11; /* after the load */
  assert_bad();
  history.key_dropped[7] = 0;
  history.key_dropped[8] = 5; /* not the key that was kept */
  assert_bad();
  history.value_dropped[1] = 5; /* not its value any more */
  assert_bad();
  history.value_dropped[2] = 5;
  assert_good();
  add(11, 12, HISTORY_LOAD, 0, 0, 0, true, 2); /* gone is gone */
  assert_bad();
  add(7, 8, HISTORY_LOAD, 0, 0, 0, true, 2); /* not gone yet */
  history.events[3].begin = 5;
  history.events[3].end = 8;
  assert_good();
}

/* A history of a true map, drawn at random with overlapping stamps, is good;
   with one answer changed it mostly is not. */
static void random_histories_are_told_apart(void **state) {
  (void)state;
  struct test_random random = {5};
  size_t bad = 0;
  for (int round = 0; round < 500; round++) {
    uint8_t now = 0;
    begin();
    for (uint8_t i = 0; i < 40; i++) {
      uint64_t at = 100 + 10 * (uint64_t)i;
      uint64_t from = at - test_below(&random, 25);
      uint64_t to = at + 1 + test_below(&random, 25);
      if (test_below(&random, 2) == 0) {
        add(from, to, HISTORY_SWAP, 0, i + 1, 0, now != 0, now);
        now = i + 1;
      } else {
        add(from, to, HISTORY_LOAD_AND_DELETE, 0, 0, 0, now != 0, now);
        now = 0;
      }
    }
    assert_good();
    struct history_event *event = &history.events[test_below(&random, 40)];
    event->ok = !event->ok;
    event->got = event->ok ? 41 : 0;
    bad += !history_is_linearizable(&history);
  }
  assert_in_range(bad, 450, 500); /* some are what another order gives */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sequential_histories_are_told_apart),
      cmocka_unit_test(stamps_give_the_order),
      cmocka_unit_test(reading_the_new_then_the_old_is_bad),
      cmocka_unit_test(both_of_two_comparers_is_bad),
      cmocka_unit_test(a_lost_store_is_bad),
      cmocka_unit_test(two_inserters_are_bad),
      cmocka_unit_test(clear_is_of_all_keys_at_one_moment),
      cmocka_unit_test(without_clear_keys_are_apart),
      cmocka_unit_test(an_entry_goes_with_what_was_dropped_only),
      cmocka_unit_test(random_histories_are_told_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
