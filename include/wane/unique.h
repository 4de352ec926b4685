/*
 * wane/unique.h: one object for all equal values.
 *
 * Equal bytes give the same pointer, so that comparing two values is comparing
 * two pointers, and a value that occurs often is stored once. A value is kept
 * as long as something points to it, and leaves the table when it is found
 * dead: what is never dropped is all that the table holds. Making a value that
 * exists takes no lock. All calls are safe from many threads at once.
 */
#ifndef WANE_UNIQUE_H
#define WANE_UNIQUE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ptr: a managed copy of the bytes, 16-aligned, not to be written to. Two
   uniques are equal if and only if their ptr are, as long as one is held. */
typedef struct wane_unique {
  const void *ptr;
} wane_unique;

/* The unique of size bytes; they are copied if it is new. The copy is scanned:
   pointers in it, if aligned, keep their objects alive, so a unique may hold
   uniques. ptr is NULL with ENOMEM if there is no memory, and never otherwise,
   size 0 included. Fatal: bytes NULL with a size that is not 0. */
wane_unique wane_unique_make(const void *bytes, size_t size);

/* The bytes of a unique, and how many in *size, if size is not NULL. Fatal: u
   does not come from wane_unique_make. */
const void *wane_unique_value(wane_unique u, size_t *size);

/* The one managed copy of that string, not to be written to. It is a leaf:
   never scanned. NULL with ENOMEM if there is no memory. Fatal: s NULL. */
const char *wane_intern(const char *s);

#ifdef __cplusplus
}
#endif

#endif
