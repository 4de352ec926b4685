/* wane_read_stats: the counters of all layers, gathered. Those of running
   threads are read while they change, and are approximate. */
#include <string.h>

#include "../../include/wane/collect.h"
#include "../base/atomic.h"
#include "../base/check.h"
#include "../collect/cycle.h"
#include "../collect/pauses.h"
#include "../heap/extent.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "../heap/outside.h"
#include "../mark/dirty.h"
#include "../mutator/thread.h"
#include "../special/group.h"
#include "../special/net.h"
#include "../special/queue.h"

/* What one thread has allocated: its whole runs, less what is left of those
   it is using. */
static void stats_add_thread(const struct wane__context *context,
                             struct wane_stats *s, uint64_t *pending) {
  s->allocated_bytes += wane__load_relaxed(&context->run_bytes);
  s->allocated_objects += wane__load_relaxed(&context->run_objects);
  *pending += wane__load_relaxed(&context->pending_bytes);
  for (unsigned k = 0; k < WANE__KIND_COUNT; k++) {
    for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
      const struct wane__cache *cache = &context->caches[k][c];
      uintptr_t rest =
          wane__load_relaxed(&cache->end) - wane__load_relaxed(&cache->cur);
      if (rest <= WANE__SMALL_BYTES_MAX) {
        s->allocated_bytes -= rest;
        s->allocated_objects -= rest / cache->slot_bytes;
      }
    }
  }
}

static void stats_gather_heap(struct wane_stats *s) {
  const struct wane__heap_meter *meter = &wane__heap_meter;
  uint64_t pending = 0;
  s->allocated_bytes = wane__load_relaxed(&meter->retired_bytes) +
                       wane__load_relaxed(&meter->large_bytes);
  s->allocated_objects = wane__load_relaxed(&meter->retired_objects) +
                         wane__load_relaxed(&meter->large_objects);
  wane__lock_acquire(&wane__threads_lock);
  for (struct wane__thread *t = wane__threads; t != NULL; t = t->next) {
    if (t->state == WANE__THREAD_ATTACHED) {
      stats_add_thread(&t->context, s, &pending);
      s->threads_attached += !wane__load_relaxed(&t->is_internal);
    }
  }
  s->heap_live_bytes = wane__load_relaxed(&meter->live_bytes);
  s->heap_used_bytes = s->heap_live_bytes + pending +
                       wane__load_relaxed(&meter->since_flip_bytes);
  s->heap_peak_bytes = wane__load_relaxed(&meter->peak_bytes);
  wane__lock_release(&wane__threads_lock);
  if (s->heap_used_bytes > s->heap_peak_bytes) {
    s->heap_peak_bytes = s->heap_used_bytes;
  }
}

static void stats_gather_records(struct wane_stats *s) {
  uint64_t counts[3][WANE__SORT_COUNT] = {0};
  for (unsigned i = 0; i <= WANE__STRIPES; i++) {
    const struct wane__stripe *stripe = &wane__stripes[i];
    for (int sort = 0; sort < WANE__SORT_COUNT; sort++) {
      counts[0][sort] += wane__load_relaxed(&stripe->registered[sort]);
      counts[1][sort] += wane__load_relaxed(&stripe->queued[sort]);
      counts[2][sort] += wane__load_relaxed(&stripe->stopped[sort]);
    }
  }
  s->cleanups_registered = counts[0][WANE__SORT_CLEANUP];
  s->cleanups_queued = counts[1][WANE__SORT_CLEANUP];
  s->cleanups_stopped = counts[2][WANE__SORT_CLEANUP];
  s->cleanups_run = wane__queues_ran(WANE__SORT_CLEANUP);
  s->finalizers_registered = counts[0][WANE__SORT_FINALIZER];
  s->finalizers_queued = counts[1][WANE__SORT_FINALIZER];
  s->finalizers_stopped = counts[2][WANE__SORT_FINALIZER];
  s->finalizers_run = wane__queues_ran(WANE__SORT_FINALIZER);
  s->weak_handles_live =
      counts[0][WANE__SORT_WEAK] - counts[1][WANE__SORT_WEAK];
  s->safety_nets_needed = wane__nets_needed();
}

static void stats_gather_outside(struct wane_stats *s) {
  const struct wane__outside_meter *meter = &wane__outside_meter;
  s->foreign_bytes = wane__load_relaxed(&meter->file_bytes) +
                     wane__load_relaxed(&meter->adopted_bytes);
  s->foreign_live = wane__load_relaxed(&meter->live);
  s->files_mapped = wane__load_relaxed(&meter->mapped);
  s->files_unmapped = wane__load_relaxed(&meter->unmapped);
}

static void stats_gather_collector(struct wane_stats *s) {
  const struct wane__cycle_totals *totals = &wane__cycle_totals;
  struct wane__pauses pauses;
  wane__pauses_read(&pauses);
  s->cycles_full = wane__load_relaxed(&totals->full);
  s->cycles_forced = wane__load_relaxed(&totals->forced);
  s->gc_cpu_ns = wane__load_relaxed(&totals->cpu_ns);
  s->mark_threads = wane__load_relaxed(&totals->mark_threads);
  s->dirty_backend = wane__dirty_backend();
  s->pause_count = pauses.count;
  s->pause_p50_ns = pauses.p50_ns;
  s->pause_p99_ns = pauses.p99_ns;
  s->pause_max_ns = pauses.max_ns;
  s->pause_total_ns = pauses.total_ns;
}

WANE_PUBLIC void wane_read_stats(struct wane_stats *out) {
  if (out == NULL) {
    wane__fatal("wane_read_stats", "out is NULL");
  }
  if (out->size < sizeof out->size) {
    wane__fatal("wane_read_stats",
                "size is %zu: set it to sizeof(struct wane_stats)", out->size);
  }
  size_t size = out->size;
  struct wane_stats s = {.size = size};
  struct wane__extent_totals extents = {0};
  struct wane__context *self = wane__hooks.attach();
  if (self != NULL) {
    stats_gather_heap(&s);
    wane__guard_enter(self);
    wane__extent_read_totals(&extents);
    wane__guard_leave(self);
  }
  s.heap_committed_bytes = extents.used_bytes + extents.free_dirty_bytes;
  s.released_bytes = extents.released_bytes;
  stats_gather_outside(&s);
  stats_gather_collector(&s);
  stats_gather_records(&s);
  memcpy(out, &s, size < sizeof s ? size : sizeof s);
  if (size > sizeof s) {
    memset((char *)out + sizeof s, 0, size - sizeof s);
  }
}
