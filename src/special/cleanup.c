/* Registering and stopping cleanups and finalizers; see cleanup.h. */
#include "cleanup.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../../include/wane/lifetime.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../heap/context.h"
#include "../heap/grey.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "../mark/mark.h"
#include "net.h"
#include "queue.h"
#include "runner.h"
#include "site.h"
#include "static.h"

static_assert(sizeof(struct wane__record) == 40,
              "a cleanup costs 48 bytes and its entry in a table");

/* What a registration is to do. */
struct cleanup_request {
  enum wane__record_call call;
  const void *ptr;
  void (*fn)(void *arg);
  void *arg;
  const void *site;
  uint16_t queue;
};

static const char *cleanup_call_name(enum wane__record_call call) {
  static const char *const names[] = {
      [WANE__CALL_ADD_CLEANUP] = "wane_add_cleanup",
      [WANE__CALL_ADD_CLEANUP_COPY] = "wane_add_cleanup_copy",
      [WANE__CALL_ADD_CLEANUP_ON] = "wane_add_cleanup_on",
      [WANE__CALL_ADD_SAFETY_NET] = "wane_add_safety_net",
      [WANE__CALL_ADOPT] = "wane_adopt",
      [WANE__CALL_MAP] = "wane_map_bytes",
      [WANE__CALL_SET_FINALIZER] = "wane_set_finalizer",
      [WANE__CALL_SET_FINALIZER_ON] = "wane_set_finalizer_on",
  };
  return names[call];
}

const char *wane__record_call_name(const struct wane__record *record) {
  return cleanup_call_name((enum wane__record_call)record->call);
}

/* Takes a record, with its stripe held, and fills it in. 0 with ENOMEM. */
WANE_INLINE uint32_t cleanup_new_locked(const struct cleanup_request *r,
                                        uintptr_t base,
                                        struct wane__stripe *stripe,
                                        enum wane__sort sort) {
  struct wane__pool *pool = &wane__pools[sort];
  uint32_t index = wane__pool_take(pool, &stripe->supplies[sort]);
  if (index == 0) {
    return 0;
  }
  struct wane__record *record = wane__record_at(sort, index);
  WANE_CHECK(wane__pool_arg(pool, index) == 0,
             "INV-record-2: a free record keeps nothing alive");
  wane__store_relaxed(&record->base, base);
  record->fn = r->fn;
  record->site = r->site;
  record->queue = r->queue;
  record->call = (uint8_t)r->call;
  /* pairs with the acquire in cleanup_stop_guarded: who sees it sees the
     generation */
  wane__store_release(&record->state, WANE__RECORD_REGISTERED);
  if (r->queue != 0) {
    wane__queue_use(r->queue);
  }
  wane__store_relaxed(&stripe->registered[sort], stripe->registered[sort] + 1);
  return index;
}

void wane__record_retire(enum wane__sort sort, uint32_t index,
                         struct wane__pool_chain *chain) {
  struct wane__pool *pool = &wane__pools[sort];
  struct wane__record *record = wane__record_at(sort, index);
  wane__store_relaxed(&record->state, WANE__RECORD_FREE);
  wane__pool_set_arg(pool, index, 0); /* preserves INV-record-2 */
  wane__queue_disuse(record->queue);
  wane__pool_retire(pool, index, chain);
}

/* A registered record that has just been taken out of its group: it was
   stopped or cleared. Stripe held. */
static void cleanup_removed_locked(struct wane__stripe *stripe,
                                   enum wane__sort sort, uint32_t index,
                                   struct wane__pool_chain *chain) {
  WANE_ASSERT(wane__record_at(sort, index)->state == WANE__RECORD_REGISTERED,
              "INV-record-1: a record in a table is registered");
  wane__record_retire(sort, index, chain);
  wane__store_relaxed(&stripe->stopped[sort], stripe->stopped[sort] + 1);
}

/* ---- Cleanups ---- */

/* Fatal if the argument, or a word of the bytes copied for it, points into
   the object: it would never die. */
