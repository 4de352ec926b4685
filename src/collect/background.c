/* The background thread; see background.h. */
#include "background.h"

#include <stdbool.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../heap/extent.h"
#include "../heap/heap.h"
#include "../mutator/thread.h"
#include "../special/group.h"
#include "../special/runner.h"
#include "cycle.h"
#include "pace.h"
#include "sweep.h"

#define SWEEP_PORTION 64
#define SWEEP_DELAY_NS 10000000
#define RELEASE_PORTION_BYTES (4u << 20)
#define TICKS_PER_IDLE 4
#define TICKS_PER_PRESSURE 4
/* Of the time: some task waits for memory. */
#define PRESSURE_PERCENT 10u
#define IDLE_TICKS_MAX 64 /* the longest sleep, in ticks, when all is done */
#define FORCED_AFTER_NS 120000000000ull
#define IDLE_CYCLE_BYTES_MIN (256u << 10)

static uint32_t background_wanted;  /* there may be unswept groups; a futex.
                                       seq_cst */
static bool background_runs;        /* cycle lock */
static uint32_t background_watches; /* it was asked to. relaxed */

static struct {
  uint64_t tried_ns;    /* start, or the last cycle begun for being due */
  uint64_t last_count;  /* what had been allocated at the last tick */
  uint64_t rested_ns;   /* how long that has not changed */
  uint64_t rest_cycles; /* cycles that nobody asked for, at the end of the last
                           one at rest */
  bool cycle_done;      /* for this rest */
  bool all_released;    /* for this rest */
  uint32_t before_tick; /* free since before this tick: may be released */
} background;           /* of the background thread */

/* Sweeps until nothing is left, or a cycle waits. */
static void background_sweep(void) {
  bool more = true;
  while (more) {
    wane__cycle_enter();
    more = wane__sweep_some(SWEEP_PORTION);
    wane__cycle_leave();
  }
  wane__runners_retry(); /* for the callbacks that were found */
}

/* Releases what is free beyond keep bytes; true when nothing is left to. */
static bool background_release(uint64_t keep_bytes) {
  for (;;) {
    struct wane__extent_totals totals;
    wane__cycle_enter();
    wane__extent_read_totals(&totals);
    uint64_t free = totals.free_dirty_bytes;
    size_t done = 0;
    if (free > keep_bytes) {
      uint64_t excess = free - keep_bytes;
      done = wane__extent_release(excess < RELEASE_PORTION_BYTES
                                      ? (size_t)excess
                                      : RELEASE_PORTION_BYTES,
                                  background.before_tick);
    }
    wane__cycle_leave();
    if (done == 0) {
      return free <= keep_bytes || free == 0;
    }
  }
}

/* A program under memory pressure grows by less, and gives back what is free
   at once. Asked for now and then, while the program runs. */
static bool background_is_pressed(void) {
  static unsigned ticks; /* background thread, as is the next */
  static bool is_pressed;
  if (ticks++ % TICKS_PER_PRESSURE == 0) {
    is_pressed = wane__os_memory_pressure() >= PRESSURE_PERCENT;
    wane__pace_set_pressed(is_pressed);
  }
  return is_pressed;
}

/* What may still be allocated before the next cycle has ended, and a tenth. */
static uint64_t background_keep(void) {
  uint64_t room = wane__pace_room();
  return room == UINT64_MAX ? room : room + room / 10;
}

static uint64_t background_own_cycles(void) {
  return wane__load_relaxed(&wane__cycle_totals.full) -
         wane__load_relaxed(&wane__cycle_totals.forced);
}

/* True if a cycle may free a good part of the heap: of what was allocated since
   the last one, or beside it; or of what one found that came while the program
   was busy. */
static bool background_wants_cycle(void) {
  const struct wane__heap_meter *meter = &wane__heap_meter;
  uint64_t since = wane__load_relaxed(&meter->since_flip_bytes);
  uint64_t live = wane__load_relaxed(&meter->live_bytes);
  uint64_t maybe_dead = since + wane__pace_last_beside();
  bool are_deaths_awaited = wane__load(&wane__groups_with_records) != 0;
  bool was_busy = background_own_cycles() != background.rest_cycles;
  if (wane__pace_percent() < 0 ||
      (maybe_dead == 0 && !was_busy && !are_deaths_awaited)) {
    return false;
  }
  maybe_dead += was_busy ? live : 0;
  uint64_t last = wane__load_relaxed(&wane__cycle_totals.last_end_ns);
  if (wane__os_now_ns() - last > FORCED_AFTER_NS) {
    return true;
  }
  return !background.cycle_done && maybe_dead > IDLE_CYCLE_BYTES_MIN &&
         maybe_dead > live / 8;
}

