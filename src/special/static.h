/*
 * Static data: the readable and writable data of loaded modules, not code,
 * stacks or thread-locals. It never dies, so cleanups and finalizers of it are
 * accepted and forgotten, and weak handles to it stay good until the module
 * is closed (SEMANTICS A8, F2, W7, D2, D7).
 *
 * That a module was closed is noticed by the dlclose that stands in front of
 * the C library's, and, for those who close by other ways, at each cycle.
 * Asking takes the dynamic linker's lock, so it is only done when a pointer is
 * not into the heap, and never guarded: a thread that waits for that lock
 * must be able to stop.
 */
#ifndef WANE_SPECIAL_STATIC_H
#define WANE_SPECIAL_STATIC_H

#include <stdint.h>

/* Returns if ptr points into static data; else it is the caller's mistake,
   and fatal. Not guarded. */
void wane__static_require(const char *function, const void *ptr);

/* How many modules have been closed so far; UINT64_MAX if the linker does not
   say. Not guarded. */
uint64_t wane__static_closed(void);

/* Clears weak handles to data of modules that are gone. Not guarded. */
void wane__static_forget_closed(void);

#endif
