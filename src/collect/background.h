/*
 * The background thread: sweeps after a cycle, gives memory back, and runs a
 * cycle when the program rests.
 *
 * Sweeping begins a hundredth of a second after a cycle. A program that
 * allocates fast has swept what it needs by then, and a thread that wakes
 * after each of many short cycles would only take its CPU.
 *
 * Giving back. While the program allocates, free memory beyond what the heap
 * needs to reach its next goal is released, once it has been free for a
 * moment. When nothing has been allocated for idle_ms, all free memory is
 * released, so that an idle program is as large as what it holds. Before
 * that, if much may have died since the last cycle, one cycle is run; and
 * after two minutes without a cycle one is run if anything was allocated at
 * all, or a death is waited for (SEMANTICS G3).
 *
 * It works in small portions with the cycle lock held, so a cycle waits for
 * it no longer than one portion, and it holds nothing that a stop needs. The
 * thread starts at the first cycle or at the first megabyte, is not attached,
 * and blocks all signals.
 */
#ifndef WANE_COLLECT_BACKGROUND_H
#define WANE_COLLECT_BACKGROUND_H

/* Starts the thread if it should run and does not. Cycle lock held. If that
   fails, allocating threads and cycles do all of the sweeping. */
void wane__background_start(void);
/* Starts it because deaths are waited for: a hook (heap/hooks.h). */
void wane__background_watch(void);
/* There is something to sweep. */
void wane__background_wake(void);
void wane__background_fork_child(void);

#endif
