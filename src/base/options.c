/* Parses WANE_OPTIONS and prints its table; see options.h. */
#include "options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

struct wane__options wane__options = {
#define OPTION_DEFAULT(name, def, lo, hi, doc) .name = (def),
    WANE__OPTIONS(OPTION_DEFAULT)
#undef OPTION_DEFAULT
};

struct option_row {
  const char *name;
  int64_t *value;
  int64_t initial;
  int64_t lowest;
  int64_t highest;
  const char *meaning;
};

static const struct option_row option_rows[] = {
#define OPTION_ROW(name, def, lo, hi, doc)                                     \
  {#name, &wane__options.name, (def), (lo), (hi), (doc)},
    WANE__OPTIONS(OPTION_ROW)
#undef OPTION_ROW
};

#define OPTION_COUNT (sizeof option_rows / sizeof option_rows[0])

static void option_print_row(const struct option_row *row, bool markdown) {
  char highest[32] = "any";
  if (row->highest != INT64_MAX) {
    snprintf(highest, sizeof highest, "%lld", (long long)row->highest);
  }
  const char *format = markdown ? "| `%s` | %lld | %lld to %s | %s |\n"
                                : "  %-12s  default %-8lld range %lld to %s\n"
                                  "                %s\n";
  dprintf(STDERR_FILENO, format, row->name, (long long)row->initial,
          (long long)row->lowest, highest, row->meaning);
}

static void option_print_table(bool markdown) {
  dprintf(STDERR_FILENO, "%s",
          markdown ? "| option | default | range | meaning |\n"
                     "| --- | --- | --- | --- |\n"
                   : "wane: WANE_OPTIONS=key=value,key=value\n");
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    option_print_row(&option_rows[i], markdown);
  }
}

/* Values are numbers, but for these words. */
static bool option_number(const char *text, int64_t *number) {
  static const struct {
    const char *word;
    int64_t number;
  } words[] = {{"markdown", 2},  {"cleanups", 1}, {"cleanups:fail", 2},
               {"run", 1},       {"none", 0},     {"auto", 1},
               {"softdirty", 2}, {"uffd", 3}};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    if (strcmp(text, words[i].word) == 0) {
      *number = words[i].number;
      return true;
    }
  }
  if (strncmp(text, "alloc", 5) == 0) {
    if (text[5] == '\0') {
      *number = 1;
      return true;
    }
    text += text[5] == ':' || text[5] == '=' ? 6 : 0;
  }
  char *end;
  errno = 0;
  long long n = strtoll(text, &end, 10);
  *number = n;
  return end != text && *end == '\0' && errno == 0;
}

static void option_set(char *text) {
  char *value = strchr(text, '=');
  if (value == NULL) {
    wane__log("WANE_OPTIONS: '%s' has no value (key=value)", text);
    return;
  }
  *value++ = '\0';
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    const struct option_row *row = &option_rows[i];
    int64_t number;
    if (strcmp(text, row->name) != 0) {
      continue;
    }
    if (!option_number(value, &number) || number < row->lowest ||
        number > row->highest) {
      wane__log("WANE_OPTIONS: %s=%s is not a number from %lld to %lld", text,
                value, (long long)row->lowest, (long long)row->highest);
      return;
    }
    *row->value = number;
    return;
  }
  wane__log("WANE_OPTIONS: no option '%s' (help=1 lists them)", text);
}

void wane__options_init(void) {
  const char *all = getenv("WANE_OPTIONS");
  if (all == NULL || all[0] == '\0') {
    return;
  }
  int saved = errno;
  char copy[1024];
  size_t length = strlen(all);
  if (length >= sizeof copy) {
    wane__log("WANE_OPTIONS: longer than %zu bytes, not read", sizeof copy);
    return;
  }
  memcpy(copy, all, length + 1);
  char *save = NULL;
  for (char *item = strtok_r(copy, ",", &save); item != NULL;
       item = strtok_r(NULL, ",", &save)) {
    option_set(item);
  }
  if (wane__options.help != 0) {
    option_print_table(wane__options.help == 2);
  }
  errno = saved;
}
