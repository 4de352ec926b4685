/*
 * wane_mapped_open and its kin: mapped files by name, shared and not.
 *
 * Shared opens. A cache (tables/cache.c) leads from a file's identity to its
 * bytes, and sees to it that one thread maps what many ask for; a map leads
 * from the bytes to the struct that goes with them. Both hold weakly whatever
 * they lead to. The struct points to the bytes, so that they live at least as
 * long; if only they are left, the next who opens the file gets another struct
 * of the same bytes.
 *
 * The file that is opened may be another than the one whose identity was asked
 * for a moment before: then the path's new file is opened first, and its
 * identity taken from the descriptor, which no replacement can change any more.
 * The same after a failure of another thread, whose path may be another.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "../../include/wane/cache.h"
#include "../../include/wane/heap.h"
#include "../../include/wane/lifetime.h"
#include "../../include/wane/map.h"
#include "../../include/wane/mapped.h"
#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "../tables/cache.h"
#include "file.h"
#include "mapping.h"

struct mapped {
  struct wane_mapped face;
  struct wane__mapping mapping; /* not scanned: face has the pointer */
  bool is_shared;
};

static const size_t mapped_pointers[] = {offsetof(struct mapped, face.data)};
static const struct wane_type mapped_type = {.name = "struct wane_mapped",
                                             .size = sizeof(struct mapped),
                                             .pointer_count = 1,
                                             .pointer_offsets =
                                                 mapped_pointers};

/* ---- Own mappings ---- */

static struct mapped *mapped_make(int fd, uint64_t size) {
  struct wane__mapping mapping; /* on the stack, where it is seen */
  struct mapped *m = wane_alloc_typed(&mapped_type, 1);
  if (m == NULL || !wane__mapping_make(fd, size, &mapping)) {
    return NULL;
  }
  m->face = (struct wane_mapped){mapping.bytes, (size_t)size};
  m->mapping = mapping;
  return m;
}

/* Closes it; errno is that of the failure, or what it was before. */
static void open_done(int fd, bool ok, int saved) {
  int error = ok ? saved : errno;
  wane__os_close(fd);
  errno = error;
}

WANE_PUBLIC struct wane_mapped *wane_mapped_open(const char *path) {
  int saved = errno;
  struct wane__file_id id;
  int fd = wane__file_open(path, &id);
  if (fd < 0) {
    return NULL;
  }
  struct mapped *m = mapped_make(fd, id.size);
  open_done(fd, m != NULL, saved);
  return m != NULL ? &m->face : NULL;
}

WANE_PUBLIC const void *wane_map_bytes(const char *path, size_t *size) {
  int saved = errno;
  struct wane__file_id id;
  struct wane__mapping mapping;
  int fd = wane__file_open(path, &id);
  if (fd < 0) {
    return NULL;
  }
  bool ok = wane__mapping_make(fd, id.size, &mapping);
  open_done(fd, ok, saved);
  if (ok && size != NULL) {
    *size = (size_t)id.size;
  }
  return ok ? mapping.bytes : NULL;
}

WANE_PUBLIC void wane_mapped_close(struct wane_mapped *m) {
  static const char name[] = "wane_mapped_close";
  struct wane__found found;
  if (m == NULL) {
    return;
  }
  struct wane__context *self = wane__attach();
  bool is_object = false;
  if (self != NULL) {
    wane__guard_enter(self);
    is_object = wane__object_find(m, &found);
    wane__guard_leave(self);
  }
  if (!is_object || found.base != (uintptr_t)m ||
      wane__head_kind(found.head) != WANE__KIND_TYPED ||
      wane__found_type(&found) != &mapped_type) {
    wane__fatal(name, "%p is no mapped file", (void *)m);
  }
  struct mapped *whole = (struct mapped *)m;
  if (whole->is_shared) {
    return;
  }
  int saved = errno;
  /* alive: else its cleanup might come first. Another may be closing it */
  const void *bytes = wane__load_relaxed(&m->data);
  wane__store_relaxed(&m->data, NULL);
  wane__store_relaxed(&m->size, 0);
  wane__mapping_end(&whole->mapping);
  wane_keep_alive(bytes);
  errno = saved;
}

