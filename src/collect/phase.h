/* Phases of a cycle, told to whoever tests them. In check builds a test may set
   a function that is called between them, on the collecting thread; in others
   there is nothing. */
#ifndef WANE_COLLECT_PHASE_H
#define WANE_COLLECT_PHASE_H

#include "../base/check.h"

enum wane__phase {
  WANE__PHASE_BEFORE_CYCLE,  /* the last sweep is complete */
  WANE__PHASE_FLIPPED,       /* after the first stop, the program runs */
  WANE__PHASE_BEFORE_ARMING, /* as above */
  WANE__PHASE_ARMED,         /* no root is scanned yet but those of threads */
  WANE__PHASE_MARKED,        /* before the first look at what was written */
  WANE__PHASE_ROUND,         /* after each */
  WANE__PHASE_BEFORE_STOP,   /* the last one */
  WANE__PHASE_AFTER_STOP,    /* nothing is swept by the cycle itself yet */
  WANE__PHASE_COUNT
};

#if WANE_CHECK_LEVEL >= 1
extern void (*wane__phase_hook)(enum wane__phase phase);
static inline void wane__phase(enum wane__phase phase) {
  if (wane__phase_hook != NULL) {
    wane__phase_hook(phase);
  }
}
#else
static inline void wane__phase(enum wane__phase phase) { (void)phase; }
#endif

#endif
