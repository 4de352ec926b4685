/*
 * Where a record was registered: the code address after the call; in a library
 * built with WANE_BACKTRACE, and with check=cleanups, the addresses of up to
 * eight calls, for the report (collect/check.h).
 *
 * Equal backtraces are kept once, for ever, so the memory is that of the
 * places that register and not of the registrations. They are added to chains
 * with compare-and-swap: no lock, nothing to do around fork. If there is no
 * memory, the address alone is kept.
 */
#ifndef WANE_SPECIAL_SITE_H
#define WANE_SPECIAL_SITE_H

#include <stddef.h>

#define WANE__SITE_FRAMES 8

struct wane__site {
  struct wane__site *next; /* const once it is in a chain */
  size_t count;
  const void *frames[WANE__SITE_FRAMES]; /* innermost first */
};

#if defined(WANE_BACKTRACE)
/* What to note as the site of a call that returns to address. Attaches; not
   guarded. */
const void *wane__site_capture(const void *address);
/* The backtrace behind a site; NULL: it is a code address. */
const struct wane__site *wane__site_find(const void *site);
#else
static inline const void *wane__site_capture(const void *address) {
  return address;
}
static inline const struct wane__site *wane__site_find(const void *site) {
  (void)site;
  return NULL;
}
#endif

#endif
