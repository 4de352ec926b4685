/* The hash map: each call, ops, what it keeps alive and what it does not, no
   memory. M1, D11, D16. Range and clear are in map_range.c, Go's own tests in
   map_go.c, weak maps in map_weak.c, what threads see of each other in
   stress/map.c. */
/* timeout: 240 */
#include "support/lives.h"
#include "support/maps.h"

#include <pthread.h>

#define MANY 300
#define FLAGS 4 /* all combinations */

TEST_ROOT void *keys[NOTES_MAX];
TEST_ROOT void *vals[NOTES_MAX];
TEST_ROOT struct wane_map *map;

static void forget_all(void) {
  memset(keys, 0, sizeof keys);
  memset(vals, 0, sizeof vals);
  map = NULL;
}

/* ---- Keys: words, strings, and numbers with ops of our own ---- */

static void *make_word(size_t idx) { return word(idx); }
static void *make_string(size_t idx) { return wane_printf("key %zu", idx); }
static void *make_object(size_t idx) {
  (void)idx;
  return wane_alloc(32);
}

static const struct kind {
  const struct wane_map_ops *ops;
  void *(*make)(size_t idx);
} kinds[] = {
    {NULL, make_word},
    {NULL, make_object},
    {&wane_string_keys, make_string},
    {&number_ops, make_number},
};

/* ---- One call after the other ---- */

static void require_value(struct wane_map *m, const void *key,
                          const void *value) {
  void *got = word(99);
  require(wane_map_load(m, key, &got));
  require(got == value);
  require(wane_map_load(m, key, NULL));
}

static void require_absent(struct wane_map *m, const void *key) {
  void *got = word(99);
  require(!wane_map_load(m, key, &got) && got == NULL);
  require(!wane_map_load(m, key, NULL));
  got = word(99);
  require(!wane_map_load_and_delete(m, key, &got) && got == NULL);
  require(!wane_map_load_and_delete(m, key, NULL));
  require(!wane_map_delete(m, key));
  require(!wane_map_compare_and_swap(m, key, NULL, NULL)); /* Go: M2 */
  require(!wane_map_compare_and_swap(m, key, word(5), word(6)));
  require(!wane_map_compare_and_delete(m, key, NULL));
  require(!wane_map_load(m, key, NULL));
}

/* The key is not there, before and after. a and b are different words. */
static void require_all_calls(struct wane_map *m, const void *key, void *a,
                              void *b) {
  size_t count = wane_map_count(m);
  void *got = word(99);
  bool loaded = true;
  require_absent(m, key);
  require(wane_map_load_or_store(m, key, a, &loaded) == a && !loaded);
  require_value(m, key, a);
  require(wane_map_count(m) == count + 1);
  require(wane_map_load_or_store(m, key, b, &loaded) == a && loaded);
  require(wane_map_load_or_store(m, key, b, NULL) == a);
  require(!wane_map_compare_and_swap(m, key, b, a));
  require(!wane_map_compare_and_delete(m, key, b));
  require_value(m, key, a);
  require(wane_map_compare_and_swap(m, key, a, b));
  require_value(m, key, b);
  require(wane_map_compare_and_swap(m, key, b, b));
  require(wane_map_swap(m, key, a, &got) && got == b);
  require(wane_map_swap(m, key, b, NULL));
  require_value(m, key, b);
  wane_map_store(m, key, a);
  wane_map_store(m, key, a);
  require_value(m, key, a);
  require(wane_map_count(m) == count + 1);
  require(wane_map_compare_and_delete(m, key, a));
  require_absent(m, key);
  got = word(99);
  require(!wane_map_swap(m, key, b, &got) && got == NULL);
  require_value(m, key, b);
  got = word(99);
  require(wane_map_load_and_delete(m, key, &got) && got == b);
  require(!wane_map_swap(m, key, a, NULL));
  require(wane_map_load_and_delete(m, key, NULL));
  wane_map_store(m, key, b);
  require(wane_map_delete(m, key) && !wane_map_delete(m, key));
  require(wane_map_load_or_store(m, key, b, NULL) == b);
  require(wane_map_delete(m, key));
  require_absent(m, key);
  require(wane_map_count(m) == count);
}

static void an_empty_map_has_nothing(void **state) {
  (void)state;
  for (unsigned flags = 0; flags < FLAGS; flags++) {
    for (size_t k = 0; k < TEST_COUNT(kinds); k++) {
      struct wane_map *m = wane_map_new(kinds[k].ops, flags);
      assert_non_null(m);
      assert_ptr_equal(wane_base(m), m);
      for (int i = 0; i < 2; i++) {
        require_absent(m, kinds[k].make(0));
        wane_map_range(m, never_visit, NULL);
        assert_int_equal(wane_map_count(m), 0);
        wane_map_clear(m);
      }
    }
  }
}

