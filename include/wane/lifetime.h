/*
 * wane/lifetime.h: what happens when objects die, and how to know.
 *
 * A cleanup runs a function some time after an object died, and never sees
 * it. A finalizer gets the object back for the call. A weak pointer gives the
 * object while it lives and NULL from the moment it is found dead. "Object"
 * is one allocation; "dead" means that a finished cycle found it unreachable.
 *
 * One death, in this order: all weak pointers to the object are NULL; then its
 * finalizer is queued, if it has one, else its cleanups. No callback ever sees
 * it otherwise.
 *
 * Where callbacks run. Cleanups without a queue run on the library's workers,
 * max(CPUs / 4, 2) threads, in any order and at the same time; finalizers
 * without a queue one after another on a thread of their own; and with a queue
 * both run only inside wane_queue_run, on the thread that calls it. The
 * library's threads have all signals blocked. What happened before the
 * registration, and before wane_keep_alive(ptr), is visible to the callback.
 *
 * A callback may allocate, collect, register, stop, make and read weak
 * pointers, fork. It may not call wane_drain, wane_shutdown or, for the queue
 * it runs on, wane_queue_run: these would wait for it. It must return: leaving
 * it by pthread_exit, cancellation or longjmp is a fatal mistake. Nothing runs
 * at exit unless wane_shutdown(WANE_RUN_CLEANUPS) is called.
 *
 * Handles are numbers, never addresses: they may lie in any memory, keep
 * nothing alive, compare by .id, and are never reused. The zero handle is
 * none. Every function may be called from any thread, none from a signal
 * handler; successful calls leave errno alone; mistakes (named below) print
 * one line "wane: FUNCTION: what is wrong" on stderr and abort.
 */
#ifndef WANE_LIFETIME_H
#define WANE_LIFETIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Cleanups ---- */

typedef struct wane_cleanup {
  uint64_t id;
} wane_cleanup;

/* Registers fn(arg) to be called once, some time after ptr's object is dead.
   ptr may point anywhere into the object; any number of cleanups per object.
   The object is not kept alive by its cleanups and its memory is reusable in
   the cycle that found it dead. arg, if it points into managed memory, and
   all it reaches live until fn has returned or the cleanup was stopped: if
   arg reaches the object, fn never runs (WANE_OPTIONS=check=cleanups finds
   such cases). Which is why arg is best a number or a small object of its own.

   The zero handle with ENOMEM, and nothing registered, if there is no memory.
   Static data as ptr is accepted: it never dies, and the handle is zero.
   Fatal: ptr or fn NULL; arg pointing into ptr's object; ptr in no live
   object and no static data (malloc, mmap, a stack, thread-locals, code). */
wane_cleanup wane_add_cleanup(const void *ptr, void (*fn)(void *arg),
                              void *arg);

/* The same with size bytes copied from args: fn gets a pointer to the copy,
   16-aligned and valid during the call. Pointers in the copy, if aligned, keep
   what they point to alive as arg does. Fatal besides: any word of the copy
   pointing into ptr's object; args NULL with a size that is not 0. */
wane_cleanup wane_add_cleanup_copy(const void *ptr, void (*fn)(void *args),
                                   const void *args, size_t size);

/* Cancels that cleanup alone. True: it had not been queued and will not run;
   its arg is let go. False: its object was found dead before, or it ran, was
   stopped, or is the zero handle. Keep ptr alive across the call if you need
   to win. */
bool wane_cleanup_stop(wane_cleanup cleanup);

/* A cleanup as a safety net: one that should never be needed, because the
   program is expected to release the resource itself and stop the cleanup.
   Each time it runs all the same, the place of this line is charged with it:
   wane_read_nets and trace=1 name the places that forget. A macro; the
   function below is for wrappers that pass on the place of their caller. */
#define wane_add_safety_net(ptr, fn, arg)                                      \
  wane_add_safety_net_at((ptr), (fn), (arg), __FILE__, __LINE__)
wane_cleanup wane_add_safety_net_at(const void *ptr, void (*fn)(void *arg),
                                    void *arg, const char *file, int line);

/* What is known of one place that registers safety nets. */
struct wane_net {
  const char *file; /* valid as long as the process */
  int line;
  uint64_t registered;
  uint64_t needed; /* nets that had to run: what was not released in time */
};

/* Fills nets with up to max places, those with most needed first; returns how
   many places there are. */
size_t wane_read_nets(struct wane_net *nets, size_t max);

/* ---- Finalizers ---- */

