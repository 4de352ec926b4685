/* Uniques whose hashes are all the same. U1: then only their bytes tell them
   apart. Who knows the seed can make such values: the product of the first
   word and anything is 0 if that word is what it is combined with. */
#include "support/test.h"

#include "tables/hash.h"

#define COLLIDING 300

TEST_ROOT const void *kept[COLLIDING];

struct value {
  uint64_t first;
  uint64_t number;
};

static struct value value_of(uint64_t number) {
  return (struct value){wane__hash_seed ^ sizeof(struct value), number};
}

static const void *make(uint64_t number) {
  struct value value = value_of(number);
  return wane_unique_make(&value, sizeof value).ptr;
}

static void hashes_collide(void) {
  struct value one = value_of(1);
  for (uint64_t i = 0; i < COLLIDING; i++) {
    struct value other = value_of(i);
    assert_true(wane__hash_bytes(&one, sizeof one) ==
                wane__hash_bytes(&other, sizeof other));
  }
}

static void bytes_tell_uniques_apart(void **state) {
  (void)state;
  (void)wane_unique_make("", 0); /* makes the seed */
  hashes_collide();
  for (int round = 0; round < 3; round++) {
    for (uint64_t i = 0; i < COLLIDING; i++) {
      kept[i] = make(i);
      assert_non_null(kept[i]);
      struct value value = value_of(i);
      assert_memory_equal(kept[i], &value, sizeof value);
      for (uint64_t n = 0; n < i; n++) {
        assert_ptr_not_equal(kept[i], kept[n]);
      }
    }
    wane_collect();
    for (uint64_t i = 0; i < COLLIDING; i++) {
      assert_ptr_equal(make(i), kept[i]);
      kept[i] = i % 2 == 0 ? kept[i] : NULL;
    }
    wane_collect();
    for (uint64_t i = 0; i < COLLIDING; i += 2) {
      assert_ptr_equal(make(i), kept[i]);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bytes_tell_uniques_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