static void cleanup_check_arg(const struct cleanup_request *r,
                              const struct wane__found *object,
                              const void *args, size_t size) {
  size_t limit = wane__found_limit(object);
  if ((uintptr_t)r->arg - object->base < limit) {
    wane__fatal(cleanup_call_name(r->call),
                "arg %p points into the object at %p: the cleanup would never "
                "run",
                r->arg, (void *)object->base);
  }
  for (size_t at = 0; at + sizeof(uintptr_t) <= size; at += sizeof(uintptr_t)) {
    uintptr_t word;
    memcpy(&word, (const char *)args + at, sizeof word);
    if (word - object->base < limit) {
      wane__fatal(cleanup_call_name(r->call),
                  "the word at %zu of args points into the object at %p: the "
                  "cleanup would never run",
                  at, (void *)object->base);
    }
  }
}

static struct wane__context *cleanup_enter(enum wane__record_call call,
                                           const void *ptr, bool has_fn) {
  const char *name = cleanup_call_name(call);
  if (ptr == NULL) {
    wane__fatal(name, "ptr is NULL");
  }
  if (!has_fn) {
    wane__fatal(name, "fn is NULL");
  }
  return wane__attach();
}

/* What follows a registration: threads to run callbacks, once, and slowing
   down. Leaves errno alone. */
static void cleanup_entered(enum wane__sort sort) {
  if (WANE_UNLIKELY(!wane__load_relaxed(&wane__runners_ready[sort]))) {
    int saved = errno;
    wane__runners_start(sort);
    wane__hooks.watch();
    errno = saved;
  }
  wane__runners_throttle();
}

/* Guarded. The zero handle: no memory, and nothing is changed. */
static wane_cleanup cleanup_add_to(const struct cleanup_request *r,
                                   const struct wane__found *object,
                                   struct wane__block *group) {
  wane_cleanup handle = {0};
  struct wane__pool *pool = &wane__pools[WANE__SORT_CLEANUP];
  struct wane__stripe *stripe = wane__stripe_of(group);
  wane__spin_acquire(&stripe->lock);
  uint32_t index = wane__group_reserve_locked(group)
                       ? cleanup_new_locked(r, wane__found_slot(object), stripe,
                                            WANE__SORT_CLEANUP)
                       : 0;
  if (index != 0) {
    wane__pool_set_arg(pool, index, (uintptr_t)r->arg);
    wane__group_insert_locked(group, WANE__SORT_CLEANUP, index, index);
    handle.id = wane__pool_handle(wane__pool_at(pool, index), index);
  }
  wane__spin_release(&stripe->lock);
  return handle;
}

/* Registers; args and size are what arg is a copy of, or NULL and 0. */
static wane_cleanup cleanup_add(const struct cleanup_request *r,
                                struct wane__context *self, const void *args,
                                size_t size) {
  wane_cleanup handle = {0};
  struct wane__found object;
  wane__guard_enter(self);
  bool is_object = wane__object_find(r->ptr, &object);
  if (is_object) {
    cleanup_check_arg(r, &object, args, size);
    handle = cleanup_add_to(r, &object, wane__group_of(&object));
  }
  wane__guard_leave(self);
  if (!is_object) {
    wane__static_require(cleanup_call_name(r->call), r->ptr);
  } else if (handle.id != 0) {
    cleanup_entered(WANE__SORT_CLEANUP);
  } else {
    errno = ENOMEM;
  }
  wane_keep_alive(r->ptr);
  wane_keep_alive(r->arg);
  return handle;
}

static wane_cleanup cleanup_no_memory(void) {
  errno = ENOMEM;
  return (wane_cleanup){0};
}

WANE_PUBLIC wane_cleanup wane_add_cleanup(const void *ptr,
                                          void (*fn)(void *arg), void *arg) {
  struct cleanup_request r = {
      .call = WANE__CALL_ADD_CLEANUP,
      .ptr = ptr,
      .fn = fn,
      .arg = arg,
      .site = wane__site_capture(__builtin_return_address(0))};
  struct wane__context *self = cleanup_enter(r.call, ptr, fn != NULL);
  return self != NULL ? cleanup_add(&r, self, NULL, 0) : cleanup_no_memory();
}

