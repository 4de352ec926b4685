/* Added roots and pins, and the walk over all roots; see root.h. */
#include "root.h"

#include "../../include/wane/heap.h"
#include "../base/check.h"
#include "../base/lock.h"
#include "../base/os.h"
#include "../base/vector.h"
#include "../heap/grey.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "module.h"
#include "thread.h"

#define ROOT_MAIN_STACK_SURE ((uintptr_t)128 << 20)
#define ROOT_DTV_CAPACITY_MAX (1u << 20)

struct root_pin {
  uintptr_t base; /* of the object; 0: the slot is free */
  size_t count;
};

/* All lock: roots_lock. The collector reads them with the world stopped. */
static struct wane__lock roots_lock = WANE__LOCK_INIT(WANE__RANK_ROOTS);
static struct wane__addresses *root_ranges;
static size_t root_range_count;
static size_t root_range_capacity;
static struct root_pin *root_pins; /* open addressing, linear probing */
static size_t root_pin_slots;      /* a power of two, or 0 */
static size_t root_pin_used;       /* slots that are not free */

/* Pages beside the main thread's thread-locals. */
#define ROOT_SURPLUS_PAGES 4
#define ROOT_PINS_AT_ONCE ((size_t)4096)
/* A page for copies of memory that may not be there. cycle lock */
static uintptr_t *root_copy;

static struct wane__context *roots_enter(const char *function) {
  struct wane__context *self = wane__hooks.attach();
  if (self == NULL) {
    wane__fatal(function, "out of memory for the thread's record");
  }
  wane__guard_enter(self);
  wane__lock_acquire(&roots_lock);
  return self;
}

static void roots_leave(struct wane__context *self) {
  wane__lock_release(&roots_lock);
  wane__guard_leave(self);
}

WANE_PUBLIC void wane_add_root(const void *start, size_t size) {
  static const char name[] = "wane_add_root";
  uintptr_t low = (uintptr_t)start;
  uintptr_t high = low + size;
  if (start == NULL) {
    wane__fatal(name, "start is NULL");
  }
  if (high < low) {
    wane__fatal(name, "%p + %zu bytes wraps around", start, size);
  }
  struct wane__context *self = roots_enter(name);
  if (high > wane__arena.start &&
      low < wane__arena.start + wane__arena.reserved) {
    wane__fatal(name, "%p is memory of the managed heap", start);
  }
  for (size_t i = 0; i < root_range_count; i++) {
    const struct wane__addresses *other = &root_ranges[i];
    if (low == other->start || (low < other->end && other->start < high)) {
      wane__fatal(name, "%p overlaps the root at %p", start,
                  (void *)other->start);
    }
  }
  if (!wane__vector_reserve((void **)&root_ranges, &root_range_capacity,
                            root_range_count, root_range_count + 1,
                            sizeof *root_ranges)) {
    wane__fatal(name, "out of memory for the root's record");
  }
  root_ranges[root_range_count++] = (struct wane__addresses){low, high};
  roots_leave(self);
}

WANE_PUBLIC void wane_remove_root(const void *start) {
  static const char name[] = "wane_remove_root";
  struct wane__context *self = roots_enter(name);
  size_t i = 0;
  while (i < root_range_count && root_ranges[i].start != (uintptr_t)start) {
    i++;
  }
  if (i == root_range_count) {
    wane__fatal(name, "no root starts at %p", start);
  }
  root_ranges[i] = root_ranges[--root_range_count];
  roots_leave(self);
}

static size_t pin_home(uintptr_t base) {
  return ((base >> WANE__GRANULE_LOG2) * 0x9e3779b97f4a7c15ull >> 20) &
         (root_pin_slots - 1);
}

/* The slot of base, or the one where it would go. There is a free one. */
static struct root_pin *pin_find(uintptr_t base) {
  size_t i = pin_home(base);
  while (root_pins[i].base != base && root_pins[i].base != 0) {
    i = (i + 1) & (root_pin_slots - 1);
  }
  return &root_pins[i];
}

/* Frees a slot, and moves up what was put behind it for want of it (Knuth,
   TAOCP 3, 6.4, algorithm R): no marks of former pins are left behind. */
static void pin_remove(struct root_pin *pin) {
  size_t mask = root_pin_slots - 1;
  size_t hole = (size_t)(pin - root_pins);
  for (size_t i = (hole + 1) & mask; root_pins[i].base != 0;
       i = (i + 1) & mask) {
    size_t home = pin_home(root_pins[i].base);
    bool stays = ((i - home) & mask) < ((i - hole) & mask);
    if (!stays) {
      root_pins[hole] = root_pins[i];
      if (wane__is_marking()) { /* to where the walk may have been already */
        wane__grey_add(WANE__GREY_OBJECT, root_pins[i].base);
      }
      hole = i;
    }
  }
  root_pins[hole] = (struct root_pin){0};
  root_pin_used--;
}

