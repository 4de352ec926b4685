/*
 * The table, its lock, and the reading of files.
 *
 * With the lock held nothing of the library is called but wane_weak_value,
 * which takes no lock and does not collect: entries and weak pointers are made
 * before. So a cleanup never waits for a thread that is collecting.
 */
#define _GNU_SOURCE
#include "cache.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the cleanup of a document gets: a copy, made at the registration. It
   must not reach the document. The path is a string of its own, the weak
   pointer a number, and the cache has only weak pointers, too. */
struct departure {
  struct cache *cache;
  const char *path;
  wane_weak document;
};

struct cache *cache_new(void) {
  struct cache *cache = wane_new(struct cache);
  if (cache) {
    pthread_mutex_init(&cache->lock, NULL);
  }
  return cache;
}

/* Where the pointer to the entry of path is, or would be. */
static struct entry **cache_find_locked(struct cache *cache, const char *path) {
  uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
  struct entry **at;
  for (const char *p = path; *p; p++) {
    hash = (hash ^ (unsigned char)*p) * 0x100000001b3;
  }
  at = &cache->slots[(hash ^ hash >> 32) & (CACHE_SLOTS - 1)];
  while (*at && strcmp((*at)->path, path) != 0) {
    at = &(*at)->next;
  }
  return at;
}

/* The cleanup of a document: takes its entry out, and never another's. */
static void cache_forget(void *args) {
  const struct departure *gone = args;
  struct cache *cache = gone->cache;
  struct entry **at;
  pthread_mutex_lock(&cache->lock);
  at = cache_find_locked(cache, gone->path);
  if (*at && (*at)->document.id == gone->document.id) {
    *at = (*at)->next;
    cache->entry_count--;
    atomic_fetch_add(&cache->removed, 1);
  } else {
    atomic_fetch_add(&cache->spared, 1);
  }
  pthread_mutex_unlock(&cache->lock);
}

/* Reads a regular file to its end: 0, or -1 with errno. */
static int read_whole(int fd, char *text, size_t room, size_t *size) {
  ssize_t n = 1;
  for (*size = 0; *size < room && n != 0; *size += n > 0 ? (size_t)n : 0) {
    n = read(fd, text + *size, room - *size);
    if (n < 0 && errno != EINTR) {
      return -1;
    }
  }
  return 0;
}

static size_t count_lines(const char *text, size_t size) {
  const char *end = text + size;
  size_t count = size > 0 && end[-1] != '\n';
  while (size > 0 && (text = memchr(text, '\n', size)) != NULL) {
    count++;
    size = (size_t)(end - ++text);
  }
  return count;
}

static void close_deferred(void *fd) { close((int)(intptr_t)fd); }

static struct document *document_load(const char *path) {
  struct document *document = wane_new(struct document);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct stat st;
  char *text;
  if (fd < 0) {
    return NULL;
  }
  WANE_DEFER(close_deferred, (void *)(intptr_t)fd);
  if (!document || fstat(fd, &st) != 0) {
    return NULL;
  }
  text = wane_alloc_leaf((size_t)st.st_size);
  document->path = wane_strdup(path);
  if (!text || !document->path ||
      read_whole(fd, text, (size_t)st.st_size, &document->size) != 0) {
    return NULL;
  }
  document->text = text;
  document->line_count = count_lines(text, document->size);
  return document;
}

/* Puts a document just read into the cache: that document, or the one that
   another thread was faster with. NULL with errno. */
static struct document *cache_put(struct cache *cache,
                                  struct document *document) {
  struct entry *entry = wane_new(struct entry);
  struct departure gone = {cache, document->path, wane_weak_make(document)};
  struct document *other = NULL;
  struct entry **at;
  wane_cleanup cleanup = {0};
  if (entry && gone.document.id != 0) {
    cleanup = wane_add_cleanup_copy(document, cache_forget, &gone, sizeof gone);
  }
  if (cleanup.id == 0) {
    return NULL;
  }
  pthread_mutex_lock(&cache->lock);
  at = cache_find_locked(cache, document->path);
  if (*at) {
    other = wane_weak_value((*at)->document);
  } else {
    entry->path = document->path;
    *at = entry;
    cache->entry_count++;
  }
  if (!other) {
    (*at)->document = gone.document; /* into a dead one's entry, if one is */
  }
  pthread_mutex_unlock(&cache->lock);
  if (!other) {
    return document;
  }
  atomic_fetch_add(&cache->raced, 1);
  wane_cleanup_stop(cleanup); /* it would do nothing: spare it the way */
  wane_keep_alive(document);
  return other;
}

struct document *cache_get(struct cache *cache, const char *path) {
  struct document *document = NULL;
  struct entry *entry;
  pthread_mutex_lock(&cache->lock);
  entry = *cache_find_locked(cache, path);
  if (entry) {
    document = wane_weak_value(entry->document);
  }
  pthread_mutex_unlock(&cache->lock);
  if (document) {
    atomic_fetch_add(&cache->hits, 1);
    return document;
  }
  document = document_load(path);
  if (!document) {
    return NULL;
  }
  atomic_fetch_add(&cache->loads, 1);
  return cache_put(cache, document);
}

size_t cache_count(struct cache *cache) {
  size_t count;
  pthread_mutex_lock(&cache->lock);
  count = cache->entry_count;
  pthread_mutex_unlock(&cache->lock);
  return count;
}
