/*
 * The values that a cache holds strongly: the last so many by use.
 *
 * Each use of an item that is held writes one word, the time, into the item
 * itself, without a lock, so that hits of many threads do not meet. The items
 * held are a binary heap by the time that was noted when they last moved in
 * it. When one must go, the top is looked at: if its own time is later than
 * noted, it is noted and the item sinks to its place; else no other has been
 * used less recently, and it goes. So the order is exact, and each use costs a
 * sift at most once, when somebody looks.
 *
 * Times are the processor's counter, made strictly increasing in each thread;
 * between threads they are as exact as these counters agree.
 *
 * What is held is a slot of a managed array, so marking sees it.
 */
#ifndef WANE_TABLES_RECENT_H
#define WANE_TABLES_RECENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../special/group.h"

/* Part of something managed that lives as long as its value is held. */
struct wane__recent_item {
  uint64_t used; /* when last. relaxed */
  size_t place;  /* in the heap, from 1; 0: not held. lock; read relaxed */
};

struct wane__recent_slot {
  struct wane__recent_item *item;
  void *value;
  uint64_t noted; /* item->used when it came to this place */
};

struct wane__recent {
  struct wane__stripe *lock;       /* const */
  size_t limit;                    /* const; how many are held at most */
  size_t count;                    /* all lock: lock */
  size_t capacity;                 /* of slots */
  struct wane__recent_slot *slots; /* managed */
};

/* A time later than all that this thread has had. */
uint64_t wane__recent_now(void);

/* Holds an item's value, in exchange for another if there are enough. Without
   memory for it, it is not held; errno is kept. */
void wane__recent_hold(struct wane__recent *recent,
                       struct wane__recent_item *item, void *value);

/* The item has been used. */
static inline void wane__recent_use(struct wane__recent *recent,
                                    struct wane__recent_item *item,
                                    void *value) {
  if (recent->limit == 0) {
    return;
  }
  wane__store_relaxed(&item->used, wane__recent_now());
  if (wane__load_relaxed(&item->place) == 0) {
    wane__recent_hold(recent, item, value);
  }
}

#endif
