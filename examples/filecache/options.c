/* The command line. */
#define _GNU_SOURCE
#include "filecache.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 256, THREADS_MIN_DEFAULT = 2 };

#define SECONDS_MAX 86400.0

static const struct option option_table[] = {
    {"threads", required_argument, NULL, 't'},
    {"seconds", required_argument, NULL, 's'},
    {"files", required_argument, NULL, 'f'},
    {"no-share", no_argument, NULL, 'n'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {0}};

static const char usage_line[] =
    "usage: filecache [--threads N] [--seconds S] [--files N] [--no-share] "
    "[--json] [DIR]\n";

static const char help_text[] =
    "\n"
    "Threads open the files under DIR (/usr/share) at random, by Zipf's law,\n"
    "through mappings that they share and that the collector unmaps; then all\n"
    "is dropped, and /proc/self/maps must show no file of DIR any more.\n"
    "A second run, without sharing, stands beside it for comparison.\n"
    "\n"
    "  --threads N   how many threads, 1 to 256 (one per CPU, at least 2)\n"
    "  --seconds S   how long each run takes, decimals allowed (10)\n"
    "  --files N     only so many of the files, chosen at random (all)\n"
    "  --no-share    only the run without sharing\n"
    "  --json        the numbers as a JSON object: times in nanoseconds\n"
    "  --help        this text\n"
    "\n"
    "Ctrl-C ends with the report. Exit: 0; 1 if a file of DIR is still mapped\n"
    "at the end, or something else went wrong; 2 if the arguments are wrong.\n";

/* After a line that says what is wrong. */
static _Noreturn void usage_exit(void) {
  fputs(usage_line, stderr);
  exit(2);
}

static _Noreturn void options_refuse(const char *name, const char *text,
                                     const char *wanted) {
  fprintf(stderr, "filecache: --%s: '%s' is not %s\n", name, text, wanted);
  usage_exit();
}

static size_t options_count(const char *name, const char *text, size_t max,
                            const char *wanted) {
  char *end;
  unsigned long long value;
  errno = 0;
  value = strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end || errno || value == 0 ||
      value > max) {
    options_refuse(name, text, wanted);
  }
  return (size_t)value;
}

static double options_seconds(const char *text) {
  char *end;
  double value = strtod(text, &end);
  /* Only digits and a point: strtod also knows hexadecimals and "nan". */
  if (!*text || text[strspn(text, "0123456789.")] || *end ||
      !(value > 0 && value <= SECONDS_MAX)) {
    options_refuse("seconds", text, "a number above 0, at most 86400");
  }
  return value;
}

static _Noreturn void options_help(void) {
  fputs(usage_line, stdout);
  fputs(help_text, stdout);
  exit(fflush(stdout) != 0 || ferror(stdout));
}

static size_t options_default_threads(void) {
  cpu_set_t cpus;
  size_t count = 0;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) {
    count = (size_t)CPU_COUNT(&cpus);
  }
  count = count < THREADS_MIN_DEFAULT ? THREADS_MIN_DEFAULT : count;
  return count > THREADS_MAX ? THREADS_MAX : count;
}

struct options options_parse(int argc, char **argv) {
  struct options options = {.threads = options_default_threads(),
                            .seconds = 10,
                            .files = SIZE_MAX,
                            .dir = "/usr/share"};
  int key;
  while ((key = getopt_long(argc, argv, "", option_table, NULL)) != -1) {
    switch (key) {
    case 't':
      options.threads = options_count("threads", optarg, THREADS_MAX,
                                      "a number from 1 to 256");
      break;
    case 's':
      options.seconds = options_seconds(optarg);
      break;
    case 'f':
      options.files =
          options_count("files", optarg, SIZE_MAX, "a number above 0");
      break;
    case 'n':
      options.no_share = true;
      break;
    case 'j':
      options.json = true;
      break;
    case 'h':
      options_help();
    default: /* getopt_long has said what is wrong */
      usage_exit();
    }
  }
  if (argc - optind > 1) {
    fprintf(stderr, "filecache: one directory at a time\n");
    usage_exit();
  }
  if (argc > optind) {
    options.dir = argv[optind];
  }
  return options;
}
