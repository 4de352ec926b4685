/* Running a cycle; see cycle.h for its phases. */
#include "cycle.h"

#include <errno.h>
#include <string.h>

#include "../../include/wane/collect.h"
#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../heap/class_list.h"
#include "../heap/foreign.h"
#include "../heap/grey.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "../heap/outside.h"
#include "../mark/dirty.h"
#include "../mark/ephemeron.h"
#include "../mark/mark.h"
#include "../mutator/module.h"
#include "../mutator/registers.h"
#include "../mutator/root.h"
#include "../mutator/stop.h"
#include "../mutator/thread.h"
#include "../special/cleanup.h"
#include "../special/group.h"
#include "../special/net.h"
#include "../special/runner.h"
#include "../special/static.h"
#include "background.h"
#include "beside.h"
#include "check.h"
#include "collector.h"
#include "pace.h"
#include "pauses.h"
#include "phase.h"
#include "sweep.h"
#include "trace.h"
#include "verify.h"

#define MARKERS_DEFAULT_MAX 8u
#define RETRY_BYTES (16u << 20)
#define RETRY_NS 200000000ull
/* How long to wait at most for what is dying outside the heap; in a callback,
   the others may be waiting for it. */
#define ENDS_STEP_NS 1000000u
#define ENDS_STEPS 1000u
#define ENDS_STEPS_IN_CALLBACK 50u
/* More than all frames of a marking together. */
#define SCRUB_BYTES 8192u
/* In steps, as the smallest stacks have less; so much is left of them. */
#define SCRUB_STEP 1024u
#define SCRUB_SPARE 3072u
/* Below so much for each marker, waking another costs more than it gains. */
#define BYTES_PER_MARKER (2u << 20)
/* Of the CPUs, what marks beside the program. */
#define BESIDE_SHARE 4u
/* In the last stop, for fewer pages another marker is not woken. */
#define PAGES_PER_MARKER 256u
/* To make the last stop, if threads cannot be stopped. */
#define STOP_TRIES 3u
/* Of cleanups' arguments, in a stop that shall be short. */
#define TIDY_CHUNKS 2u
/* How long a thread waits at once for marking to get on; and how often for a
   cycle to begin, until it begins one itself. */
#define HOLD_NS 500000
#define HOLDS_MAX 500u
#define REST_NS 10000000

static struct wane__lock cycle_lock = WANE__LOCK_INIT(WANE__RANK_CYCLE);
static struct wane__lock stage_lock = WANE__LOCK_INIT(WANE__RANK_STAGE);
struct wane__cycle_totals wane__cycle_totals;

/* Cycles begun so far, and the number of the last that was completed. A
   caller that waited for the lock need not run its own if one that began
   after the call was completed. lock: cycle; begun is read without, seq_cst. */
static uint64_t cycle_begun;
static uint64_t cycle_completed;
/* One is being run. Written with the lock, read relaxed. */
static bool cycle_runs;
/* Counts cycles that ended marking; a futex, for those who wait for that.
   seq_cst */
static uint32_t cycle_ends;
/* What one that could not be completed had marked; the next goes on with it. */
static struct wane__mark_totals cycle_left;

#if WANE_CHECK_LEVEL >= 1
void (*wane__phase_hook)(enum wane__phase phase);
#endif

void wane__cycle_enter(void) {
  wane__lock_acquire(&cycle_lock);
  wane__lock_acquire(&stage_lock);
}

bool wane__cycle_try_enter(void) {
  if (!wane__lock_try(&cycle_lock)) {
    return false;
  }
  wane__lock_acquire(&stage_lock); /* free, or a fork's for a moment */
  return true;
}

void wane__cycle_leave(void) {
  wane__lock_release(&stage_lock);
  wane__lock_release(&cycle_lock);
}

void wane__stage_acquire(void) {
  wane__add(&wane__mark_rest, 1);
  wane__lock_acquire(&stage_lock);
}

