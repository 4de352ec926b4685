/* heap/foreign: the treap of ranges outside the arena against a plain array,
   and its bounds. INV-foreign-1. */
#include "support/test.h"

#include "heap/foreign.h"

#define PAGE ((uintptr_t)4096)
#define PAGES 512u
#define ROUNDS 40000u
/* Far below any mapping of this process. */
#define LOW ((uintptr_t)1 << 28)

static uintptr_t owner[PAGES]; /* stand-in of the range a page is in, or 0 */
static unsigned owner_start[PAGES];

static uint32_t random_next(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

static uintptr_t page_address(unsigned page) { return LOW + page * PAGE; }

/* What all words lead to is what the array says; for the markers as well, with
   the array made before the stop and without. */
static void compare_all(bool is_prepared) {
  if (is_prepared) {
    wane__foreign_prepare();
  }
  for (unsigned page = 0; page < PAGES; page++) {
    assert_int_equal(wane__foreign_stand_in(page_address(page)), owner[page]);
    assert_int_equal(wane__foreign_stand_in(page_address(page) + PAGE - 1),
                     owner[page]);
    assert_int_equal(wane__foreign_search_marking(page_address(page) + 8),
                     owner[page]);
  }
  assert_int_equal(wane__foreign_stand_in(LOW - 1), 0);
  assert_int_equal(wane__foreign_stand_in(page_address(PAGES)), 0);
}

static void add(unsigned first, unsigned count, uintptr_t stand_in) {
  bool is_free = true;
  for (unsigned page = first; page < first + count; page++) {
    is_free = is_free && owner[page] == 0;
  }
  int error = wane__foreign_add(page_address(first),
                                page_address(first + count), stand_in);
  assert_int_equal(error, is_free ? 0 : EINVAL);
  for (unsigned page = first; is_free && page < first + count; page++) {
    owner[page] = stand_in;
    owner_start[page] = first;
  }
}

static void remove_at(unsigned page) {
  if (owner[page] == 0) {
    wane__foreign_remove(page_address(page)); /* of nothing: harmless */
    return;
  }
  uintptr_t stand_in = owner[page];
  wane__foreign_remove(page_address(owner_start[page]));
  for (unsigned i = 0; i < PAGES; i++) {
    owner[i] = owner[i] == stand_in ? 0 : owner[i];
  }
}

static void ranges_are_found_as_in_a_plain_array(void **state) {
  (void)state;
  uint32_t seed = 2463534242u;
  wane_collect(); /* attaches: the caller counts as guarded, being alone */
  for (unsigned round = 1; round <= ROUNDS; round++) {
    unsigned first = random_next(&seed) % PAGES;
    unsigned count = 1 + random_next(&seed) % 6;
    if (random_next(&seed) % 2 == 0 && first + count <= PAGES) {
      add(first, count, round);
    } else {
      remove_at(first);
    }
    if (round % 400 == 0) {
      compare_all(round % 800 == 0);
    }
  }
  for (unsigned page = 0; page < PAGES; page++) {
    remove_at(page);
  }
  compare_all(true);
  assert_false(wane__foreign_is_any());
}

/* In order of address, and against it: the treap must not become a list, or
   this takes minutes. */
static void many_ranges_in_order_are_no_list(void **state) {
  (void)state;
  const uintptr_t count = 200000;
  for (uintptr_t i = 0; i < count; i++) {
    uintptr_t start = LOW + 2 * i * PAGE;
    assert_int_equal(wane__foreign_add(start, start + PAGE, i + 1), 0);
  }
  for (uintptr_t i = 0; i < count; i++) {
    uintptr_t start = LOW + 2 * i * PAGE;
    assert_int_equal(wane__foreign_stand_in(start + 17), i + 1);
    if (i == 100) {
      wane__foreign_prepare();
    }
    assert_int_equal(wane__foreign_search_marking(start + 17), i + 1);
    assert_int_equal(wane__foreign_stand_in(start + PAGE), 0);
  }
  for (uintptr_t i = count; i-- > 0;) {
    wane__foreign_remove(LOW + 2 * i * PAGE);
  }
  assert_false(wane__foreign_is_any());
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ranges_are_found_as_in_a_plain_array),
      cmocka_unit_test(many_ranges_in_order_are_no_list),
  };
  return cmocka_run_group_tests_name("foreign", tests, NULL, NULL);
}
