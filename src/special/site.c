/* Backtraces of registrations; see site.h. */
#include "site.h"

#if defined(WANE_BACKTRACE)

#  include <errno.h>
#  include <execinfo.h>
#  include <stdbool.h>
#  include <stdint.h>
#  include <string.h>

#  include "../base/atomic.h"
#  include "../base/meta.h"
#  include "../base/options.h"
#  include "../heap/context.h"
#  include "../heap/hooks.h"

#  define SITE_BUCKETS 256u
/* Frames of the library itself that may come before the caller's. */
#  define SITE_INNER 8

/* Chains; they grow at their heads. Release in site_intern, acquire. */
static struct wane__site *site_buckets[SITE_BUCKETS];

static struct wane__site **site_bucket(const struct wane__site *site) {
  uint64_t hash = site->count;
  for (size_t i = 0; i < site->count; i++) {
    hash = (hash ^ (uintptr_t)site->frames[i]) * 0x9e3779b97f4a7c15ull;
  }
  return &site_buckets[(hash >> 56) % SITE_BUCKETS];
}

/* Two threads may add the same at once, which does no harm. Guarded, for the
   sake of the lock behind wane__meta_alloc. */
static const struct wane__site *site_intern(const struct wane__site *site) {
  struct wane__site **bucket = site_bucket(site);
  struct wane__site *first = wane__load_acquire(bucket);
  for (struct wane__site *s = first; s != NULL; s = s->next) {
    if (s->count == site->count &&
        memcmp(s->frames, site->frames, site->count * sizeof site->frames[0]) ==
            0) {
      return s;
    }
  }
  struct wane__site *added = wane__meta_alloc(sizeof *added);
  if (added == NULL) {
    return NULL;
  }
  *added = *site;
  do { /* pairs with the acquires */
    added->next = first;
  } while (!__atomic_compare_exchange_n(bucket, &first, added, false,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED));
  return added;
}

const void *wane__site_capture(const void *address) {
  struct wane__context *self = wane__hooks.attach();
  if (self == NULL || wane__options.check == 0) {
    return address;
  }
  int saved = errno;
  void *all[SITE_INNER + WANE__SITE_FRAMES];
  int count = backtrace(all, SITE_INNER + WANE__SITE_FRAMES);
  int first = 0;
  while (first < count && all[first] != address) {
    first++;
  }
  struct wane__site site = {.count = 1, .frames = {address}};
  for (int i = first + 1; i < count && site.count < WANE__SITE_FRAMES; i++) {
    site.frames[site.count++] = all[i];
  }
  wane__guard_enter(self);
  const struct wane__site *kept = site_intern(&site);
  wane__guard_leave(self);
  errno = saved;
  return kept != NULL ? (const void *)kept : address;
}

const struct wane__site *wane__site_find(const void *site) {
  for (unsigned i = 0; i < SITE_BUCKETS; i++) {
    const struct wane__site *s = wane__load_acquire(&site_buckets[i]);
    while (s != NULL && s != site) {
      s = s->next;
    }
    if (s != NULL) {
      return s;
    }
  }
  return NULL;
}

#endif