static void background_rest(void) {
  if (background_wants_cycle()) {
    wane__cycle_run(WANE__CYCLE_IDLE, true, 0);
    background.rest_cycles = background_own_cycles();
  }
  background.cycle_done = true;
  background_sweep();
  background.before_tick = wane__extent_tick();
  background.all_released = background_release(0);
}

/* When a cycle is due for the sake of those who wait for deaths: after two
   minutes without one, also if the program allocates a little all the time.
   UINT64_MAX: nobody waits. */
static uint64_t background_due_ns(void) {
  uint64_t last = wane__load_relaxed(&wane__cycle_totals.last_end_ns);
  last = last > background.tried_ns ? last : background.tried_ns;
  return wane__pace_percent() >= 0 &&
                 wane__load(&wane__groups_with_records) != 0
             ? last + FORCED_AFTER_NS
             : UINT64_MAX;
}

static void background_tick(uint64_t passed_ns) {
  const struct wane__heap_meter *meter = &wane__heap_meter;
  if (background_due_ns() <= wane__os_now_ns()) {
    background.tried_ns = wane__os_now_ns();
    wane__cycle_run(WANE__CYCLE_IDLE, true, 0);
  }
  /* cycles and allocation since the last one, as one number that moves */
  uint64_t count = wane__load_relaxed(&wane__cycle_totals.full) << 40;
  count += wane__load_relaxed(&meter->since_flip_bytes);
  if (count != background.last_count) {
    background.last_count = count;
    background.rested_ns = 0;
    background.cycle_done = background.all_released = false;
    background_release(background_is_pressed() ? 0 : background_keep());
    background.before_tick = wane__extent_tick();
    return;
  }
  background.rested_ns += passed_ns;
  if (background.rested_ns >= (uint64_t)wane__options.idle_ms * 1000000) {
    background_rest();
    /* the cycle that rest may have brought is no activity */
    background.last_count = wane__load_relaxed(&wane__cycle_totals.full) << 40;
    background.last_count += wane__load_relaxed(&meter->since_flip_bytes);
  }
}

static void *background_thread(void *arg) {
  (void)arg;
  uint64_t tick_ns = (uint64_t)wane__options.idle_ms * 1000000 / TICKS_PER_IDLE;
  uint64_t ticks = 1;
  uint64_t last = wane__os_now_ns();
  background.tried_ns = last;
  for (;;) {
    if (wane__exchange(&background_wanted, 0) != 0) {
      ticks = 1;
      wane__os_sleep_ns(SWEEP_DELAY_NS);
      background_sweep();
    }
    uint64_t now = wane__os_now_ns();
    uint64_t due = background_due_ns();
    if (now - last >= tick_ns || due <= now) {
      background_tick(now - last);
      last = now;
      ticks = !background.all_released     ? 1
              : ticks * 2 < IDLE_TICKS_MAX ? ticks * 2
                                           : IDLE_TICKS_MAX;
    }
    uint64_t until = last + ticks * tick_ns;
    until = until < due || due <= now ? until : due;
    int64_t left = until > now ? (int64_t)(until - now) : 0;
    wane__os_futex_wait(&background_wanted, 0, left);
  }
  return NULL;
}

void wane__background_start(void) {
  if (!background_runs && wane__options.background != 0) {
    background_runs =
        wane__thread_create_internal(background_thread, NULL, false);
  }
}

void wane__background_watch(void) {
  if (WANE_LIKELY(wane__load_relaxed(&background_watches) != 0)) {
    return;
  }
  if (!wane__cycle_try_enter()) {
    if (wane__cycle_is_running()) {
      return; /* which starts it, too */
    }
    wane__cycle_enter();
  }
  wane__background_start();
  bool is_settled = background_runs || wane__options.background == 0;
  wane__store_relaxed(&background_watches, is_settled);
  wane__cycle_leave();
}

void wane__background_wake(void) {
  if (wane__exchange(&background_wanted, 1) == 0) {
    wane__os_futex_wake(&background_wanted, 1);
  }
}

void wane__background_fork_child(void) {
  background_runs = false;
  background_watches = 0;
  background.last_count = 0;
}
