/*
 * The options, the progress line and the report. The main thread only
 * watches; the lines and lists it prints are dropped once printed.
 */
#define _GNU_SOURCE
#include "wordindex.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wane.h>

#define MIB ((size_t)1 << 20)

enum { TICK_MS = 100, THREADS_MAX = 256, TOP_MAX = 10000, MB_MAX = 1 << 20 };

struct options {
  size_t threads, top, limit_mb; /* the limit 0: none */
  bool json;
  const char *path;
};

static atomic_int interrupted; /* Ctrl-C: report now */

static void on_interrupt(int signal_number) {
  atomic_store(&interrupted, signal_number);
}

void *must(void *ptr) {
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  if (!ptr) {
    pthread_mutex_lock(&once); /* for good: two threads must not exit */
    fprintf(stderr, "wordindex: out of memory\n");
    exit(1);
  }
  return ptr;
}

static const struct argp_option option_table[] = {
    {"threads", 't', "N", 0, "Threads that read (default: one per CPU)", 0},
    {"limit-mb", 'l', "N", 0, "Soft limit on the collected heap (none)", 0},
    {"top", 'n', "N", 0, "How many of the most frequent words to list (20)", 0},
    {"json", 'j', NULL, 0, "Report as a JSON object", 0},
    {0}};

static size_t parse_number(struct argp_state *state, const char *name,
                           const char *text, size_t max) {
  char *end;
  unsigned long value;
  errno = 0;
  value = strtoul(text, &end, 10);
  if (!isdigit((unsigned char)*text) || *end || errno || !value ||
      value > max) {
    argp_error(state, "--%s: '%s' is not a number from 1 to %zu", name, text,
               max);
  }
  return value;
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
  struct options *options = state->input;
  switch (key) {
  case 't':
    options->threads = parse_number(state, "threads", arg, THREADS_MAX);
    return 0;
  case 'l':
    options->limit_mb = parse_number(state, "limit-mb", arg, MB_MAX);
    return 0;
  case 'n':
    options->top = parse_number(state, "top", arg, TOP_MAX);
    return 0;
  case 'j':
    options->json = true;
    return 0;
  case ARGP_KEY_ARG:
    if (state->arg_num > 0) {
      argp_error(state, "one directory at a time, please");
    }
    options->path = arg;
    return 0;
  default:
    return ARGP_ERR_UNKNOWN;
  }
}

static struct options parse_options(int argc, char **argv) {
  static const struct argp argp = {
      .options = option_table,
      .parser = parse_option,
      .args_doc = "[DIR]",
      .doc = "Index the words of every text file under DIR (/usr/share) on a "
             "garbage-collected heap.\vA word is a run of 2 to 64 letters: "
             "ASCII ones, or any bytes of UTF-8 beyond. Ctrl-C ends with the "
             "report so far."};
  struct options options = {.threads = 1, .top = 20, .path = "/usr/share"};
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) {
    options.threads = (size_t)CPU_COUNT(&cpus);
  }
  argp_err_exit_status = 2;
  argp_parse(&argp, argc, argv, 0, NULL, &options);
  return options;
}

/* The path to begin at without symbolic links, or exits with 2. */
static const char *resolve_path(const char *path) {
  char *real = must(wane_alloc_leaf(PATH_MAX));
  struct stat st;
  if (!realpath(path, real) || stat(real, &st) != 0 ||
      access(real, S_ISDIR(st.st_mode) ? R_OK | X_OK : R_OK) != 0) {
    fprintf(stderr, "wordindex: %s: %s\n", path, strerror(errno));
    exit(2);
  }
  if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
    fprintf(stderr, "wordindex: %s: neither a directory nor a file\n", path);
    exit(2);
  }
  return real;
}

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void show_progress(struct scan *scan, double seconds) {
  static struct wane_stats before;
  static double pause_ms; /* the last; of several since the line before, mean */
  struct wane_stats now = {.size = sizeof now};
  struct winsize window = {0};
  const char *line;
  wane_read_stats(&now);
  if (now.pause_count > before.pause_count) {
    pause_ms = (double)(now.pause_total_ns - before.pause_total_ns) / 1e6 /
               (double)(now.pause_count - before.pause_count);
    before = now;
  }
  line = must(wane_printf(
      "%" PRIuFAST64 " files %.0f/s  %.1fM words %.0fk distinct  "
      "%zu MiB  %" PRIu64 " GCs %.1f ms max %.1f",
      scan->files, (double)scan->files / seconds, (double)scan->words / 1e6,
      (double)scan->distinct / 1e3, (size_t)now.heap_used_bytes / MIB,
      now.cycles_full, pause_ms, (double)now.pause_max_ns / 1e6));
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col == 0) {
    window.ws_col = 80;
  }
  fprintf(stderr, "\r\033[K%.*s", window.ws_col - 1, line);
}

/* Prints one number; in JSON the name has _ for spaces. */
static void put_number(bool json, const char *name, double value, int digits) {
  if (!json) {
    printf("  %-24s %14.*f\n", name, digits, value);
    return;
  }
  printf(",\n \"");
  for (; *name; name++) {
    putchar(*name == ' ' ? '_' : *name);
  }
  printf("\": %.*f", digits, value);
}

/* Prints text from files or their names, harmless to terminals and JSON. */
static void put_text(bool json, const char *text) {
  bool valid = is_utf8(text, strlen(text), false);
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c >= 0x80 && !valid) {
      fputs("\xef\xbf\xbd", stdout); /* the replacement character */
    } else if (c < 0x20 || c == 0x7f) {
      printf(json ? "\\u%04x" : "?", c);
    } else {
      printf(json && (c == '"' || c == '\\') ? "\\%c" : "%c", c);
    }
  }
}

