/*
 * Mappings of files as objects: made, ended by a cleanup or by hand; and what
 * their making and that of adopted ranges has in common, which is that cycles
 * must come before the system's limits are reached.
 */
#ifndef WANE_MAPPED_MAPPING_H
#define WANE_MAPPED_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../include/wane/lifetime.h"

struct wane__mapping {
  const void *bytes;    /* the object */
  wane_cleanup cleanup; /* which ends it */
  uint64_t name;        /* heap/outside.h; 0: there is nothing to end */
};

/* Maps an open file, size bytes of it. False with errno. */
bool wane__mapping_make(int fd, uint64_t size, struct wane__mapping *out);

/* Ends it now, unless its cleanup has, or will. Once. */
void wane__mapping_end(const struct wane__mapping *mapping);

/* Before an object outside the heap is made: runs a cycle if so many came that
   one is due, and waits a little if those found dead are not ended fast enough.
   Not guarded. */
void wane__mapping_make_way(void);

#endif
