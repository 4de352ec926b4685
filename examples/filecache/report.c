/*
 * The report, as a table for people and as JSON for programs. Both are made
 * from one list of the numbers of a result.
 */
#define _GNU_SOURCE
#include "filecache.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <wane.h>

struct number {
  const char *name;  /* in JSON */
  const char *title; /* in the table; NULL: not there */
  size_t offset;     /* in struct result */
  double unit;       /* of the table; 0: a count */
};

#define NUMBER(member, title, unit)                                            \
  { #member, title, offsetof(struct result, member), unit }
#define SKIPPED(name, kind, title)                                             \
  { "skipped_" name, title, offsetof(struct result, skipped[kind]), 0 }

static const struct number numbers[] = {
    NUMBER(files, NULL, 0),
    NUMBER(run_ns, "seconds", 1e9),
    NUMBER(opens_asked, "opens asked", 0),
    NUMBER(opens_failed, "  of these failed", 0),
    NUMBER(opens_per_second, "  per second", 0),
    NUMBER(files_opened, "different files opened", 0),
    NUMBER(mmap_calls, "mmap calls made", 0),
    NUMBER(calls_saved, "mmap calls saved", 0),
    NUMBER(mappings_peak, "peak mappings", 0),
    NUMBER(unmapped, "unmapped by cleanups", 0),
    NUMBER(windows_matched, NULL, 0),
    NUMBER(windows_changed, NULL, 0),
    NUMBER(cycles, "cycles", 0),
    NUMBER(pause_p50_ns, "pause p50, ms", 1e6),
    NUMBER(pause_p99_ns, "pause p99, ms", 1e6),
    NUMBER(pause_max_ns, "pause max, ms", 1e6),
    NUMBER(heap_peak_bytes, "peak heap, MiB", 0x1p20),
    NUMBER(rss_peak_bytes, "peak RSS, MiB", 0x1p20),
    NUMBER(views_held, NULL, 0),
    NUMBER(mapped_before, "mapped while views were held", 0),
    NUMBER(mapped_after, "mapped when all was dropped", 0),
    NUMBER(mappings_live, NULL, 0),
    SKIPPED("unreadable", SKIP_UNREADABLE, "skipped, unreadable"),
    SKIPPED("vanished", SKIP_VANISHED, "skipped, vanished"),
    SKIPPED("special", SKIP_SPECIAL, "skipped, special"),
    SKIPPED("empty", SKIP_EMPTY, "skipped, empty"),
    SKIPPED("symlink", SKIP_SYMLINK, "skipped, symbolic links"),
    SKIPPED("mount", SKIP_MOUNT, "skipped, mount points"),
};

enum { NUMBERS = sizeof numbers / sizeof numbers[0] };

static uint64_t number_of(const struct number *number,
                          const struct result *result) {
  uint64_t value = 0;
  memcpy(&value, (const char *)result + number->offset, sizeof value);
  return value;
}

/* 1234567 as 1,234,567. */
static const char *number_grouped(uint64_t value) {
  if (value < 1000) {
    return must(wane_printf("%" PRIu64, value));
  }
  return must(
      wane_printf("%s,%03" PRIu64, number_grouped(value / 1000), value % 1000));
}

static const char *number_text(const struct number *number,
                               const struct result *result) {
  uint64_t value = number_of(number, result);
  return number->unit == 0
             ? number_grouped(value)
             : must(wane_printf("%.3f", (double)value / number->unit));
}

static void table_row(const char *title, const char *first,
                      const char *second) {
  printf("  %-28s", title);
  if (first) {
    printf("%16s", first);
  }
  if (second) {
    printf("%16s", second);
  }
  putchar('\n');
}

void report_table(const struct options *options, const struct result *shared,
                  const struct result *not_shared) {
  const struct result *any = shared ? shared : not_shared;
  printf("%s files, %zu threads%s\n", number_grouped(any->files),
         options->threads, interrupted ? ", interrupted" : "");
  table_row("", shared ? "shared" : NULL, not_shared ? "not shared" : NULL);
  for (size_t i = 0; i < NUMBERS; i++) {
    const struct number *number = &numbers[i];
    bool is_skip = strncmp(number->name, "skipped_", 8) == 0;
    uint64_t sum = (shared ? number_of(number, shared) : 0) +
                   (not_shared ? number_of(number, not_shared) : 0);
    if (number->title && !(is_skip && sum == 0)) {
      table_row(number->title, shared ? number_text(number, shared) : NULL,
                not_shared ? number_text(number, not_shared) : NULL);
    }
  }
  if (!(shared && shared->mapped_after) &&
      !(not_shared && not_shared->mapped_after)) {
    printf("/proc/self/maps shows no file of the directory any more.\n");
  }
}

static void json_result(const char *name, const struct result *result) {
  printf(",\n \"%s\": {", name);
  for (size_t i = 0; i < NUMBERS; i++) {
    printf("%s\n  \"%s\": %" PRIu64, i == 0 ? "" : ",", numbers[i].name,
           number_of(&numbers[i], result));
  }
  printf("}");
}

void report_json(const struct options *options, const struct result *shared,
                 const struct result *not_shared) {
  printf("{\"threads\": %zu,\n \"interrupted\": %s", options->threads,
         interrupted ? "true" : "false");
  if (shared) {
    json_result("shared", shared);
  }
  if (not_shared) {
    json_result("not_shared", not_shared);
  }
  printf("}\n");
}
