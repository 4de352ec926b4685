/*
 * Roots: where the search for live objects starts.
 *
 * What counts:
 * - of every attached thread: its stack from where it stopped, the signal
 *   frame with all registers, an alternate signal stack it runs on, its
 *   thread-locals (a created thread's static ones lie beside its stack; the
 *   main thread's, and those of dlopened modules, are found through the
 *   dynamic thread vector), the values of
 *   pthread_setspecific;
 * - of a thread that has not begun: its argument; of one that ended and was
 *   not joined: its result;
 * - the writable data of all loaded modules;
 * - ranges added by wane_add_root, and pinned objects.
 *
 * What is missed: memory from malloc or mmap that was not added; pointers
 * stored unaligned, compressed or changed; thread-locals of modules in a C
 * library that is not glibc, if they were dlopened; the stack of a coroutine
 * that is suspended, unless it is managed memory or an added root (a running
 * one is found by its stack pointer).
 *
 * Registers are read when a thread parks, everything else after all threads
 * have parked, so no two reads are of different moments.
 *
 * With AddressSanitizer's fake stacks, locals of a frame may lie outside the
 * stack: each word on it that leads into a fake frame brings that frame in.
 */
#ifndef WANE_MUTATOR_ROOT_H
#define WANE_MUTATOR_ROOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Gets each root range once; words are scanned conservatively. A range that is
   a copy is overwritten after the call. */
typedef void wane__root_visit(void *ctx, uintptr_t start, uintptr_t end,
                              bool is_copy);

/* Bounds of stacks and main thread-locals that need reading /proc. With the
   registry's lock held, before the stop. */
void wane__roots_prepare(void);

/* False if some thread was stopped at a moment when not all of its roots can
   be found: let it go on for a little, and stop again. */
bool wane__roots_are_settled_stw(void);

/* Visits all roots. World stopped, inside wane__modules_hold. */
void wane__roots_each_stw(wane__root_visit *visit, void *ctx);

/* The same in parts, of which only the first needs a stop.
   Threads: stacks, registers, thread-locals, arguments and results. */
void wane__roots_of_threads_stw(wane__root_visit *visit, void *ctx);
/* Writable data of modules and added roots, as they are: ranges that a visitor
   may choose to scan at another time. The world stopped, or with the lock of
   the added ones held, which keeps them where they are. Inside
   wane__modules_hold. */
void wane__roots_of_data(wane__root_visit *visit, void *ctx);
/* Pins. In portions, with the lock held; what is pinned meanwhile is in the
   grey log (heap/grey.h). */
void wane__roots_of_pins(wane__root_visit *visit, void *ctx);

void wane__roots_lock(void);
void wane__roots_unlock(void);

void wane__roots_fork_prepare(void);
void wane__roots_fork_parent(void);
void wane__roots_fork_child(void);

#endif
