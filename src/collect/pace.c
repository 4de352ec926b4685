/* The settings of pacing, and its formula; see pace.h. */
#include "pace.h"

#include <errno.h>

#include "../../include/wane/collect.h"
#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../heap/extent.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "../heap/outside.h"
#include "../mark/mark.h"

#define PACE_PERCENT_DEFAULT 100
#define PACE_MINIMUM (4ull << 20)
#define PACE_ROOM_MIN (1ull << 20)
#define PACE_EXTRA_MAX (64ull << 20)
/* Parts of a growth, and of a goal. */
#define PACE_EARLY_LEAST 20
#define PACE_ROOM_LEAST 64
#define PACE_TAIL 16
#define PACE_FIRST_GUESS 4
/* Between two looks at how far marking has come. */
#define PACE_STEP (256ull << 10)
#define OUTSIDE_MINIMUM 1024ull
#define OUTSIDE_HEAP_FOR_ONE (64ull << 10)
#define OUTSIDE_ADOPTED_MINIMUM (64ull << 20)
#define OUTSIDE_LEAST 256ull
/* Of a cgroup's limit, what is not Wane's: stacks, code, malloc. */
#define PACE_CGROUP_SHARE_NUM 9
#define PACE_CGROUP_SHARE_DEN 10

static int pace_percent = PACE_PERCENT_DEFAULT; /* relaxed */
static bool pace_percent_set;                   /* relaxed */
static uint64_t pace_limit = UINT64_MAX;        /* relaxed */
static uint32_t pace_limit_known;               /* the cgroup has been asked */
static bool pace_from_cgroup;             /* the limit is not the user's */
static bool pace_by_limit;                /* relaxed */
static unsigned pace_threads = 1;         /* relaxed */
static bool pace_is_pressed;              /* relaxed */
static bool pace_tight;                   /* relaxed */
static uint64_t pace_maps_max;            /* 0: not asked yet. relaxed */
static uint64_t pace_growth = UINT64_MAX; /* to the goal, from what lived at the
                                             end of the last cycle. relaxed */
static uint64_t pace_room = UINT64_MAX;   /* from the last flip to the end of
                                             the cycle that is next, or runs.
                                             relaxed */
static uint64_t pace_beside;      /* allocated while a cycle marks, as it seems.
                                     relaxed */
static uint64_t pace_last_beside; /* and in the last one. relaxed */
static uint64_t pace_last_live;   /* found by the cycle before. relaxed */
static struct wane__pace_marking pace_marking; /* STW; marked is not kept;
                                                  ending relaxed */
static uint64_t pace_files; /* live. relaxed, as is the next */
static uint64_t pace_adopted_bytes;

static uint64_t pace_max(uint64_t a, uint64_t b) { return a > b ? a : b; }

