/*
 * The dirty tracker by userfaultfd's asynchronous write protection.
 *
 * Memory is registered with a userfaultfd of the features WP_ASYNC and
 * WP_UNPOPULATED. PAGEMAP_SCAN looks for pages without the write-protect mark
 * and sets it, page by page under the page table's lock, and flushes the
 * processors' caches of translations before it returns. A write to a page with
 * the mark takes it away: the kernel does that itself, in the fault, whoever
 * writes, also a system call that stores into the heap (read(2) does not fail
 * with EFAULT). So when a fetch returns, each page that it did not hand out has
 * not been written since it was armed, and a page that it did hand out will be
 * handed out again if it is written after the fetch; what was written before
 * the fetch returned is in memory for whoever reads the page afterwards.
 *
 * What it does not see: writes by devices to pages that were pinned before they
 * were armed (O_DIRECT reads, RDMA). They carry no pointers to objects that
 * nothing else holds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../base/attr.h"
#include "../base/meta.h"
#include "../base/os.h"
#include "dirty.h"

/* Of <linux/fs.h> and <linux/userfaultfd.h>, which may be older here than the
   kernel that the program meets. */
struct uffd_region {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct uffd_scan {
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
#define UFFD_PAGEMAP_SCAN _IOWR('f', 16, struct uffd_scan)
#define UFFD_SCAN_WP_MATCHING 1u
#define UFFD_SCAN_CHECK_WPASYNC 2u
#define UFFD_PAGE_WRITTEN 2u
#define UFFD_PAGE_PRESENT 8u
/* Before, a short cut of PAGEMAP_SCAN for those who ask for written pages alone
   took pages that were being moved for armed ones. */
#define UFFD_KERNEL_SURE 6009u
#define UFFD_FEATURE_WP_UNPOPULATED ((uint64_t)1 << 13)
#define UFFD_FEATURE_WP_ASYNC ((uint64_t)1 << 15)
#define UFFD_OPEN_USER_MODE_ONLY 1

#define UFFD_REGIONS 512u
/* One call is for at most so much, which takes about a millisecond: the program
   may want to map memory, or to fork. */
#define UFFD_PART_BYTES ((uintptr_t)64 << 20)

static struct wane__os_file uffd_file = {.fd = -1}; /* cycle lock */
static struct wane__os_file uffd_pagemap = {.fd = -1};
/* What a scan returns; full of addresses, so in memory that is no root. */
static struct uffd_region *uffd_regions;

static uint64_t uffd_return_mask = UFFD_PAGE_WRITTEN; /* cycle lock */

static uintptr_t uffd_part_end(uintptr_t start, uintptr_t end) {
  return end - start < UFFD_PART_BYTES ? end : start + UFFD_PART_BYTES;
}

static void uffd_close(void) {
  wane__os_file_close(&uffd_file);
  wane__os_file_close(&uffd_pagemap);
}

static bool uffd_open(void) {
  struct uffdio_api api = {.api = UFFD_API,
                           .features = UFFD_FEATURE_WP_ASYNC |
                                       UFFD_FEATURE_WP_UNPOPULATED};
  if (wane__os_kernel_version() < UFFD_KERNEL_SURE) {
    uffd_return_mask |= UFFD_PAGE_PRESENT;
  }
  if (uffd_regions == NULL) {
    uffd_regions = wane__meta_alloc(UFFD_REGIONS * sizeof *uffd_regions);
  }
  return uffd_regions != NULL && !wane__os_fault(ENOSYS) &&
         wane__os_file_set(
             &uffd_file,
             (int)syscall(SYS_userfaultfd,
                          O_CLOEXEC | O_NONBLOCK | UFFD_OPEN_USER_MODE_ONLY)) &&
         ioctl(uffd_file.fd, UFFDIO_API, &api) == 0 &&
         wane__os_file_set(&uffd_pagemap,
                           wane__os_open("/proc/thread-self/pagemap"));
}

static bool uffd_begin(void) {
  return wane__os_file_is_ours(&uffd_file) &&
         wane__os_file_is_ours(&uffd_pagemap);
}

static bool uffd_watch(uintptr_t start, uintptr_t end) {
  struct uffdio_register request = {.range = {start, end - start},
                                    .mode = UFFDIO_REGISTER_MODE_WP};
  return start == end || (!wane__os_fault(ENOMEM) &&
                          ioctl(uffd_file.fd, UFFDIO_REGISTER, &request) == 0);
}

/* For a page that is written later this costs a ninth of the fault that it
   spares, and the thread that writes nothing. */
static void uffd_disarm(uintptr_t start, uintptr_t end) {
  while (start < end) {
    uintptr_t part = uffd_part_end(start, end);
    struct uffdio_writeprotect request = {.range = {start, part - start}};
    if (ioctl(uffd_file.fd, UFFDIO_WRITEPROTECT, &request) != 0) {
      return; /* it is not watched any more */
    }
    start = part;
  }
}

static bool uffd_fetch(enum wane__dirty_fetch which, uintptr_t start,
                       uintptr_t end, wane__dirty_visit *visit, void *ctx,
                       size_t *pages) {
  while (start < end) {
    struct uffd_scan scan = {
        .size = sizeof scan,
        .flags = UFFD_SCAN_CHECK_WPASYNC |
                 (which != WANE__DIRTY_LAST ? UFFD_SCAN_WP_MATCHING : 0),
        .start = start,
        .end = uffd_part_end(start, end),
        .vec = (uintptr_t)uffd_regions,
        .vec_len = UFFD_REGIONS,
        .category_mask = UFFD_PAGE_WRITTEN,
        .return_mask = uffd_return_mask};
    int n = wane__os_fault(ENOMEM)
                ? -1
                : ioctl(uffd_pagemap.fd, UFFD_PAGEMAP_SCAN, &scan);
    if (n < 0) {
      return false;
    }
    for (int i = 0; i < n; i++) {
      const struct uffd_region *region = &uffd_regions[i];
      *pages += (region->end - region->start) / WANE__PAGE_BYTES_MIN;
      visit(ctx, region->start, region->end);
    }
    start = scan.walk_end;
  }
  return true;
}

const struct wane__dirty_ops wane__dirty_uffd = {
    .name = "uffd",
    .open = uffd_open,
    .close = uffd_close,
    .begin = uffd_begin,
    .watch = uffd_watch,
    .disarm = uffd_disarm,
    .fetch = uffd_fetch,
};