void wane__stage_release(void) {
  wane__lock_release(&stage_lock);
  if (wane__sub(&wane__mark_rest, 1) == 1) {
    wane__os_futex_wake(&wane__mark_rest, INT32_MAX);
  }
}

void wane__cycle_rest(void) {
  uint32_t waiting = wane__load(&wane__mark_rest);
  if (waiting != 0) {
    wane__lock_release(&stage_lock);
    while (waiting != 0) {
      wane__os_futex_wait(&wane__mark_rest, waiting, REST_NS);
      waiting = wane__load(&wane__mark_rest);
    }
    wane__lock_acquire(&stage_lock);
  }
}

/* Asked once: it means reading files. Cycle lock held. */
static unsigned cycle_cpus(void) {
  static unsigned cpus; /* cycle lock */
  if (cpus == 0) {
    cpus = wane__os_cpu_count();
  }
  return cpus;
}

static unsigned cycle_markers_max(void) {
  if (wane__options.mark_threads != 0) {
    return (unsigned)wane__options.mark_threads;
  }
  unsigned cpus = cycle_cpus();
  return cpus < MARKERS_DEFAULT_MAX ? cpus : MARKERS_DEFAULT_MAX;
}

static unsigned cycle_markers_wanted(void) {
  unsigned most = cycle_markers_max();
  if (wane__options.mark_threads != 0) {
    return most;
  }
  /* most of what is new is dead, in most programs */
  uint64_t bytes = wane__heap_meter.live_bytes +
                   wane__load_relaxed(&wane__heap_meter.since_flip_bytes) / 8;
  uint64_t useful = 1 + bytes / BYTES_PER_MARKER;
  return useful < most ? (unsigned)useful : most;
}

/* Beside the program: the share of the CPUs. A thread that waits for the cycle
   gives its own. */
static unsigned cycle_markers_beside(const struct wane__cycle_trace *trace) {
  unsigned share = cycle_cpus() / BESIDE_SHARE;
  share += share == 0 || wane__self->attached;
  return share < trace->markers ? share : trace->markers;
}

/* What was allocated since it was asked last: no thread has any pending. STW.
 */
static uint64_t cycle_take_allocated_stw(void) {
  struct wane__heap_meter *meter = &wane__heap_meter;
  uint64_t since = wane__load_relaxed(&meter->since_flip_bytes);
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    since += t->context.pending_bytes;
    t->context.pending_bytes = 0;
  }
  wane__store_relaxed(&meter->since_flip_bytes, 0);
  return since;
}

/* The flip. STW. */
static void cycle_flip(struct wane__cycle_trace *trace) {
  struct wane__heap_meter *meter = &wane__heap_meter;
  unsigned threads = 0;
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    threads += t->context.run_bytes != t->context.flip_bytes;
    t->context.flip_bytes = t->context.run_bytes;
  }
  wane__pace_set_threads(threads < cycle_cpus() ? threads : cycle_cpus());
  trace->since_bytes = cycle_take_allocated_stw();
  trace->flip_ns = wane__os_now_ns();
  uint64_t used = meter->live_bytes + trace->since_bytes;
  trace->before_bytes = used;
  meter->peak_bytes = used > meter->peak_bytes ? used : meter->peak_bytes;
  WANE_CHECK(wane__stop_is_world_stopped(),
             "INV-cycle-1: the colour changes with the world stopped");
  wane__arena.colour = (uint8_t)(3 - wane__arena.colour);
  wane__arena.dead = 0;
  wane__outside_flip_stw();
  wane__grey_clear_stw();
}

static void cycle_mark_slot(uintptr_t slot) {
  wane__mark_add_range(NULL, (uintptr_t)&slot, (uintptr_t)(&slot + 1), true);
}

/* What threads have of runs is not dead: they will hand it out. STW. */
static void cycle_colour_runs(void) {
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    wane__context_colour_stw(&t->context, cycle_mark_slot);
  }
}

/* Everything is marked: what has the old colour is dead, and all groups are to
   be swept. STW. */
