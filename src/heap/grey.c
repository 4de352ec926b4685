/* A locked array for each sort; see grey.h. */
#include "grey.h"

#include <errno.h>
#include <string.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/lock.h"
#include "../base/meta.h"
#include "../base/os.h"
#include "block.h"

#define GREY_WORDS_MAX ((size_t)1 << 24)
#define GREY_WORDS_MIN ((size_t)8192)
/* More hints are no use: they are not needed. */
#define GREY_HINTS_MAX ((size_t)65536)
/* Handed out at once. The lock is not held meanwhile. */
#define GREY_PORTION 1024u

static struct {
  struct wane__lock lock;
  uintptr_t *words; /* in memory that is no root. const once it is there */
  size_t count;     /* lock: lock, as all below */
  size_t handed;    /* of these: they are being marked */
  size_t room;
  bool is_lost; /* some could not be noted */
} grey_logs[WANE__GREY_COUNT] = {{.lock = WANE__LOCK_INIT(WANE__RANK_GREY)},
                                 {.lock = WANE__LOCK_INIT(WANE__RANK_GREY)},
                                 {.lock = WANE__LOCK_INIT(WANE__RANK_GREY)}};

static bool grey_grow_locked(enum wane__grey what) {
  int saved = errno;
  size_t room = grey_logs[what].room;
  size_t more = room != 0 ? room : GREY_WORDS_MIN;
  if (grey_logs[what].words == NULL) {
    grey_logs[what].words =
        wane__meta_reserve(GREY_WORDS_MAX * sizeof *grey_logs[what].words);
  }
  uintptr_t *words = grey_logs[what].words;
  if (words == NULL || room + more > GREY_WORDS_MAX ||
      !wane__os_commit(words + room, more * sizeof *words)) {
    errno = saved; /* who notes something does not fail by that */
    return false;
  }
  grey_logs[what].room = room + more;
  return true;
}

void wane__grey_add(enum wane__grey what, uintptr_t word) {
  WANE_ASSERT(wane__is_marking(), "INV-grey-1: words are noted while marking");
  wane__lock_acquire(&grey_logs[what].lock);
  size_t count = grey_logs[what].count;
  if (count < grey_logs[what].room || grey_grow_locked(what)) {
    grey_logs[what].words[count] = word;
    wane__store_relaxed(&grey_logs[what].count, count + 1);
  } else {
    grey_logs[what].is_lost = true;
  }
  wane__lock_release(&grey_logs[what].lock);
}

WANE_NOINLINE WANE_SCANS_MEMORY void wane__grey_hint(uintptr_t word) {
  static WANE_TLS uintptr_t last; /* beyond the reach of scanning: inverted */
  struct wane__found found;
  uintptr_t committed = wane__load_acquire(&wane__arena.committed);
  if (word - wane__arena.start >= committed ||
      !wane__block_resolve(word, wane__arena.start, wane__block_map, &found)) {
    return;
  }
  uint8_t byte = wane__load_relaxed(found.mark);
  if (byte != 0 && (byte & 3) != wane__arena.colour && last != ~word &&
      wane__load_relaxed(&grey_logs[WANE__GREY_HINT].count) < GREY_HINTS_MAX) {
    last = ~word;
    wane__grey_add(WANE__GREY_HINT, word);
  }
}

/* What was handed out before has been marked. */
static void grey_drop_handed_locked(enum wane__grey what) {
  size_t left = grey_logs[what].count - grey_logs[what].handed;
  if (grey_logs[what].handed != 0) {
    memmove(grey_logs[what].words,
            grey_logs[what].words + grey_logs[what].handed,
            left * sizeof *grey_logs[what].words);
    wane__store_relaxed(&grey_logs[what].count, left);
    grey_logs[what].handed = 0;
  }
}

bool wane__grey_take(enum wane__grey what, wane__grey_visit *visit, void *ctx) {
  static uintptr_t *portion; /* in memory that is no root. cycle lock */
  bool is_lost = false;
  size_t count;
  if (portion == NULL) {
    portion = wane__meta_alloc(GREY_PORTION * sizeof *portion);
  }
  wane__lock_acquire(&grey_logs[what].lock);
  grey_drop_handed_locked(what);
  wane__lock_release(&grey_logs[what].lock);
  do {
    wane__lock_acquire(&grey_logs[what].lock);
    count = grey_logs[what].count - grey_logs[what].handed;
    count = count < GREY_PORTION ? count : GREY_PORTION;
    if (portion == NULL) {
      is_lost = is_lost || count != 0;
      count = 0;
    } else {
      memcpy(portion, grey_logs[what].words + grey_logs[what].handed,
             count * sizeof *portion);
      grey_logs[what].handed += count;
    }
    is_lost = is_lost || grey_logs[what].is_lost;
    grey_logs[what].is_lost = false;
    wane__lock_release(&grey_logs[what].lock);
    if (count != 0) {
      visit(ctx, portion, count);
    }
  } while (count != 0);
  return !is_lost;
}

void wane__grey_clear_stw(void) {
  for (int i = 0; i < WANE__GREY_COUNT; i++) {
    grey_logs[i].count = grey_logs[i].handed = 0;
    grey_logs[i].is_lost = false;
  }
}

void wane__grey_fork_child(void) {
  for (int i = 0; i < WANE__GREY_COUNT; i++) {
    wane__lock_reset(&grey_logs[i].lock);
    grey_logs[i].handed = 0;
    if (!wane__is_marking()) {
      grey_logs[i].count = 0;
    }
  }
}