static uint64_t pace_min(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* What lives by mistake, as it seems. */
static uint64_t pace_floating(const struct wane__pace_input *in) {
  uint64_t more = in->live_bytes > in->last_live_bytes
                      ? in->live_bytes - in->last_live_bytes
                      : 0;
  uint64_t beside = pace_min(in->beside_bytes, in->live_bytes);
  return pace_max(beside / 8, pace_min(beside / 2, more));
}

struct wane__pace_output wane__pace(const struct wane__pace_input *in) {
  struct wane__pace_output out = {.growth_bytes = UINT64_MAX};
  if (in->percent >= 0) {
    uint64_t minimum = PACE_MINIMUM * (in->threads > 1 ? in->threads : 1);
    uint64_t floating = pace_floating(in);
    uint64_t base = pace_max(in->live_bytes - floating, minimum);
    uint64_t percent = in->percent == 0 ? 1 : (uint64_t)in->percent;
    out.growth_bytes = base / 100 * percent + base % 100 * percent / 100;
    if (!in->is_percent_set) {
      uint64_t extra = pace_min(out.growth_bytes / 4, PACE_EXTRA_MAX);
      out.growth_bytes += extra;
    }
  }
  if (in->is_pressed && out.growth_bytes != UINT64_MAX) {
    out.growth_bytes /= 2;
  }
  if (in->limit_bytes == UINT64_MAX) {
    return out;
  }
  uint64_t taken = in->live_bytes + in->overhead_bytes;
  uint64_t room = in->limit_bytes > taken ? in->limit_bytes - taken : 0;
  uint64_t least = in->live_bytes / 16;
  least = least > PACE_ROOM_MIN ? least : PACE_ROOM_MIN;
  bool tight = room < least;
  room = tight ? least : room;
  if (room < out.growth_bytes) {
    out.growth_bytes = room;
    out.by_limit = true;
    out.tight = tight;
  }
  return out;
}

uint64_t wane__pace_trigger(uint64_t growth_bytes, uint64_t beside_bytes) {
  if (growth_bytes == UINT64_MAX || beside_bytes == 0) {
    return growth_bytes;
  }
  uint64_t early = beside_bytes + beside_bytes / 4;
  early = pace_max(early, growth_bytes / PACE_EARLY_LEAST);
  return growth_bytes - pace_min(early, growth_bytes / 2);
}

uint64_t wane__pace_beside(const struct wane__pace_last *last) {
  double pace = last->before_ns != 0
                    ? (double)last->before_bytes / (double)last->before_ns
                    : 0;
  uint64_t now =
      pace_max(last->beside_bytes, (uint64_t)(pace * (double)last->beside_ns));
  return now >= last->guess_bytes
             ? now
             : last->guess_bytes - (last->guess_bytes - now) / 4;
}

/* a * b / c without overflow for b <= c. */
static uint64_t pace_share(uint64_t a, uint64_t b, uint64_t c) {
  return (uint64_t)((double)a * ((double)b / (double)c));
}

uint64_t wane__pace_allowance(const struct wane__pace_marking *in) {
  uint64_t room =
      in->goal_bytes > in->used_bytes ? in->goal_bytes - in->used_bytes : 0;
  room = pace_max(room, in->goal_bytes / PACE_ROOM_LEAST);
  uint64_t tail = in->goal_bytes / PACE_TAIL;
  if (in->is_ending) {
    return room + tail;
  }
  if (in->marked_bytes < in->expected_bytes) {
    return room / 2 +
           pace_share(room - room / 2, in->marked_bytes, in->expected_bytes);
  }
  uint64_t more = pace_min(in->marked_bytes, in->used_bytes);
  return more <= in->expected_bytes
             ? room
             : room + pace_share(tail, more - in->expected_bytes,
                                 in->used_bytes - in->expected_bytes);
}

static uint64_t pace_percent_of(uint64_t n, int percent) {
  uint64_t factor = percent == 0 ? 1 : (uint64_t)percent;
  return n / 100 * factor + n % 100 * factor / 100;
}

struct wane__pace_outside_output
wane__pace_outside(const struct wane__pace_outside_input *in) {
  struct wane__pace_outside_output out = {.count = UINT64_MAX,
                                          .adopted_bytes = UINT64_MAX};
  if (in->percent >= 0) {
    uint64_t minimum = OUTSIDE_MINIMUM + in->heap_bytes / OUTSIDE_HEAP_FOR_ONE;
    out.count = pace_percent_of(pace_max(in->live, minimum), in->percent);
    out.adopted_bytes = pace_percent_of(
        pace_max(in->adopted_bytes + in->heap_bytes, OUTSIDE_ADOPTED_MINIMUM),
        in->percent);
  }
  uint64_t maps = in->maps_max / 2;
  uint64_t room = maps > in->live ? (maps - in->live) / 2 : 0;
  uint64_t least = pace_max(in->live / 16, OUTSIDE_LEAST);
  out.count = pace_max(pace_min(out.count, room), least);
  out.blocks = pace_max(in->blocks_left / 4, OUTSIDE_LEAST);
  if (in->limit_bytes != UINT64_MAX) {
    uint64_t taken = in->adopted_bytes + in->heap_bytes;
    room = in->limit_bytes > taken ? (in->limit_bytes - taken) / 2 : 0;
    least = pace_max(in->adopted_bytes / 16, PACE_ROOM_MIN);
    out.adopted_bytes = pace_max(pace_min(out.adopted_bytes, room), least);
  }
  return out;
}

/* The cgroup is asked at the first cycle, not at start: it means reading
   files. */
static void pace_ask_cgroup(void) {
  if (wane__load_relaxed(&pace_limit_known) != 0) {
    return;
  }
  wane__store_relaxed(&pace_limit_known, 1);
  size_t limit = wane__os_cgroup_memory_limit();
  if (limit != SIZE_MAX) {
    pace_from_cgroup = true;
    wane__store_relaxed(&pace_limit, limit);
  }
}

int wane__pace_percent(void) { return wane__load_relaxed(&pace_percent); }

uint64_t wane__pace_limit(void) {
  uint64_t limit = wane__load_relaxed(&pace_limit);
  if (pace_from_cgroup && limit != UINT64_MAX) {
    limit = limit / PACE_CGROUP_SHARE_DEN * PACE_CGROUP_SHARE_NUM;
  }
  return limit;
}

bool wane__pace_is_by_limit(void) { return wane__load_relaxed(&pace_by_limit); }

bool wane__pace_is_tight(void) { return wane__load_relaxed(&pace_tight); }

void wane__pace_set_threads(unsigned threads) {
  wane__store_relaxed(&pace_threads, threads);
}

void wane__pace_set_pressed(bool is_pressed) {
  if (wane__load_relaxed(&pace_is_pressed) != is_pressed) {
    wane__store_relaxed(&pace_is_pressed, is_pressed);
    wane__pace_set_trigger();
  }
}

void wane__pace_prepare(void) {
  pace_ask_cgroup();
  if (wane__load_relaxed(&pace_maps_max) == 0) {
    wane__store_relaxed(&pace_maps_max, wane__os_map_count_max());
  }
}

void wane__pace_note_outside_stw(uint64_t files, uint64_t adopted_bytes) {
  wane__store_relaxed(&pace_files, files);
  wane__store_relaxed(&pace_adopted_bytes, adopted_bytes);
}

static void pace_set_outside(uint64_t blocks_left) {
  uint64_t maps_max = wane__load_relaxed(&pace_maps_max);
  struct wane__pace_outside_input in = {
      .live = wane__load_relaxed(&pace_files),
      .adopted_bytes = wane__load_relaxed(&pace_adopted_bytes),
      .heap_bytes = wane__load_relaxed(&wane__heap_meter.live_bytes),
      .blocks_left = blocks_left,
      .maps_max = maps_max != 0 ? maps_max : WANE__OS_MAP_COUNT_USUAL,
      .percent = wane__pace_percent(),
      .limit_bytes = wane__pace_limit(),
  };
  struct wane__pace_outside_output out = wane__pace_outside(&in);
  struct wane__outside_meter *meter = &wane__outside_meter;
  wane__store_relaxed(&meter->trigger, out.count);
  wane__store_relaxed(&meter->trigger_blocks, out.blocks);
  wane__store_relaxed(&meter->trigger_adopted_bytes, out.adopted_bytes);
}

/* A cycle begins when so much has been allocated, and may go on until growth
   is. */
static void pace_set_trigger(uint64_t bytes, uint64_t growth) {
  wane__store_relaxed(&pace_growth, growth);
  wane__store_relaxed(&pace_room, growth);
  wane__store_relaxed(&wane__heap_meter.trigger_bytes, bytes);
  wane__store_relaxed(&wane__heap_meter.ask_bytes, bytes);
}

void wane__pace_put_off(uint64_t bytes) {
  uint64_t trigger = wane__load_relaxed(&wane__heap_meter.trigger_bytes);
  uint64_t since = wane__load_relaxed(&wane__heap_meter.since_flip_bytes);
  if (trigger != UINT64_MAX) {
    bytes += pace_max(since, trigger);
    pace_set_trigger(bytes, bytes);
  }
}

void wane__pace_set_trigger(void) {
  struct wane__extent_totals totals;
  wane__extent_read_totals(&totals);
  uint64_t live = wane__load_relaxed(&wane__heap_meter.live_bytes);
  uint64_t since = wane__load_relaxed(&wane__heap_meter.since_flip_bytes);
  uint64_t known = live + since;
  struct wane__pace_input in = {
      .live_bytes = live,
      .last_live_bytes = wane__load_relaxed(&pace_last_live),
      .threads = wane__load_relaxed(&pace_threads),
      /* adopted pages; holes in groups that are partly live, while they are */
      .overhead_bytes =
          wane__load_relaxed(&pace_adopted_bytes) +
          (totals.used_bytes > known ? (totals.used_bytes - known) / 4 : 0),
      .beside_bytes = wane__load_relaxed(&pace_last_beside),
      .is_percent_set = wane__load_relaxed(&pace_percent_set),
      .percent = wane__pace_percent(),
      .limit_bytes = wane__pace_limit(),
      .is_pressed = wane__load_relaxed(&pace_is_pressed),
  };
  struct wane__pace_output out = wane__pace(&in);
  wane__store_relaxed(&pace_by_limit, out.by_limit);
  wane__store_relaxed(&pace_tight, out.tight);
  pace_set_trigger(
      wane__pace_trigger(out.growth_bytes, wane__load_relaxed(&pace_beside)),
      out.growth_bytes);
  pace_set_outside(totals.outside_left_blocks);
}

void wane__pace_note_beside(const struct wane__pace_last *last) {
  struct wane__pace_last in = *last;
  wane__store_relaxed(&pace_last_live, last->last_live_bytes);
  wane__store_relaxed(&pace_last_beside, last->beside_bytes);
  in.guess_bytes = wane__load_relaxed(&pace_beside);
  wane__store_relaxed(&pace_beside, wane__pace_beside(&in));
}

void wane__pace_note_stop(void) {
  wane__store_relaxed(&pace_last_beside, 0);
  wane__store_relaxed(&pace_beside, 0);
}

void wane__pace_guess_beside(void) {
  uint64_t growth = wane__load_relaxed(&pace_growth);
  if (growth != UINT64_MAX) {
    wane__store_relaxed(&pace_beside, growth / PACE_FIRST_GUESS);
    pace_set_trigger(wane__pace_trigger(growth, growth / PACE_FIRST_GUESS),
                     growth);
  }
}

void wane__pace_begin_marking_stw(uint64_t used_bytes) {
  uint64_t live = wane__load_relaxed(&wane__heap_meter.live_bytes);
  uint64_t growth = wane__load_relaxed(&pace_growth);
  /* a program that never wants cycles, and gets one, has no goal */
  uint64_t goal = growth < UINT64_MAX - live ? live + growth : UINT64_MAX / 2;
  pace_marking = (struct wane__pace_marking){
      .used_bytes = used_bytes, .goal_bytes = goal, .expected_bytes = live};
  wane__store_relaxed(&wane__heap_meter.ask_bytes,
                      wane__pace_allowance(&pace_marking));
  struct wane__pace_marking end = pace_marking;
  end.is_ending = true;
  wane__store_relaxed(&pace_room, wane__pace_allowance(&end));
}

uint64_t wane__pace_last_beside(void) {
  return wane__load_relaxed(&pace_last_beside);
}

uint64_t wane__pace_room(void) {
  uint64_t room = wane__load_relaxed(&pace_room);
  uint64_t since = wane__load_relaxed(&wane__heap_meter.since_flip_bytes);
  return room == UINT64_MAX ? room : room > since ? room - since : 0;
}

void wane__pace_set_ending(bool is_ending) {
  wane__store_relaxed(&pace_marking.is_ending, is_ending);
}

bool wane__pace_may_allocate(size_t more_bytes, bool is_marking) {
  uint64_t since =
      wane__load_relaxed(&wane__heap_meter.since_flip_bytes) + more_bytes;
  uint64_t allowed;
  if (is_marking) {
    struct wane__pace_marking now = pace_marking;
    now.marked_bytes = wane__mark_progress();
    allowed = wane__pace_allowance(&now);
  } else {
    uint64_t growth = wane__load_relaxed(&pace_growth);
    allowed = growth + growth / PACE_ROOM_LEAST;
  }
  if (since >= allowed) {
    return false;
  }
  wane__store_relaxed(&wane__heap_meter.ask_bytes,
                      pace_min(since + PACE_STEP, allowed));
  return true;
}

void wane__pace_init(void) {
  int percent = (int)wane__options.gc_percent;
  pace_percent = percent == 0 ? 1 : percent;
  pace_percent_set = percent != PACE_PERCENT_DEFAULT;
  struct wane__pace_input in = {.is_percent_set = pace_percent_set,
                                .percent = pace_percent,
                                .limit_bytes = UINT64_MAX};
  uint64_t growth = wane__pace(&in).growth_bytes;
  pace_set_trigger(growth, growth);
  pace_set_outside((uint64_t)wane__options.reserve_mb << 20 >>
                   WANE__BLOCK_LOG2);
}

/* A thread changing the pace: attached, and guarded for the locks taken. */
static void pace_apply(void) {
  struct wane__context *self = wane__hooks.attach();
  if (self == NULL) {
    return; /* nothing is allocated yet; the first cycle will see it */
  }
  wane__guard_enter(self);
  wane__pace_set_trigger();
  wane__guard_leave(self);
}

WANE_PUBLIC int wane_set_gc_percent(int percent) {
  int saved = errno;
  (void)wane__hooks.attach();
  wane__store_relaxed(&pace_percent_set, true);
  int fresh = percent == 0 ? 1 : percent < 0 ? -1 : percent;
  int old = __atomic_exchange_n(&pace_percent, fresh, __ATOMIC_RELAXED);
  pace_apply();
  errno = saved;
  return old;
}

WANE_PUBLIC size_t wane_set_memory_limit(size_t bytes) {
  int saved = errno;
  (void)wane__hooks.attach();
  pace_ask_cgroup();
  if (bytes == 0) {
    errno = EINVAL;
    return (size_t)wane__load_relaxed(&pace_limit);
  }
  pace_from_cgroup = false;
  uint64_t fresh = bytes == SIZE_MAX ? UINT64_MAX : bytes;
  size_t old =
      (size_t)__atomic_exchange_n(&pace_limit, fresh, __ATOMIC_RELAXED);
  pace_apply();
  errno = saved;
  return old;
}
