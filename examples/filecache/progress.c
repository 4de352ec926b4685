/* The line that shows on a terminal how it goes. */
#define _GNU_SOURCE
#include "filecache.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wane.h>

/* How long the last pause was; of several since this was called before, their
   mean, since the library keeps no list of them. */
static double progress_last_pause_ms(const struct wane_stats *stats) {
  static uint64_t count, total_ns;
  static double last_ms;
  if (stats->pause_count > count) {
    last_ms = (double)(stats->pause_total_ns - total_ns) / 1e6 /
              (double)(stats->pause_count - count);
    count = stats->pause_count;
    total_ns = stats->pause_total_ns;
  }
  return last_ms;
}

static int progress_columns(void) {
  struct winsize window = {0};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col == 0) {
    return 80;
  }
  return window.ws_col;
}

void progress_show(const char *label, double seconds, uint64_t opens,
                   const struct wane_stats *stats) {
  const char *line = "";
  if (!isatty(STDERR_FILENO)) {
    return;
  }
  if (stats) {
    line = must(wane_printf(
        "%s: %.0f opens/s  %" PRIu64 " mapped  %" PRIu64 " unmapped  "
        "heap %.1f MiB  %" PRIu64 " cycles  pause %.2f ms",
        label, (double)opens / seconds, stats->foreign_live,
        stats->files_unmapped, (double)stats->heap_used_bytes / 0x1p20,
        stats->cycles_full, progress_last_pause_ms(stats)));
  }
  fprintf(stderr, "\r\033[K%.*s", progress_columns() - 1, line);
}