/* M1, D16: each call does what it says, and errno stays. Between them other
   keys, so that the map grows. */
static void each_call_does_what_it_says(void **state) {
  (void)state;
  for (unsigned flags = 0; flags < FLAGS; flags++) {
    for (size_t k = 0; k < TEST_COUNT(kinds); k++) {
      struct wane_map *m = wane_map_new(kinds[k].ops, flags);
      errno = 77;
      for (size_t i = 0; i < MANY; i++) {
        keys[i] = kinds[k].make(i);
        vals[2 * i] = wane_alloc(16);
        vals[2 * i + 1] = wane_alloc(16);
        require_all_calls(m, keys[i], vals[2 * i], vals[2 * i + 1]);
        require_all_calls(m, keys[i], NULL, vals[i]);
        require_all_calls(m, keys[i], vals[i], NULL);
        require_all_calls(m, keys[i], word(i), word(i + 1));
        wane_map_store(m, keys[i], vals[i]);
      }
      for (size_t i = 0; i < MANY; i++) {
        require_value(m, keys[i], vals[i]);
      }
      assert_int_equal(wane_map_count(m), MANY);
      wane_map_clear(m);
      assert_int_equal(wane_map_count(m), 0);
      assert_int_equal(errno, 77);
      for (size_t i = 0; i < MANY; i++) {
        require_absent(m, keys[i]);
        require_all_calls(m, keys[i], vals[i], NULL);
      }
      assert_int_equal(errno, 77);
    }
  }
  forget_all();
}

static uint64_t null_hash(const void *key) {
  return key == NULL ? 0 : number_hash(key);
}
static bool null_equal(const void *a, const void *b) {
  return a == b || (a != NULL && b != NULL && number_equal(a, b));
}
static const struct wane_map_ops null_ops = {null_hash, null_equal};

/* D11. */
static void null_is_a_key_like_others(void **state) {
  (void)state;
  for (unsigned flags = 0; flags < FLAGS; flags++) {
    struct wane_map *plain = wane_map_new(NULL, flags);
    struct wane_map *own = wane_map_new(&null_ops, flags);
    vals[0] = wane_alloc(16);
    for (int i = 0; i < 3; i++) {
      require_all_calls(plain, NULL, vals[0], NULL);
      require_all_calls(own, NULL, NULL, vals[0]);
      require_all_calls(own, NULL, vals[0], word(4));
      wane_map_store(plain, word((uintptr_t)i), NULL);
      wane_map_store(own, make_number(3), vals[0]);
      wane_collect();
    }
    wane_map_store(plain, NULL, NULL); /* immortal, both */
    wane_map_store(own, NULL, NULL);
    wane_collect();
    require_value(plain, NULL, NULL);
    require_value(own, NULL, NULL);
  }
}

/* Words are compared as words, whatever they point to. */
static void without_ops_the_word_counts(void **state) {
  (void)state;
  struct wane_map *m = wane_map_new(NULL, 0);
  char first[] = "same";
  char second[] = "same";
  char *object = wane_alloc(64);
  wane_map_store(m, first, word(1));
  require_absent(m, second);
  wane_map_store(m, object, word(2));
  require_absent(m, object + 1);
  wane_map_store(m, object + 63, word(3));
  require_value(m, object, word(2));
  require_value(m, object + 63, word(3));
  for (unsigned bit = 0; bit < 64; bit++) {
    void *key = (void *)(uintptr_t)(UINT64_C(1) << bit);
    wane_map_store(m, key, word(bit));
  }
  for (unsigned bit = 0; bit < 64; bit++) {
    void *key = (void *)(uintptr_t)(UINT64_C(1) << bit);
    require_value(m, key, word(bit));
  }
  wane_map_store(m, (void *)UINTPTR_MAX, word(70));
  require_value(m, (void *)UINTPTR_MAX, word(70));
  assert_int_equal(wane_map_count(m), 68);
}

static bool show_one(const void *key, void *value, void *ctx) {
  (void)value;
  const void **shown = ctx;
  require(*shown == NULL);
  *shown = key;
  return true;
}

static const void *only_key(struct wane_map *m) {
  const void *shown = NULL;
  wane_map_range(m, show_one, &shown);
  return shown;
}

