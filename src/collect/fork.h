/*
 * fork in a program with threads.
 *
 * Before: the cycle lock, the registry's lock, and the locks of roots, extents
 * and records are taken, so no cycle is under way and none of these is half
 * changed. That is all: fork costs a few uncontended locks, and a child that
 * goes on to exec pays nothing more.
 *
 * In the child only the forking thread is left. Others may have been in the
 * middle of sweeping, or of taking blocks, with other locks held; whatever
 * they had taken off a list would be lost. So the child looks like a thread
 * that is not attached, and when its first slow path attaches it again, all
 * lists are rebuilt from the blocks' states (wane__fork_settle). The records
 * of the vanished threads, the marker threads and the background thread are
 * forgotten.
 *
 * A slot that a vanished thread was about to hand out stays coloured, and is
 * free after the child's next cycle.
 */
#ifndef WANE_COLLECT_FORK_H
#define WANE_COLLECT_FORK_H

#include <stdbool.h>
#include <stdint.h>

/* How many forks lead from the first process to this one: what notes it can
   tell later whether the threads of that time are still there. */
extern uint32_t wane__fork_count;

/* Registers the handlers with pthread_atfork. */
bool wane__fork_init(void);

/* In a child that has not done so yet: rebuilds the heap's lists, and makes
   the forking thread attached again. Called while it is the only thread. True
   if it did, and threads for callbacks may be wanted. */
bool wane__fork_settle(void);

#endif
