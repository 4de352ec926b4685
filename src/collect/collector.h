/*
 * The collector thread: runs the cycles that allocation asks for, so that no
 * thread of the program has to. It exists where marking can happen beside the
 * program, from the first cycle on, which the thread that needed it runs
 * itself. In the child of fork there is none until the child's first cycle. It
 * is not attached: it is never stopped, and no root is on its stack.
 *
 * An ask is a word with the reason, which the collector takes by an exchange
 * before it begins a cycle; while one is there, others are content with it. So
 * one that comes when a cycle is about to end is not lost, and one that comes
 * for the cycle that is under way finds, when its turn comes, that it is not
 * due any more (cycle_is_due).
 */
#ifndef WANE_COLLECT_COLLECTOR_H
#define WANE_COLLECT_COLLECTOR_H

#include <stdbool.h>

#include "cycle.h"

/* Makes it, if it is wanted and not there. Cycle lock held. */
void wane__collector_start(void);
/* It is there. Any thread. */
bool wane__collector_is_ready(void);
/* Asks for a cycle for this reason, and does not wait. */
void wane__collector_ask(enum wane__cycle_reason reason);

void wane__collector_fork_child(void);

#endif
