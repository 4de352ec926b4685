/* The dirty tracker; see dirty.h. */
#define _GNU_SOURCE
#include "dirty.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/meta.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../heap/block.h"

/* Of <linux/fs.h> and <linux/userfaultfd.h>, which may be older here than the
   kernel that the program meets. */
struct dirty_region {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct dirty_scan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
#define DIRTY_PAGEMAP_SCAN _IOWR('f', 16, struct dirty_scan)
#define DIRTY_SCAN_WP_MATCHING 1u
#define DIRTY_SCAN_CHECK_WPASYNC 2u
#define DIRTY_PAGE_WRITTEN 2u
#define DIRTY_FEATURE_WP_UNPOPULATED ((uint64_t)1 << 13)
#define DIRTY_FEATURE_WP_ASYNC ((uint64_t)1 << 15)
#define DIRTY_USER_MODE_ONLY 1

#define DIRTY_REGIONS 512u

static enum { DIRTY_UNKNOWN, DIRTY_NONE, DIRTY_UFFD } dirty_state; /* relaxed */
static int dirty_uffd = -1;       /* cycle lock, as all below */
static int dirty_pagemap = -1;
static size_t dirty_registered = 1; /* blocks below are, if of the heap */
static bool dirty_is_outside;       /* the space of the last of them */
/* What a scan returns; full of addresses, so in memory that is no root. */
static struct dirty_region *dirty_regions;

static void dirty_close(void) {
  if (dirty_uffd >= 0) {
    wane__os_close(dirty_uffd);
  }
  if (dirty_pagemap >= 0) {
    wane__os_close(dirty_pagemap);
  }
  dirty_uffd = dirty_pagemap = -1;
  dirty_registered = 1;
  dirty_is_outside = false;
}

static bool dirty_open(void) {
  if (wane__os_fault(ENOSYS)) {
    return false;
  }
  dirty_uffd = (int)syscall(SYS_userfaultfd,
                            O_CLOEXEC | O_NONBLOCK | DIRTY_USER_MODE_ONLY);
  struct uffdio_api api = {.api = UFFD_API,
                           .features = DIRTY_FEATURE_WP_ASYNC |
                                       DIRTY_FEATURE_WP_UNPOPULATED};
  dirty_pagemap = wane__os_open("/proc/self/pagemap");
  if (dirty_regions == NULL) {
    dirty_regions = wane__meta_alloc(DIRTY_REGIONS * sizeof *dirty_regions);
  }
  return dirty_uffd >= 0 && dirty_pagemap >= 0 && dirty_regions != NULL &&
         ioctl(dirty_uffd, UFFDIO_API, &api) == 0;
}

bool wane__dirty_is_available(void) {
  if (dirty_state == DIRTY_UNKNOWN) {
    int saved = errno;
    bool ok = wane__options.dirty != 0 && !wane__os_has_tsan() && dirty_open();
    if (!ok) {
      dirty_close();
    }
    wane__store_relaxed(&dirty_state, ok ? DIRTY_UFFD : DIRTY_NONE);
    errno = saved;
  }
  return dirty_state == DIRTY_UFFD;
}

const char *wane__dirty_backend(void) {
  return wane__load_relaxed(&dirty_state) == DIRTY_UFFD ? "uffd" : "none";
}

static void dirty_give_up(void) {
  dirty_close();
  wane__store_relaxed(&dirty_state, DIRTY_NONE);
}

static bool dirty_register(uintptr_t start, uintptr_t end) {
  struct uffdio_register request = {.range = {start, end - start},
                                    .mode = UFFDIO_REGISTER_MODE_WP};
  return start == end ||
         (!wane__os_fault(ENOMEM) &&
          ioctl(dirty_uffd, UFFDIO_REGISTER, &request) == 0);
}

/* What the heap has grown by since. */
static bool dirty_register_new(void) {
  size_t count = wane__load_acquire(&wane__arena.committed) >> WANE__BLOCK_LOG2;
  size_t i = dirty_registered;
  while (i < count) {
    size_t from = i;
    do {
      i++;
    } while (i < count && !wane__blocks[i].is_wall);
    dirty_is_outside = dirty_is_outside != wane__blocks[from].is_wall;
    if (!dirty_is_outside &&
        !dirty_register(wane__block_start(&wane__blocks[from]),
                        wane__arena.start + (i << WANE__BLOCK_LOG2))) {
      return false;
    }
  }
  dirty_registered = count;
  return true;
}

/* The next stretch of groups that may hold pointers, from block *at on. */
static bool dirty_next(size_t *at, uintptr_t *start, uintptr_t *end) {
  size_t i = *at;
  size_t from = 0;
  while (i < dirty_registered) {
    uint64_t head = wane__load_acquire(&wane__block_map[i].head);
    if (head == 0 || wane__head_kind(head) == WANE__KIND_LEAF) {
      if (from != 0) {
        break;
      }
      i++;
      continue;
    }
    from = from != 0 ? from : i;
    i++;
  }
  *at = i;
  *start = wane__arena.start + (from << WANE__BLOCK_LOG2);
  *end = wane__arena.start + (i << WANE__BLOCK_LOG2);
  return from != 0;
}

/* False: the system says no. */
static bool dirty_fetch_stretch(uintptr_t start, uintptr_t end,
                                wane__dirty_visit *visit, void *ctx,
                                size_t *pages) {
  while (start < end) {
    struct dirty_scan scan = {.size = sizeof scan,
                              .flags = DIRTY_SCAN_WP_MATCHING |
                                       DIRTY_SCAN_CHECK_WPASYNC,
                              .start = start,
                              .end = end,
                              .vec = (uintptr_t)dirty_regions,
                              .vec_len = DIRTY_REGIONS,
                              .category_mask = DIRTY_PAGE_WRITTEN,
                              .return_mask = DIRTY_PAGE_WRITTEN};
    int n = ioctl(dirty_pagemap, DIRTY_PAGEMAP_SCAN, &scan);
    if (n < 0) {
      return false;
    }
    for (int i = 0; i < n; i++) {
      const struct dirty_region *region = &dirty_regions[i];
      *pages += (region->end - region->start) / WANE__PAGE_BYTES_MIN;
      visit(ctx, region->start, region->end);
    }
    start = scan.walk_end;
  }
  return true;
}

size_t wane__dirty_fetch(wane__dirty_visit *visit, void *ctx) {
  size_t pages = 0;
  uintptr_t start;
  uintptr_t end;
  if (!dirty_register_new()) {
    dirty_give_up();
    return SIZE_MAX;
  }
  for (size_t at = 1; dirty_next(&at, &start, &end);) {
    if (!dirty_fetch_stretch(start, end, visit, ctx, &pages)) {
      dirty_give_up();
      return SIZE_MAX;
    }
  }
  return pages;
}

void wane__dirty_fork_child(void) {
  if (dirty_state == DIRTY_UFFD) {
    dirty_close();
    dirty_state = DIRTY_UNKNOWN;
  }
}
