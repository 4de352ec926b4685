/*
 * filehandle: prints the first line of each file that has a pattern in it,
 * and some lines after it; exits as grep does. It handles files in two ways:
 *
 *   - count_lines says WANE_DEFER beside the open: the file is closed when the
 *     scope ends, whichever way it ends, and its safety net is never needed;
 *   - find_first returns a file that is still open, so that its caller can go
 *     on reading, and print_match forgets to close it. That is a bug, and it
 *     does no harm: the collector finds the file dead and closes it. But files
 *     stay open until it comes by, so the report at the end says which line of
 *     this source opened them.
 */
#define _GNU_SOURCE
#include "logfile.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wane.h>

enum { NETS_MAX = 16 };

struct match {
  struct logfile log; /* a copy; the object that logfile_open gave is dropped */
  struct logfile_line line;
};

static void complain(const char *path) {
  fprintf(stderr, "filehandle: %s: %s\n", path, strerror(errno));
}

static void close_deferred(void *log) { logfile_close(log); }

/* The careful way. False with errno if the file cannot be read. */
static bool count_lines(const char *path, size_t *count) {
  struct logfile *log = logfile_open(path); /* place: careful */
  struct logfile_line line;
  *count = 0;
  if (!log) {
    return false;
  }
  WANE_DEFER(close_deferred, log);
  while (logfile_next(log, &line)) {
    ++*count;
  }
  return errno == 0;
}

/* The first match, with the file open behind it. NULL with errno, 0 if there
   is none. */
static struct match *find_first(const char *path, const char *pattern) {
  struct match *match = wane_new(struct match);
  struct logfile *log = match ? logfile_open(path) : NULL; /* place: careless */
  if (!log) {
    return NULL;
  }
  match->log = *log;
  while (logfile_next(log, &match->line)) {
    if (memmem(match->line.text, match->line.length, pattern,
               strlen(pattern))) {
      return match;
    }
  }
  logfile_close(log);
  return NULL;
}

static void print_line(const char *path, const struct logfile_line *line) {
  printf("%s:%zu:", path, line->number);
  fwrite(line->text, 1, line->length, stdout);
  putchar('\n');
}

/* False with errno if the lines after the match cannot be read. */
static bool print_match(struct match *match, size_t after) {
  struct logfile_line line;
  print_line(match->log.path, &match->line);
  for (; after > 0; after--) {
    if (!logfile_next(&match->log, &line)) {
      return errno == 0;
    }
    print_line(match->log.path, &line);
  }
  return true; /* and match->log is still open */
}

/* How many file descriptors the process has open, the listing's own aside. */
static size_t count_open(DIR *listing) {
  size_t count = 0;
  rewinddir(listing);
  while (readdir(listing)) {
    count++;
  }
  return count - 3; /* ".", ".." and its own */
}

/* Of the descriptors, at_start were open before the program opened any: the
   standard streams, and what the library keeps for itself. */
static void report(DIR *listing, size_t at_start) {
  struct wane_net nets[NETS_MAX];
  size_t before = count_open(listing);
  size_t count;
  wane_collect();
  wane_drain(-1);
  printf("descriptors: %zu before a collection, %zu after\n", before - at_start,
         count_open(listing) - at_start);
  count = wane_read_nets(nets, NETS_MAX);
  for (size_t i = 0; i < count && i < NETS_MAX; i++) {
    printf("%s:%d: %llu opened, %llu never closed\n", nets[i].file,
           nets[i].line, (unsigned long long)nets[i].registered,
           (unsigned long long)nets[i].needed);
  }
  closedir(listing);
}

int main(int argc, char **argv) {
  DIR *listing = opendir("/proc/self/fd"); /* while there is a descriptor */
  size_t at_start = listing ? count_open(listing) : 0;
  char *end = NULL;
  size_t after = argc > 3 ? strtoul(argv[1], &end, 10) : 0;
  bool found = false;
  bool failed = false;
  if (argc < 4 || *end || end == argv[1] || argv[1][0] == '-') {
    fprintf(stderr, "usage: filehandle LINES-AFTER PATTERN FILE...\n");
    return 2;
  }
  if (!listing) {
    complain("/proc/self/fd");
    return 2;
  }
  for (int i = 3; i < argc; i++) {
    size_t lines;
    struct match *match;
    if (!count_lines(argv[i], &lines)) {
      complain(argv[i]);
      failed = true;
      continue;
    }
    match = find_first(argv[i], argv[2]);
    if (match ? !print_match(match, after) : errno != 0) {
      complain(argv[i]);
      failed = true;
    }
    printf("%s: %zu lines, %s\n", argv[i], lines,
           match ? "a match" : "no match");
    found |= match != NULL;
  }
  report(listing, at_start);
  if (fflush(stdout) != 0 || ferror(stdout)) {
    complain("standard output");
    return 2;
  }
  return failed ? 2 : found ? 0 : 1;
}
