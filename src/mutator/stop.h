/*
 * Stopping the world, and letting it go on.
 *
 * One real-time signal goes to every attached thread. Its handler parks: it
 * notes where the thread's stack ends, counts itself as stopped, and sleeps
 * on a futex until the stop is over. The kernel has put the thread's
 * registers, vector registers too, on the stack above the handler's frame, so
 * scanning from that frame upwards sees them and the red zone.
 *
 * Legal in the handler: futexes, sigaltstack, pthread_getspecific, stores to
 * the thread's own record; no lock, no allocation, errno is kept. All signals
 * are blocked in it, so nothing of the program runs on a parked thread.
 *
 * What if meanwhile a thread
 * - is guarded: the handler only sets a flag; the thread parks itself when it
 *   leaves the guard (wane__guard_stop);
 * - is being created: it waits for the registry's lock, which the collector
 *   holds; until then its argument is a root in its STARTING record;
 * - exits: likewise. One that is gone without a word (ESRCH) is removed;
 * - blocks signals: pthread_sigmask, sigprocmask and the calls that wait under
 *   a mask of their own keep ours open (mutator/interpose). What is left, a
 *   handler whose sa_mask blocks all signals, or a mask set by the system call
 *   itself, makes the stop wait; after ten seconds a line says for whom;
 * - sits in a system call: it is interrupted and, with SA_RESTART, resumed;
 * - forks: fork waits for the stop to end, by the registry's lock, and for the
 *   cycle only until it rests (collect/fork, wane__cycle_rest);
 * - waits for marking to get on (wane__stop_rest): it has noted its stack and
 *   its values, with signals blocked, and is taken as stopped without a signal;
 *   it does not go on before the world does.
 *
 * INV-stop-3: a thread that rests is not guarded, and touches no object and
 *   none of its own noted memory until its rest is over.
 * INV-stop-2: a thread parks once for each stop, and only for one under way:
 *   a signal from elsewhere does nothing.
 *
 * The handler is installed by the system call itself: a program that wraps
 * or lists signal handlers does not get in between. Under ThreadSanitizer it
 * goes through sigaction, and a thread stops when it next calls something
 * that ThreadSanitizer watches: not in a loop that calls nothing.
 */
#ifndef WANE_MUTATOR_STOP_H
#define WANE_MUTATOR_STOP_H

#include <stdbool.h>
#include <stdint.h>

/* Installs the handler; false with errno. */
bool wane__stop_init(void);
/* The signal's number, for the masks of interposed calls. */
int wane__stop_signal(void);
/* Opens the stop signal in the calling thread's mask. */
void wane__stop_allow_signal(void);

/* Notes the managed values of the calling thread's thread-specific data in
   its record. Legal in the handler. */
struct wane__thread;
void wane__stop_note_values(struct wane__thread *thread);

/* Stops all other attached threads and blocks all signals of the caller.
   The cycle lock and the registry's lock are held. stack_pointer: where the
   caller's own stack is to be scanned from. spare_cpus: that nobody needs
   during the stop; if there is one for each thread to be stopped, they spin
   for a moment before they sleep. False, with everything
   running on, if the system would not deliver the signals (the user's queue
   of pending signals stayed full): said once on stderr. */
bool wane__stop_world(uintptr_t stack_pointer, unsigned spare_cpus);
bool wane__stop_is_world_stopped(void);

/* Waits on a futex, or until as many nanoseconds have passed; a stop meanwhile
   need not wake the thread. Signals of the program are delivered afterwards.
   The calling thread is attached and not guarded. */
void wane__stop_rest(const uint32_t *word, uint32_t value, int64_t ns);
void wane__resume_world(void);

#endif
