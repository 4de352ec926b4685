/* The records of dead objects; see death.h. */
#include "death.h"

#include <string.h>

#include "../base/check.h"
#include "../heap/heap.h"
#include "cleanup.h"
#include "group.h"
#include "queue.h"
#include "weak.h"

/* What one group's sweep hands on. */
struct death_round {
  struct wane__block *group;
  struct wane__stripe *stripe;
  uint64_t revived_bytes;             /* count as allocated */
  bool all_dead;                      /* whatever the mark bytes say */
  enum wane__death_step step;         /* if all are */
  struct wane__pool_chain slots;      /* weak, to be given back */
  struct wane__queue_chain workers;   /* for the library's queues */
  struct wane__queue_chain finalizer; /* the same */
};

/* A pointer to adopted pages leads to no slot, but its group has only one. */
static uint8_t *death_mark(const struct wane__block *group, uintptr_t address) {
  return group->state == WANE__BLOCK_LARGE ? wane__block_marks(group)
                                           : wane__block_slot_of(address).mark;
}

static bool death_is_dead(const struct death_round *round, uintptr_t address) {
  return round->all_dead ||
         wane__load_relaxed(death_mark(round->group, address)) !=
             wane__arena.colour;
}

static void death_count(uint64_t *counter) {
  wane__store_relaxed(counter, *counter + 1);
}

static void death_weak(struct death_round *round, uint32_t index, uint32_t at) {
  if (death_is_dead(round, wane__weak_slot_at(index)->pointer)) {
    wane__group_clear_locked(round->group->specials, at);
    wane__weak_clear_locked(index, &round->slots);
    death_count(&round->stripe->queued[WANE__SORT_WEAK]);
  }
}

/* The record, which has left its group, goes on its queue. */
static void death_queue(struct death_round *round, enum wane__sort sort,
                        uint32_t index) {
  struct wane__record *record = wane__record_at(sort, index);
  uint32_t ref = wane__ref(sort, index);
  WANE_ASSERT(record->state == WANE__RECORD_REGISTERED,
              "INV-record-1: a record in a table is registered");
  wane__store_relaxed(&record->state, WANE__RECORD_QUEUED);
  death_count(&round->stripe->queued[sort]);
  if (record->queue != 0) {
    struct wane__queue_chain one = {0};
    wane__queue_chain_add(&one, ref);
    wane__queue_push(record->queue, sort, &one);
  } else if (sort == WANE__SORT_FINALIZER) {
    wane__queue_chain_add(&round->finalizer, ref);
  } else {
    wane__queue_chain_add(&round->workers, ref);
  }
}

static void death_finalizer(void *ctx, const struct wane__found *object,
                            uint32_t index) {
  struct death_round *round = ctx;
  *wane__group_finalizer_locked(round->group, object) = 0;
  round->group->specials->finalizable->count--;
  if (!round->all_dead) {
    wane__fence_release(); /* its weak slots are cleared before it lives */
    wane__store_relaxed(object->mark, wane__arena.colour);
    round->revived_bytes += round->group->outside == WANE__OUTSIDE_NOT
                                ? wane__found_bytes(object)
                                : 0;
  }
  /* the object is a root from here until its finalizer has returned */
  wane__pool_set_arg(&wane__pools[WANE__SORT_FINALIZER], index,
                     wane__found_object(object));
  death_queue(round, WANE__SORT_FINALIZER, index);
}

static void death_finalizers(struct death_round *round) {
  const struct wane__finalizable *f = round->group->specials->finalizable;
  if (f != NULL && f->count != 0) {
    wane__group_visit_finalizable(f, !round->all_dead, death_finalizer, round);
  }
}

/* In which step of a shutdown a cleanup has its turn. */
static enum wane__death_step death_step_of(const struct wane__record *record) {
  return record->call == WANE__CALL_ADOPT ? WANE__DEATH_RELEASES
         : record->call == WANE__CALL_MAP ? WANE__DEATH_FILES
                                          : WANE__DEATH_CLEANUPS;
}

