/*
 * A regular file, opened to be mapped, and what identifies it.
 */
#ifndef WANE_MAPPED_FILE_H
#define WANE_MAPPED_FILE_H

#include <stdbool.h>
#include <stdint.h>

/* Two files that agree in all of these are one. No padding: it is the key of a
   table, compared by bytes. */
struct wane__file_id {
  uint64_t device;
  uint64_t inode;
  uint64_t size;
  uint64_t changed_s; /* time of modification */
  uint64_t changed_ns;
};

/* What a path leads to. False with errno: EISDIR, ENODEV, or stat's. */
bool wane__file_look(const char *path, struct wane__file_id *out);

/* Opens it, and says what it got. -1 with errno. Closed by wane__os_close. */
int wane__file_open(const char *path, struct wane__file_id *out);

#endif
