/*
 * Weak handles: numbers that lead to an object as long as it lives.
 *
 * A slot is {generation, pointer}; the pointer is invisible to marking, as all
 * of the collector's own memory is. Equal pointers into one object's life
 * share a slot, found by the table of the object's group, and so equal
 * handles. At the object's death the slot is cleared and its generation
 * raised: that handle is dead for ever, the slot is used again.
 *
 * A read takes no lock (Note [weak read]):
 *
 *   guard;
 *   1  generation is the handle's, else NULL          (acquire)
 *   2  pointer, NULL if 0                             (acquire)
 *   3  the mark byte of the pointer's slot has the current colour, else NULL
 *   4  generation is still the handle's, else NULL    (after a fence)
 *   leave the guard with the pointer in a register.
 *
 * Why what it returns is the object that the handle was made for, found
 * dead by no finished cycle, and stays alive while it is held:
 *
 * - Guarded, the world is not stopped: no flip, no end of marking. A stop after
 *   the guard finds the pointer in the reader's registers or stack, so the
 *   object is a root from then on, in the last stop of a marking under way,
 *   too.
 * - Marking. While it runs beside the program, nothing is found dead: a byte of
 *   either colour is of an object that lives, as all that died before has been
 *   swept. After it, a byte of the current colour is a live object, of the
 * other a dead one. So an object found dead is never returned, swept or not
 * (W4, W9): by step 3. (What is returned while marking is noted,
 * wane__grey_hint, so that the last stop need not mark what hangs on it.)
 * - Sweeping. wane__death_sweep, under the stripe's lock, raises the
 *   generation of each slot whose object is dead (release), and passes a
 *   release fence before any mark byte of the group changes. What is
 *   allocated there later gets the current colour after that. So if step 3
 *   reads a colour that belongs to a new object at the old address, the
 *   fence between 3 and 4 makes step 4 see the raised generation: NULL.
 * - Finalizers. An object brought back gets the current colour too, after its
 *   slots were cleared by the same order: W5.
 * - Slot reuse. A maker stores another pointer (release) only after the
 *   generation was raised. If step 2 reads it, step 4 sees that: NULL.
 *   Generations never repeat: a slot is retired before it wraps (D7).
 * - Memory reuse. A slot's memory stays a slot for ever (pool.h); the target's
 *   memory is never touched, only its mark byte, by way of the block map. The
 *   target's group may be freed and its blocks become another's meanwhile.
 *   Between two flips that happens at most once to a block: what is made in
 *   it has the current colour, and cannot be swept before the next flip, which
 *   the guard holds off. So a map entry whose head is the same before and
 *   after its marks were read is of one group, and the mark byte is in it;
 *   any other means that the object is dead.
 *
 * Adopted pages: the target of step 3 is the stand-in (heap/foreign.h), which
 * is found until it is dead and its slots are cleared.
 *
 * Static data: the pointer lies outside the arena; steps 1, 2, 4. It is cleared
 * when its module is closed (special/static.c).
 *
 * proofs/ has a model of this, checked by spin.
 *
 * INV-weak-1: a slot that is in a table has a pointer and its generation is
 *   that of the handles given out for it.
 */
#ifndef WANE_SPECIAL_WEAK_H
#define WANE_SPECIAL_WEAK_H

#include <stdint.h>

#include "group.h"
#include "pool.h"

struct wane__weak_slot {
  struct wane__pool_head head;
  uintptr_t pointer; /* 0: free. written under the stripe; atomic: release in
                        make and clear, acquire in wane__weak_read */
};

static inline struct wane__weak_slot *wane__weak_slot_at(uint32_t index) {
  return wane__pool_at(&wane__pools[WANE__SORT_WEAK], index);
}

/* Makes all handles of a slot dead and adds it to the chain, which goes back
   to the pool. Stripe held. */
void wane__weak_clear_locked(uint32_t index, struct wane__pool_chain *chain);

#endif
