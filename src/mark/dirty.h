/*
 * Which pages of the heap were written: what lets marking run beside the
 * program without a write barrier.
 *
 * Memory that may hold pointers is armed before marking begins: from then on
 * the kernel notes each page at its first write. A fetch hands out the pages
 * noted since, and arms them again in the same step, so that no write is in
 * between. What a marker reads of an armed page is what it will find there
 * later, unless the page is handed out by a later fetch.
 *
 * Backend: userfaultfd with asynchronous write protection (Linux 6.7) and
 * PAGEMAP_SCAN. No fault is delivered to anybody: the kernel lets the write
 * happen and drops the page's mark. Needs no privilege (UFFD_USER_MODE_ONLY).
 * Where it cannot be had there is none, and marking happens in the stop.
 *
 * Pages that were never armed, because the memory came later, count as written
 * as soon as there is something in them.
 */
#ifndef WANE_MARK_DIRTY_H
#define WANE_MARK_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Is there a way to know? Asked once. Cycle lock held, as for all below. */
bool wane__dirty_is_available(void);
/* Its name: "uffd", "none". Any thread. */
const char *wane__dirty_backend(void);

/* Arms memory that may hold pointers, as far as it is in use. False: the system
   says no; mark in the stop. */
bool wane__dirty_arm(void);

/* Calls visit for each stretch of pages written since it was armed or fetched
   last, arms it again. Returns how many pages there were; SIZE_MAX: the system
   says no. */
typedef void wane__dirty_visit(void *ctx, uintptr_t start, uintptr_t end);
size_t wane__dirty_fetch(wane__dirty_visit *visit, void *ctx);

/* In the child of fork nothing is armed. */
void wane__dirty_fork_child(void);

#endif
