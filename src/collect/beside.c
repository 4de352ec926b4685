/* Marking beside the program; see beside.h. */
#include "beside.h"

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../base/vector.h"
#include "../heap/block.h"
#include "../heap/grey.h"
#include "../heap/heap.h"
#include "../mark/dirty.h"
#include "../mutator/module.h"
#include "../mutator/root.h"
#include "../mutator/stop.h"
#include "../special/cleanup.h"
#include "cycle.h"
#include "pace.h"
#include "phase.h"

#define BESIDE_ROUNDS_MAX 12u
/* A last stop looks at so many pages in about a tenth of a millisecond; it does
   not look at so many more, but is made again, a few times. */
#define BESIDE_PAGES_FEW 48u
#define BESIDE_PAGES_MANY 256u
/* And marks so many. */
#define BESIDE_OBJECTS_FEW 2000u
#define BESIDE_RETRIES_MAX 4u
/* Root ranges from this size on are tracked; scanning as much in a stop takes
   ten microseconds, asking the tracker about it one. */
#define BESIDE_RANGE_MIN ((uintptr_t)32 << 10)
/* Modules can not be closed, nor roots removed, while so much is scanned. */
#define BESIDE_HELD_BYTES ((uintptr_t)4 << 20)
#define BESIDE_SLOW_NS 1000000

/* A large root range, as of the beginning of marking. The pages that lie
   wholly in it are tracked. */
struct beside_range {
  uintptr_t start; /* of the root: by these two it is known */
  uintptr_t end;
  uintptr_t next; /* of its pages, which is not scanned yet */
  bool is_lost;   /* its memory cannot be tracked, or is another now: scanned in
                     the last stop */
};

static struct beside_range *beside_ranges; /* cycle lock, as all below */
static size_t beside_range_count;
static size_t beside_range_capacity;
static uint32_t slow_round; /* counts while slowing; a futex. atomic */

static uintptr_t page_up(uintptr_t at) {
  return (at + WANE__PAGE_BYTES_MIN - 1) &
         ~(uintptr_t)(WANE__PAGE_BYTES_MIN - 1);
}

static uintptr_t page_down(uintptr_t at) {
  return at & ~(uintptr_t)(WANE__PAGE_BYTES_MIN - 1);
}

/* A root is scanned at once, or copied: it may be gone when the program runs
   on. */
static void beside_scan(void *unused, uintptr_t start, uintptr_t end,
                        bool is_copy) {
  (void)is_copy;
  wane__mark_add_range(unused, start, end, true);
}

void wane__beside_begin_stw(void) {
  wane__roots_of_threads_stw(beside_scan, NULL);
}

/* ---- Large root ranges ---- */

static struct beside_range *range_of(uintptr_t start, uintptr_t end) {
  for (size_t i = 0; i < beside_range_count; i++) {
    if (beside_ranges[i].start == start && beside_ranges[i].end == end) {
      return &beside_ranges[i];
    }
  }
  return NULL;
}

static void range_ignore(void *unused, uintptr_t start, uintptr_t end) {
  (void)unused;
  (void)start;
  (void)end;
}

/* Arms a large range and notes it. What is not tracked is left to the last
   stop, but scanned here as well: so that stop has not to mark what hangs on
   it. A large one that cannot be armed is scanned like the others, in portions,
   and once more in the last stop. A root visit. */
static void range_watch(void *unused, uintptr_t start, uintptr_t end,
                        bool is_copy) {
  (void)is_copy;
  size_t pages = 0;
  if (end - start < BESIDE_RANGE_MIN ||
      !wane__vector_reserve((void **)&beside_ranges, &beside_range_capacity,
                            beside_range_count, beside_range_count + 1,
                            sizeof *beside_ranges)) {
    beside_scan(unused, start, end, true);
    return;
  }
  bool is_armed =
      wane__dirty_watch(page_up(start), page_down(end)) &&
      wane__dirty_fetch_range(WANE__DIRTY_FIRST, page_up(start), page_down(end),
                              range_ignore, NULL, &pages);
  beside_scan(unused, start, page_up(start), true);
  beside_scan(unused, page_down(end), end, true);
  beside_ranges[beside_range_count++] = (struct beside_range){
      .start = start, .end = end, .next = page_up(start), .is_lost = !is_armed};
}

/* Scans ranges for the first time, as far as there is a budget. A root visit.
 */
static void range_scan(void *ctx, uintptr_t start, uintptr_t end,
                       bool is_copy) {
  uintptr_t *budget = ctx;
  struct beside_range *range = range_of(start, end);
  (void)is_copy;
  if (range == NULL || range->next >= page_down(end) || *budget == 0) {
    return;
  }
  uintptr_t left = page_down(end) - range->next;
  left = left < *budget ? left : *budget;
  wane__mark_add_range(NULL, range->next, range->next + left, true);
  range->next += left;
  *budget -= left;
}

