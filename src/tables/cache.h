/* What the rest of the library must tell caches; see cache.c. */
#ifndef WANE_TABLES_CACHE_H
#define WANE_TABLES_CACHE_H

#include <stddef.h>

struct wane_cache;

/* wane_cache_get, whose creator gets ctx instead of the cache's own. */
void *wane__cache_get_with(struct wane_cache *c, const void *key,
                           size_t key_size, void *ctx);

/* In the child of a fork: the creations of the calling thread go on here,
   those of all others have stayed in the parent. */
void wane__cache_forked(void);

#endif
