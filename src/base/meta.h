/*
 * Memory for the collector's own records: never in the managed heap, never
 * scanned, never from malloc (whose lock a stopped thread may hold).
 *
 * One range of address space is reserved when the library starts; records are
 * cut from it and stay readable for ever, which lets readers without a lock
 * look at a record that was recycled meanwhile and notice.
 */
#ifndef WANE_BASE_META_H
#define WANE_BASE_META_H

#include <stdbool.h>
#include <stddef.h>

/* Takes over a reserved range; called once. */
void wane__meta_init(void *start, size_t bytes);

/* Zeroed memory aligned to a cache line, or NULL with errno ENOMEM. */
void *wane__meta_alloc(size_t bytes);

/* Makes sure that so many bytes can be had without asking the system. */
bool wane__meta_ensure(size_t bytes);

/* Takes from a list of records of one size, or makes a new one. The list is a
   chain through the first word; records from it are NOT zeroed beyond what
   the user left, but for that first word. NULL with ENOMEM. */
struct wane__meta_list {
  void *first; /* lock: meta */
};
void *wane__meta_take(struct wane__meta_list *list, size_t bytes);
void wane__meta_give(struct wane__meta_list *list, void *record);

/* Address space in the range that the caller commits itself. */
void *wane__meta_reserve(size_t bytes);

/* Around fork: no record is half cut in the child. */
void wane__meta_fork_prepare(void);
void wane__meta_fork_parent(void);
void wane__meta_fork_child(void);

#endif