/* At most 3/4 of the slots are in use. */
static bool pins_make_room(void) {
  if ((root_pin_used + 1) * 4 <= root_pin_slots * 3) {
    return true;
  }
  size_t old_slots = root_pin_slots;
  struct root_pin *old = root_pins;
  size_t slots = old_slots == 0 ? 64 : old_slots * 2;
  struct root_pin *grown = wane__meta_alloc(slots * sizeof *grown);
  if (grown == NULL) {
    return false;
  }
  root_pins = grown;
  root_pin_slots = slots;
  root_pin_used = 0;
  for (size_t i = 0; i < old_slots; i++) {
    if (old[i].base != 0) {
      *pin_find(old[i].base) = old[i];
      root_pin_used++;
    }
  }
  return true;
}

WANE_PUBLIC void wane_pin(const void *ptr) {
  static const char name[] = "wane_pin";
  struct wane__context *self = roots_enter(name);
  struct wane__found found;
  if (!wane__object_find(ptr, &found)) {
    wane__fatal(name, "%p points into no live object", ptr);
  }
  if (!pins_make_room()) {
    wane__fatal(name, "out of memory for the pin's record");
  }
  struct root_pin *pin = pin_find(found.base);
  root_pin_used += pin->base == 0;
  pin->base = found.base;
  pin->count++;
  if (wane__is_marking()) {
    wane__grey_add(WANE__GREY_OBJECT, (uintptr_t)ptr);
  }
  roots_leave(self);
}

WANE_PUBLIC void wane_unpin(const void *ptr) {
  static const char name[] = "wane_unpin";
  struct wane__context *self = roots_enter(name);
  struct wane__found found;
  if (!wane__object_find(ptr, &found)) {
    wane__fatal(name, "%p points into no live object", ptr);
  }
  struct root_pin *pin = root_pin_slots == 0 ? NULL : pin_find(found.base);
  if (pin == NULL || pin->base != found.base) {
    wane__fatal(name, "%p is not pinned", ptr);
  }
  if (--pin->count == 0) {
    pin_remove(pin);
  }
  roots_leave(self);
}

extern char **environ;
/* The C library's note of where the first stack began. */
extern void *__libc_stack_end __attribute__((weak));

static void root_prepare_main(struct wane__thread *thread) {
  struct wane__os_mapping mapping;
  uintptr_t inside = &__libc_stack_end != NULL ? (uintptr_t)__libc_stack_end
                                               : (uintptr_t)environ;
  thread->stack_high = (inside | (WANE__PAGE_BYTES_MIN - 1)) + 1;
  if (wane__os_find_mapping(inside, &mapping)) {
    thread->stack_high = mapping.end;
  }
}

void wane__roots_prepare(void) {
  if (root_copy == NULL) { /* without memory for it, tried again */
    root_copy = wane__meta_alloc(WANE__PAGE_BYTES_MIN);
  }
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    if (t->is_main && t->stack_high == 0) {
      root_prepare_main(t);
    }
  }
}

void *__asan_addr_is_in_fake_stack(void *fake_stack, void *addr, void **beg,
                                   void **end) __attribute__((weak));

static WANE_SCANS_MEMORY void
root_visit_fake_frames(const struct wane__thread *thread, uintptr_t start,
                       uintptr_t end, wane__root_visit *visit, void *ctx) {
  void *fake = thread->fake_stack;
  if (fake == NULL || __asan_addr_is_in_fake_stack == NULL) {
    return;
  }
  for (uintptr_t at = start; at + 8 <= end; at += 8) {
    void *low;
    void *high;
    if (__asan_addr_is_in_fake_stack(fake, *(void **)at, &low, &high)) {
      visit(ctx, (uintptr_t)low, (uintptr_t)high, false);
    }
  }
}

static void root_visit_stack(const struct wane__thread *thread, uintptr_t start,
                             uintptr_t end, wane__root_visit *visit,
                             void *ctx) {
  visit(ctx, start, end, false);
  root_visit_fake_frames(thread, start, end, visit, ctx);
}

/* A thread that was stopped away from its own stack, on an alternate signal
   stack or in a coroutine: what it runs on, and all of its own stack. */
