/*
 * From a pointer to its object: wane_base, wane_size, wane_realloc. How an
 * object is found is in heap.h (wane__object_find).
 */
#include <errno.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../base/check.h"
#include "../base/poison.h"
#include "heap.h"
#include "hooks.h"

bool wane__object_find_foreign(uintptr_t word, struct wane__found *out) {
  uintptr_t stand_in = wane__foreign_search(word);
  if (stand_in == 0 || !wane__object_find((void *)stand_in, out)) {
    return false;
  }
  out->base = wane__group_of(out)->stands_for;
  return true;
}

/* wane__object_find for a thread in no guard: a flip between reading the mark
   byte and reading the colour would make a live object look dead. */
static bool object_find_guarded(const void *addr, struct wane__found *out) {
  struct wane__context *self = wane__hooks.attach();
  if (self == NULL) {
    return false; /* nothing has been allocated */
  }
  wane__guard_enter(self);
  bool found = wane__object_find(addr, out);
  wane__guard_leave(self);
  return found;
}

WANE_PUBLIC void *wane_base(const void *ptr) {
  struct wane__found found;
  int saved = errno;
  bool is_object = object_find_guarded(ptr, &found);
  errno = saved;
  return is_object ? (void *)found.base : NULL;
}

WANE_PUBLIC size_t wane_size(const void *ptr) {
  struct wane__found found;
  int saved = errno;
  bool is_object = object_find_guarded(ptr, &found);
  errno = saved;
  return is_object ? wane__found_limit(&found) : 0;
}

/* Grows or shrinks a large object within its blocks. */
static bool realloc_large_in_place(const struct wane__found *found,
                                   size_t bytes) {
  struct wane__block *block = wane__group_of(found);
  size_t old = block->large_bytes;
  size_t capacity = (size_t)block->blocks << WANE__BLOCK_LOG2;
  size_t rounded = (bytes + 15) & ~(size_t)15;
  if (block->outside != WANE__OUTSIDE_NOT || bytes <= WANE__SMALL_BYTES_MAX ||
      bytes > capacity || rounded + WANE__BLOCK_BYTES <= capacity) {
    return false;
  }
  if (rounded > old) {
    wane__poison_allow((void *)(found->base + old), rounded - old);
    memset((void *)(found->base + old), 0, rounded - old);
  } else {
    memset((void *)(found->base + bytes), 0, old - bytes);
    wane__poison_forbid((void *)(found->base + rounded), old - rounded);
  }
  block->large_bytes = rounded;
  return true;
}

static bool realloc_in_place(const struct wane__found *found, size_t bytes) {
  unsigned class = wane__head_class(found->head);
  if (class == WANE__CLASS_LARGE) {
    return realloc_large_in_place(found, bytes);
  }
  size_t usable = wane__found_limit(found);
  size_t slot = bytes;
  if (wane__head_kind(found->head) == WANE__KIND_TYPED) {
    slot += sizeof(struct wane_type *);
  }
  if (slot > WANE__SMALL_BYTES_MAX || wane__class_of(slot) != class ||
      bytes > usable) {
    return false;
  }
  /* so that growing in place later finds zeros */
  memset((void *)(found->base + bytes), 0, usable - bytes);
  return true;
}

static void *realloc_move(const struct wane__found *found, size_t bytes) {
  void *copy;
  enum wane__kind kind = wane__head_kind(found->head);
  if (kind == WANE__KIND_TYPED) {
    const struct wane_type *type = wane__found_type(found);
    copy = wane__typed_alloc(type, type->size == 0 ? 0 : bytes / type->size);
  } else {
    copy = kind == WANE__KIND_LEAF ? wane_alloc_leaf(bytes) : wane_alloc(bytes);
  }
  if (copy != NULL) {
    size_t usable = wane__found_limit(found);
    memcpy(copy, (void *)found->base, usable < bytes ? usable : bytes);
  }
  return copy;
}

WANE_PUBLIC void *wane_realloc(void *ptr, size_t size) {
  if (ptr == NULL) {
    return wane_alloc(size);
  }
  struct wane__found found;
  if (!object_find_guarded(ptr, &found) || found.base != (uintptr_t)ptr) {
    wane__fatal("wane_realloc", "%p is not the start of a live object", ptr);
  }
  size_t bytes = size;
  if (wane__head_kind(found.head) == WANE__KIND_TYPED) {
    size_t element = wane__found_type(&found)->size;
    if (wane__found_type(&found)->name == wane__type_of_library) {
      wane__fatal("wane_realloc", "%p is an ephemeron", ptr);
    }
    size_t rest = element == 0 ? 0 : size % element;
    bytes = rest == 0 ? size : size + (element - rest);
    if (bytes < size) {
      errno = ENOMEM;
      return NULL;
    }
  }
  return realloc_in_place(&found, bytes) ? ptr : realloc_move(&found, bytes);
}
