/* Static data of loaded modules; see static.h. */
#define _GNU_SOURCE
#include "static.h"

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../base/check.h"
#include "../heap/context.h"
#include "../heap/hooks.h"
#include "group.h"
#include "weak.h"

/* Nonzero, which ends the iteration, if the address is the module's data. */
static int static_is_in_module(struct dl_phdr_info *info, size_t size,
                               void *arg) {
  (void)size;
  uintptr_t address = *(const uintptr_t *)arg;
  for (unsigned i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
    if (segment->p_type == PT_LOAD &&
        address - (info->dlpi_addr + segment->p_vaddr) < segment->p_memsz) {
      return (segment->p_flags & PF_X) == 0 ? 1 : 2;
    }
  }
  return 0;
}

static bool static_holds(uintptr_t address) {
  return dl_iterate_phdr(static_is_in_module, &address) == 1;
}

void wane__static_require(const char *function, const void *ptr) {
  if (!static_holds((uintptr_t)ptr)) {
    wane__fatal(function, "%p points into no live object and no static data",
                ptr);
  }
}

/* The next handle to be looked at, from *at on: the pointer is read under the
   lock, the modules are asked without it. */
static uintptr_t static_next(uint32_t *at) {
  struct wane__stripe *stripe = wane__stripe_of(NULL);
  uintptr_t pointer = 0;
  wane__spin_acquire(&stripe->lock);
  if (wane__statics != NULL) {
    uint32_t ref = wane__group_next_locked(wane__statics, at);
    if (ref != 0) {
      pointer = wane__weak_slot_at(wane__ref_index(ref))->pointer;
    }
  }
  wane__spin_release(&stripe->lock);
  return pointer;
}

static void static_forget(uintptr_t pointer) {
  struct wane__stripe *stripe = wane__stripe_of(NULL);
  struct wane__pool_chain chain = {0};
  wane__spin_acquire(&stripe->lock);
  uint32_t index = wane__group_find_locked(NULL, WANE__SORT_WEAK, pointer);
  if (index != 0) {
    wane__group_remove_locked(NULL, WANE__SORT_WEAK, pointer, index);
    wane__weak_clear_locked(index, &chain);
    wane__store_relaxed(&stripe->queued[WANE__SORT_WEAK],
                        stripe->queued[WANE__SORT_WEAK] + 1);
  }
  wane__spin_release(&stripe->lock);
  wane__pool_give(&wane__pools[WANE__SORT_WEAK], &chain);
}

/* The linker's count of modules closed so far. */
static int static_read_closed(struct dl_phdr_info *info, size_t size,
                              void *out) {
  const size_t needed =
      offsetof(struct dl_phdr_info, dlpi_subs) + sizeof info->dlpi_subs;
  *(uint64_t *)out = size >= needed ? info->dlpi_subs : UINT64_MAX;
  return 1;
}

uint64_t wane__static_closed(void) {
  uint64_t closed = 0;
  (void)dl_iterate_phdr(static_read_closed, &closed);
  return closed;
}

/* Handles that come into the table meanwhile are their maker's to check
   (wane_weak_make). A table that was replaced has not been walked in full: it
   is walked again the next time. */
void wane__static_forget_closed(void) {
  static uint64_t dealt_with; /* closed modules. relaxed */
  const struct wane__specials *table = wane__load_relaxed(&wane__statics);
  if (table == NULL) {
    return;
  }
  uint64_t closed = wane__static_closed();
  if (closed != UINT64_MAX && closed == wane__load_relaxed(&dealt_with)) {
    return;
  }
  for (uint32_t at = 0;; at++) {
    struct wane__context *self = wane__guard_enter_any();
    uintptr_t pointer = static_next(&at);
    wane__guard_leave_any(self);
    if (pointer == 0) {
      break;
    }
    if (!static_holds(pointer)) {
      self = wane__guard_enter_any();
      static_forget(pointer);
      wane__guard_leave_any(self);
    }
  }
  if (wane__load_relaxed(&wane__statics) == table) {
    wane__store_relaxed(&dealt_with, closed);
  }
}

static int (*static_find_dlclose(void))(void *) {
  static int (*found)(void *); /* atomic: the same value every time */
  int (*fn)(void *) = wane__load_relaxed(&found);
  if (fn == NULL) {
    void *symbol = dlsym(RTLD_NEXT, "dlclose");
    if (symbol == NULL) {
      wane__fatal("dlclose", "the C library's cannot be found");
    }
    memcpy(&fn, &symbol, sizeof fn);
    wane__store_relaxed(&found, fn);
  }
  return fn;
}

/* Stands in front of the C library's. */
WANE_INTERPOSE int dlclose(void *handle) {
  int result = static_find_dlclose()(handle);
  wane__static_forget_closed();
  return result;
}
