/*
 * Poison: freed memory is filled with a pattern and forbidden, so that using
 * memory the collector took back is reported where it happens.
 *
 * With WANE_OPTIONS=poison=1 AddressSanitizer and Valgrind are told which
 * memory may be touched. AddressSanitizer's functions are found at link time
 * if the program has its runtime, whatever the library was built with;
 * Valgrind's requests are compiled in when its headers are there at build
 * time. Without poison=1 all of this is one test of an option.
 */
#ifndef WANE_BASE_POISON_H
#define WANE_BASE_POISON_H

#include <stddef.h>

#include "options.h"

/* What freed memory is filled with. */
#define WANE__POISON_BYTE 0xdb

void wane__poison_allow_slow(void *start, size_t bytes);
void wane__poison_forbid_slow(void *start, size_t bytes);

/* The memory may be used from now on, and counts as written. */
static inline void wane__poison_allow(void *start, size_t bytes) {
  if (wane__options.poison != 0) {
    wane__poison_allow_slow(start, bytes);
  }
}

/* Fills the memory and forbids its use. */
static inline void wane__poison_forbid(void *start, size_t bytes) {
  if (wane__options.poison != 0) {
    wane__poison_forbid_slow(start, bytes);
  }
}

/* Conservative marking reads what Valgrind thinks undefined: between these
   two its reports are off for the calling thread. */
void wane__poison_quiet_begin(void);
void wane__poison_quiet_end(void);

#endif
