/*
 * /proc/self/maps and /proc/self/fd.
 */
#define _GNU_SOURCE
#include "proof.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#include <wane.h>

enum { DESCRIPTORS_MAX = 1 << 16, NAMED_MAX = 10 };

static struct {
  const char *dir;
  bool *was_open; /* DESCRIPTORS_MAX, by number */
  long mapped;
} proof;

/* True if a line of /proc/self/maps is of a file beneath the directory. */
static bool is_beneath(const char *line) {
  const char *path = strchr(line, '/');
  size_t length = strlen(proof.dir);
  return path && strncmp(path, proof.dir, length) == 0 &&
         (path[length] == '/' || proof.dir[length - 1] == '/');
}

struct mapping {
  unsigned long start, end, offset, inode;
};

/* The kernel may show a mapping in pieces, one for each way in which it treats
   them: does this line go on where the one before ended? */
static bool is_piece(const char *line, struct mapping *last) {
  struct mapping now = {0};
  bool goes_on;
  sscanf(line, "%lx-%lx %*s %lx %*s %lu", &now.start, &now.end, &now.offset,
         &now.inode);
  goes_on = now.inode == last->inode && now.start == last->end &&
            now.offset == last->offset + (last->end - last->start);
  *last = now;
  return goes_on;
}

/* How many mappings are beneath the directory, -1 with errno; those after the
   first so many are named. */
static long count_mapped(long unnamed) {
  FILE *maps = fopen("/proc/self/maps", "re");
  struct mapping last = {0};
  char *line = NULL;
  size_t room = 0;
  long count = 0;
  if (!maps) {
    return -1;
  }
  while (getline(&line, &room, maps) > 0) {
    bool goes_on = is_piece(line, &last);
    if (is_beneath(line) && !goes_on && ++count > unnamed &&
        count <= unnamed + NAMED_MAX) {
      fprintf(stderr, "fileserver: still mapped: %s", line);
    }
  }
  free(line);
  fclose(maps);
  return count;
}

static void name_descriptor(int number) {
  char link[sizeof "/proc/self/fd/" + 3 * sizeof number];
  char target[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", number);
  ssize_t size = readlink(link, target, sizeof target);
  fprintf(stderr, "fileserver: descriptor %d still open: %.*s\n", number,
          size > 0 ? (int)size : 0, target);
}

/* How many descriptors are open that were not, -1 with errno. They are named,
   or else noted. */
static long count_opened(bool is_noted) {
  DIR *listing = opendir("/proc/self/fd");
  struct dirent *entry;
  long count = 0;
  if (!listing) {
    return -1;
  }
  while ((entry = readdir(listing)) != NULL) {
    int number = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || number == dirfd(listing) ||
        number >= DESCRIPTORS_MAX || proof.was_open[number]) {
      continue;
    }
    count++;
    if (is_noted) {
      proof.was_open[number] = true;
    } else {
      name_descriptor(number);
    }
  }
  closedir(listing);
  return count;
}

bool proof_begin(const char *dir) {
  proof.dir = wane_strdup(dir);
  proof.was_open = wane_new_leaf_array(bool, DESCRIPTORS_MAX);
  if (!proof.dir || !proof.was_open || count_opened(true) < 0) {
    return false;
  }
  proof.mapped = count_mapped(LONG_MAX - NAMED_MAX);
  return proof.mapped >= 0;
}

bool proof_end(void) {
  long mapped = count_mapped(proof.mapped);
  long opened = count_opened(false);
  if (mapped < 0 || opened < 0) {
    fprintf(stderr, "fileserver: /proc/self: %s\n", strerror(errno));
  }
  return mapped >= 0 && mapped <= proof.mapped && opened == 0;
}
