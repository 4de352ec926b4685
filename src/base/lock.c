/* The futex lock of Drepper's "Futexes Are Tricky", mutex 2, with a short
   spin in front: critical sections here last well under a microsecond. */
#include "lock.h"

#include "atomic.h"
#include "attr.h"
#include "check.h"
#include "os.h"

#define LOCK_SPINS 64

#if WANE_CHECK_LEVEL >= 1
/* Bit r: this thread holds a lock of rank r. */
static WANE_TLS uint32_t lock_held_ranks;

void wane__lock_note_acquire(uint32_t rank) {
  WANE_CHECK(lock_held_ranks >> rank == 0,
             "INV-lock-1: locks are taken in the order of their ranks");
  lock_held_ranks |= 1u << rank;
}

void wane__lock_note_release(uint32_t rank) {
  lock_held_ranks &= ~(1u << rank);
}
#endif

static bool lock_grab(struct wane__lock *lock) {
  uint32_t expected = 0;
  /* pairs with the exchange in wane__lock_release */
  return wane__cas_acquire(&lock->word, &expected, 1);
}

void wane__lock_acquire(struct wane__lock *lock) {
  for (int i = 0; i < LOCK_SPINS; i++) {
    if (wane__load_relaxed(&lock->word) == 0 && lock_grab(lock)) {
      wane__lock_note_acquire(lock->rank);
      return;
    }
    wane__cpu_relax();
  }
  /* pairs with the exchange in wane__lock_release */
  while (wane__exchange_acquire(&lock->word, 2) != 0) {
    wane__os_futex_wait(&lock->word, 2, -1);
  }
  wane__lock_note_acquire(lock->rank);
}

void wane__lock_acquire_peer(struct wane__lock *lock) {
  wane__lock_note_release(
      lock->rank); /* as if those before had been released */
  wane__lock_acquire(lock);
}

bool wane__lock_try(struct wane__lock *lock) {
  if (!lock_grab(lock)) {
    return false;
  }
  wane__lock_note_acquire(lock->rank);
  return true;
}

void wane__lock_release(struct wane__lock *lock) {
  wane__lock_note_release(lock->rank);
  /* pairs with the acquires above */
  if (wane__exchange_release(&lock->word, 0) == 2) {
    wane__os_futex_wake(&lock->word, 1);
  }
}

void wane__lock_reset(struct wane__lock *lock) {
  wane__lock_note_release(lock->rank);
  wane__store_relaxed(&lock->word, 0);
}
