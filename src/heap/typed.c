/*
 * Typed objects. A small one has the address of its layout in the last word
 * of its slot, so that groups are shared by all types; a large one has it in
 * its block's record. The layout is read by the marker: it must outlive the
 * objects, which the public header says.
 */
#include <errno.h>

#include "../../include/wane/heap.h"
#include "../base/check.h"
#include "heap.h"
#include "hooks.h"

#define CHECKED_TYPES 8

const char wane__type_of_library[] = "the library's own";

static void typed_check(const struct wane_type *type) {
  static const char name[] = "wane_alloc_typed";
  const char *type_name = type->name != NULL ? type->name : "?";
  if (type->pointer_count == 0) {
    return;
  }
  if (type->pointer_offsets == NULL) {
    wane__fatal(name, "type %s has %zu pointers and no offsets", type_name,
                type->pointer_count);
  }
  if (type->size % sizeof(void *) != 0) {
    wane__fatal(name, "type %s: size %zu is not a multiple of a pointer's",
                type_name, type->size);
  }
  for (size_t i = 0; i < type->pointer_count; i++) {
    size_t offset = type->pointer_offsets[i];
    if (offset % sizeof(void *) != 0 || offset >= type->size) {
      wane__fatal(name, "type %s: offset %zu is unaligned or beyond size %zu",
                  type_name, offset, type->size);
    }
  }
}

/* Checks a type when this thread has not seen it lately. */
static void typed_check_once(const struct wane_type *type) {
  struct wane__context *self = wane__self;
  size_t idx = ((uintptr_t)type >> 4) % CHECKED_TYPES;
  if (self->checked_types[idx] != type) {
    typed_check(type);
    if (self->attached) {
      self->checked_types[idx] = type;
    }
  }
}

size_t wane__typed_bytes(const struct wane_type *type, size_t count) {
  size_t bytes = wane_priv_array_bytes(count, type->size);
  size_t with_type = bytes + sizeof type;
  if (with_type < bytes) {
    return SIZE_MAX;
  }
  return with_type <= WANE__SMALL_BYTES_MAX ? with_type : bytes;
}

void *wane__typed_alloc(const struct wane_type *type, size_t count) {
  size_t bytes = wane__typed_bytes(type, count);
  if (bytes > WANE__SMALL_BYTES_MAX ||
      bytes == wane_priv_array_bytes(count, type->size)) {
    return wane__heap_alloc_large(WANE__KIND_TYPED, bytes, 16, type);
  }
  char *object = wane__heap_alloc_fast(WANE__KIND_TYPED, bytes);
  if (object != NULL) {
    size_t slot = wane__classes[wane__class_of(bytes)].slot_bytes;
    const struct wane_type **last = (const struct wane_type **)(object + slot);
    /* a marker that sees it sees what it says */
    wane__store_release(&last[-1], type);
  }
  return object;
}

WANE_PUBLIC void *wane_alloc_typed(const struct wane_type *type, size_t count) {
  if (type == NULL) {
    wane__fatal("wane_alloc_typed", "type is NULL");
  }
  typed_check_once(type);
  return wane__typed_alloc(type, count);
}
