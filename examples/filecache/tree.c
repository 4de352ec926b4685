/*
 * The files of a directory tree. Directories wait in a list instead of on the
 * stack, so that a deep tree needs neither stack nor descriptors. The walk
 * stays on one file system, as find -xdev does: among what is mounted
 * elsewhere may be files that are devices (/sys) or endless (/proc).
 */
#define _GNU_SOURCE
#include "filecache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wane.h>

struct folder {
  struct folder *next;
  const char *path; /* ends in '/' */
};

struct walk {
  struct tree *tree;
  size_t room;            /* for files in the tree */
  struct folder *pending; /* to be read */
  dev_t device;
};

enum skip tree_skip_reason(int error) {
  switch (error) {
  case ENOENT:
  case ENOTDIR:
  case ESTALE:
    return SKIP_VANISHED;
  case EISDIR: /* was a file once */
  case ENODEV:
    return SKIP_SPECIAL;
  case EMFILE:
  case ENFILE:
  case ENOMEM:
    return SKIP_NOT;
  default:
    return SKIP_UNREADABLE;
  }
}

void tree_skip(struct tree *tree, struct file *file, enum skip reason) {
  if (!atomic_exchange(&file->skipped, true)) {
    atomic_fetch_add(&tree->skipped[reason], 1);
    atomic_fetch_sub(&tree->left, 1);
  }
}

static void walk_skip(struct walk *walk, enum skip reason) {
  walk->tree->skipped[reason == SKIP_NOT ? SKIP_UNREADABLE : reason]++;
}

static void walk_add_folder(struct walk *walk, const char *path) {
  struct folder *folder = must(wane_new(struct folder));
  folder->path = path;
  folder->next = walk->pending;
  walk->pending = folder;
}

static void walk_add_file(struct walk *walk, const char *path) {
  struct tree *tree = walk->tree;
  if (tree->count == walk->room) {
    /* The array before, if this is another one, is left to the collector. */
    walk->room = walk->room * 2 + 64;
    tree->files =
        must(wane_realloc(tree->files, walk->room * sizeof *tree->files));
  }
  tree->files[tree->count++].path = path;
}

/* Why something that is no directory is not a file for us; SKIP_NOT: it is. */
static enum skip entry_reason(int folder_fd, const char *name,
                              const struct stat *st) {
  if (S_ISLNK(st->st_mode)) {
    return SKIP_SYMLINK;
  }
  if (!S_ISREG(st->st_mode)) {
    return SKIP_SPECIAL;
  }
  if (st->st_size == 0) {
    return SKIP_EMPTY;
  }
  return faccessat(folder_fd, name, R_OK, AT_EACCESS) == 0
             ? SKIP_NOT
             : tree_skip_reason(errno);
}

static void walk_entry(struct walk *walk, const char *folder, int folder_fd,
                       const char *name) {
  struct stat st;
  enum skip reason;
  if (fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    walk_skip(walk, tree_skip_reason(errno));
  } else if (!S_ISDIR(st.st_mode)) {
    reason = entry_reason(folder_fd, name, &st);
    if (reason == SKIP_NOT) {
      walk_add_file(walk, must(wane_printf("%s%s", folder, name)));
    } else {
      walk_skip(walk, reason);
    }
  } else if (st.st_dev == walk->device) {
    walk_add_folder(walk, must(wane_printf("%s%s/", folder, name)));
  } else {
    walk_skip(walk, SKIP_MOUNT);
  }
}

static void close_deferred(void *dir) { closedir(dir); }

static struct dirent *folder_next(DIR *dir) {
  errno = 0; /* so that the end can be told from a failure */
  return readdir(dir);
}

/* False with errno if the directory cannot be opened. */
static bool walk_folder(struct walk *walk, const char *path) {
  DIR *dir = opendir(path);
  struct dirent *entry;
  if (!dir) {
    return false;
  }
  /* A descriptor is not memory: it is given back here, at once. */
  WANE_DEFER(close_deferred, dir);
  while (!interrupted && (entry = folder_next(dir)) != NULL) {
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
      walk_entry(walk, path, dirfd(dir), entry->d_name);
    }
  }
  if (!interrupted && errno != 0) {
    walk_skip(walk, tree_skip_reason(errno));
  }
  return true;
}

/* The order decides how popular a file is, so it must not be the directory's;
   the same one in each run makes runs comparable. */
static void tree_shuffle(struct tree *tree) {
  uint64_t random = 1;
  for (size_t i = tree->count; i > 1; i--) {
    size_t other = random_next(&random) % i;
    const char *path = tree->files[i - 1].path;
    tree->files[i - 1].path = tree->files[other].path;
    tree->files[other].path = path;
  }
}

struct tree *tree_walk(const char *root, size_t max) {
  struct walk walk = {.tree = must(wane_new(struct tree))};
  struct tree *tree = walk.tree;
  struct stat st;
  if (stat(root, &st) != 0) {
    return NULL;
  }
  walk.device = st.st_dev;
  if (!walk_folder(&walk, root)) {
    return NULL;
  }
  while (walk.pending && !interrupted) {
    struct folder *folder = walk.pending;
    walk.pending = folder->next;
    if (!walk_folder(&walk, folder->path)) {
      walk_skip(&walk, tree_skip_reason(errno));
    }
  }
  tree_shuffle(tree);
  tree->count = tree->count < max ? tree->count : max;
  tree->left = tree->count;
  return tree;
}
