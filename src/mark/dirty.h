/*
 * Which pages were written: what lets marking run beside the program without
 * a write barrier.
 *
 * A cycle begins the tracker, then fetches all memory that may hold pointers:
 * from then on the kernel notes each page at its first write. A later fetch
 * hands out the pages noted since, and arms them again, so that no write is
 * between. What a marker reads of an armed page is what it will find there
 * later, unless the page is handed out by a later fetch. The first fetch hands
 * out all pages but those that were armed before and not written since. They
 * need a look only if something is marked already: by a first stop that had no
 * room for what it found, or by a cycle that was left (collect/beside.h).
 *
 * Backends (docs/design/concurrent-marking.md has the argument of each):
 * - uffd: userfaultfd with asynchronous write protection (Linux 6.7) and
 *   PAGEMAP_SCAN. No fault is delivered to anybody: the kernel lets the write
 *   happen and drops the page's mark. Needs no privilege.
 * - softdirty: the soft-dirty bits of /proc/self/pagemap, for kernels that have
 *   them. These cannot be fetched and armed in one step, so they are armed once
 *   in a cycle, and the last fetch hands out all that was written since.
 * - none: marking happens in one stop.
 * What is used is found out at the start, unless WANE_OPTIONS=dirty=NAME says
 * so. A backend that fails later is given up for good, and the cycle under
 * way marks all of the heap once more in its last stop.
 */
#ifndef WANE_MARK_DIRTY_H
#define WANE_MARK_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Is there a way to know? Cycle lock held, as for all below, or before anybody
   else can. */
bool wane__dirty_is_available(void);
/* Its name: "uffd", "softdirty"; or "none", also if it was given up. Any
   thread. */
const char *wane__dirty_backend(void);

/* A cycle begins. False: the system says no; mark in the stop. */
bool wane__dirty_begin(void);

/* Calls visit for each stretch of pages of the heap that were written since
   they were armed, and arms them, but in the last fetch of a cycle.
   Returns how many pages there were; SIZE_MAX: the system says no. */
enum wane__dirty_fetch {
  WANE__DIRTY_FIRST, /* after which scanning begins */
  WANE__DIRTY_ROUND,
  WANE__DIRTY_STOPPED, /* STW: the last, or marking goes on all the same */
  WANE__DIRTY_LAST,    /* STW */
};
typedef void wane__dirty_visit(void *ctx, uintptr_t start, uintptr_t end);
size_t wane__dirty_fetch(enum wane__dirty_fetch which, wane__dirty_visit *visit,
                         void *ctx);

/* The same for whole pages outside the heap, which must be watched in this
   cycle before; adds to pages. False: they cannot be tracked, or are others
   than those that were watched. */
bool wane__dirty_watch(uintptr_t start, uintptr_t end);
bool wane__dirty_fetch_range(enum wane__dirty_fetch which, uintptr_t start,
                             uintptr_t end, wane__dirty_visit *visit, void *ctx,
                             size_t *pages);

/* The cycle has ended. What is still armed would cost its first writer a fault
   for nothing: it is let go, beside the program, if that is cheaper. */
void wane__dirty_end(void);

/* While marking: most of this memory is about to be written. Its pages count as
   written from now on; for all of a group together that takes less than the
   faults would. Any thread, guarded. */
void wane__dirty_will_write(uintptr_t start, uintptr_t end);

/* Whether what a fetch in a stop hands out is less if marking goes on. */
bool wane__dirty_may_retry(void);

/* In the child of fork nothing is armed, and what is open is the parent's. When
   the child settles, alone. */
void wane__dirty_fork_child(void);

/* ---- For the backends ---- */

struct wane__dirty_ops {
  const char *name;
  bool is_cumulative; /* the last fetch hands out all of the cycle */
  /* False with errno. close: whatever is open of it. */
  bool (*open)(void);
  void (*close)(void);
  bool (*begin)(void);
  bool (*watch)(uintptr_t start, uintptr_t end);
  /* Lets go of what is armed there; may be NULL. */
  void (*disarm)(uintptr_t start, uintptr_t end);
  bool (*fetch)(enum wane__dirty_fetch which, uintptr_t start, uintptr_t end,
                wane__dirty_visit *visit, void *ctx, size_t *pages);
};
extern const struct wane__dirty_ops wane__dirty_uffd;
extern const struct wane__dirty_ops wane__dirty_soft;

#endif
