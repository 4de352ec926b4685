/*
 * Safety nets: cleanups that should not be needed, counted by the place in the
 * program that registered them. A place is known by its file's name and line;
 * the names are copied, since a module may be closed. Places are never
 * forgotten.
 */
#ifndef WANE_SPECIAL_NET_H
#define WANE_SPECIAL_NET_H

#include <stdint.h>

struct wane__net {
  struct wane__net *next; /* const */
  const char *file;       /* const; a copy */
  int line;               /* const */
  uint64_t registered;    /* relaxed */
  uint64_t needed;        /* relaxed */
  uint64_t traced;        /* of needed, told already. cycle lock */
};

/* The place's entry, made if need be; NULL with ENOMEM. Guarded. */
struct wane__net *wane__net_at(const char *file, int line);
void wane__net_needed(struct wane__net *net);
/* All nets that had to run. */
uint64_t wane__nets_needed(void);
/* For trace=1: a line for each place with new ones. Cycle lock held. */
void wane__nets_trace(void);

void wane__nets_fork_prepare(void);
void wane__nets_fork_parent(void);
void wane__nets_fork_child(void);

#endif
