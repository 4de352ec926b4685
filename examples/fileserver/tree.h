/*
 * From the path in a request to what lies there, and never out of the directory
 * that is served: "..", links and whatever else is in a path are resolved by
 * the system with that directory as the limit (openat2, Linux 5.6), so there is
 * no check that a path could trick, or that a rename could come in between.
 */
#ifndef TREE_H
#define TREE_H

#include <stdbool.h>
#include <sys/stat.h>
#include <wane.h>

/* What was found: a descriptor with which nothing can be read (O_PATH). */
struct tree_place {
  int fd;
  struct stat st;
};

/* Opens the directory to serve. False with errno. */
bool tree_begin(const char *dir);
void tree_end(void);

/* The path in a URL, without the slashes in front and with each %xx decoded:
   a managed string, "." if nothing is left. NULL with EINVAL: a malformed %xx
   or a %00. */
char *tree_path(const char *url);

/* Finds path, relative to the directory served. False with errno, EXDEV if the
   path leads out of it. The descriptor is to be closed by tree_close. */
bool tree_open(const char *path, struct tree_place *place);
void tree_close(struct tree_place *place);

/* The shared mapping of the very file that was found, whatever is at its path
   by now. NULL with errno. */
struct wane_mapped *tree_map(const struct tree_place *place);

#endif