static void death_cleanup(struct death_round *round, uint32_t index,
                          uint32_t at) {
  const struct wane__record *record =
      wane__record_at(WANE__SORT_CLEANUP, index);
  if (round->all_dead ? death_step_of(record) == round->step
                      : death_is_dead(round, record->base)) {
    wane__group_clear_locked(round->group->specials, at);
    death_queue(round, WANE__SORT_CLEANUP, index);
  }
}

/* One pass over the records of one sort. */
static void death_pass(struct death_round *round, enum wane__sort sort,
                       void (*visit)(struct death_round *round, uint32_t index,
                                     uint32_t at)) {
  struct wane__specials *table = round->group->specials;
  uint32_t left = table->counts[sort];
  uint32_t ref;
  for (uint32_t at = 0;
       left != 0 && (ref = wane__group_next_locked(table, &at)) != 0; at++) {
    if (wane__ref_sort(ref) == sort) {
      left--;
      visit(round, wane__ref_index(ref), at);
    }
  }
}

static void death_publish(struct death_round *round) {
  wane__queue_push(0, WANE__SORT_CLEANUP, &round->workers);
  wane__queue_push(0, WANE__SORT_FINALIZER, &round->finalizer);
}

/* Groups in which nothing died are common: their records need not be looked
   at one by one. */
static bool death_has_any(const struct wane__block *group) {
  const uint8_t *marks = wane__block_marks(group);
  return memchr(marks, 3 - wane__arena.colour, wane__block_slots(group)) !=
         NULL;
}

static void death_process_locked(struct death_round *round) {
  struct wane__specials *table = round->group->specials;
  if (death_has_any(round->group)) {
    death_pass(round, WANE__SORT_WEAK, death_weak);
    death_finalizers(round);
    death_pass(round, WANE__SORT_CLEANUP, death_cleanup);
    death_publish(round);
    if (round->revived_bytes != 0) {
      wane__add_relaxed(&wane__heap_meter.since_flip_bytes,
                        round->revived_bytes);
    }
  }
  table->epoch = wane__arena.epoch;
  WANE_ASSERT(wane__load(&wane__groups_undone) != 0,
              "INV-death-1: groups that are done were counted");
  wane__sub(&wane__groups_undone, 1);
}

void wane__death_sweep_records(struct wane__block *group) {
  struct death_round round = {.group = group, .stripe = wane__stripe_of(group)};
  wane__spin_acquire(&round.stripe->lock);
  if (group->specials != NULL) {
    if (group->specials->epoch != wane__arena.epoch) {
      death_process_locked(&round);
    }
    wane__group_trim_locked(group);
  }
  wane__spin_release(&round.stripe->lock);
  wane__pool_give(&wane__pools[WANE__SORT_WEAK], &round.slots);
  wane__fence_release(); /* pairs with the fence in weak_read */
}

/* One step for the records of a group. */
static void death_of_group(struct wane__block *group,
                           enum wane__death_step step) {
  struct death_round round = {.group = group,
                              .stripe = wane__stripe_of(group),
                              .all_dead = true,
                              .step = step};
  wane__spin_acquire(&round.stripe->lock);
  if (group->specials != NULL) {
    if (step == WANE__DEATH_FINALIZERS) {
      death_finalizers(&round);
    } else if (step == WANE__DEATH_WEAK) {
      death_pass(&round, WANE__SORT_WEAK, death_weak);
    } else {
      death_pass(&round, WANE__SORT_CLEANUP, death_cleanup);
    }
    death_publish(&round);
  }
  wane__spin_release(&round.stripe->lock);
  wane__pool_give(&wane__pools[WANE__SORT_WEAK], &round.slots);
}

void wane__death_of_all(enum wane__death_step step) {
  struct wane__context *self = wane__self;
  size_t blocks = wane__arena.committed >> WANE__BLOCK_LOG2;
  for (size_t i = 0; i < blocks; i++) {
    if (wane__load_relaxed(&wane__blocks[i].specials) != NULL) {
      wane__guard_enter(self);
      death_of_group(&wane__blocks[i], step);
      wane__guard_leave(self);
    }
  }
}
