/*
 * The descriptor belongs to the inner object. Two could close it: logfile_close
 * and the safety net. wane_cleanup_stop says which of them may, so there is
 * neither a leak nor a second close of a number that is in use again.
 */
#define _GNU_SOURCE
#include "logfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wane.h>

enum { ROOM_BYTES = 32 << 10 };

struct logfile_source {
  int fd; /* -1: closed */
  wane_cleanup net;
  const char *text; /* what was read last; left to the lines that point to it */
  size_t start, end; /* the part of text not yet given out */
  size_t lines;
  bool at_end;
};

/* The safety net. Its argument is the number alone: an argument that reached
   the source would keep it alive, and the net would never be needed. */
static void close_descriptor(void *arg) { close((int)(intptr_t)arg); }

/* Opens path, and if there is no descriptor left, once more after a collection
   that closes the files nobody can reach any more. */
static int open_path(const char *path) {
  int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY;
  int fd = open(path, flags);
  if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
    wane_collect();
    wane_drain(-1);
    fd = open(path, flags);
  }
  return fd;
}

static bool is_directory(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

struct logfile *logfile_open_at(const char *path, const char *file, int line) {
  struct logfile *log = wane_new(struct logfile);
  struct logfile_source *source = wane_new(struct logfile_source);
  char *kept_path = wane_strdup(path);
  if (!log || !source || !kept_path) {
    return NULL;
  }
  source->fd = open_path(path);
  if (source->fd < 0) {
    return NULL;
  }
  if (is_directory(source->fd)) {
    close(source->fd);
    errno = EISDIR;
    return NULL;
  }
  source->net = wane_add_safety_net_at(
      source, close_descriptor, (void *)(intptr_t)source->fd, file, line);
  if (source->net.id == 0) {
    close(source->fd);
    errno = ENOMEM;
    return NULL;
  }
  log->path = kept_path;
  log->source = source;
  return log;
}

/* Reads more into a fresh buffer that begins with the unfinished line. False
   with errno if that fails. */
static bool source_fill(struct logfile_source *source) {
  size_t rest = source->end - source->start;
  size_t room = rest < ROOM_BYTES / 2 ? ROOM_BYTES : rest * 2;
  char *text = wane_alloc_leaf(room);
  ssize_t got;
  if (!text) {
    return false;
  }
  if (rest > 0) {
    memcpy(text, source->text + source->start, rest);
  }
  do {
    got = read(source->fd, text + rest, room - rest);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    return false;
  }
  source->text = text;
  source->start = 0;
  source->end = rest + (size_t)got;
  source->at_end = got == 0;
  return true;
}

bool logfile_next(struct logfile *log, struct logfile_line *line) {
  struct logfile_source *source = log->source;
  const char *newline = NULL;
  size_t rest;
  for (;;) {
    rest = source->end - source->start;
    if (rest > 0) {
      newline = memchr(source->text + source->start, '\n', rest);
    }
    if (newline || source->at_end) {
      break;
    }
    if (!source_fill(source)) {
      return false;
    }
  }
  if (rest == 0) {
    errno = 0;
    return false;
  }
  line->text = source->text + source->start;
  line->length = newline ? (size_t)(newline - line->text) : rest;
  line->number = ++source->lines;
  source->start += line->length + (newline != NULL);
  return true;
}

void logfile_close(struct logfile *log) {
  struct logfile_source *source = log->source;
  if (wane_cleanup_stop(source->net)) {
    close(source->fd);
  }
  /* Without this the source might count as dead from the reading of its net
     on, and the safety net might win. */
  wane_keep_alive(source);
  source->fd = -1;
  source->start = source->end;
  source->at_end = false;
}