wane_cleanup wane__cleanup_add(enum wane__record_call call, const void *ptr,
                               void (*fn)(void *arg), void *arg) {
  struct cleanup_request r = {
      .call = call,
      .ptr = ptr,
      .fn = fn,
      .arg = arg,
      .site = wane__site_capture(__builtin_return_address(0))};
  struct wane__context *self = wane__attach();
  return self != NULL ? cleanup_add(&r, self, NULL, 0) : cleanup_no_memory();
}

WANE_PUBLIC wane_cleanup wane_add_cleanup_on(struct wane_queue *q,
                                             const void *ptr,
                                             void (*fn)(void *arg), void *arg) {
  struct cleanup_request r = {
      .call = WANE__CALL_ADD_CLEANUP_ON,
      .ptr = ptr,
      .fn = fn,
      .arg = arg,
      .site = wane__site_capture(__builtin_return_address(0))};
  r.queue = wane__queue_number(cleanup_call_name(r.call), q);
  struct wane__context *self = cleanup_enter(r.call, ptr, fn != NULL);
  return self != NULL ? cleanup_add(&r, self, NULL, 0) : cleanup_no_memory();
}

WANE_PUBLIC wane_cleanup wane_add_cleanup_copy(const void *ptr,
                                               void (*fn)(void *args),
                                               const void *args, size_t size) {
  struct cleanup_request r = {
      .call = WANE__CALL_ADD_CLEANUP_COPY,
      .ptr = ptr,
      .fn = fn,
      .site = wane__site_capture(__builtin_return_address(0))};
  struct wane__context *self = cleanup_enter(r.call, ptr, fn != NULL);
  if (args == NULL && size != 0) {
    wane__fatal(cleanup_call_name(r.call), "args is NULL");
  }
  r.arg = self != NULL ? wane_alloc(size) : NULL;
  if (r.arg == NULL) {
    return cleanup_no_memory();
  }
  if (size != 0) {
    memcpy(r.arg, args, size);
  }
  return cleanup_add(&r, self, args, size);
}

WANE_PUBLIC wane_cleanup wane_add_safety_net_at(const void *ptr,
                                                void (*fn)(void *arg),
                                                void *arg, const char *file,
                                                int line) {
  struct cleanup_request r = {
      .call = WANE__CALL_ADD_SAFETY_NET, .ptr = ptr, .fn = fn, .arg = arg};
  struct wane__context *self = cleanup_enter(r.call, ptr, fn != NULL);
  if (file == NULL) {
    wane__fatal(cleanup_call_name(r.call), "file is NULL");
  }
  if (self == NULL) {
    return cleanup_no_memory();
  }
  wane__guard_enter(self);
  struct wane__net *net = wane__net_at(file, line);
  wane__guard_leave(self);
  r.site = net;
  wane_cleanup handle =
      net != NULL ? cleanup_add(&r, self, NULL, 0) : cleanup_no_memory();
  if (handle.id != 0) {
    wane__add_relaxed(&net->registered, 1);
  }
  return handle;
}

static bool finalizer_is_set_locked(const struct wane__block *group,
                                    const struct wane__found *object) {
  const uint32_t *place = wane__group_finalizer_locked(group, object);
  return place != NULL && *place != 0;
}

/* Its group, if the object at base is not found dead, or will be brought back
   by a finalizer. Stripe held. */
static struct wane__block *cleanup_group_locked(uintptr_t base) {
  struct wane__found object = wane__block_slot_of(base);
  struct wane__block *group = wane__group_of(&object);
  bool is_dead = !wane__mark_lives(wane__load_relaxed(object.mark));
  return is_dead && !finalizer_is_set_locked(group, &object) ? NULL : group;
}

/* The handle's record can only be looked at under its stripe, which follows
   from the record: read, lock, read again. As long as the generation fits, the
   record is in the life that the handle is of, and its base does not change.
   proofs/cleanup_stop.pml is a model of this. */