static void beside_range_again(void *unused, uintptr_t start, uintptr_t end) {
  (void)unused;
  wane__mark_again(start, end);
}

static void range_fetch(enum wane__dirty_fetch which, uintptr_t start,
                        uintptr_t end, size_t *pages) {
  struct beside_range *range = range_of(start, end);
  if (range != NULL && !range->is_lost) {
    range->is_lost = !wane__dirty_fetch_range(
        which, page_up(start), page_down(end), beside_range_again, NULL, pages);
  }
}

/* What was written to in a range. A root visit. */
static void range_round(void *ctx, uintptr_t start, uintptr_t end,
                        bool is_copy) {
  (void)is_copy;
  range_fetch(WANE__DIRTY_ROUND, start, end, ctx);
}

/* The last time: what is not tracked is scanned. A root visit. */
static void range_finish(void *ctx, uintptr_t start, uintptr_t end,
                         bool is_copy) {
  (void)is_copy;
  range_fetch(WANE__DIRTY_LAST, start, end, ctx);
  const struct beside_range *range = range_of(start, end);
  /* one that was removed and added again may not have been scanned to its end
   */
  if (range == NULL || range->is_lost || range->next != page_down(end)) {
    wane__mark_add_range(NULL, start, end, false);
    return;
  }
  wane__mark_add_range(NULL, start, page_up(start), false);
  wane__mark_add_range(NULL, page_down(end), end, false);
}

struct ranges_hold {
  wane__root_visit *visit;
  void *ctx;
};

static void ranges_visit_held(void *arg) {
  const struct ranges_hold *hold = arg;
  wane__roots_lock();
  wane__roots_of_data(hold->visit, hold->ctx);
  wane__roots_unlock();
}

/* Visits modules' data and added roots, while none can go. False: no memory
   for the list of modules. */
static bool ranges_visit(wane__root_visit *visit, void *ctx) {
  struct ranges_hold hold = {visit, ctx};
  return wane__modules_hold(ranges_visit_held, &hold);
}

static bool ranges_scan(void) {
  uintptr_t budget;
  do {
    budget = BESIDE_HELD_BYTES;
    if (!ranges_visit(range_scan, &budget)) {
      return false;
    }
    wane__cycle_rest();
  } while (budget == 0);
  return true;
}

/* ---- Rounds ---- */

static void beside_again(void *unused, uintptr_t start, uintptr_t end) {
  (void)unused;
  wane__mark_again(start, end);
  wane__finalizers_mark_again(start, end);
}

static void beside_first(void *ctx, uintptr_t start, uintptr_t end) {
  const bool *is_any_marked = ctx;
  if (*is_any_marked) {
    wane__mark_again_now(start, end);
    wane__finalizers_mark_again(start, end);
  }
}

static void beside_grey_objects(void *unused, const uintptr_t *words,
                                size_t count) {
  wane__mark_add_range(unused, (uintptr_t)words, (uintptr_t)(words + count),
                       true);
}

static void beside_grey_fields(void *unused, const uintptr_t *words,
                               size_t count) {
  (void)unused;
  for (size_t i = 0; i < count; i++) {
    struct wane__found object = wane__block_slot_of(words[i]);
    wane__mark_add_fields(&object);
  }
}

/* False: some are not known. */
static bool beside_take_grey(void) {
  (void)wane__grey_take(WANE__GREY_HINT, beside_grey_objects, NULL);
  bool has_all = wane__grey_take(WANE__GREY_OBJECT, beside_grey_objects, NULL);
  return wane__grey_take(WANE__GREY_FIELDS, beside_grey_fields, NULL) &&
         has_all;
}

static void beside_set_slow(void) {
  wane__store_relaxed(&wane__heap_meter.is_slow, true);
}

void wane__beside_go_on(void) { wane__os_futex_wake(&slow_round, INT32_MAX); }

/* Those that wait go on, with a small run. */
static void beside_wake_slow(void) {
  wane__add(&slow_round, 1);
  wane__beside_go_on();
}

void wane__beside_slow(void) {
  uint32_t round = wane__load(&slow_round);
  if (wane__load_relaxed(&wane__heap_meter.is_slow)) {
    wane__mark_invite();
    wane__stop_rest(&slow_round, round, BESIDE_SLOW_NS);
  }
}

