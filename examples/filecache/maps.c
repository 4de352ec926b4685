/*
 * /proc/self/maps, where the kernel says what is mapped: a line for each
 * mapping, with its range, and the path of its file, if it has one.
 */
#define _GNU_SOURCE
#include "filecache.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <wane.h>

enum { ROOM_BYTES = 64 << 10 };

static void close_deferred(void *fd) { close((int)(intptr_t)fd); }

/* A whole file of /proc, which does not say how large it is, as a string. NULL
   with errno. */
static char *maps_read_text(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  size_t room = ROOM_BYTES;
  size_t size = 0;
  ssize_t got = 1;
  char *text = must(wane_alloc_leaf(room));
  if (fd < 0) {
    return NULL;
  }
  WANE_DEFER(close_deferred, (void *)(intptr_t)fd);
  while (got != 0) {
    if (size + 1 == room) {
      room *= 2;
      text = must(wane_realloc(text, room));
    }
    got = read(fd, text + size, room - size - 1);
    if (got < 0 && errno != EINTR) {
      return NULL;
    }
    size += got > 0 ? (size_t)got : 0;
  }
  return text; /* wane_alloc gave zeros: it ends with one */
}

const char *maps_path(const char *line) { return strchr(line, '/'); }

static void maps_add(struct maps *maps, char *line) {
  if (maps->count == maps->room) {
    maps->room = maps->room * 2 + 64;
    maps->lines =
        must(wane_realloc(maps->lines, maps->room * sizeof *maps->lines));
  }
  maps->lines[maps->count++] = line;
}

struct maps *maps_read(void) {
  struct maps *maps = must(wane_new(struct maps));
  char *text = maps_read_text("/proc/self/maps");
  char *line;
  if (!text) {
    return NULL;
  }
  while ((line = strsep(&text, "\n")) != NULL) {
    if (maps_path(line)) {
      maps_add(maps, line); /* a pointer into the text, which it keeps */
    }
  }
  return maps;
}

static bool maps_has(const struct maps *maps, const char *line) {
  for (size_t i = 0; i < maps->count; i++) {
    if (strcmp(maps->lines[i], line) == 0) {
      return true;
    }
  }
  return false;
}

/* A path as the kernel writes it there: a newline is \012. */
static const char *maps_spell(const char *path) {
  char *spelled = must(wane_alloc_leaf(strlen(path) * 4 + 1));
  char *end = spelled;
  for (; *path; path++) {
    if (*path == '\n') {
      end = stpcpy(end, "\\012");
    } else {
      *end++ = *path;
    }
  }
  return spelled;
}

struct maps *maps_find_ours(const struct maps *before, const struct maps *now,
                            const char *root) {
  struct maps *ours = must(wane_new(struct maps));
  const char *prefix = maps_spell(root);
  size_t length = strlen(prefix);
  for (size_t i = 0; i < now->count; i++) {
    char *line = now->lines[i];
    if (strncmp(maps_path(line), prefix, length) == 0 &&
        !maps_has(before, line)) {
      maps_add(ours, line);
    }
  }
  return ours;
}
