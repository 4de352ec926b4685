/* A second marking to check the first; see verify.h. */
#include "verify.h"

#include <string.h>

#include "../../include/wane/heap.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../base/poison.h"
#include "../heap/block.h"
#include "../heap/foreign.h"
#include "../mark/ephemeron.h"
#include "../mutator/root.h"
#include "../mutator/thread.h"
#include "../special/cleanup.h"
#include "../special/group.h"

static struct {
  uint8_t *bits;    /* one for each granule of the arena; reserved once */
  uintptr_t *stack; /* objects seen and not scanned; at most one each */
  size_t depth;
  size_t ready_bytes;  /* of the arena, for which both are committed */
  uintptr_t own_stack; /* the collecting thread's stack pointer, or 0 */
  bool gave_up;
} verify;

/* Memory for the arena as it is now; false: verification is off, and said. */
static bool verify_prepare(void) {
  if (verify.bits == NULL && !verify.gave_up) {
    size_t reserved = wane__arena.reserved;
    verify.bits = wane__os_reserve(reserved / 128, 65536);
    verify.stack = wane__os_reserve(reserved / 2, 65536);
  }
  size_t bytes = wane__arena.committed;
  if (verify.bits != NULL && verify.stack != NULL &&
      (bytes <= verify.ready_bytes ||
       (wane__os_commit(verify.bits, (bytes / 128 + 65535) & ~65535ul) &&
        wane__os_commit(verify.stack, (bytes / 2 + 65535) & ~65535ul)))) {
    verify.ready_bytes = bytes;
    memset(verify.bits, 0, bytes / 128);
    return true;
  }
  if (!verify.gave_up) {
    wane__log("verify: no memory for a second marking; it is skipped");
    verify.gave_up = true;
  }
  return false;
}

/* First sight of the object: true. */
static bool verify_set_bit(uintptr_t base) {
  size_t granule = (base - wane__arena.start) / WANE__GRANULE_BYTES;
  uint8_t bit = (uint8_t)(1u << granule % 8);
  bool fresh = (verify.bits[granule / 8] & bit) == 0;
  verify.bits[granule / 8] |= bit;
  return fresh;
}

static void verify_word(uintptr_t word, uintptr_t parent, uintptr_t at) {
  struct wane__found found;
  word = wane__foreign_translate(word);
  if (word - wane__arena.start >= wane__arena.committed ||
      !wane__block_resolve(word, wane__arena.start, wane__block_map, &found) ||
      *found.mark == 0 || word - found.base >= wane__found_limit(&found) ||
      !verify_set_bit(found.base)) {
    return;
  }
  if (*found.mark != wane__arena.colour) {
    wane__internal(
        "INV-mark-1: unmarked object %p (%zu bytes) is pointed to from %p "
        "in %s %p, page %p",
        (void *)found.base, wane__found_bytes(&found), (void *)at,
        parent != 0 ? "object" : "roots at",
        (void *)(parent != 0 ? parent : at), (void *)(at & ~4095ul));
  }
  verify.stack[verify.depth++] = found.base;
}

/* A coroutine may run, and collect, on managed memory. What lies below its
   stack pointer are frames of the collector, which have changed since. */
static uintptr_t verify_start(uintptr_t base, size_t bytes) {
  return verify.own_stack - base < bytes ? verify.own_stack & ~(uintptr_t)7
                                         : base;
}

/* Whether a weak word's object is alive, as the first marking has it. */
static bool verify_is_alive(uintptr_t word) {
  struct wane__found found;
  word = wane__foreign_translate(word);
  return word - wane__arena.start >= wane__arena.committed ||
         !wane__block_resolve(word, wane__arena.start, wane__block_map,
                              &found) ||
         *found.mark == 0 || word - found.base >= wane__found_limit(&found) ||
         *found.mark == wane__arena.colour;
}

/* Whether a dead word's slot has the ephemeron on its chain. */
static bool verify_is_on_chain(uintptr_t object, uintptr_t word) {
  struct wane__found found;
  word = wane__foreign_translate(word);
  if (word - wane__arena.start >= wane__arena.committed ||
      !wane__block_resolve(word, wane__arena.start, wane__block_map, &found)) {
    return false;
  }
  const struct wane__block *group = wane__group_of(&found);
  if (group->waiting == NULL) {
    return false;
  }
  uintptr_t at = group->waiting->chains[found.mark - wane__block_marks(group)];
  for (int hops = 0; at > 3 && hops < 1000; hops++) {
    if (at == object) {
      return true;
    }
    at = wane__ephemeron_pair(wane__ephemeron_type_at(at), at)->wait &
         ~WANE__WAIT_CHANGED;
  }
  return at > 3;
}

