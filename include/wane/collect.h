/*
 * wane/collect.h: cycles: run one, pace them, see what they did.
 *
 * Cycles begin by themselves when the heap has grown by the percentage set,
 * so none of this is needed for a program to run well.
 */
#ifndef WANE_COLLECT_H
#define WANE_COLLECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Runs one full cycle that begins after the call, and its sweep. On return
   the memory of what was unreachable at the call can be used again, every weak
   pointer to it is NULL, and its callbacks are queued; they need not have run:
   wane_drain waits for that. Threads that call at once may share one cycle. */
void wane_collect(void);

/* Waits until every callback queued before the call has returned, those of
   user queues aside; at most timeout_ms milliseconds, -1: no limit. False
   when the time is over. Fatal inside a callback. */
bool wane_drain(int timeout_ms);

/* Stops the library's callback threads, after what is queued has run; waits
   for that. They start again when something is registered or queued.
   WANE_RUN_CLEANUPS: then runs what is registered, as if everything had died,
   on the calling thread: all weak pointers are NULL, what waits in user queues
   runs, then finalizers, then cleanups, user queues' among them. What the
   callbacks themselves register is not run. Other threads should not use the
   heap meanwhile. Fatal inside a callback, and with unknown flags. */
#define WANE_RUN_CLEANUPS 1u
void wane_shutdown(unsigned flags);

/* Sets by how many percent the heap may grow over what was live after the
   last cycle before the next one begins (GOGC; starts at 100, 0 means 1).
   As long as a program sets nothing, a heap may grow by a quarter more, 64 MiB
   at most. Negative: only explicit and limit-driven cycles. Returns the
   old value. */
int wane_set_gc_percent(int percent);

/* Sets a soft limit in bytes on the memory Wane holds (GOMEMLIMIT). Near it
   cycles come sooner; they never take more than about half of the CPU time,
   so a live heap above the limit grows past it. SIZE_MAX: none. Starts at
   the cgroup's limit, if there is one. Returns the old limit; 0 is refused:
   EINVAL, and the limit stays. */
size_t wane_set_memory_limit(size_t bytes);

/* Numbers since the program started, times in nanoseconds. The caller sets
   size to sizeof(struct wane_stats) before each read; later versions only
   append members. What a version or a program does not use is 0. */
struct wane_stats {
  size_t size;

  uint64_t cycles_full;   /* full cycles completed */
  uint64_t cycles_forced; /* of these, asked for by wane_collect */

  uint64_t pause_count;  /* times the world was stopped for a cycle */
  uint64_t pause_p50_ns; /* percentiles: upper bounds, within 7 % */
  uint64_t pause_p99_ns;
  uint64_t pause_max_ns;
  uint64_t pause_total_ns;

  uint64_t heap_live_bytes;      /* found live by the last cycle */
  uint64_t heap_used_bytes;      /* in objects now, dead ones included */
  uint64_t heap_committed_bytes; /* of the heap, backed by memory */
  uint64_t heap_peak_bytes;      /* the highest heap_used_bytes so far */

  uint64_t allocated_bytes; /* in all, slot sizes */
  uint64_t allocated_objects;

  uint64_t gc_cpu_ns; /* CPU time of marking and sweeping, all threads */
  uint64_t mark_threads;
  const char *dirty_backend; /* how written pages are tracked while marking:
                                "uffd" or "softdirty"; "none": they are not,
                                marking stops the world */

  /* Each in all since the start. queued less run is the backlog; registered
     less queued and stopped is how many there are now. What waited at a fork
     counts as run in the child. */
  uint64_t cleanups_registered;
  uint64_t cleanups_queued;
  uint64_t cleanups_run;
  uint64_t cleanups_stopped;
  uint64_t finalizers_registered;
  uint64_t finalizers_queued;
  uint64_t finalizers_run;
  uint64_t finalizers_stopped; /* cleared before they were queued */
  uint64_t weak_handles_live;  /* to objects that live, static data too */

  uint64_t foreign_bytes; /* mapped or adopted memory kept by the collector */
  uint64_t threads_attached;

  uint64_t released_bytes; /* heap memory given back to the system, in all */

  uint64_t safety_nets_needed; /* cleanups that should not have had to run */

  uint64_t foreign_live;   /* mapped files and adopted ranges that foreign_bytes
                              are of; of those found dead, until they are
                              unmapped or release begins */
  uint64_t files_mapped;   /* in all: mmap calls for wane/mapped.h */
  uint64_t files_unmapped; /* of these, unmapped, by a cleanup or a close */
};

/* Fills out->size bytes of out. A size smaller than the first member: fatal.
   Members beyond what this library knows are zeroed. Numbers of running
   threads are approximate, those of finished cycles exact. */
void wane_read_stats(struct wane_stats *out);

#ifdef __cplusplus
}
#endif

#endif
