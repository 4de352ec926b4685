/*
 * WANE_OPTIONS: one table gives name, default, range and meaning of every
 * option; the struct, the parser, `help=1` and docs/options.md come from it.
 *
 * Read once, when the library starts; const afterwards. An unknown key or a
 * bad value warns on stderr and changes nothing else.
 */
#ifndef WANE_BASE_OPTIONS_H
#define WANE_BASE_OPTIONS_H

#include <stdint.h>

/* X(name, default, lowest, highest, meaning) */
#define WANE__OPTIONS(X)                                                       \
  X(help, 0, 0, 2,                                                             \
    "print this table on stderr and go on (1: text, 2 or markdown: Markdown)") \
  X(trace, 0, 0, 1, "print a line on stderr for each cycle")                   \
  X(gc_percent, 100, -1, 1000000,                                              \
    "growth over the live heap at which a cycle begins, as "                   \
    "wane_set_gc_percent")                                                     \
  X(mark_threads, 0, 0, 64,                                                    \
    "threads that mark, the collecting one included; 0: by CPUs, at most 8")   \
  X(signal, 0, 0, 64, "real-time signal that stops threads; 0: SIGRTMIN+6")    \
  X(reserve_mb, 1048576, 64, 67108864,                                         \
    "address space to reserve for the heap in MiB; halved until it fits")      \
  X(huge_pages, 1, 0, 1, "ask for huge pages behind the heap")                 \
  X(background, 1, 0, 1,                                                       \
    "a thread that sweeps and gives memory back between cycles")               \
  X(idle_ms, 2000, 100, 3600000,                                               \
    "without allocation for so long, collect once and give memory back")       \
  X(dirty, 1, 0, 3,                                                            \
    "what tells which pages were written while marking: auto (1), softdirty "  \
    "(2), uffd (3); none (0): mark with the world stopped")                    \
  X(verify, 0, 0, 1,                                                           \
    "after each cycle mark again by simpler code and compare; slow")           \
  X(stress, 0, 0, INT64_MAX,                                                   \
    "a cycle at every Nth allocation, written stress=alloc:N")                 \
  X(poison, 0, 0, 1,                                                           \
    "fill freed memory, and forbid it to AddressSanitizer and Valgrind")       \
  X(check, 0, 0, 2,                                                            \
    "check=cleanups: after each cycle report cleanups and finalizers that "    \
    "can never run; check=cleanups:fail: and abort")                           \
  X(fork, 0, 0, 1,                                                             \
    "fork=run: a child of fork runs the callbacks that waited at the fork")    \
  X(fault, 0, 0, INT64_MAX,                                                    \
    "testing: the Nth system call that can fail fails")                        \
  X(fault_more, 0, 0, 1, "testing: and so do all after it")                    \
  X(mark_stack, 4194304, 8192, 1073741824,                                     \
    "entries of each thread's mark stack; when full, the heap is re-scanned")

struct wane__options {
#define WANE__OPTION_FIELD(name, def, lo, hi, doc) int64_t name;
  WANE__OPTIONS(WANE__OPTION_FIELD)
#undef WANE__OPTION_FIELD
};

/* Const after wane__options_init. */
extern struct wane__options wane__options;

void wane__options_init(void);

#endif