/* D11: a key that is there stays the same object. */
static void the_first_of_equal_keys_stays(void **state) {
  (void)state;
  for (unsigned flags = 0; flags < FLAGS; flags++) {
    struct wane_map *m = wane_map_new(&wane_string_keys, flags);
    char first[] = "equal"; /* not managed, so that weak keys stay too */
    char second[] = "equal";
    wane_map_store(m, first, word(1));
    wane_map_store(m, second, word(2));
    assert_ptr_equal(only_key(m), first);
    assert_true(wane_map_swap(m, second, word(3), NULL));
    assert_ptr_equal(only_key(m), first);
    assert_true(wane_map_compare_and_swap(m, second, word(3), word(4)));
    assert_ptr_equal(only_key(m), first);
    assert_ptr_equal(wane_map_load_or_store(m, second, word(5), NULL), word(4));
    assert_ptr_equal(only_key(m), first);
    assert_true(wane_map_delete(m, second));
    assert_false(wane_map_swap(m, second, word(6), NULL));
    wane_map_store(m, first, word(7));
    assert_ptr_equal(only_key(m), second);
    wane_map_clear(m);
    (void)wane_map_load_or_store(m, first, word(8), NULL);
    (void)wane_map_load_or_store(m, second, word(9), NULL);
    assert_ptr_equal(only_key(m), first);
  }
}

static void strings_are_compared_by_their_bytes(void **state) {
  (void)state;
  struct wane_map *m = wane_map_new(&wane_string_keys, 0);
  const char *strings[] = {"", "a", "A", "aa", "a\1", "\377", "\377\376", "ab"};
  for (size_t i = 0; i < TEST_COUNT(strings); i++) {
    require_absent(m, strings[i]);
    wane_map_store(m, strings[i], word(i));
  }
  for (size_t i = 0; i < TEST_COUNT(strings); i++) {
    char *copy = wane_strdup(strings[i]);
    require_value(m, copy, word(i));
    assert_true(wane_string_keys.equal(copy, strings[i]));
    assert_true(wane_string_keys.hash(copy) ==
                wane_string_keys.hash(strings[i]));
  }
  assert_int_equal(wane_map_count(m), TEST_COUNT(strings));
}

/* ---- Making one ---- */

static void unknown_flags_are_einval(void **state) {
  (void)state;
  static const unsigned flags[] = {4, 5, 8, 1u << 31, UINT32_MAX};
  for (size_t i = 0; i < TEST_COUNT(flags); i++) {
    errno = 0;
    assert_null(wane_map_new(NULL, flags[i]));
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_null(wane_map_new(&wane_string_keys, flags[i]));
    assert_int_equal(errno, EINVAL);
  }
}

static void ops_are_copied(void **state) {
  (void)state;
  struct wane_map_ops *ops = malloc(sizeof *ops);
  assert_non_null(ops);
  *ops = number_ops;
  struct wane_map *m = wane_map_new(ops, 0);
  memset(ops, 0x5a, sizeof *ops);
  free(ops);
  for (size_t i = 0; i < 100; i++) {
    wane_map_store(m, make_number(i), word(i));
  }
  for (size_t i = 0; i < 100; i++) {
    require_value(m, make_number(i), word(i));
  }
}

static const char *const fatal_names[] = {
    "wane_map_load",
    "wane_map_store",
    "wane_map_load_or_store",
    "wane_map_load_and_delete",
    "wane_map_delete",
    "wane_map_swap",
    "wane_map_compare_and_swap",
    "wane_map_compare_and_delete",
    "wane_map_range",
    "wane_map_clear",
    "wane_map_count",
    "wane_map_range", /* and these with a map */
    "wane_map_new",
    "wane_map_new",
    "wane_map_new",
};

static void fatal_map(size_t idx) {
  switch (idx) {
  case 0:
    (void)wane_map_load(NULL, NULL, NULL);
    return;
  case 1:
    wane_map_store(NULL, NULL, NULL);
    return;
  case 2:
    (void)wane_map_load_or_store(NULL, NULL, NULL, NULL);
    return;
  case 3:
    (void)wane_map_load_and_delete(NULL, NULL, NULL);
    return;
  case 4:
    (void)wane_map_delete(NULL, NULL);
    return;
  case 5:
    (void)wane_map_swap(NULL, NULL, NULL, NULL);
    return;
  case 6:
    (void)wane_map_compare_and_swap(NULL, NULL, NULL, NULL);
    return;
  case 7:
    (void)wane_map_compare_and_delete(NULL, NULL, NULL);
    return;
  case 8:
    wane_map_range(NULL, never_visit, NULL);
    return;
  case 9:
    wane_map_clear(NULL);
    return;
  default:
    (void)wane_map_count(NULL);
  }
}

static void fatal_call(void *arg) {
  static const struct wane_map_ops half[] = {
      {NULL, NULL}, {number_hash, NULL}, {NULL, number_equal}};
  size_t idx = (size_t)(uintptr_t)arg;
  if (idx < 11) {
    fatal_map(idx);
  } else if (idx == 11) {
    wane_map_range(wane_map_new(NULL, 0), NULL, NULL);
  } else {
    (void)wane_map_new(&half[idx - 12], 0);
  }
}

/* D1, D16. */
static void mistakes_are_fatal(void **state) {
  (void)state;
  for (size_t i = 0; i < TEST_COUNT(fatal_names); i++) {
    test_assert_fatal_only(fatal_names[i], fatal_call, (void *)(uintptr_t)i);
  }
}