static void verify_ephemeron(const struct wane_type *any, uintptr_t base) {
  const struct wane__ephemeron_type *type =
      any != NULL ? wane__ephemeron_type_of(any) : NULL;
  if (type == NULL) {
    return;
  }
  const struct wane__pair *pair = wane__ephemeron_pair(type, base);
  verify_word((uintptr_t)type, base, base);
  if (pair->weak == WANE__GONE || pair->held == WANE__GONE) {
    return;
  }
  if (!verify_is_alive(pair->weak) ||
      (type->is_both_weak && !verify_is_alive(pair->held))) {
    if ((pair->wait & ~WANE__WAIT_CHANGED) == 0) {
      wane__internal("INV-ephemeron-1: ephemeron %p with weak word %p does not "
                     "wait for its death",
                     (void *)base, (void *)pair->weak);
    }
    if ((verify_is_alive(pair->weak) ||
         !verify_is_on_chain(base, pair->weak)) &&
        (!type->is_both_weak || verify_is_alive(pair->held) ||
         !verify_is_on_chain(base, pair->held))) {
      wane__internal("ephemeron %p weak %p (%d) held %p (%d) wait %lx is on no "
                     "chain, both %d changes %d",
                     (void *)base, (void *)pair->weak,
                     verify_is_alive(pair->weak), (void *)pair->held,
                     verify_is_alive(pair->held), (unsigned long)pair->wait,
                     type->is_both_weak, type->weak_changes);
    }
  } else if (!type->is_both_weak) {
    verify_word(pair->held, base, (uintptr_t)&pair->held);
  }
}

/* The words of an object; of one that is not marked itself, but has a
   finalizer, without those that point into it. */
static WANE_SCANS_MEMORY void verify_object(uintptr_t base,
                                            bool is_self_known) {
  struct wane__found found = wane__block_slot_of(base);
  size_t bytes = wane__found_bytes(&found);
  uintptr_t end = base + bytes;
  const struct wane_type *type = NULL;
  switch (wane__head_kind(found.head)) {
  case WANE__KIND_SCAN:
    for (uintptr_t at = verify_start(base, bytes); at < end; at += 8) {
      uintptr_t word = *(const uintptr_t *)at;
      if (is_self_known || word - found.base >= bytes) {
        verify_word(word, base, at);
      }
    }
    break;
  case WANE__KIND_TYPED:
    type = wane__found_type(&found);
    for (; type != NULL && type->size != 0 && base + type->size <= end;
         base += type->size) {
      for (size_t i = 0; i < type->pointer_count; i++) {
        uintptr_t at = base + type->pointer_offsets[i];
        uintptr_t word = *(const uintptr_t *)at;
        if (is_self_known || word - found.base >= bytes) {
          verify_word(word, found.base, at);
        }
      }
    }
    verify_ephemeron(type, found.base);
    break;
  default:
    break;
  }
}

static void verify_drain(void) {
  while (verify.depth > 0) {
    verify_object(verify.stack[--verify.depth], true);
  }
}

static void verify_fields(void *unused, const struct wane__found *object,
                          uint32_t index) {
  (void)unused;
  (void)index;
  verify_object(object->base, false);
  verify_drain();
}

static WANE_SCANS_MEMORY void verify_root(void *unused, uintptr_t start,
                                          uintptr_t end, bool is_copy) {
  (void)unused;
  (void)is_copy;
  for (uintptr_t at = start; at < end; at += 8) {
    verify_word(*(const uintptr_t *)at, 0, at);
    verify_drain();
  }
}

void wane__verify_stw(void) {
  if (!verify_prepare()) {
    return;
  }
  verify.own_stack =
      wane__self->attached
          ? ((const struct wane__thread *)wane__self)->stack_pointer
          : 0;
  wane__poison_quiet_begin();
  wane__roots_each_stw(verify_root, NULL);
  wane__records_visit_roots(verify_root, NULL);
  wane__group_each_finalizable(false, verify_fields, NULL);
  wane__poison_quiet_end();
}
