/*
 * Atomics named by their order, so that every use shows what it pairs with:
 * wane__load_acquire pairs with wane__store_release or a read-modify-write of
 * the same object. Operations without an order in their name are seq_cst.
 * Macros, because they serve every integer and pointer type; each evaluates
 * its arguments once.
 */
#ifndef WANE_BASE_ATOMIC_H
#define WANE_BASE_ATOMIC_H

#include <stdint.h>

#include "attr.h"

#define wane__load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define wane__load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define wane__load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)

#define wane__store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define wane__store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define wane__store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)

/* These return the old value. */
#define wane__add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define wane__add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define wane__sub(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_SEQ_CST)
#define wane__or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
#define wane__exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#define wane__exchange_acquire(p, v)                                           \
  __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
#define wane__exchange_release(p, v)                                           \
  __atomic_exchange_n((p), (v), __ATOMIC_RELEASE)

/* True: *p was *expected and is v; else *expected is what it is. */
#define wane__cas(p, expected, v)                                              \
  __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_SEQ_CST,       \
                              __ATOMIC_SEQ_CST)
#define wane__cas_acquire(p, expected, v)                                      \
  __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQUIRE,       \
                              __ATOMIC_RELAXED)

/* All that was stored before, before all that is stored after; and all that
   was loaded before, before all that is loaded after. ThreadSanitizer does not
   know fences: it sees a full one, a locked operation on the stack. */
#if defined(WANE_TSAN)
#  define wane__fence_release()                                                \
    ((void)__atomic_fetch_add(&(uint32_t){0}, 0, __ATOMIC_SEQ_CST))
#  define wane__fence_acquire() wane__fence_release()
#else
#  define wane__fence_release() __atomic_thread_fence(__ATOMIC_RELEASE)
#  define wane__fence_acquire() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#endif

/* Orders memory accesses against a signal handler of the same thread only. */
#define wane__signal_fence() __atomic_signal_fence(__ATOMIC_SEQ_CST)

/* A hint inside spin loops. */
static inline void wane__cpu_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield" ::: "memory");
#endif
}

#endif