static bool cleanup_stop_guarded(uint32_t index, uint32_t generation) {
  struct wane__pool *pool = &wane__pools[WANE__SORT_CLEANUP];
  struct wane__record *record = wane__pool_find(pool, index);
  struct wane__found found;
  if (record == NULL || generation == 0 ||
      wane__load_acquire(&record->head.generation) != generation) {
    return false;
  }
  uintptr_t base = wane__load_relaxed(&record->base);
  if (base - wane__arena.start >= wane__arena.reserved ||
      !wane__block_resolve(base, wane__arena.start, wane__block_map, &found)) {
    return false; /* never registered; or the group is free again: it died */
  }
  struct wane__stripe *stripe = wane__stripe_of(wane__group_of(&found));
  struct wane__pool_chain chain = {0};
  bool stopped = false;
  wane__spin_acquire(&stripe->lock);
  /* The state first: if the record is registered now and of the handle's
     generation afterwards, it is the handle's registration, in this stripe.
     The other way round it might be retired and registered elsewhere in
     between. Pairs with the release in cleanup_new_locked. */
  if (wane__load_acquire(&record->state) == WANE__RECORD_REGISTERED &&
      wane__load_acquire(&record->head.generation) == generation &&
      wane__load_relaxed(&record->base) == base) {
    struct wane__block *group = cleanup_group_locked(base);
    stopped = group != NULL;
    if (stopped) {
      wane__group_remove_locked(group, WANE__SORT_CLEANUP, index, index);
      cleanup_removed_locked(stripe, WANE__SORT_CLEANUP, index, &chain);
    }
  }
  wane__spin_release(&stripe->lock);
  wane__pool_give(pool, &chain);
  return stopped;
}

WANE_PUBLIC bool wane_cleanup_stop(wane_cleanup cleanup) {
  if (cleanup.id == 0) {
    return false;
  }
  struct wane__context *self = wane__attach();
  if (self == NULL) {
    return false; /* nothing was ever registered */
  }
  wane__guard_enter(self);
  bool stopped =
      cleanup_stop_guarded((uint32_t)cleanup.id, (uint32_t)(cleanup.id >> 32));
  wane__guard_leave(self);
  return stopped;
}

/* ---- Finalizers ---- */

/* False: no memory. */
WANE_INLINE bool finalizer_add(const struct cleanup_request *r,
                               const struct wane__found *object,
                               struct wane__block *group) {
  struct wane__stripe *stripe = wane__stripe_of(group);
  wane__spin_acquire(&stripe->lock);
  uint32_t *place = wane__group_finalizer_locked(group, object);
  if (WANE_UNLIKELY(place == NULL) &&
      wane__group_add_finalizable_locked(group)) {
    place = wane__group_finalizer_locked(group, object);
  }
  if (WANE_UNLIKELY(place != NULL && *place != 0)) {
    wane__fatal(cleanup_call_name(r->call),
                "finalizer already set for the object at %p", r->ptr);
  }
  uint32_t index = place == NULL
                       ? 0
                       : cleanup_new_locked(r, wane__found_slot(object), stripe,
                                            WANE__SORT_FINALIZER);
  if (index != 0) {
    *place = index;
    group->specials->finalizable->count++;
    if (wane__is_marking()) {
      wane__grey_add(WANE__GREY_FIELDS, wane__found_slot(object));
    }
  }
  wane__spin_release(&stripe->lock);
  return index != 0;
}

static void finalizer_clear(const struct wane__found *object,
                            struct wane__block *group) {
  struct wane__stripe *stripe = wane__stripe_of(group);
  struct wane__pool_chain chain = {0};
  wane__spin_acquire(&stripe->lock);
  uint32_t *place = wane__group_finalizer_locked(group, object);
  if (place != NULL && *place != 0) {
    cleanup_removed_locked(stripe, WANE__SORT_FINALIZER, *place, &chain);
    *place = 0;
    group->specials->finalizable->count--;
    if (wane__is_marking()) {
      /* its fields were marked, and an ephemeron may wait, which it may do only
         if it lives (INV-ephemeron-2): from now on it is like any other */
      wane__grey_add(WANE__GREY_OBJECT, wane__found_slot(object));
    }
  }
  wane__spin_release(&stripe->lock);
  wane__pool_give(&wane__pools[WANE__SORT_FINALIZER], &chain);
}