static void cycle_marked(void) {
  wane__arena.dead = (uint8_t)(3 - wane__arena.colour);
  wane__arena.fresh = wane__arena.colour;
  wane__arena.epoch++;
  wane__class_flip_stw();
  wane__group_flip_stw();
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    wane__context_let_go_stw(&t->context);
  }
}

/* Stops until all roots can be found. */
static bool cycle_stop_world(const struct wane__cycle_trace *trace) {
  unsigned cpus = cycle_cpus();
  unsigned spare = cpus > trace->markers ? cpus - trace->markers : 0;
  while (wane__stop_world(trace->stack_pointer, spare)) {
    if (wane__roots_are_settled_stw()) {
      return true;
    }
    wane__resume_world();
    wane__os_sleep_ns(10000);
  }
  return false;
}

/* Lets the world go on, and counts the stop. Of the time that waking takes,
   only what this thread works counts: on a busy machine those it wakes may take
   its CPU, and are not stopped then. */
static uint64_t cycle_resume(uint64_t begin_ns) {
  uint64_t pause_ns = wane__os_now_ns() - begin_ns;
  uint64_t cpu_ns = wane__os_thread_cpu_ns();
  wane__resume_world();
  pause_ns += wane__os_thread_cpu_ns() - cpu_ns;
  wane__pauses_add(pause_ns);
  return pause_ns;
}

/* The first stop, if marking happens beside the program. */
static void cycle_stopped_begin(void *arg) {
  struct wane__cycle_trace *trace = arg;
  uint64_t begin = wane__os_now_ns();
  if (!cycle_stop_world(trace)) {
    return;
  }
  trace->flipped = true;
  cycle_flip(trace);
  wane__pace_begin_marking_stw(trace->before_bytes);
  wane__beside_begin_stw();
  trace->begin_ns = cycle_resume(begin);
}

static void cycle_stop(struct wane__cycle_trace *trace,
                       void (*stopped)(void *trace));

/* A stop between the two, for what threads hold by now. */
static void cycle_stopped_look(void *arg) {
  struct wane__cycle_trace *trace = arg;
  uint64_t begin = wane__os_now_ns();
  if (cycle_stop_world(trace)) {
    wane__beside_begin_stw();
    uint64_t pause_ns = cycle_resume(begin);
    trace->look_ns = pause_ns > trace->look_ns ? pause_ns : trace->look_ns;
  }
}

static void cycle_look(void *trace) { cycle_stop(trace, cycle_stopped_look); }

/* Hands all that is still to be marked to the markers. STW. Returns how many of
   them it is worth; 0: marking goes on beside the program. */
static unsigned cycle_add_roots(struct wane__cycle_trace *trace) {
  size_t pages;
  if (!trace->flipped) {
    cycle_flip(trace);
    wane__roots_each_stw(wane__mark_add_range, NULL);
    wane__records_visit_roots(wane__mark_add_range, NULL);
    return trace->markers;
  }
  if (!wane__beside_finish_stw(&trace->beside, &pages)) {
    return 0;
  }
  trace->pages = trace->beside.is_tracked ? pages : 0;
  size_t useful = 1 + pages / PAGES_PER_MARKER;
  return useful < trace->markers ? (unsigned)useful : trace->markers;
}

static void cycle_note_beside(const struct wane__cycle_trace *trace,
                              uint64_t last_live_bytes,
                              uint64_t allocated_bytes) {
  static uint64_t last_end_ns; /* cycle lock */
  uint64_t now = wane__os_now_ns();
  struct wane__pace_last last = {
      .beside_bytes = allocated_bytes,
      .beside_ns = now - trace->flip_ns,
      .before_bytes = trace->since_bytes,
      .before_ns = last_end_ns != 0 ? trace->flip_ns - last_end_ns : 0,
      .last_live_bytes = last_live_bytes};
  wane__pace_note_beside(&last);
  last_end_ns = now;
}

