/*
 * check=cleanups: in each cycle, looks for callbacks that can never run, and
 * tells why.
 *
 * A cleanup whose argument reaches the cleanup's own object keeps that object
 * alive for ever, and so itself from running (SEMANTICS A6). A finalizer whose
 * object is reached from its own fields by way of other objects does the same
 * (F4); a pointer of the object straight to itself does not count.
 *
 * How. With the world stopped, after marking: for each registered record
 * whose object lives, a breadth-first search from the argument, or from the
 * object's fields, scans words as marking does, and ends at the object, or
 * when all that can be reached was seen. Links to the object from which each
 * was first seen give the shortest path. Nothing is printed in the stop: what
 * the report needs is copied, and printed by wane__check_report after it.
 *
 * A search that comes to its end without finding the object has seen the whole
 * closure of its argument, which is kept for the next record: if its argument
 * is the same object, the answer is there. So many cleanups that share a table
 * as their argument cost one search.
 *
 * Limits of one cycle: 64 M words looked at (up to half a second) and 50
 * findings. The next cycle goes on with the record where this one stopped; one
 * that takes all the words by itself is given up until its turn comes again.
 * A record is reported once in its life.
 *
 * What it cannot see: records that keep each other's objects alive in a ring
 * (each argument is another's object). And it may speak too soon: of a path
 * that the program is going to cut.
 *
 * Memory: a bit for each granule, and 16 bytes for each object of one search,
 * in address space of its own, which is no root. Without memory it says so,
 * once, and is off.
 */
#ifndef WANE_COLLECT_CHECK_H
#define WANE_COLLECT_CHECK_H

/* Looks. STW, after marking, inside wane__modules_hold. */
void wane__check_stw(void);
/* Prints what was found; with check=cleanups:fail, that is fatal. Cycle lock
   held, the world runs, not guarded. */
void wane__check_report(void);

#endif
