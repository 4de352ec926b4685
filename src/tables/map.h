/*
 * Maps for the rest of the library: what wane/map.h has, and the key object of
 * an entry, in which a cache keeps what it knows of the entry.
 */
#ifndef WANE_TABLES_MAP_H
#define WANE_TABLES_MAP_H

#include <stdbool.h>

#include "../../include/wane/map.h"

/* As wane_map_load, and the key that the map has. */
bool wane__map_load_entry(struct wane_map *m, const void *key,
                          const void **own_key, void **value);

#endif