static void cycle_set_pace(struct wane__cycle_trace *trace) {
  const struct wane__mark_totals *totals = &trace->totals;
  uint64_t allocated = cycle_take_allocated_stw();
  /* entries of tables whose keys died are garbage, if only for the next cycle:
     were they to count as live, a table would let the heap grow by them, and
     grow with it */
  uint64_t last_live = wane__heap_meter.live_bytes;
  trace->live_bytes = totals->bytes - totals->outside.bytes;
  wane__store_relaxed(&wane__heap_meter.live_bytes,
                      trace->live_bytes - totals->waiting_bytes);
  wane__pace_note_outside_stw(totals->outside.files,
                              totals->outside.adopted_bytes);
  if (trace->flipped && trace->flip_ns != 0) {
    cycle_note_beside(trace, last_live, allocated);
  } else {
    wane__pace_note_stop();
  }
  wane__pace_set_trigger();
  uint64_t room = wane__pace_room();
  trace->goal_bytes = room != UINT64_MAX ? trace->live_bytes + room : 0;
}

/* The stop that ends marking; the only one, if all of it happens there. */
static void cycle_stopped(void *arg) {
  struct wane__cycle_trace *trace = arg;
  uint64_t begin = wane__os_now_ns();
  if (!cycle_stop_world(trace)) {
    return;
  }
  uint64_t stopped = wane__os_now_ns();
  unsigned markers = cycle_add_roots(trace);
  uint64_t roots = wane__os_now_ns();
  if (markers == 0) {
    cycle_resume(begin);
    return;
  }
  wane__beside_end_slow();
  cycle_colour_runs();
  wane__records_tidy_stw(trace->flipped ? TIDY_CHUNKS : UINT32_MAX);
  trace->ran = true;
  wane__mark_all(markers, NULL, &trace->totals);
  if (!trace->beside.is_tracked && wane__finalizers_mark()) {
    wane__mark_all(markers, NULL, &trace->totals);
  }
  cycle_marked();
  wane__add(&wane__groups_undone, wane__ephemerons_finish_stw());
  uint64_t marked = wane__os_now_ns();
  if (wane__options.verify != 0) {
    wane__verify_stw();
  }
  if (wane__options.check != 0) {
    wane__check_stw();
  }
  cycle_set_pace(trace);
  /* before anybody sees what it found */
  trace->number = wane__cycle_totals.full + 1;
  wane__store_relaxed(&wane__cycle_totals.full, trace->number);
  trace->last_ns = cycle_resume(begin);
  trace->stop_ns = stopped - begin;
  trace->roots_ns = roots - stopped;
  trace->mark_ns = marked - roots;
}

static void cycle_stop(struct wane__cycle_trace *trace,
                       void (*stopped)(void *trace)) {
  wane__lock_acquire(&wane__threads_lock);
  wane__roots_prepare();
  (void)wane__modules_hold(stopped, trace);
  wane__lock_release(&wane__threads_lock);
}

/* Marks beside the program, and stops it for the end; more than once, if too
   much was written before it stood. */
static void cycle_mark_beside(struct wane__cycle_trace *trace) {
  unsigned retries;
  wane__phase(WANE__PHASE_FLIPPED);
  trace->beside.markers = cycle_markers_beside(trace);
  trace->beside.was_left = trace->was_left;
  trace->beside.look = cycle_look;
  trace->beside.ctx = trace;
  do {
    uint64_t start = wane__os_now_ns();
    retries = trace->beside.retries;
    wane__beside_mark(&trace->beside, &trace->totals);
    trace->beside_ns += wane__os_now_ns() - start;
    wane__phase(WANE__PHASE_BEFORE_STOP);
    cycle_stop(trace, cycle_stopped);
  } while (trace->beside.retries != retries);
}

/* A cycle whose last stop cannot be made is left as it is, marking: nothing is
   found dead, and the next cycle goes on with it. */