/* One round. SIZE_MAX: what was written is not known. */
static size_t beside_round(struct wane__beside *beside,
                           struct wane__mark_totals *totals) {
  size_t pages = wane__dirty_fetch(WANE__DIRTY_ROUND, beside_again, NULL);
  if (pages == SIZE_MAX || !ranges_visit(range_round, &pages) ||
      !beside_take_grey()) {
    return SIZE_MAX;
  }
  if (pages > BESIDE_PAGES_FEW) {
    beside_set_slow();
  }
  wane__mark_all(beside->markers, wane__cycle_rest, totals);
  wane__phase(WANE__PHASE_ROUND);
  return pages;
}

/* Arms, and marks from all roots. False: what is written from here on is not
   known. */
static bool beside_mark_all(struct wane__beside *beside,
                            struct wane__mark_totals *totals) {
  beside_range_count = 0;
  if (!wane__dirty_begin() || !ranges_visit(range_watch, NULL)) {
    return false;
  }
  wane__phase(WANE__PHASE_BEFORE_ARMING);
  /* all that was not armed counts as written; what is marked of that, if the
     first stop marked any, may have been scanned before */
  bool is_any_marked = beside->was_left || !wane__mark_has_nothing();
  if (wane__dirty_fetch(WANE__DIRTY_FIRST, beside_first, &is_any_marked) ==
      SIZE_MAX) {
    return false;
  }
  wane__phase(WANE__PHASE_ARMED);
  wane__cycle_rest();
  if (!ranges_scan()) {
    return false;
  }
  wane__roots_of_pins(beside_scan, NULL);
  wane__records_visit_roots(beside_scan, NULL);
  wane__finalizers_mark();
  wane__mark_all(beside->markers, wane__cycle_rest, totals);
  wane__phase(WANE__PHASE_MARKED);
  return true;
}

/* What a round found to do. */
struct beside_work {
  size_t pages; /* SIZE_MAX: it is not known which were written */
  uint64_t objects;
};

static bool work_is_little(const struct beside_work *work) {
  return work->pages <= BESIDE_PAGES_FEW && work->objects <= BESIDE_OBJECTS_FEW;
}

void wane__beside_mark(struct wane__beside *beside,
                       struct wane__mark_totals *totals) {
  struct beside_work work = {SIZE_MAX - 1, UINT64_MAX};
  if (beside->retries == 0 && !beside_mark_all(beside, totals)) {
    work.pages = SIZE_MAX;
  }
  unsigned rounds_max = beside->rounds + BESIDE_ROUNDS_MAX;
  wane__pace_set_ending(true);
  while (work.pages != SIZE_MAX && !work_is_little(&work) &&
         beside->rounds < rounds_max) {
    uint64_t objects = totals->objects;
    if (work.objects > BESIDE_OBJECTS_FEW) {
      beside->look(beside->ctx);
    }
    work.pages = beside_round(beside, totals);
    work.objects = totals->objects - objects;
    beside->rounds++;
    if (work.objects > BESIDE_OBJECTS_FEW) {
      beside_set_slow();
    }
    beside_wake_slow();
  }
  beside->is_tracked = work.pages != SIZE_MAX;
  wane__mark_close();
}

void wane__beside_end_slow(void) {
  wane__store_relaxed(&wane__heap_meter.is_slow, false);
  wane__add(&slow_round, 1);
}

/* What is not tracked, and not known to be marked. */
static void beside_finish_untracked_stw(void) {
  (void)beside_take_grey();
  wane__mark_all_again();
  wane__roots_of_threads_stw(wane__mark_add_range, NULL);
  wane__roots_of_data(wane__mark_add_range, NULL);
  wane__roots_of_pins(wane__mark_add_range, NULL);
  wane__records_visit_roots(wane__mark_add_range, NULL);
}

bool wane__beside_finish_stw(struct wane__beside *beside, size_t *pages) {
  bool may_retry = beside->retries < BESIDE_RETRIES_MAX;
  *pages = SIZE_MAX;
  if (beside->is_tracked) {
    *pages = wane__dirty_fetch(
        may_retry ? WANE__DIRTY_STOPPED : WANE__DIRTY_LAST, beside_again, NULL);
    beside->is_tracked = *pages != SIZE_MAX;
  }
  if (beside->is_tracked && *pages > BESIDE_PAGES_MANY && may_retry &&
      wane__dirty_may_retry()) {
    beside->retries++;
    return false;
  }
  beside->is_tracked = beside->is_tracked && beside_take_grey();
  if (beside->is_tracked) {
    wane__roots_of_threads_stw(wane__mark_add_range, NULL);
    wane__roots_of_data(range_finish, pages);
  } else {
    beside_finish_untracked_stw();
  }
  return true;
}
