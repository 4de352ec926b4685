/*
 * A lock for sections of some tens of nanoseconds, taken millions of times a
 * second: its release is a plain store, which on x86-64 makes a pair half as
 * dear as the futex lock's. The price is that nobody is woken: a waiter
 * spins, and soon sleeps for moments at a time, so that a holder which lost
 * its CPU, or has a lower priority, gets on.
 *
 * The rules of base/lock.h hold for it, ranks included (INV-lock-1).
 */
#ifndef WANE_BASE_SPIN_H
#define WANE_BASE_SPIN_H

#include <stdint.h>

#include "atomic.h"
#include "attr.h"
#include "lock.h"

struct wane__spin {
  uint32_t word; /* 0 free, 1 held */
  uint32_t rank; /* const */
};

#define WANE__SPIN_INIT(r)                                                     \
  { 0, (r) }

void wane__spin_wait(struct wane__spin *spin);

static inline void wane__spin_acquire(struct wane__spin *spin) {
  uint32_t expected = 0;
  /* pairs with the release in wane__spin_release */
  if (WANE_UNLIKELY(!wane__cas_acquire(&spin->word, &expected, 1))) {
    wane__spin_wait(spin);
  }
  wane__lock_note_acquire(spin->rank);
}

static inline void wane__spin_release(struct wane__spin *spin) {
  wane__lock_note_release(spin->rank);
  wane__store_release(&spin->word, 0);
}

/* As wane__lock_acquire_peer. */
static inline void wane__spin_acquire_peer(struct wane__spin *spin) {
  wane__lock_note_release(spin->rank); /* as if those before were released */
  wane__spin_acquire(spin);
}

#endif