/* ---- Many keys ---- */

static uint8_t *shown; /* how often, by number of the key */
static size_t shown_most;

static bool count_word(const void *key, void *value, void *ctx) {
  size_t idx = (uintptr_t)key / 2;
  require((uintptr_t)key % 2 == 1 && idx < shown_most);
  require(ctx == NULL || value == word(idx + 1));
  require(shown[idx] == 0);
  shown[idx]++;
  return true;
}

/* Each of the keys [from, count) once, no other. */
static void require_range(struct wane_map *m, size_t from, size_t count) {
  shown = calloc(count + 1, 1);
  shown_most = count;
  require(shown != NULL);
  wane_map_range(m, count_word, m);
  for (size_t i = 0; i < count; i++) {
    require(shown[i] == (i >= from));
  }
  free(shown);
}

/* M1: it grows and shrinks with what is in it. */
static void grow_and_shrink(struct wane_map *m, size_t count, bool clear) {
  uint64_t empty = test_live_bytes();
  for (size_t i = 0; i < count; i++) {
    wane_map_store(m, word(i), word(i + 1));
    require((i & (i + 1)) != 0 || wane_map_count(m) == i + 1);
  }
  require(wane_map_count(m) == count);
  for (size_t i = 0; i < count; i++) {
    require_value(m, word(i), word(i + 1));
  }
  require_range(m, 0, count);
  uint64_t full = test_live_bytes();
  require(full > empty + count * 16);
  for (size_t i = 0; i < count - count / 100; i++) {
    require(wane_map_delete(m, word(i)));
  }
  require(wane_map_count(m) == count / 100);
  for (size_t i = 0; i < count; i++) {
    require(wane_map_load(m, word(i), NULL) == (i >= count - count / 100));
  }
  require_range(m, count - count / 100, count);
  require(test_live_bytes() < empty + (full - empty) / 10 + 65536);
  if (clear) {
    wane_map_clear(m);
  }
  for (size_t i = 0; i < count; i++) {
    require(wane_map_delete(m, word(i)) ==
            (!clear && i >= count - count / 100));
  }
  require(wane_map_count(m) == 0);
  wane_map_range(m, never_visit, NULL);
  require(test_live_bytes() < empty + (full - empty) / 50 + 65536);
}

static void grow_and_shrink_apart(void *arg) {
  size_t count = *(size_t *)arg;
  map = wane_map_new(NULL, 0);
  for (int i = 0; i < 2; i++) {
    grow_and_shrink(map, count, i == 0);
  }
}

static void a_million_keys_come_and_go(void **state) {
  (void)state;
  size_t count = test_scaled(1000000, 20000);
  test_apart(grow_and_shrink_apart, &count);
  forget_all();
}

/* Many come and go, few are there: the map must not grow. */
static void churn_does_not_grow_the_map(void **state) {
  (void)state;
  uint64_t early = 0;
  map = wane_map_new(NULL, 0);
  size_t count = test_scaled(1000000, 30000);
  for (size_t i = 0; i < count; i++) {
    wane_map_store(map, word(i), word(i));
    if (i >= 100) {
      require(wane_map_delete(map, word(i - 100)));
    }
    if (i == count / 10) {
      early = test_live_bytes();
    }
  }
  assert_int_equal(wane_map_count(map), 100);
  assert_in_range(test_live_bytes(), 0, early + 65536);
  forget_all();
}

static void bad_hashes_apart(void *arg) {
  size_t count = *(size_t *)arg;
  map = wane_map_new(&number_ops, 0);
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < count; i++) {
      require(!wane_map_swap(map, make_number(i), word(i), NULL));
    }
    require(wane_map_count(map) == count);
    for (size_t i = 0; i < count; i++) {
      require_value(map, make_number(i), word(i));
    }
    require_absent(map, make_number(count));
    for (size_t i = 0; i < count; i += 2) {
      require(wane_map_delete(map, make_number(i)));
    }
    for (size_t i = 0; i < count; i++) {
      require(wane_map_load(map, make_number(i), NULL) == (i % 2 == 1));
    }
    for (size_t i = count; i-- > 0;) {
      require(wane_map_delete(map, make_number(i)) == (i % 2 == 1));
    }
    require(wane_map_count(map) == 0);
  }
}

/* Many keys with one hash are slow, not wrong. */
static void bad_hashes_are_slow_not_wrong(void **state) {
  (void)state;
  static const uint64_t masks[] = {
      0, 1, 7, UINT64_C(1) << 63, UINT64_C(0xf0) << 56, UINT64_C(255) << 32};
  for (size_t i = 0; i < TEST_COUNT(masks); i++) {
    size_t count =
        masks[i] == 0 ? test_scaled(1000, 200) : test_scaled(2000, 300);
    hash_mask = masks[i];
    test_apart(bad_hashes_apart, &count);
  }
  hash_mask = UINT64_MAX;
  forget_all();
}

