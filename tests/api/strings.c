/* wane_strdup, wane_strndup, wane_printf: leaf objects with the right text.
   API.md, D12. */
#include "support/child.h"

#include <wchar.h>

#define MANY 500

static void strdup_copies(void **state) {
  (void)state;
  char text[] = "some text";
  char *copy = wane_strdup(text);
  assert_string_equal(copy, "some text");
  text[0] = 'S';
  assert_string_equal(copy, "some text");
  assert_ptr_equal(wane_base(copy), copy);
  assert_true(wane_size(copy) >= sizeof text);
  assert_string_equal(wane_strdup(""), "");
}

static void strndup_copies_at_most_n(void **state) {
  (void)state;
  static const char not_terminated[4] = {'a', 'b', 'c', 'd'};
  assert_string_equal(wane_strndup("text", 0), "");
  assert_string_equal(wane_strndup("text", 3), "tex");
  assert_string_equal(wane_strndup("text", 4), "text");
  assert_string_equal(wane_strndup("text", SIZE_MAX), "text");
  assert_string_equal(wane_strndup(not_terminated, 4), "abcd");
}

static void strings_of_every_length_are_whole(void **state) {
  (void)state;
  static char text[70001];
  for (size_t length = 0; length <= 70000; length += 1 + length / 7) {
    memset(text, 'x', length);
    text[length] = '\0';
    char *copy = wane_strdup(text);
    char *printed = wane_printf("%s", text);
    char *prefix = wane_strndup(text, length / 2);
    assert_string_equal(copy, text);
    assert_string_equal(printed, text);
    assert_int_equal(strlen(prefix), length / 2);
    assert_true(wane_size(copy) > length);
    assert_true(wane_size(printed) > length);
  }
}

static void printf_formats(void **state) {
  (void)state;
  char *text = wane_printf("%d %s %5.2f %c", -7, "seven", 7.125, 'z');
  assert_string_equal(text, "-7 seven  7.12 z");
  assert_string_equal(wane_printf("%s", ""), "");
  char *wide = wane_printf("%1000d|%-5000s|", 5, "left");
  assert_int_equal(strlen(wide), 6002);
  assert_int_equal(wide[999], '5');
  assert_int_equal(wide[1001], 'l');
  assert_int_equal(wide[6001], '|');
}

/* Around the length where a buffer on the stack may end. */
static void printf_is_exact_at_every_length(void **state) {
  (void)state;
  for (int length = 0; length < 1100; length++) {
    char *text = wane_printf("%.*s%*s", length / 2, "", length, "");
    assert_int_equal(strlen(text), length);
    assert_true(wane_size(text) > (size_t)length);
  }
}

static void printf_fails_as_the_format_does(void **state) {
  (void)state;
  errno = 0;
  static const wchar_t no_character[] = {0x7ffffff0, 0};
  assert_null(wane_printf("%ls", no_character));
  assert_int_equal(errno, EILSEQ);
}

TEST_ROOT char *strings[MANY];

/* The bytes of a string look like a pointer; the string holds nothing. */
static void *make_pointing_string(size_t idx) {
  void *object = wane_alloc(64);
  strings[idx] = idx % 3 == 0   ? wane_strdup("12345678")
                 : idx % 3 == 1 ? wane_strndup("1234567890", 8)
                                : wane_printf("%d", 12345678);
  memcpy(strings[idx], &object, sizeof object);
  return object;
}

static void strings_are_leaf_objects(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_pointing_string);
  assert_dead(hidden, MANY);
  memset(strings, 0, sizeof strings);
}

static void copy_null(void *arg) { (void)wane_strdup(arg); }
static void copy_null_n(void *arg) { (void)wane_strndup(arg, 3); }

static void null_is_fatal(void **state) {
  (void)state;
  test_assert_fatal("wane_strdup", copy_null, NULL);
  test_assert_fatal("wane_strndup", copy_null_n, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(strdup_copies),
      cmocka_unit_test(strndup_copies_at_most_n),
      cmocka_unit_test(strings_of_every_length_are_whole),
      cmocka_unit_test(printf_formats),
      cmocka_unit_test(printf_is_exact_at_every_length),
      cmocka_unit_test(printf_fails_as_the_format_does),
      cmocka_unit_test(strings_are_leaf_objects),
      cmocka_unit_test(null_is_fatal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