static void root_visit_away(const struct wane__thread *thread, uintptr_t sp,
                            wane__root_visit *visit, void *ctx) {
  struct wane__os_mapping mapping;
  if (thread->alt_high != 0) {
    root_visit_stack(thread, sp, thread->alt_high, visit, ctx);
  } else if (sp - wane__arena.start < wane__arena.committed) {
    visit(ctx, (uintptr_t)&thread->stack_pointer,
          (uintptr_t)(&thread->stack_pointer + 1), false);
  } else if (wane__os_find_mapping(sp, &mapping)) {
    root_visit_stack(thread, sp, mapping.end, visit, ctx);
  } else {
    wane__internal("the stack of thread %d at %p cannot be found", thread->tid,
                   (void *)sp);
  }
  uintptr_t low = thread->stack_low;
  if (low == 0) {
    low = wane__os_find_mapping(thread->stack_high - 1, &mapping)
              ? mapping.start
              : thread->stack_high;
  }
  root_visit_stack(thread, low, thread->stack_high, visit, ctx);
}

/* The kernel keeps 128 MiB below the end of the main stack free of anything
   else, more only under a limit that was higher when the program began. */
static bool root_is_on_own_stack(const struct wane__thread *thread,
                                 uintptr_t sp) {
  struct wane__os_mapping mapping;
  if (thread->alt_high != 0 || sp >= thread->stack_high) {
    return false;
  }
  if (thread->stack_low != 0) {
    return sp >= thread->stack_low;
  }
  return thread->stack_high - sp < ROOT_MAIN_STACK_SURE ||
         (wane__os_find_mapping(sp, &mapping) &&
          mapping.end == thread->stack_high);
}

/* The dynamic thread vector of glibc: entry 0 counts generations, entry -1
   has the capacity, and entry i module i's block, or -1 until it is touched,
   with the address to free, 0 for a block in static thread-local memory. */
struct root_dtv {
  uintptr_t value;
  uintptr_t to_free;
};

static WANE_SCANS_MEMORY struct root_dtv *
root_dtv_of(const struct wane__thread *thread) {
#if !defined(__GLIBC__)
  (void)thread;
  return NULL;
#elif defined(__x86_64__)
  return ((struct root_dtv **)thread->thread_pointer)[1];
#else
  return ((struct root_dtv **)thread->thread_pointer)[0];
#endif
}

/* While glibc moves a vector, the old one has been freed and is still in use:
   malloc's links stand where the capacity was. */
WANE_SCANS_MEMORY bool wane__roots_are_settled_stw(void) {
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    struct root_dtv *dtv =
        t->state == WANE__THREAD_ATTACHED ? root_dtv_of(t) : NULL;
    if (dtv != NULL && dtv[-1].value > ROOT_DTV_CAPACITY_MAX) {
      return false;
    }
  }
  return true;
}

/* Visits memory of which it is not sure that it is there: by copies. */
static void root_visit_copies(uintptr_t start, uintptr_t end,
                              wane__root_visit *visit, void *ctx) {
  size_t page = WANE__PAGE_BYTES_MIN;
  while (start < end && root_copy != NULL) {
    size_t bytes = page - (start & (page - 1));
    bytes = bytes < end - start ? bytes : end - start;
    size_t copied = wane__os_copy_memory(root_copy, start, bytes);
    if (copied == 0) {
      return;
    }
    visit(ctx, (uintptr_t)root_copy, (uintptr_t)root_copy + copied, true);
    start += bytes;
  }
}

/* One module's block. In static memory it stays as long as the thread. A block
   from malloc may be that of a closed module which had the number before, and
   be shorter, as the vector is brought up to date lazily; or the thread was
   stopped between freeing it and noting that. */
static void root_visit_tls_block(const struct root_dtv *entry, size_t bytes,
                                 wane__root_visit *visit, void *ctx) {
  uintptr_t start = (entry->value + 7) & ~(uintptr_t)7;
  uintptr_t end = (entry->value + bytes) & ~(uintptr_t)7;
  if (start >= end) {
    return;
  }
  if (entry->to_free == 0 || !wane__os_can_copy_memory()) {
    visit(ctx, start, end, false);
  } else {
    root_visit_copies(start, end, visit, ctx);
  }
}

static WANE_SCANS_MEMORY void root_visit_tls(const struct wane__thread *thread,
                                             wane__root_visit *visit,
                                             void *ctx) {
  struct root_dtv *dtv = root_dtv_of(thread);
  for (size_t i = 0; dtv != NULL && i < wane__module_tls_count; i++) {
    const struct wane__module_tls *tls = &wane__module_tls[i];
    if (tls->id > dtv[-1].value) {
      continue;
    }
    uintptr_t block = dtv[tls->id].value;
    if (block != 0 && block != UINTPTR_MAX) {
      root_visit_tls_block(&dtv[tls->id], tls->bytes, visit, ctx);
    }
  }
}