/* ---- hash and equal that do not agree, or do other things ---- */

#define GOOD 1000 /* from here on they agree */

static struct test_random liar;
static int lie;

static uint64_t lying_hash(const void *key) {
  uint64_t number = (uintptr_t)key;
  bool lies = lie < 3 || number < GOOD;
  return lies && lie != 1 ? test_random(&liar) & 15 : number * 0x9e3779b97f4a7;
}

static bool lying_equal(const void *a, const void *b) {
  bool lies = lie < 3 || (uintptr_t)a < GOOD || (uintptr_t)b < GOOD;
  if (!lies || lie == 0) {
    return a == b;
  }
  return lie == 1 ? false : test_below(&liar, 2) == 0;
}

static const struct wane_map_ops lying_ops = {lying_hash, lying_equal};

static void call_at_random(struct wane_map *m, const void *key) {
  void *value = word(test_below(&liar, 4));
  switch (test_below(&liar, 8)) {
  case 0:
    (void)wane_map_load(m, key, &value);
    break;
  case 1:
    (void)wane_map_load_or_store(m, key, value, NULL);
    break;
  case 2:
    (void)wane_map_load_and_delete(m, key, NULL);
    break;
  case 3:
    (void)wane_map_delete(m, key);
    break;
  case 4:
    (void)wane_map_swap(m, key, value, NULL);
    break;
  case 5:
    (void)wane_map_compare_and_swap(m, key, value, word(1));
    break;
  case 6:
    (void)wane_map_compare_and_delete(m, key, value);
    break;
  default:
    wane_map_store(m, key, value);
  }
}

/* Whatever they say: no crash, no endless loop; and keys for which they agree
   do not notice (lie 3). */
static void ops_that_disagree_harm_nobody_else(void **state) {
  (void)state;
  liar.state = 1;
  for (lie = 0; lie < 5; lie++) {
    struct wane_map *m = wane_map_new(&lying_ops, lie % 2 == 0 ? 0 : 3);
    for (uintptr_t i = 0; lie >= 3 && i < 500; i++) {
      wane_map_store(m, (void *)(GOOD + i), word(i));
    }
    for (size_t i = 0; i < test_scaled(30000, 3000); i++) {
      call_at_random(m, (void *)(1 + test_below(&liar, 200)));
    }
    size_t all = 0;
    wane_map_range(m, count_visit, &all);
    assert_in_range(all, lie >= 3 ? 500 : 0, 40000);
    (void)wane_map_count(m);
    wane_map_clear(m);
    assert_int_equal(wane_map_count(m), 0);
    wane_map_range(m, never_visit, NULL);
  }
}

/* Keys with a good hash among keys with a bad one. */
static uint64_t half_hash(const void *key) {
  uint64_t number = (uintptr_t)key;
  return number < GOOD ? test_random(&liar) : number * 0x9e3779b97f4a7c15;
}
static bool half_equal(const void *a, const void *b) { return a == b; }

static void good_keys_do_not_suffer_from_bad_ones(void **state) {
  (void)state;
  static const struct wane_map_ops ops = {half_hash, half_equal};
  struct wane_map *m = wane_map_new(&ops, 0);
  for (uintptr_t round = 0; round < 3; round++) {
    for (uintptr_t i = 0; i < 500; i++) {
      require_all_calls(m, (void *)(GOOD + i), word(1), word(2));
      wane_map_store(m, (void *)(GOOD + i), word(i));
      call_at_random(m, (void *)(1 + test_below(&liar, 50)));
      call_at_random(m, (void *)(1 + test_below(&liar, 50)));
    }
    for (uintptr_t i = 0; i < 500; i++) {
      require_value(m, (void *)(GOOD + i), word(i));
      assert_true(wane_map_delete(m, (void *)(GOOD + i)));
    }
  }
}

TEST_ROOT struct wane_map *other;

static void be_busy(const void *key) {
  char *text = wane_printf("%p", key);
  void *number = make_number(*(const uint64_t *)key);
  wane_map_store(other, text, number);
  void *got = NULL;
  require(wane_map_load(other, text, &got) && got == number);
  if (test_below(&liar, 100) == 0) {
    wane_collect();
    wane_map_clear(other);
  }
  require(number_equal(number, key));
}

static uint64_t busy_hash(const void *key) {
  be_busy(key);
  return number_hash(key) & 15;
}
static bool busy_equal(const void *a, const void *b) {
  be_busy(a);
  be_busy(b);
  return number_equal(a, b);
}