/* ---- Shared ones ---- */

/* What a creator needs. */
struct shared_ask {
  const char *path;
  int fd;       /* or -1: by the path */
  bool has_run; /* the creator, for this ask: else a failure was another's */
};

struct shared {
  struct wane_cache *by_id;  /* the bytes */
  struct wane_map *by_bytes; /* the structs */
};

static struct shared *shared_tables; /* set once. release, acquire */

/* Maps the file, if it is still the one that was asked for. */
static void *shared_create(const void *key, size_t key_size, void *ctx) {
  struct shared_ask *ask = ctx;
  struct wane__file_id id = *(const struct wane__file_id *)key;
  (void)key_size;
  ask->has_run = true;
  int fd = ask->fd;
  if (fd < 0) {
    struct wane__file_id got;
    fd = wane__file_open(ask->path, &got);
    if (fd < 0) {
      return NULL;
    }
    if (memcmp(&got, &id, sizeof id) != 0) {
      wane__os_close(fd);
      errno = ESTALE;
      return NULL;
    }
  }
  struct wane__mapping mapping;
  bool ok = wane__mapping_make(fd, id.size, &mapping);
  if (fd != ask->fd) {
    open_done(fd, ok, errno);
  }
  return ok ? (void *)mapping.bytes : NULL;
}

/* The struct that goes with the bytes. NULL with ENOMEM. */
static struct mapped *shared_struct(struct shared *tables, const void *bytes,
                                    uint64_t size) {
  void *found;
  if (wane_map_load(tables->by_bytes, bytes, &found)) {
    return found;
  }
  struct mapped *m = wane_alloc_typed(&mapped_type, 1);
  if (m == NULL) {
    return NULL;
  }
  m->face = (struct wane_mapped){bytes, (size_t)size};
  m->is_shared = true;
  return wane_map_load_or_store(tables->by_bytes, bytes, m, NULL);
}

/* The tables, made at the first call. NULL with ENOMEM. */
static struct shared *shared_get(void) {
  struct shared *tables = wane__load_acquire(&shared_tables);
  if (WANE_LIKELY(tables != NULL)) {
    return tables;
  }
  const struct wane_cache_config config = {.create = shared_create};
  tables = wane_new(struct shared);
  if (tables == NULL || (tables->by_id = wane_cache_new(&config)) == NULL ||
      (tables->by_bytes =
           wane_map_new(NULL, WANE_WEAK_KEYS | WANE_WEAK_VALUES)) == NULL) {
    return NULL;
  }
  struct shared *none = NULL;
  return wane__cas(&shared_tables, &none, tables) ? tables : none;
}

/* The file was replaced while it was opened, or another thread that was mapping
   it by another path has failed: opens it first, and asks until it has it or
   fails itself. */
static const void *shared_open_first(struct shared *tables, const char *path,
                                     struct wane__file_id *id) {
  struct shared_ask ask = {.path = path, .fd = wane__file_open(path, id)};
  if (ask.fd < 0) {
    return NULL;
  }
  const void *bytes;
  do {
    bytes = wane__cache_get_with(tables->by_id, id, sizeof *id, &ask);
  } while (bytes == NULL && !ask.has_run && errno != ENOMEM);
  open_done(ask.fd, bytes != NULL, errno);
  return bytes;
}

WANE_PUBLIC struct wane_mapped *wane_mapped_open_shared(const char *path) {
  int saved = errno;
  struct wane__file_id id;
  struct shared_ask ask = {.path = path, .fd = -1};
  struct shared *tables = wane__file_look(path, &id) ? shared_get() : NULL;
  if (tables == NULL) {
    return NULL;
  }
  const void *bytes = wane__cache_get_with(tables->by_id, &id, sizeof id, &ask);
  if (WANE_UNLIKELY(bytes == NULL) && (!ask.has_run || errno == ESTALE)) {
    bytes = shared_open_first(tables, path, &id);
  }
  struct mapped *m =
      bytes != NULL ? shared_struct(tables, bytes, id.size) : NULL;
  wane_keep_alive(bytes);
  errno = m != NULL ? saved : errno;
  return m != NULL ? &m->face : NULL;
}
