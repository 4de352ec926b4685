/* Refilling a thread's cache; see context.h for what a cache is. */
#ifndef WANE_HEAP_CACHE_H
#define WANE_HEAP_CACHE_H

#include "context.h"

/* Gives the cache a new run. Guarded. False with ENOMEM. */
bool wane__cache_refill(struct wane__context *self, enum wane__kind kind,
                        unsigned class);

#endif