/* D11: they may allocate, collect and use other maps. */
static void ops_may_allocate_and_use_other_maps(void **state) {
  (void)state;
  static const struct wane_map_ops ops = {busy_hash, busy_equal};
  other = wane_map_new(&wane_string_keys, 0);
  for (unsigned flags = 0; flags < FLAGS; flags++) {
    map = wane_map_new(&ops, flags);
    size_t count = test_scaled(60, 20);
    for (size_t i = 0; i < count; i++) {
      keys[i] = make_number(i);
      vals[i] = make_number(i);
      require_all_calls(map, keys[i], vals[i], NULL);
      wane_map_store(map, keys[i], vals[i]);
    }
    for (size_t i = 0; i < count; i++) {
      require_value(map, make_number(i), vals[i]);
    }
    assert_int_equal(wane_map_count(map), count);
  }
  other = NULL;
  forget_all();
}

/* ---- No lock is held around callbacks ---- */

enum { IN_HASH = 1, IN_EQUAL, IN_VISIT };

static _Thread_local int blocks;
static uint64_t gate;
static uint64_t inside;
static uint64_t finished;

static void block_in(int where) {
  if (blocks == where) {
    blocks = 0;
    test_add(&inside);
    test_wait_for(&gate);
  }
}

static uint64_t gate_hash(const void *key) {
  block_in(IN_HASH);
  return (uintptr_t)key / 2 % 1000 & 1;
}
static bool gate_equal(const void *a, const void *b) {
  block_in(IN_EQUAL);
  return (uintptr_t)a / 2 % 1000 == (uintptr_t)b / 2 % 1000;
}
static const struct wane_map_ops gate_ops = {gate_hash, gate_equal};

static bool gate_visit(const void *key, void *value, void *ctx) {
  (void)key, (void)value, (void)ctx;
  block_in(IN_VISIT);
  return true;
}

static void call_number(int number, const void *key) {
  switch (number) {
  case 0:
    (void)wane_map_load(map, key, NULL);
    break;
  case 1:
    wane_map_store(map, key, word(1));
    break;
  case 2:
    (void)wane_map_load_or_store(map, key, word(1), NULL);
    break;
  case 3:
    (void)wane_map_load_and_delete(map, key, NULL);
    break;
  case 4:
    (void)wane_map_delete(map, key);
    break;
  case 5:
    (void)wane_map_swap(map, key, word(1), NULL);
    break;
  case 6:
    (void)wane_map_compare_and_swap(map, key, word(7), word(1));
    break;
  case 7:
    (void)wane_map_compare_and_delete(map, key, word(7));
    break;
  default:
    wane_map_range(map, gate_visit, NULL);
  }
}

struct blocked {
  int call;
  int where;
};

static void *blocked_thread(void *arg) {
  const struct blocked *blocked = arg;
  blocks = blocked->where;
  call_number(blocked->call, word(1007)); /* equal, another word */
  return NULL;
}

static void *passing_thread(void *arg) {
  (void)arg;
  for (uintptr_t i = 0; i < 40; i++) {
    wane_map_store(map, word(100 + i), word(1)); /* grows */
  }
  for (int call = 0; call < 9; call++) {
    call_number(call, word(7));
    call_number(call, word(8));
  }
  wane_collect();
  for (uintptr_t i = 0; i < 40; i++) {
    require(wane_map_delete(map, word(100 + i)));
  }
  wane_map_clear(map);
  require(wane_map_count(map) == 0);
  wane_map_store(map, word(7), word(7));
  require_value(map, word(7), word(7));
  test_add(&finished);
  return NULL;
}

/* D11, M1: no call takes a lock or waits for another, so a thread that stops
   in the middle of one stops nobody. */
static void a_blocked_callback_blocks_nobody_else(void **state) {
  (void)state;
  for (int call = 0; call < 9; call++) {
    for (int where = IN_HASH; where <= IN_VISIT; where++) {
      if ((call == 8) != (where == IN_VISIT)) {
        continue;
      }
      struct blocked blocked = {call, where};
      pthread_t threads[2];
      map = wane_map_new(&gate_ops, 0);
      wane_map_store(map, word(7), word(7));
      test_set(&gate, 0);
      test_set(&inside, 0);
      test_set(&finished, 0);
      require(!pthread_create(&threads[0], NULL, blocked_thread, &blocked));
      assert_true(test_until(&inside, 1));
      require(!pthread_create(&threads[1], NULL, passing_thread, NULL));
      bool passed = test_until(&finished, 1);
      test_set(&gate, 1);
      for (int i = 0; i < 2; i++) {
        require(!pthread_join(threads[i], NULL));
      }
      assert_true(passed);
    }
  }
  forget_all();
}

/* ---- What it keeps alive ---- */

static void *make_cell(size_t idx) {
  uint64_t *number = wane_alloc(48);
  require(number != NULL);
  *number = idx;
  return number;
}

static void note_death(void *object, size_t idx) {
  require(wane_add_cleanup(object, note, note_tag(idx)).id != 0);
}