static bool cycle_stop_and_mark(struct wane__cycle_trace *trace) {
  wane__phase(WANE__PHASE_BEFORE_CYCLE);
  trace->flipped = wane__is_marking();
  trace->was_left = trace->flipped;
  trace->totals = cycle_left;
  if (trace->reason != WANE__CYCLE_SHUTDOWN && wane__dirty_is_available()) {
    if (!trace->flipped) {
      cycle_stop(trace, cycle_stopped_begin);
    }
    if (!trace->flipped) {
      return false;
    }
    cycle_mark_beside(trace);
  }
  for (unsigned tries = 0; !trace->ran && tries < STOP_TRIES; tries++) {
    cycle_stop(trace, cycle_stopped);
  }
  cycle_left = trace->totals;
  if (trace->ran) {
    cycle_left = (struct wane__mark_totals){0};
    wane__phase(WANE__PHASE_AFTER_STOP);
  } else {
    wane__beside_end_slow();
  }
  return trace->ran;
}

/* Marking leaves addresses of objects behind: in the stack below, the marker's
   ring above all, and in the vector registers with which memcpy copied mark
   stacks. Whatever this thread does next has them in unused parts of its
   frames, and threads that it makes inherit the registers; they would keep
   what is allocated at these addresses later. */
static WANE_NOINLINE void cycle_scrub(unsigned left) {
  unsigned char below[SCRUB_STEP];
  memset(below, 0, sizeof below);
  uintptr_t lowest =
      wane__self->attached ? ((struct wane__thread *)wane__self)->stack_low : 0;
  if (left > SCRUB_STEP && (uintptr_t)below - lowest > SCRUB_SPARE) {
    cycle_scrub(left - SCRUB_STEP);
  }
  __asm__ volatile("" : : "r"(below) : "memory");
}

/* A cycle that could not be run is tried again after some more allocation,
   not at every turn. */
static void cycle_put_off(void) {
  wane__outside_put_off();
  wane__pace_put_off(RETRY_BYTES);
}

static bool cycle_run_locked(enum wane__cycle_reason reason, bool sweep,
                             uintptr_t stack_pointer, bool *was_left) {
  uint64_t start = wane__os_now_ns();
  uint64_t cpu_start = wane__os_thread_cpu_ns();
  struct wane__cycle_trace trace = {.reason = reason,
                                    .stack_pointer = stack_pointer};
  wane__ephemerons_end = reason == WANE__CYCLE_SHUTDOWN;
  wane__background_start();
  if (wane__dirty_is_available()) {
    wane__collector_start();
  }
  wane__pace_prepare();
  wane__static_forget_closed();
  wane__foreign_prepare();
  trace.markers = wane__mark_prepare(cycle_markers_wanted());
  wane__sweep_finish_records(); /* the stop need not wait for long ones */
  trace.sweep_before_ns = wane__os_now_ns() - start;
  bool ran = trace.markers != 0 && cycle_stop_and_mark(&trace);
  *was_left = trace.was_left;
  wane__beside_go_on();
  wane__add(&cycle_ends, 1);
  wane__os_futex_wake(&cycle_ends, INT32_MAX);
  cycle_scrub(SCRUB_BYTES);
  wane__registers_forget();
  if (!ran) {
    cycle_put_off();
    errno = ENOMEM;
    return false;
  }
  if (trace.flipped && wane__dirty_is_available()) {
    wane__dirty_end();
  }
  if (wane__options.check != 0) {
    wane__check_report();
  }
  if (sweep) {
    wane__sweep_finish_records();
  }
  uint64_t end = wane__os_now_ns();
  struct wane__cycle_totals *totals = &wane__cycle_totals;
  if (reason == WANE__CYCLE_FORCED) {
    wane__store_relaxed(&totals->forced, totals->forced + 1);
  }
  uint64_t cpu_ns =
      wane__os_thread_cpu_ns() - cpu_start + trace.totals.helpers_cpu_ns;
  wane__store_relaxed(&totals->cpu_ns, totals->cpu_ns + cpu_ns);
  wane__store_relaxed(&totals->mark_threads, trace.markers);
  wane__store_relaxed(&totals->last_end_ns, end);
  wane__store_relaxed(&totals->last_work_ns, cpu_ns);
  trace.end_ns = end;
  wane__trace_cycle(&trace);
  if (wane__options.trace != 0) {
    wane__nets_trace();
  }
  return true;
}

