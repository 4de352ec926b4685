/* trace=1: one line on stderr for each cycle. docs/tracing.md explains it. */
#ifndef WANE_COLLECT_TRACE_H
#define WANE_COLLECT_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "../mark/mark.h"
#include "beside.h"
#include "cycle.h"

struct wane__cycle_trace {
  enum wane__cycle_reason reason;
  uintptr_t stack_pointer; /* of the collecting thread's caller */
  bool flipped;            /* in a stop of its own */
  bool was_left;           /* a cycle that could not be ended went on */
  bool ran;                /* the world could be stopped at the end */
  struct wane__mark_totals totals;
  struct wane__beside beside;
  size_t pages;       /* that the last stop looked at */
  uint64_t begin_ns;  /* the first stop */
  uint64_t beside_ns; /* marking beside the program */
  uint64_t look_ns;   /* the longest of the stops between rounds */
  uint64_t number;
  uint64_t end_ns;
  unsigned markers;
  uint64_t sweep_before_ns; /* finishing the sweep of the cycle before */
  uint64_t stop_ns;         /* until all threads were stopped */
  uint64_t roots_ns;
  uint64_t mark_ns;
  uint64_t last_ns;      /* all of the last stop, or of the only one */
  uint64_t flip_ns;      /* when the colour changed */
  uint64_t since_bytes;  /* allocated by then since the cycle before */
  uint64_t before_bytes; /* in use when the cycle began */
  uint64_t live_bytes;   /* found live */
  uint64_t goal_bytes;   /* that the heap may grow to; 0: no cycle comes */
};

void wane__trace_init(void);
void wane__trace_cycle(const struct wane__cycle_trace *trace);

#endif