/* M1, Go: TestIssue40999: a key, a value; gone again in every way. */
static void with_removed(void *object, size_t idx) {
  note_death(object, idx);
  if (idx % 2 == 0) {
    wane_map_store(map, object, word(1));
  } else {
    wane_map_store(map, keys[0], object);
    object = keys[0];
  }
  void *value = NULL;
  switch (idx / 2 % 6) {
  case 0:
    require(wane_map_delete(map, object));
    break;
  case 1:
    require(wane_map_load_and_delete(map, object, NULL));
    break;
  case 2:
    require(wane_map_load(map, object, &value));
    require(wane_map_compare_and_delete(map, object, value));
    break;
  case 3:
    require(wane_map_swap(map, object, word(2), &value));
    require(wane_map_compare_and_delete(map, object, word(2)));
    break;
  case 4:
    wane_map_store(map, object, NULL);
    require(wane_map_compare_and_swap(map, object, NULL, word(3)));
    require(wane_map_delete(map, object));
    break;
  default:
    wane_map_clear(map);
  }
}

static void what_was_removed_is_not_retained(void **state) {
  (void)state;
  for (size_t k = 0; k < 2; k++) {
    notes_begin();
    map = map_filled(k == 0 ? NULL : &number_ops);
    keys[0] = make_cell(5000000);
    test_make_with(6000, make_cell, with_removed);
    test_settle();
    assert_most(notes_total(), 6000);
    (void)wane_map_count(map);
  }
  forget_all();
}

/* An equal key that comes second is not kept (D11), nor are old values. */
static void with_second(void *object, size_t idx) {
  note_death(object, idx);
  *(uint64_t *)object = idx % 50;
  if (idx % 3 == 0) {
    require(wane_map_swap(map, object, word(idx), NULL));
  } else if (idx % 3 == 1) {
    wane_map_store(map, object, word(idx));
  } else {
    wane_map_store(map, keys[idx % 50], object);
    wane_map_store(map, keys[idx % 50], word(idx));
  }
}

static void what_did_not_get_in_is_not_retained(void **state) {
  (void)state;
  notes_begin();
  map = wane_map_new(&number_ops, 0);
  for (size_t i = 0; i < 50; i++) {
    keys[i] = make_number(i);
    wane_map_store(map, keys[i], word(i));
  }
  test_make_with(3000, make_cell, with_second);
  test_settle();
  assert_most(notes_total(), 3000);
  assert_int_equal(wane_map_count(map), 50);
  forget_all();
}

static void with_own_map(void *object, size_t idx) {
  struct wane_map *m = wane_map_new(NULL, (unsigned)idx % FLAGS);
  require(m != NULL);
  note_death(object, 2 * idx);
  note_death(m, 2 * idx + 1);
  wane_map_store(m, object, m); /* a ring, of the map itself */
  wane_map_store(m, m, object);
  wane_map_store(m, word(1), make_object(0));
  *(void **)object = m;
}

/* Drop the pointer to drop the map, and what is in it. */
static void a_dropped_map_dies_with_all_in_it(void **state) {
  (void)state;
  notes_begin();
  test_make_with(3000, NULL, with_own_map);
  test_settle();
  assert_most(notes_total(), 6000);
}

static void hold_in_map(void *arg) {
  uintptr_t *hidden = arg;
  map = wane_map_new(NULL, 0);
  for (size_t i = 0; i < MANY; i++) {
    char *key = wane_alloc(100);
    char *value = wane_alloc_leaf(40000);
    hidden[2 * i] = test_hide(key);
    hidden[2 * i + 1] = test_hide(value);
    wane_map_store(map, key + 7, value + 20000); /* any pointer into it */
  }
}

static void keys_and_values_live_as_long_as_they_are_there(void **state) {
  (void)state;
  static uintptr_t hidden[2 * MANY];
  test_apart(hold_in_map, hidden);
  for (int i = 0; i < 3; i++) {
    assert_alive(hidden, TEST_COUNT(hidden));
  }
  for (size_t i = 0; i < MANY; i++) {
    char *key = test_reveal(hidden[2 * i]);
    char *value = test_reveal(hidden[2 * i + 1]);
    require_value(map, key + 7, value + 20000);
  }
  test_scrub();
  wane_map_clear(map);
  assert_dead(hidden, TEST_COUNT(hidden));
  forget_all();
}

/* ---- No memory ---- */

static bool no_memory(void) {
  bool none = errno == ENOMEM;
  require(none || errno == 0);
  errno = 0;
  return none;
}

/* Each call that stores, on a key that is not there: it is, or ENOMEM. */
static bool store_new(int call, uintptr_t number) {
  void *key = word(number);
  void *got = word(99);
  bool loaded = true;
  if (call == 0) {
    wane_map_store(map, key, word(1));
  } else if (call == 1) {
    require(!wane_map_swap(map, key, word(1), &got) && got == NULL);
  } else {
    got = wane_map_load_or_store(map, key, word(1), &loaded);
    require(!loaded && got == (errno == ENOMEM ? NULL : word(1)));
  }
  bool stored = !no_memory();
  require(wane_map_load(map, key, NULL) == stored && errno == 0);
  return stored;
}

