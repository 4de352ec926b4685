/*
 * Paths of URLs, and openat2.
 */
#define _GNU_SOURCE
#include "tree.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TRIES = 1000 };

static int tree_root = -1;

bool tree_begin(const char *dir) {
  struct tree_place place;
  tree_root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (tree_root < 0) {
    return false;
  }
  if (!tree_open(".", &place)) { /* ENOSYS, EPERM: no openat2 here */
    tree_end();
    return false;
  }
  tree_close(&place);
  return true;
}

void tree_end(void) {
  int saved = errno;
  close(tree_root);
  tree_root = -1;
  errno = saved;
}

/* The value of a hexadecimal digit, or -1. */
static int digit_value(char c) {
  static const char digits[] = "0123456789abcdef";
  const char *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
  return at ? (int)(at - digits) : -1;
}

char *tree_path(const char *url) {
  char *path = wane_strdup(url);
  char *end = path;
  const char *from = path;
  if (!path) {
    return NULL;
  }
  while (*from) {
    char c = *from++;
    if (c == '%') {
      int high = digit_value(from[0]);
      int low = high >= 0 ? digit_value(from[1]) : -1;
      if (low < 0 || high + low == 0) {
        errno = EINVAL;
        return NULL;
      }
      c = (char)(high << 4 | low);
      from += 2;
    }
    if (c != '/' || end > path) {
      *end++ = c;
    }
  }
  *end = '\0';
  return end > path ? path : wane_strdup(".");
}

bool tree_open(const char *path, struct tree_place *place) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                         .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
  int tries = 0;
  do { /* EAGAIN: a rename anywhere, while a ".." was followed */
    place->fd = (int)syscall(SYS_openat2, tree_root, path, &how, sizeof how);
  } while (place->fd < 0 && errno == EAGAIN && ++tries < TRIES);
  if (place->fd >= 0 && fstat(place->fd, &place->st) != 0) {
    tree_close(place);
  }
  return place->fd >= 0;
}

void tree_close(struct tree_place *place) {
  int saved = errno;
  close(place->fd);
  place->fd = -1;
  errno = saved;
}

struct wane_mapped *tree_map(const struct tree_place *place) {
  char path[sizeof "/proc/self/fd/" + 3 * sizeof place->fd];
  snprintf(path, sizeof path, "/proc/self/fd/%d", place->fd);
  return wane_mapped_open_shared(path);
}