/* A triggered cycle may have been run by another thread meanwhile. */
static bool cycle_is_due(enum wane__cycle_reason reason, size_t more_bytes) {
  const struct wane__heap_meter *meter = &wane__heap_meter;
  if (reason == WANE__CYCLE_OUTSIDE) {
    return wane__outside_is_due() || wane__outside_bytes_are_due();
  }
  return (reason != WANE__CYCLE_HEAP && reason != WANE__CYCLE_LIMIT) ||
         wane__load_relaxed(&meter->since_flip_bytes) + more_bytes >=
             wane__load_relaxed(&meter->trigger_bytes);
}

/* The cycle lock is waited for unguarded: a thread that waits for a cycle in
   another thread must be able to stop. */
static WANE_NOINLINE bool cycle_run(enum wane__cycle_reason reason, bool sweep,
                                    size_t more_bytes,
                                    uintptr_t stack_pointer) {
  int saved = errno;
  uint64_t begun = wane__load(&cycle_begun);
  wane__cycle_enter();
  bool ok = true;
  bool was_left;
  if (reason == WANE__CYCLE_SHUTDOWN ||
      (cycle_completed <= begun && cycle_is_due(reason, more_bytes))) {
    uint64_t number = wane__add(&cycle_begun, 1) + 1;
    wane__store_relaxed(&cycle_runs, true);
    ok = cycle_run_locked(reason, sweep, stack_pointer, &was_left);
    if (ok && was_left && reason != WANE__CYCLE_HEAP) {
      /* that one had begun before the call */
      ok = cycle_run_locked(reason, sweep, stack_pointer, &was_left);
    }
    wane__store_relaxed(&cycle_runs, false);
    cycle_completed = ok ? number : cycle_completed;
  } else if (sweep) {
    wane__sweep_finish_records();
  }
  wane__cycle_leave();
  wane__runners_retry();
  if (ok) {
    errno = saved;
    wane__background_wake();
  }
  return ok;
}

/* The caller's registers must be in memory before its stack is scanned. What
   is scanned begins in this frame: those below it are the collector's, come and
   go, and have words of others in them that came before. */
bool wane__cycle_run(enum wane__cycle_reason reason, bool sweep,
                     size_t more_bytes) {
  struct wane__registers registers;
  wane__registers_save(&registers);
  uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
  uintptr_t saved = (uintptr_t)&registers;
  bool ok = cycle_run(reason, sweep, more_bytes, frame < saved ? frame : saved);
  __asm__ volatile("" : : "r"(&registers) : "memory");
  return ok;
}

/* Where the live heap leaves no room below the memory limit, cycles take at
   most half of the time: one begins at the earliest when the program has run
   as long as the last one worked. */
static bool cycle_limit_may_wait(void) {
  const struct wane__cycle_totals *totals = &wane__cycle_totals;
  uint64_t last_end = wane__load_relaxed(&totals->last_end_ns);
  return wane__pace_is_tight() && wane__os_now_ns() - last_end <
                                      wane__load_relaxed(&totals->last_work_ns);
}

void wane__cycle_for_outside(void) {
  if (wane__outside_is_due() ||
      (wane__outside_bytes_are_due() && !cycle_limit_may_wait())) {
    wane__cycle_run(WANE__CYCLE_OUTSIDE, false, 0);
  }
}