static void require_known(uintptr_t count, size_t all) {
  for (uintptr_t i = 0; i < count; i++) {
    require_value(map, word(i), word(i));
  }
  size_t shown_keys = 0;
  wane_map_range(map, count_visit, &shown_keys);
  require(shown_keys == all && wane_map_count(map) == all && errno == 0);
}

/* On one that is there: it has the new value, or ENOMEM and the old one. */
static void change_known(uintptr_t i) {
  void *got = word(99);
  wane_map_store(map, word(i), word(1));
  void *now = no_memory() ? word(i) : word(1);
  require_value(map, word(i), now);
  bool swapped = wane_map_swap(map, word(i), word(2), &got);
  require(swapped == (errno == 0) && got == (swapped ? now : NULL));
  now = no_memory() ? now : word(2);
  require_value(map, word(i), now);
  require(!wane_map_compare_and_swap(map, word(i), word(99), word(3)));
  bool set = wane_map_compare_and_swap(map, word(i), now, word(3));
  require(set == (errno == 0));
  now = no_memory() ? now : word(3);
  require_value(map, word(i), now);
  require(wane_map_load_or_store(map, word(i), NULL, NULL) == now);
  require(!wane_map_compare_and_delete(map, word(i), word(98)));
  require(wane_map_compare_and_delete(map, word(i), now) && errno == 0);
  require(!wane_map_load(map, word(i), NULL));
}

static void exhaust(const char *arg) {
  size_t all = 1000;
  uintptr_t next = all;
  map = wane_map_new(NULL, (unsigned)atoi(arg));
  for (uintptr_t i = 0; i < all; i++) {
    wane_map_store(map, word(i), word(i));
  }
  test_use_up_memory();
  errno = 0;
  for (int call = 0; call < 3; call++) {
    while (store_new(call, next)) {
      next++;
      all++;
    }
    require_known(1000, all);
  }
  (void)wane_map_new(NULL, 0);
  (void)no_memory();
  for (uintptr_t i = 0; i < 500; i++) {
    change_known(i);
  }
  for (uintptr_t i = 500; i < 600; i++) {
    require(wane_map_delete(map, word(i)) && errno == 0);
    require(wane_map_load_and_delete(map, word(i + 100), NULL) && errno == 0);
  }
  require(wane_map_count(map) == all - 700);
  wane_map_clear(map);
  require(wane_map_count(map) == (no_memory() ? all - 700 : 0));
  test_drop_memory();
  test_scrub();
  wane_collect();
  wane_map_clear(map);
  for (uintptr_t i = 0; i < 5000; i++) {
    require(store_new(0, i));
  }
  require(wane_map_count(map) == 5000);
}

/* Without memory a map stays as it was, and gives what is in it. */
static void without_memory_a_map_stays_as_it_was(void **state) {
  (void)state;
  static struct test_child child;
  const char *flags[] = {"0", "1", "2", "3"};
  for (size_t i = 0; i < TEST_COUNT(flags); i++) {
    test_exec("exhaust", flags[i], "reserve_mb=64", &child);
    test_assert_exit_0(&child, "no memory");
  }
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"exhaust", exhaust}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_empty_map_has_nothing),
      cmocka_unit_test(each_call_does_what_it_says),
      cmocka_unit_test(null_is_a_key_like_others),
      cmocka_unit_test(without_ops_the_word_counts),
      cmocka_unit_test(the_first_of_equal_keys_stays),
      cmocka_unit_test(strings_are_compared_by_their_bytes),
      cmocka_unit_test(unknown_flags_are_einval),
      cmocka_unit_test(ops_are_copied),
      cmocka_unit_test(mistakes_are_fatal),
      cmocka_unit_test(a_million_keys_come_and_go),
      cmocka_unit_test(churn_does_not_grow_the_map),
      cmocka_unit_test(bad_hashes_are_slow_not_wrong),
      cmocka_unit_test(ops_that_disagree_harm_nobody_else),
      cmocka_unit_test(good_keys_do_not_suffer_from_bad_ones),
      cmocka_unit_test(ops_may_allocate_and_use_other_maps),
      cmocka_unit_test(a_blocked_callback_blocks_nobody_else),
      cmocka_unit_test(what_was_removed_is_not_retained),
      cmocka_unit_test(what_did_not_get_in_is_not_retained),
      cmocka_unit_test(a_dropped_map_dies_with_all_in_it),
      cmocka_unit_test(keys_and_values_live_as_long_as_they_are_there),
      cmocka_unit_test(without_memory_a_map_stays_as_it_was),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
