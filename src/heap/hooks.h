/*
 * What the heap asks of the layers above it, by name. The one instance is
 * defined where all layers meet (look/start.c) and const, so the hooks are
 * there before any constructor runs.
 */
#ifndef WANE_HEAP_HOOKS_H
#define WANE_HEAP_HOOKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "context.h"

struct wane__block;

struct wane__hooks {
  /* Starts the library if need be and makes the calling thread known. NULL
     with ENOMEM if there is no memory for its record. */
  struct wane__context *(*attach)(void);
  /* The heap has reached what may be allocated without asking, or will with so
     many bytes more: a cycle, unless another thread just ran one; or waiting
     for the one that marks. Not guarded. */
  void (*collect_triggered)(size_t more_bytes);
  /* Marking asks threads to allocate less for a moment. Not guarded. */
  void (*slow)(void);
  /* Marking is under way, and most of this memory is about to be written by the
     calling thread. Guarded. */
  void (*will_write)(uintptr_t start, uintptr_t end);
  /* A full cycle with its sweep, to make room. Not guarded. */
  void (*collect_for_room)(void);
  /* Every Nth allocation in stress mode. Not guarded. */
  void (*collect_for_stress)(void);
  /* Sweeps a group that the caller owns; sets its `live`. */
  void (*sweep)(struct wane__block *block);
  /* Something waits for deaths: cycles must come even if the program rests.
     Not guarded. */
  void (*watch)(void);
  /* In the child of a fork, on the thread that forked, not attached yet. */
  void (*forked)(void);
};

extern const struct wane__hooks wane__hooks;

/* hooks.attach, for calls that are made often. */
static inline struct wane__context *wane__attach(void) {
  struct wane__context *self = wane__self;
  return WANE_LIKELY(self->attached) ? self : wane__hooks.attach();
}

#endif
