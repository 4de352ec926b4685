/* The trace line; see trace.h. */
#include "trace.h"

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../mark/dirty.h"

static uint64_t trace_start_ns; /* const after init */

void wane__trace_init(void) { trace_start_ns = wane__os_now_ns(); }

static const char *trace_reason(enum wane__cycle_reason reason) {
  static const char *const names[] = {
      [WANE__CYCLE_HEAP] = "heap",      [WANE__CYCLE_LIMIT] = "limit",
      [WANE__CYCLE_FORCED] = "forced",  [WANE__CYCLE_ROOM] = "no-room",
      [WANE__CYCLE_OUTSIDE] = "mapped", [WANE__CYCLE_STRESS] = "stress",
      [WANE__CYCLE_IDLE] = "idle",      [WANE__CYCLE_SHUTDOWN] = "shutdown",
  };
  return names[reason];
}

static double trace_ms(uint64_t ns) { return (double)ns / 1e6; }

static double trace_mb(uint64_t bytes) {
  return (double)bytes / (1024.0 * 1024.0);
}

/* Once. */
static void trace_backend(void) {
  static bool is_said; /* cycle lock */
  if (!is_said) {
    is_said = true;
    wane__log("what is written while marking: %s", wane__dirty_backend());
  }
}

void wane__trace_cycle(const struct wane__cycle_trace *t) {
  if (wane__options.trace == 0) {
    return;
  }
  trace_backend();
  double cpu_s = (double)t->totals.cpu_ns / 1e9;
  wane__log(
      "gc %llu @%.3fs %s: sweep %.2f, stop %.3f, beside %.2f (%u rounds, "
      "%u retries, %zu pages, looks %.3f), stop %.3f (%.3f + roots %.3f + "
      "mark %.3f) ms, "
      "heap %.1f->%.1f MB, goal %.1f MB, %u markers, "
      "%.0f MB/s %.1f Mobj/s each%s",
      (unsigned long long)t->number, (double)(t->end_ns - trace_start_ns) / 1e9,
      trace_reason(t->reason), trace_ms(t->sweep_before_ns),
      trace_ms(t->begin_ns), trace_ms(t->beside_ns), t->beside.rounds,
      t->beside.retries, t->pages, trace_ms(t->look_ns), trace_ms(t->last_ns),
      trace_ms(t->stop_ns), trace_ms(t->roots_ns), trace_ms(t->mark_ns),
      trace_mb(t->before_bytes), trace_mb(t->live_bytes),
      trace_mb(t->goal_bytes), t->flipped ? t->beside.markers : t->markers,
      cpu_s > 0 ? trace_mb(t->live_bytes) / cpu_s : 0,
      cpu_s > 0 ? (double)t->totals.objects / cpu_s / 1e6 : 0,
      t->totals.rescans != 0 ? ", mark stack overflow" : "");
}
