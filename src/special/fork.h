/*
 * fork and the records of lifetimes.
 *
 * Around fork all stripes, queues, pools and places are locked, so that in the
 * child no table is half changed. Registrations, weak handles and finalizers
 * are copied and go on in both processes (SEMANTICS D18). What runs at the
 * fork in another thread is the parent's alone, and so is what waits in
 * queues, unless fork=run. The child drops those when it first calls the
 * library, together with rebuilding its heap (collect/fork); until then it
 * pays a lock each and, for each of the user's queues, an eventfd of its own.
 */
#ifndef WANE_SPECIAL_FORK_H
#define WANE_SPECIAL_FORK_H

void wane__specials_fork_prepare(void);
void wane__specials_fork_parent(void);
void wane__specials_fork_child(void);
/* In the child, as the only thread, before it uses any of this. */
void wane__specials_fork_settle(void);

#endif
