/*
 * wane/cache.h: objects made on demand, one for each key, and shared.
 *
 * A cache finds the object of a key or has it made, once, however many threads
 * ask at the same time. It holds its objects weakly: one that nobody else uses
 * any more dies, and its entry goes with it. keep_recent of them, those used
 * last, it holds strongly besides.
 */
#ifndef WANE_CACHE_H
#define WANE_CACHE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct wane_cache;

struct wane_cache_config {
  /* Makes the object of a key: a managed object, or NULL with errno. (What is
     not in the managed heap is taken, too, and stays in the cache for ever.)
     key is the cache's own copy of the bytes, 16-aligned, valid as long as the
     object lives. Called on the thread that asked, without any lock held; it
     may do anything, also ask this cache for other keys. It must not leave by
     longjmp; if the thread exits or is cancelled in it, those who wait get
     ECANCELED. */
  void *(*create)(const void *key, size_t key_size, void *ctx);
  void *ctx;          /* kept alive by the cache, if it is managed */
  size_t keep_recent; /* how many objects, used last, are held strongly */
};

/* An empty cache, itself a managed object; config is copied. NULL with ENOMEM.
   Fatal: config or its create NULL. */
struct wane_cache *wane_cache_new(const struct wane_cache_config *config);

/* The object of a key, which is key_size bytes, copied; 0 is fine. If there is
   none, or it has died, it is created; whoever asks for the key meanwhile
   waits for that. The object is alive as long as the caller holds it. A hit
   takes no lock, unless the object is to be among the keep_recent again.

   NULL with the creator's errno if it returned NULL: all who waited get the
   same, the next one to ask tries anew. NULL with ENOMEM: no memory. Fatal: c
   NULL; key NULL with a size that is not 0; asking, inside create, for the
   key that is being created, or for one whose creator waits for that. */
void *wane_cache_get(struct wane_cache *c, const void *key, size_t key_size);

/* How many keys have a living object; while others use it, about as many. */
size_t wane_cache_count(struct wane_cache *c);

#ifdef __cplusplus
}
#endif

#endif