/* A module loaded later may have got thread-locals in static memory, which
   no vector knows. Other threads have that at the end of their stacks. The
   main thread's lies beside its thread pointer, how far is not known: it is
   copied, page by page from there on, as far as there are pages. Only if
   there is such a module: what else is copied keeps garbage alive. */
static WANE_SCANS_MEMORY void
root_visit_surplus(const struct wane__thread *thread, wane__root_visit *visit,
                   void *ctx) {
  const struct root_dtv *dtv = root_dtv_of(thread);
  bool is_needed = false;
  for (size_t i = 0; dtv != NULL && i < wane__module_tls_count; i++) {
    size_t id = wane__module_tls[i].id;
    is_needed = is_needed || id > dtv[-1].value || dtv[id].value + 1 <= 1;
  }
  if (!is_needed || !thread->is_main) {
    return;
  }
  const uintptr_t page = WANE__PAGE_BYTES_MIN;
  uintptr_t at = thread->thread_pointer & ~(page - 1);
  for (unsigned i = 0; i < ROOT_SURPLUS_PAGES; i++) {
    root_visit_copies(at, at + page, visit, ctx);
#if defined(__x86_64__)
    at -= page;
#else
    at += page;
#endif
  }
}

static void root_visit_thread(const struct wane__thread *thread,
                              wane__root_visit *visit, void *ctx) {
  visit(ctx, (uintptr_t)&thread->start_arg, (uintptr_t)(&thread->start_arg + 1),
        false);
  visit(ctx, (uintptr_t)thread->values,
        (uintptr_t)(thread->values + thread->value_count), false);
  visit(ctx, (uintptr_t)thread->results,
        (uintptr_t)(thread->results + thread->result_count), false);
  if (thread->state != WANE__THREAD_ATTACHED) {
    return;
  }
  uintptr_t sp = thread->stack_pointer & ~(uintptr_t)7;
  if (root_is_on_own_stack(thread, sp)) {
    root_visit_stack(thread, sp, thread->stack_high, visit, ctx);
  } else {
    root_visit_away(thread, sp, visit, ctx);
  }
  root_visit_tls(thread, visit, ctx);
  root_visit_surplus(thread, visit, ctx);
}

void wane__roots_of_threads_stw(wane__root_visit *visit, void *ctx) {
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    root_visit_thread(t, visit, ctx);
  }
}

void wane__roots_of_data(wane__root_visit *visit, void *ctx) {
  for (size_t i = 0; i < wane__module_data_count; i++) {
    visit(ctx, wane__module_data[i].start, wane__module_data[i].end, false);
  }
  for (size_t i = 0; i < root_range_count; i++) {
    visit(ctx, (root_ranges[i].start + 7) & ~(uintptr_t)7,
          root_ranges[i].end & ~(uintptr_t)7, false);
  }
}

/* Counts among the addresses point nowhere. */
void wane__roots_of_pins(wane__root_visit *visit, void *ctx) {
  const struct root_pin *seen = NULL;
  size_t next = 0;
  bool more = true;
  while (more) {
    wane__lock_acquire(&roots_lock);
    if (root_pins != seen) { /* the table has grown: once more */
      seen = root_pins;
      next = 0;
    }
    size_t left = root_pin_slots - next;
    size_t count = left < ROOT_PINS_AT_ONCE ? left : ROOT_PINS_AT_ONCE;
    if (count != 0) {
      visit(ctx, (uintptr_t)(root_pins + next),
            (uintptr_t)(root_pins + next + count), true);
    }
    next += count;
    more = next < root_pin_slots;
    wane__lock_release(&roots_lock);
  }
}

void wane__roots_each_stw(wane__root_visit *visit, void *ctx) {
  wane__roots_of_data(visit, ctx);
  wane__roots_of_threads_stw(visit, ctx);
  wane__roots_of_pins(visit, ctx);
}

void wane__roots_lock(void) { wane__lock_acquire(&roots_lock); }
void wane__roots_unlock(void) { wane__lock_release(&roots_lock); }

void wane__roots_fork_prepare(void) { wane__lock_acquire(&roots_lock); }
void wane__roots_fork_parent(void) { wane__lock_release(&roots_lock); }
void wane__roots_fork_child(void) { wane__lock_reset(&roots_lock); }