void wane__cycle_wait_for_ends(uint64_t dying, uint64_t adopted_bytes) {
  static uint64_t in_vain; /* what was left the last time. relaxed */
  unsigned steps =
      wane__runner_self == NULL ? ENDS_STEPS : ENDS_STEPS_IN_CALLBACK;
  int saved = errno;
  uint64_t begin = wane__load_relaxed(&wane__outside_meter.dying);
  uint64_t left = begin;
  while (steps-- > 0 &&
         (left > dying ||
          wane__load_relaxed(&wane__outside_meter.dying_adopted_bytes) >
              adopted_bytes) &&
         left != wane__load_relaxed(&in_vain)) {
    wane__os_sleep_ns(ENDS_STEP_NS);
    left = wane__load_relaxed(&wane__outside_meter.dying);
  }
  wane__store_relaxed(&in_vain, left == begin ? left : UINT64_MAX);
  errno = saved;
}

bool wane__cycle_is_running(void) { return wane__load_relaxed(&cycle_runs); }

static enum wane__cycle_reason cycle_trigger_reason(void) {
  return wane__pace_is_by_limit() ? WANE__CYCLE_LIMIT : WANE__CYCLE_HEAP;
}

static bool cycle_may_allocate(size_t bytes) {
  struct wane__context *self = wane__self;
  wane__guard_enter(self);
  bool may = wane__pace_may_allocate(bytes, wane__cycle_is_running() &&
                                                wane__is_marking());
  wane__guard_leave(self);
  return may;
}

/* With a collector thread, which is asked for a cycle if none is under way. The
   calling thread waits while it is ahead of the marking, and lets another
   marker work in its place; or, if the collector does not get to it, runs the
   cycle itself. */
static void cycle_hold(size_t more_bytes) {
  bool has_waited = false;
  uint32_t ends = wane__load(&cycle_ends);
  for (unsigned holds = 0; !cycle_may_allocate(more_bytes); holds++) {
    if (wane__cycle_is_running() && wane__is_marking()) {
      wane__mark_invite();
      has_waited = true;
    } else if (has_waited) {
      return; /* the cycle is over: that is all that waiting can do */
    } else if (more_bytes >=
                   wane__load_relaxed(&wane__heap_meter.trigger_bytes) ||
               holds == HOLDS_MAX) {
      wane__cycle_run(cycle_trigger_reason(), false, more_bytes);
      return;
    } else {
      wane__collector_ask(cycle_trigger_reason());
    }
    wane__stop_rest(&cycle_ends, ends, HOLD_NS);
    ends = wane__load(&cycle_ends);
  }
}

void wane__cycle_triggered(size_t more_bytes) {
  bool is_running = wane__cycle_is_running();
  if (!is_running && cycle_limit_may_wait()) {
    return;
  }
  int saved = errno;
  if (!wane__collector_is_ready()) {
    wane__cycle_run(cycle_trigger_reason(), false, more_bytes);
    errno = saved;
    return;
  }
  if (!is_running) {
    wane__collector_ask(cycle_trigger_reason());
  }
  cycle_hold(more_bytes);
  errno = saved;
}

/* A cycle that could not be run is not tried again for each allocation that
   finds no room: not being able to takes time, too. */
void wane__cycle_for_room(void) {
  static uint64_t failed_ns; /* relaxed */
  uint64_t last = wane__load_relaxed(&failed_ns);
  if (last != 0 && wane__os_now_ns() - last < RETRY_NS) {
    return;
  }
  bool ok = wane__cycle_run(WANE__CYCLE_ROOM, true, 0);
  wane__store_relaxed(&failed_ns, ok ? 0 : wane__os_now_ns());
  wane__cycle_wait_for_ends(0, 0); /* their addresses are room, too */
}

void wane__cycle_for_stress(void) {
  wane__cycle_run(WANE__CYCLE_STRESS, false, 0);
}

void wane__cycle_fork_child(void) {
  wane__lock_reset(&cycle_lock);
  wane__lock_reset(&stage_lock);
  wane__store(&wane__mark_rest, 0);
  wane__beside_end_slow();
  cycle_runs = false;
}

WANE_PUBLIC void wane_collect(void) {
  int saved = errno;
  if (wane__hooks.attach() != NULL) {
    wane__cycle_run(WANE__CYCLE_FORCED, true, 0);
  }
  errno = saved;
}
