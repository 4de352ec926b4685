/*
 * The dirty tracker by soft-dirty bits (CONFIG_MEM_SOFT_DIRTY).
 *
 * Writing 4 to /proc/self/clear_refs takes the bit from every page of the
 * process and write-protects it; the first write after that sets the bit. Bits
 * are read in /proc/self/pagemap. Between reading and taking them away a write
 * could be lost, and they can only be taken from all pages at once. So it is
 * done once in each cycle, before anything is scanned: the first fetch hands
 * out all memory, those in the rounds what they have not handed out in this
 * cycle, and the last one all that was written since the beginning: a page
 * that the program writes to all the time is scanned twice, once of these in
 * the last stop.
 *
 * Of huge pages, one write makes the whole dirty. Checkpointing tools that use
 * the bits (CRIU) are disturbed by this backend, and it by them: what they
 * clear would be lost, so programs under them should run with dirty=none.
 */
#include <errno.h>
#include <string.h>

#include "../base/attr.h"
#include "../base/meta.h"
#include "../base/os.h"
#include "../heap/block.h"
#include "dirty.h"

#define SOFT_PAGES ((size_t)4096)
#define SOFT_DIRTY ((uint64_t)1 << 55)
#define SOFT_CLEAR "4"
/* Not of "self": when the main thread has ended with pthread_exit, that takes
   what is written and does nothing. */
#define SOFT_CLEAR_PATH "/proc/thread-self/clear_refs"

static struct {
  struct wane__os_file pagemap; /* cycle lock, as all */
  uint64_t *entries;            /* of SOFT_PAGES pages */
  uint8_t *seen; /* a bit for each page of the arena: handed out in this cycle.
                    NULL: without memory for it */
  size_t seen_bytes;
} soft = {.pagemap = {.fd = -1}};

static void soft_close(void) { wane__os_file_close(&soft.pagemap); }

/* The entries of pages from start on, at most SOFT_PAGES. 0: cannot be. */
static size_t soft_read(uintptr_t start, size_t pages) {
  pages = pages < SOFT_PAGES ? pages : SOFT_PAGES;
  size_t bytes = pages * sizeof *soft.entries;
  ssize_t got =
      wane__os_read_at(soft.pagemap.fd, soft.entries, bytes,
                       start / WANE__PAGE_BYTES_MIN * sizeof *soft.entries);
  return got < 0 ? 0 : (size_t)got / sizeof *soft.entries;
}

/* Does this kernel keep the bits? A page of our own tells. */
static bool soft_works(void) {
  volatile uint8_t *page =
      (volatile uint8_t *)wane__meta_alloc(WANE__PAGE_BYTES_MIN);
  uintptr_t at = (uintptr_t)page;
  if (page == NULL) {
    return false;
  }
  *page = 1;
  if (!wane__os_write_file(SOFT_CLEAR_PATH, SOFT_CLEAR) ||
      soft_read(at, 1) != 1 || (soft.entries[0] & SOFT_DIRTY) != 0) {
    errno = ENOSYS;
    return false;
  }
  *page = 2;
  if (soft_read(at, 1) != 1 || (soft.entries[0] & SOFT_DIRTY) == 0) {
    errno = ENOSYS;
    return false;
  }
  return true;
}

static bool soft_open(void) {
  if (soft.entries == NULL) {
    soft.entries = wane__meta_alloc(SOFT_PAGES * sizeof *soft.entries);
  }
  if (soft.entries == NULL || wane__os_fault(ENOSYS)) {
    return false;
  }
  return wane__os_file_set(&soft.pagemap,
                           wane__os_open("/proc/thread-self/pagemap")) &&
         soft_works();
}

/* The bits of pages handed out, for as much as is committed of the arena. */
static void soft_prepare_seen(void) {
  size_t pages = wane__arena.reserved / WANE__PAGE_BYTES_MIN;
  size_t needed = wane__arena.committed / WANE__PAGE_BYTES_MIN / 8 + 65536;
  if (soft.seen == NULL) {
    soft.seen = wane__meta_reserve(pages / 8 + 65536);
  }
  if (soft.seen != NULL && needed > soft.seen_bytes &&
      wane__os_commit(soft.seen, needed)) {
    soft.seen_bytes = needed;
  }
  if (soft.seen != NULL) {
    memset(soft.seen, 0, soft.seen_bytes);
  }
}

static bool soft_begin(void) {
  soft_prepare_seen();
  return wane__os_file_is_ours(&soft.pagemap) &&
         wane__os_write_file(SOFT_CLEAR_PATH, SOFT_CLEAR);
}

static bool soft_is_in_arena(uintptr_t address) {
  return address - wane__arena.start < wane__arena.reserved;
}

/* Only the heap's own memory: elsewhere there may be memory of hugetlbfs, which
   has no bits, or pages that mremap brought, with the bits they had. */
static bool soft_watch(uintptr_t start, uintptr_t end) {
  (void)end;
  return soft_is_in_arena(start);
}

/* Has the page been handed out before? It has from now on. */
static bool soft_was_seen(uintptr_t page) {
  size_t i = (page - wane__arena.start) / WANE__PAGE_BYTES_MIN;
  if (page < wane__arena.start || i / 8 >= soft.seen_bytes) {
    return false;
  }
  uint8_t bit = (uint8_t)(1u << i % 8);
  bool was = (soft.seen[i / 8] & bit) != 0;
  soft.seen[i / 8] |= bit;
  return was;
}

static bool soft_fetch(enum wane__dirty_fetch which, uintptr_t start,
                       uintptr_t end, wane__dirty_visit *visit, void *ctx,
                       size_t *pages) {
  if (which == WANE__DIRTY_FIRST) {
    visit(ctx, start, end);
    *pages += (end - start) / WANE__PAGE_BYTES_MIN;
    return true;
  }
  uintptr_t first = 0; /* of the pages to hand out before start; 0: none */
  while (start < end) {
    size_t count = soft_read(start, (end - start) / WANE__PAGE_BYTES_MIN);
    if (count == 0) {
      return false;
    }
    for (size_t i = 0; i < count; i++, start += WANE__PAGE_BYTES_MIN) {
      if ((soft.entries[i] & SOFT_DIRTY) != 0 &&
          (which != WANE__DIRTY_ROUND || !soft_was_seen(start))) {
        first = first != 0 ? first : start;
        ++*pages;
      } else if (first != 0) {
        visit(ctx, first, start);
        first = 0;
      }
    }
  }
  if (first != 0) {
    visit(ctx, first, end);
  }
  return true;
}

const struct wane__dirty_ops wane__dirty_soft = {
    .name = "softdirty",
    .is_cumulative = true,
    .open = soft_open,
    .close = soft_close,
    .begin = soft_begin,
    .watch = soft_watch,
    .fetch = soft_fetch,
};
