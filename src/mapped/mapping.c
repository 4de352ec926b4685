/* Mappings; see mapping.h. */
#include "mapping.h"

#include <errno.h>

#include "../../include/wane/heap.h"
#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../collect/cycle.h"
#include "../heap/context.h"
#include "../heap/hooks.h"
#include "../heap/outside.h"
#include "../special/cleanup.h"

/* More that are dying than this, and a half of what lives, are too many. */
#define DYING_MAX 4096u
#define DYING_BYTES_MAX ((uint64_t)256 << 20)

void wane__mapping_make_way(void) {
  int saved = errno;
  const struct wane__outside_meter *meter = &wane__outside_meter;
  wane__cycle_for_outside();
  uint64_t live = wane__load_relaxed(&meter->live) / 2;
  uint64_t bytes = wane__load_relaxed(&meter->adopted_bytes) / 2;
  uint64_t most = live > DYING_MAX ? live : DYING_MAX;
  uint64_t most_bytes = bytes > DYING_BYTES_MAX ? bytes : DYING_BYTES_MAX;
  if (WANE_UNLIKELY(wane__load_relaxed(&meter->dying) > most ||
                    wane__load_relaxed(&meter->dying_adopted_bytes) >
                        most_bytes)) {
    wane__cycle_wait_for_ends(most, most_bytes);
  }
  errno = saved;
}

static size_t mapping_bytes(const struct wane__block *block) {
  return (size_t)block->blocks << WANE__BLOCK_LOG2;
}

/* The cleanup of a mapping, and what a close does. */
static void mapping_end(void *arg) {
  struct wane__block *block = wane__outside_find((uint64_t)(uintptr_t)arg);
  if (block == NULL) {
    return;
  }
  bool is_lost = !wane__os_unmap_to_reserve((void *)wane__block_start(block),
                                            mapping_bytes(block));
  struct wane__context *self = wane__guard_enter_any();
  wane__outside_end(block, is_lost);
  wane__guard_leave_any(self);
}

/* Like any allocation: the object's address is in a register before the thread
   may be stopped, and nothing else points to it. Mapping may take long, and is
   not guarded. */
static const void *mapping_place(struct wane__context *self, int fd,
                                 size_t size, uint64_t *name) {
  void *object = NULL;
  wane__guard_enter(self);
  struct wane__block *block = wane__outside_take(size);
  wane__guard_leave(self);
  if (block == NULL) {
    return NULL;
  }
  bool ok = wane__os_map_file((void *)wane__block_start(block),
                              mapping_bytes(block), fd);
  int error = errno;
  wane__guard_enter(self);
  if (ok) {
    object = (void *)wane__block_start(block);
    *name = wane__outside_name(block);
    wane__outside_publish(block, WANE__OUTSIDE_FILE, size, 0);
  } else {
    wane__outside_give(block);
  }
  wane__guard_leave(self);
  __asm__ volatile("" : : "r"(object) : "memory");
  errno = error;
  return object;
}

/* An empty file has bytes of its own too, but none is mapped. */
static bool mapping_make_empty(struct wane__mapping *out) {
  *out = (struct wane__mapping){.bytes = wane_alloc_leaf(0)};
  return out->bytes != NULL;
}

bool wane__mapping_make(int fd, uint64_t size, struct wane__mapping *out) {
  struct wane__context *self = wane__attach();
  uint64_t name = 0;
  if (size == 0) {
    return mapping_make_empty(out);
  }
  if (self == NULL || size > wane__arena.reserved) {
    errno = ENOMEM;
    return false;
  }
  wane__mapping_make_way();
  const void *bytes = mapping_place(self, fd, size, &name);
  if (bytes == NULL && errno == ENOMEM) {
    wane__cycle_for_room();
    bytes = mapping_place(self, fd, size, &name);
  }
  if (bytes == NULL) {
    return false;
  }
  *out = (struct wane__mapping){.bytes = bytes, .name = name};
  out->cleanup = wane__cleanup_add(WANE__CALL_MAP, bytes, mapping_end,
                                   (void *)(uintptr_t)name);
  if (out->cleanup.id == 0) {
    mapping_end((void *)(uintptr_t)name);
    errno = ENOMEM;
    return false;
  }
  return true;
}

void wane__mapping_end(const struct wane__mapping *mapping) {
  if (mapping->name != 0 && wane_cleanup_stop(mapping->cleanup)) {
    mapping_end((void *)(uintptr_t)mapping->name);
  }
}