static void put_word(bool json, const struct word *w) {
  const struct posting *most = &w->postings[0];
  for (uint32_t i = 1; i < w->files; i++) {
    const struct posting *p = &w->postings[i];
    if (p->count > most->count ||
        (p->count == most->count && strcmp(p->path, most->path) < 0)) {
      most = p;
    }
  }
  printf(json ? "{\"count\": %" PRIu64 ", \"files\": %" PRIu32 ", \"word\": \""
              : "%12" PRIu64 " %9" PRIu32 "  ",
         w->count, w->files);
  put_text(json, w->text);
  fputs(json ? "\", \"most_in\": \"" : "  (most in ", stdout);
  put_text(json, most->path);
  fputs(json ? "\"}" : ")\n", stdout);
}

static void report_scan(struct scan *scan, const struct options *options,
                        double seconds) {
  static const char *const skip_names[SKIP_KINDS] = {
      "skipped binary",   "skipped large",   "skipped unreadable",
      "skipped vanished", "skipped symlink", "skipped special",
      "skipped directory"};
  bool json = options->json;
  struct word **top = must(wane_new_array(struct word *, options->top));
  size_t count = index_top(scan->index, top, options->top);
  fputs(json ? "{\"path\": \"" : "", stdout);
  put_text(json, options->path);
  printf(json ? "\", \"interrupted\": %s,\n \"top\": [" : "%s\n",
         json ? (scan->stopped ? "true" : "false")
              : (scan->stopped ? ", interrupted" : ""));
  if (!json && count > 0) {
    printf("       count  in files  word\n");
  }
  for (size_t i = 0; i < count; i++) {
    fputs(!json ? "" : i == 0 ? "\n  " : ",\n  ", stdout);
    put_word(json, top[i]);
  }
  fputs(json ? "]" : "index\n", stdout);
  put_number(json, "files", (double)scan->files, 0);
  for (size_t i = 0; i < SKIP_KINDS; i++) {
    if (json || scan->skipped[i] > 0) {
      put_number(json, skip_names[i], (double)scan->skipped[i], 0);
    }
  }
  put_number(json, "bytes", (double)scan->bytes, 0);
  put_number(json, "words", (double)scan->words, 0);
  put_number(json, "distinct words", (double)scan->distinct, 0);
  put_number(json, "threads", scan->threads, 0);
  put_number(json, "seconds", seconds, 2);
}

static void report_collector(bool json) {
  struct wane_stats gc = {.size = sizeof gc};
  struct rusage usage;
  wane_read_stats(&gc);
  getrusage(RUSAGE_SELF, &usage);
  fputs(json ? "" : "collector\n", stdout);
  put_number(json, "cycles", (double)gc.cycles_full, 0);
  put_number(json, "pauses", (double)gc.pause_count, 0);
  put_number(json, "pause p50 ms", (double)gc.pause_p50_ns / 1e6, 3);
  put_number(json, "pause p99 ms", (double)gc.pause_p99_ns / 1e6, 3);
  put_number(json, "pause max ms", (double)gc.pause_max_ns / 1e6, 3);
  put_number(json, "heap live MiB", (double)gc.heap_live_bytes / MIB, 1);
  put_number(json, "heap peak MiB", (double)gc.heap_peak_bytes / MIB, 1);
  put_number(json, "allocated MiB", (double)gc.allocated_bytes / MIB, 1);
  put_number(json, "allocated objects", (double)gc.allocated_objects, 0);
  put_number(json, "given back MiB", (double)gc.released_bytes / MIB, 1);
  put_number(json, "mark threads", (double)gc.mark_threads, 0);
  put_number(json, "GC CPU seconds", (double)gc.gc_cpu_ns / 1e9, 2);
  put_number(json, "all CPU seconds",
             (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) /
                     1e6,
             2);
  put_number(json, "peak RSS MiB", (double)usage.ru_maxrss / 1024, 1);
  fputs(json ? "\n}\n" : "", stdout);
}

/* Shows progress until the scan is over or interrupted. */
static void watch(struct scan *scan, double start_s) {
  bool tty = isatty(STDERR_FILENO);
  while (!scan_wait(scan, TICK_MS)) {
    if (atomic_load(&interrupted)) {
      scan_stop(scan);
    } else if (tty) {
      show_progress(scan, now_s() - start_s);
    }
  }
  scan_finish(scan);
  fputs(tty ? "\r\033[K" : "", stderr);
}

int main(int argc, char **argv) {
  struct options options = parse_options(argc, argv);
  const char *root = resolve_path(options.path);
  struct sigaction action = {.sa_handler = on_interrupt,
                             .sa_flags = SA_RESTART | SA_RESETHAND};
  double start_s = now_s();
  struct scan *scan;
  sigaction(SIGINT, &action, NULL);
  if (options.limit_mb > 0) {
    wane_set_memory_limit(options.limit_mb * MIB);
  }
  scan = scan_start(root, (unsigned)options.threads);
  if (!scan) {
    fprintf(stderr, "wordindex: cannot start: %s\n", strerror(errno));
    return 1;
  }
  watch(scan, start_s);
  report_scan(scan, &options, now_s() - start_s);
  report_collector(options.json);
  if (fflush(stdout) != 0 || ferror(stdout)) {
    fprintf(stderr, "wordindex: cannot write: %s\n", strerror(errno));
    return 1;
  }
  return scan->stopped ? 128 + interrupted : 0;
}
