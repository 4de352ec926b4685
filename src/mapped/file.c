/* Files by name; see file.h. */
#define _GNU_SOURCE
#include "file.h"

#include <errno.h>
#include <stddef.h>
#include <sys/stat.h>

#include "../base/os.h"

/* False with errno, if it is not a regular file. */
static bool file_identify(const struct stat *st, struct wane__file_id *out) {
  if (!S_ISREG(st->st_mode)) {
    errno = S_ISDIR(st->st_mode) ? EISDIR : ENODEV;
    return false;
  }
  *out = (struct wane__file_id){.device = st->st_dev,
                                .inode = st->st_ino,
                                .size = (uint64_t)st->st_size,
                                .changed_s = (uint64_t)st->st_mtim.tv_sec,
                                .changed_ns = (uint64_t)st->st_mtim.tv_nsec};
  return true;
}

bool wane__file_look(const char *path, struct wane__file_id *out) {
  struct stat st;
  if (path == NULL) {
    errno = EFAULT;
    return false;
  }
  return wane__os_stat(path, &st) && file_identify(&st, out);
}

/* Devices are not opened, which might do something: the path is looked at
   first. What is opened then may be another file. */
int wane__file_open(const char *path, struct wane__file_id *out) {
  struct stat st;
  if (!wane__file_look(path, out)) {
    return -1;
  }
  int fd = wane__os_open_at_once(path);
  if (fd < 0) {
    return -1;
  }
  if (!wane__os_stat_open(fd, &st) || !file_identify(&st, out)) {
    int error = errno;
    wane__os_close(fd);
    errno = error;
    return -1;
  }
  return fd;
}