/* Registers fn(obj) to be called once after obj is dead. For the call obj
   and all it reaches are alive again, and obj has no finalizer any more: fn
   may store obj, which then lives on, or set a finalizer again. The memory
   comes back, at the earliest, in the cycle after fn returned.

   What obj reaches is kept alive, obj itself is not: of A pointing to B, both
   with finalizers, A's runs first and B's only after A was freed. A cycle of
   two or more objects with a finalizer in it never dies (check=cleanups
   finds them); an object's pointer to itself does no harm. Prefer cleanups.

   fn NULL clears, also if there is none. Out of memory: nothing is set, and
   errno is ENOMEM. Static data as obj: ignored. Fatal: obj NULL; obj not the
   start of its object; a finalizer is set already; obj in other memory. */
void wane_set_finalizer(void *obj, void (*fn)(void *obj));

/* ---- Weak pointers ---- */

typedef struct wane_weak {
  uint64_t id;
} wane_weak;

/* A weak pointer to ptr, which may point anywhere into a live object. Two are
   equal (==  on .id) if and only if they were made from equal pointers into
   the same object's life, and stay so after its death. Static data gives
   the same handle each time, never NULL until its module is closed. NULL
   gives the zero handle. No memory: the zero handle with ENOMEM. Fatal: ptr
   in other memory. */
wane_weak wane_weak_make(const void *ptr);

/* The pointer that the weak pointer was made from, or NULL once its object
   has been found dead; for ever from then on, even if a finalizer brings the
   object back. Takes no lock. What it returns is alive as long as it is
   held. An object that only a dead finalizable object reaches is not dead. */
void *wane_weak_value(wane_weak weak);

/* ---- Queues: callbacks on a thread of your choice ---- */

struct wane_queue;

/* A queue whose callbacks run only in wane_queue_run, in the order in which
   they were queued. Not a managed object: needs no root, is freed by hand,
   once. NULL with errno (EMFILE, ENFILE, ENOMEM): no file descriptor or no
   memory. A queue of NULL is fatal in all calls. */
struct wane_queue *wane_queue_new(void);

/* A file descriptor that is readable exactly while callbacks wait, for poll,
   epoll, libuv. Do not read from it or close it. After fork the child's has
   the same number and is its own. */
int wane_queue_fd(struct wane_queue *q);

/* Runs up to max waiting callbacks on this thread; returns how many. 0 with
   ENOMEM, though some wait, if there is no memory to begin. Fatal: inside a
   callback of the same queue. What waits here slows nobody down: a queue that
   is not run grows. */
size_t wane_queue_run(struct wane_queue *q, size_t max);

/* Frees the queue. What still waits, or comes later, runs on the library's
   threads. Inside a callback of q it takes effect when that run returns. */
void wane_queue_free(struct wane_queue *q);

/* As wane_add_cleanup and wane_set_finalizer, with fn running on q. */
wane_cleanup wane_add_cleanup_on(struct wane_queue *q, const void *ptr,
                                 void (*fn)(void *arg), void *arg);
void wane_set_finalizer_on(struct wane_queue *q, void *obj,
                           void (*fn)(void *obj));

/* ---- Uses and scopes ---- */

/* ptr counts as used up to here: the compiler may not drop its last copy
   earlier. No code, no fence. Put it after the last use of what the object
   owns, not merely after the last use of the pointer. */
static inline void wane_keep_alive(const void *ptr) {
#if defined(__GNUC__)
  __asm__ volatile("" : : "r"(ptr) : "memory");
#else
  static const void *volatile sink;
  sink = ptr;
#endif
}

/* Runs fn(arg) when the enclosing scope ends, whichever way: by its end,
   return, break, goto, in C++ an exception, but not by longjmp or exit. arg is
   evaluated here; several in one scope run last first. fn is a
   void (*)(void *). Needs GCC, Clang or C++. */
#if defined(__cplusplus)
struct wane_priv_defer {
  void (*fn)(void *);
  void *arg;
  ~wane_priv_defer() { fn(arg); }
};
#  define WANE_PRIV_DEFER_ATTRIBUTE
#elif defined(__GNUC__)
struct wane_priv_defer {
  void (*fn)(void *);
  void *arg;
};
static inline void wane_priv_defer_run(struct wane_priv_defer *defer) {
  defer->fn(defer->arg);
}
#  define WANE_PRIV_DEFER_ATTRIBUTE                                            \
    __attribute__((cleanup(wane_priv_defer_run), unused))
#endif
#define WANE_PRIV_JOIN_(a, b) a##b
#define WANE_PRIV_JOIN(a, b) WANE_PRIV_JOIN_(a, b)
#if defined(__GNUC__) || defined(__cplusplus)
#  define WANE_DEFER(fn, arg)                                                  \
    WANE_PRIV_DEFER_ATTRIBUTE struct wane_priv_defer WANE_PRIV_JOIN(           \
        wane_priv_defer_at_, __LINE__) = {(fn), (arg)}
#endif

#ifdef __cplusplus
}
#endif

#endif
