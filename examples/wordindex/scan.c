/*
 * The threads: each takes a path from a shared stack; a directory puts its
 * entries there, a file is read, counted and merged into the index.
 *
 * Symbolic links are not followed and only regular files are opened. What
 * cannot be read is counted and passed over; only the lack of memory ends the
 * program. Jobs and file contents are garbage as soon as the worker turns to
 * the next path; what the C library keeps in a DIR is its own business.
 */
#define _GNU_SOURCE
#include "wordindex.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wane.h>

enum { HEAD_BYTES = 4096, FILE_LIMIT_BYTES = 8 << 20 };

struct job {
  struct job *next;
  const char *path;
};

static void scan_push(struct scan *scan, const char *path) {
  struct job *job = must(wane_new(struct job));
  job->path = path;
  pthread_mutex_lock(&scan->lock);
  job->next = scan->jobs;
  scan->jobs = job;
  scan->pending++;
  pthread_cond_signal(&scan->work);
  pthread_mutex_unlock(&scan->lock);
}

/* The next path, or NULL when there will be none; the one before is done. */
static const char *scan_next(struct scan *scan, const char *done) {
  const char *path = NULL;
  pthread_mutex_lock(&scan->lock);
  scan->pending -= done != NULL;
  while (!scan->stopped && scan->pending > 0 && !scan->jobs) {
    pthread_cond_wait(&scan->work, &scan->lock);
  }
  if (!scan->stopped && scan->jobs) {
    path = scan->jobs->path;
    scan->jobs = scan->jobs->next;
  } else {
    pthread_cond_broadcast(&scan->work);
    eventfd_write(scan->done_fd, 1);
  }
  pthread_mutex_unlock(&scan->lock);
  return path;
}

static void scan_skip(struct scan *scan, enum skip why) {
  atomic_fetch_add(&scan->skipped[why], 1);
}

/* Why the last system call on a path failed. */
static enum skip skip_reason(void) {
  return errno == ENOENT  ? SKIP_VANISHED
         : errno == ELOOP ? SKIP_SYMLINK /* since we looked */
                          : SKIP_UNREADABLE;
}

static void scan_directory(struct scan *scan, const char *path) {
  const char *slash = path[strlen(path) - 1] == '/' ? "" : "/";
  DIR *dir = opendir(path);
  struct dirent *entry;
  if (!dir) {
    scan_skip(scan, errno == ENOENT ? SKIP_VANISHED : SKIP_DIRECTORY);
    return;
  }
  while ((entry = readdir(dir)) != NULL) {
    const char *name = entry->d_name;
    if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
      scan_push(scan, must(wane_printf("%s%s%s", path, slash, name)));
    }
  }
  closedir(dir);
}

bool is_utf8(const char *bytes, size_t size, bool cut) {
  for (size_t i = 0; i < size;) {
    unsigned char c = (unsigned char)bytes[i++];
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc2 ? 1 : 0;
    if (c > 0xf4 || (c >= 0x80 && more == 0)) {
      return false;
    }
    for (; more > 0; more--, low = 0x80, high = 0xbf) {
      if (i == size) {
        return cut;
      }
      c = (unsigned char)bytes[i++];
      if (c < low || c > high) {
        return false;
      }
    }
  }
  return true;
}

/* Reads on until buffer is full or the file ends: bytes read, or -1. */
static ssize_t read_full(int fd, char *buffer, size_t size) {
  size_t got = 0;
  ssize_t n = 1;
  while (got < size && n != 0) {
    n = read(fd, buffer + got, size - got);
    if (n < 0 && errno != EINTR) {
      return -1;
    }
    got += n > 0 ? (size_t)n : 0;
  }
  return (ssize_t)got;
}

/* The contents of a text file of some *size, or NULL with *why. The size the
   file system gives is only a hint: files grow, and those of /proc claim 0. */
static char *read_text(int fd, size_t *size, enum skip *why) {
  struct stat st;
  size_t room = HEAD_BYTES;
  char *text = must(wane_alloc_leaf(room));
  ssize_t n;
  *size = 0;
  *why = SKIP_SPECIAL;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    return NULL;
  }
  while ((n = read_full(fd, text + *size, room - *size)) >= 0) {
    if (*size == 0 && (memchr(text, 0, (size_t)n) ||
                       !is_utf8(text, (size_t)n, (size_t)n == room))) {
      *why = SKIP_BINARY;
      return NULL;
    }
    *size += (size_t)n;
    if (*size > FILE_LIMIT_BYTES || st.st_size > FILE_LIMIT_BYTES) {
      *why = SKIP_LARGE;
      return NULL;
    }
    if (*size < room) {
      return text;
    }
    room = room < (size_t)st.st_size ? (size_t)st.st_size + 1 : room * 2;
    text = must(wane_realloc(text, room));
  }
  *why = SKIP_UNREADABLE;
  return NULL;
}

static void scan_file(struct scan *scan, const char *path) {
  int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  int fd = open(path, flags);
  struct table words = {0};
  size_t size;
  enum skip why;
  char *text;
  if (fd < 0) {
    scan_skip(scan, skip_reason());
    return;
  }
  text = read_text(fd, &size, &why);
  close(fd);
  if (!text) {
    scan_skip(scan, why);
    return;
  }
  atomic_fetch_add(&scan->words, table_count_words(&words, text, size));
  atomic_fetch_add(&scan->distinct, index_merge(scan->index, &words, path));
  atomic_fetch_add(&scan->bytes, size);
  atomic_fetch_add(&scan->files, 1);
}

static void *scan_main(void *arg) {
  struct scan *scan = arg;
  const char *path = NULL;
  while ((path = scan_next(scan, path)) != NULL) {
    struct stat st;
    if (lstat(path, &st) != 0) {
      scan_skip(scan, skip_reason());
    } else if (S_ISDIR(st.st_mode)) {
      scan_directory(scan, path);
    } else if (S_ISREG(st.st_mode)) {
      scan_file(scan, path);
    } else {
      scan_skip(scan, S_ISLNK(st.st_mode) ? SKIP_SYMLINK : SKIP_SPECIAL);
    }
  }
  return NULL;
}

struct scan *scan_start(const char *path, unsigned threads) {
  struct scan *scan = must(wane_new(struct scan));
  int error = 0;
  scan->index = index_new();
  scan->thread_ids = must(wane_new_leaf_array(pthread_t, threads));
  scan->done_fd = eventfd(0, EFD_CLOEXEC);
  if (scan->done_fd < 0) {
    return NULL;
  }
  pthread_mutex_init(&scan->lock, NULL);
  pthread_cond_init(&scan->work, NULL);
  scan_push(scan, path);
  while (scan->threads < threads && error == 0) {
    error =
        pthread_create(&scan->thread_ids[scan->threads], NULL, scan_main, scan);
    scan->threads += error == 0;
  }
  errno = error;
  return scan->threads > 0 ? scan : NULL;
}

bool scan_wait(const struct scan *scan, int timeout_ms) {
  struct pollfd done = {.fd = scan->done_fd, .events = POLLIN};
  return poll(&done, 1, timeout_ms) > 0;
}

void scan_stop(struct scan *scan) {
  pthread_mutex_lock(&scan->lock);
  scan->stopped = scan->pending > 0;
  pthread_cond_broadcast(&scan->work);
  pthread_mutex_unlock(&scan->lock);
}

void scan_finish(struct scan *scan) {
  for (unsigned i = 0; i < scan->threads; i++) {
    pthread_join(scan->thread_ids[i], NULL);
  }
}
