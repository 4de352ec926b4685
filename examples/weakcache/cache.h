/*
 * cache: documents by path, held weakly.
 *
 * A document lives as long as somebody uses it, and no longer: the cache holds
 * only a weak pointer, so it never needs a size, an expiry or an eviction
 * policy, and nobody has to give a document back. While one is in use, all who
 * ask for its path get that same object.
 *
 * When a document dies, its cleanup takes the entry out. Between the death and
 * that cleanup somebody may have loaded the file again and put a newer
 * document under the same path. The cleanup tells the two apart by the weak
 * pointer: a handle is never reused, so the entry is the dead document's own
 * if and only if it has the same handle still.
 */
#ifndef CACHE_H
#define CACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <wane.h>

/* A file that was read. Does not change. */
struct document {
  const char *path;
  const char *text;
  size_t size;
  size_t line_count;
};

struct entry {
  struct entry *next; /* in the same slot */
  const char *path;
  wane_weak document;
};

enum { CACHE_SLOTS = 1024 }; /* a power of two */

struct cache {
  pthread_mutex_t lock;
  struct entry *slots[CACHE_SLOTS]; /* lock: lock */
  size_t entry_count;               /* lock: lock */
  /* Counts for the report. */
  atomic_uint_fast64_t hits;
  atomic_uint_fast64_t loads;   /* files read */
  atomic_uint_fast64_t raced;   /* of these, while another thread did, too */
  atomic_uint_fast64_t removed; /* entries taken out by their cleanup */
  atomic_uint_fast64_t spared;  /* not taken out, since a newer one was there */
};

/* NULL with errno. */
struct cache *cache_new(void);

/* The document of a file, from the cache or read now; NULL with errno. It stays
   what it is, and stays in the cache, while anything points to it. */
struct document *cache_get(struct cache *cache, const char *path);

size_t cache_count(struct cache *cache);

#endif