WANE_INLINE void finalizer_set(const struct cleanup_request *r) {
  struct wane__context *self = cleanup_enter(r->call, r->ptr, true);
  struct wane__found object;
  if (self == NULL) {
    errno = ENOMEM;
    return;
  }
  bool ok = true;
  wane__guard_enter(self);
  bool is_object = wane__object_find(r->ptr, &object);
  if (is_object && object.base != (uintptr_t)r->ptr) {
    wane__fatal(cleanup_call_name(r->call),
                "%p is not the start of its object, which is %p", r->ptr,
                (void *)object.base);
  }
  if (is_object && r->fn != NULL) {
    ok = finalizer_add(r, &object, wane__group_of(&object));
  } else if (is_object) {
    finalizer_clear(&object, wane__group_of(&object));
  }
  wane__guard_leave(self);
  if (!is_object) {
    wane__static_require(cleanup_call_name(r->call), r->ptr);
  } else if (!ok) {
    errno = ENOMEM;
  } else if (r->fn != NULL) {
    cleanup_entered(WANE__SORT_FINALIZER);
  }
  wane_keep_alive(r->ptr);
}

WANE_PUBLIC void wane_set_finalizer(void *obj, void (*fn)(void *obj)) {
  struct cleanup_request r = {
      .call = WANE__CALL_SET_FINALIZER,
      .ptr = obj,
      .fn = fn,
      .site = wane__site_capture(__builtin_return_address(0))};
  finalizer_set(&r);
}

WANE_PUBLIC void wane_set_finalizer_on(struct wane_queue *q, void *obj,
                                       void (*fn)(void *obj)) {
  struct cleanup_request r = {
      .call = WANE__CALL_SET_FINALIZER_ON,
      .ptr = obj,
      .fn = fn,
      .site = wane__site_capture(__builtin_return_address(0))};
  r.queue = wane__queue_number(cleanup_call_name(r.call), q);
  finalizer_set(&r);
}

/* ---- What they keep alive ---- */

void wane__records_visit_roots(void (*visit)(void *ctx, uintptr_t start,
                                             uintptr_t end, bool is_copy),
                               void *ctx) {
  wane__pool_visit_args(&wane__pools[WANE__SORT_CLEANUP], visit, ctx);
  wane__pool_visit_args(&wane__pools[WANE__SORT_FINALIZER], visit, ctx);
}

void wane__records_tidy_stw(uint32_t chunks) {
  wane__pool_tidy_args_stw(&wane__pools[WANE__SORT_CLEANUP], chunks);
  wane__pool_tidy_args_stw(&wane__pools[WANE__SORT_FINALIZER], chunks);
}

static void finalizer_mark(void *any, const struct wane__found *object,
                           uint32_t index) {
  (void)index;
  wane__mark_add_fields(object);
  *(bool *)any = true;
}

bool wane__finalizers_mark(void) {
  bool any = false;
  wane__group_each_finalizable(true, finalizer_mark, &any);
  return any;
}

/* The places of the group's finalizers, if it has any. While marking they stay:
   only a sweep drops them. */
static const struct wane__finalizable *
finalizable_of(const struct wane__block *group) {
  const struct wane__finalizable *found = NULL;
  if (wane__load_relaxed(&group->specials) != NULL) {
    struct wane__stripe *stripe = wane__stripe_of(group);
    wane__spin_acquire(&stripe->lock);
    found = group->specials != NULL ? group->specials->finalizable : NULL;
    wane__spin_release(&stripe->lock);
  }
  return found;
}

void wane__finalizers_mark_again(uintptr_t start, uintptr_t end) {
  while (start < end) {
    const struct wane__block *block = wane__block_at(start);
    uintptr_t next = (start | (WANE__BLOCK_BYTES - 1)) + 1;
    uint64_t head =
        wane__load_acquire(&wane__block_map[wane__block_idx(block)].head);
    next = next < end ? next : end;
    const struct wane__finalizable *f =
        head != 0 ? finalizable_of(wane__block_at(wane__head_start(head)))
                  : NULL;
    if (f != NULL) {
      bool any = false;
      wane__group_visit_finalizable_in(f, start, next, finalizer_mark, &any);
    }
    start = next;
  }
}
