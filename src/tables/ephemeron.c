/*
 * wane_ephemeron_*: an ephemeron is a pair alone (mark/ephemeron.h), which is
 * written once and read by wane__pair_read.
 */
#include "../../include/wane/ephemeron.h"

#include "../../include/wane/lifetime.h"
#include "../base/check.h"
#include "../heap/hooks.h"
#include "../special/ephemeron.h"

struct wane_ephemeron {
  struct wane__pair pair;
};

static const struct wane__ephemeron_type ephemeron_type = {
    .type = {.name = wane__type_of_library,
             .size = sizeof(struct wane_ephemeron)},
    .ends_at_shutdown = true,
};

WANE_PUBLIC struct wane_ephemeron *wane_ephemeron_new(const void *key,
                                                      void *value) {
  struct wane_ephemeron *e = wane__typed_alloc(&ephemeron_type.type, 1);
  if (e != NULL) {
    wane__store_relaxed(&wane__ephemerons_exist, true);
    /* held first: with the weak word it begins to count */
    wane__store_release(&e->pair.held, (uintptr_t)value);
    wane__store_release(&e->pair.weak, (uintptr_t)key);
  }
  wane_keep_alive(key);
  wane_keep_alive(value);
  return e;
}

static uintptr_t ephemeron_read(const char *name, struct wane_ephemeron *e,
                                bool wants_key) {
  if (e == NULL) {
    wane__fatal(name, "the ephemeron is NULL");
  }
  struct wane__context *self = wane__attach();
  if (self == NULL) {
    wane__fatal(name, "out of memory for the thread's record");
  }
  uintptr_t weak;
  uintptr_t held;
  (void)wane__pair_load(self, &e->pair, false, &weak, &held);
  wane_keep_alive(e);
  return wants_key ? weak : held;
}

WANE_PUBLIC void *wane_ephemeron_key(struct wane_ephemeron *e) {
  return (void *)ephemeron_read("wane_ephemeron_key", e, true);
}

WANE_PUBLIC void *wane_ephemeron_value(struct wane_ephemeron *e) {
  return (void *)ephemeron_read("wane_ephemeron_value", e, false);
}
