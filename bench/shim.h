/*
 * bench/shim.h: one face for every peer, chosen by a macro of the compile line.
 *
 *   -DBENCH_WANE      Wane: wane_alloc, nothing is freed
 *   -DBENCH_BDWGC     bdwgc (libgc): GC_MALLOC, nothing is freed
 *   -DBENCH_MALLOC    the C library's malloc, freed by hand
 *   -DBENCH_MIMALLOC  mimalloc by its own names, freed by hand
 *   -DBENCH_NONE      no allocator at all: only startup.c uses it
 *
 * Three ways to allocate, so that every peer does the same work:
 *
 *   bench_alloc       zeroed for all: calloc and mi_zalloc where the allocator
 *                     does not zero by contract
 *   bench_alloc_leaf  zeroed for all, never scanned: bdwgc's atomic objects
 *                     come with old contents, so a memset is added there
 *   bench_alloc_init  the caller writes every byte at once: plain malloc and
 *                     mi_malloc. Wane and bdwgc zero it all the same, which is
 *                     the price of their contract and counts.
 *
 * bdwgc is used as its manual tells: GC_THREADS before gc.h (pthread_create
 * is then redirected), GC_INIT first, GC_MALLOC, which takes from a free list
 * of the thread. Debian builds it with parallel marking, thread-local
 * allocation, and interior pointers recognised everywhere, as in Wane. Its
 * marker threads (as many as CPUs) start with the first pthread_create;
 * GC_start_mark_threads starts them in a program of one thread too, which
 * takes a quarter off its time here. Nothing else of its defaults is changed.
 *
 * No call checks for NULL: a program that runs out of memory crashes.
 */
#ifndef BENCH_SHIM_H
#define BENCH_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(BENCH_WANE)

#  include <wane.h>
#  define BENCH_PEER "wane"
#  define BENCH_COLLECTED 1

static inline void bench_init(void) {}
static inline void *bench_alloc(size_t size) { return wane_alloc(size); }
static inline void *bench_alloc_init(size_t size) { return wane_alloc(size); }
static inline void *bench_alloc_leaf(size_t size) {
  return wane_alloc_leaf(size);
}
static inline void bench_free(void *ptr) { (void)ptr; }
static inline void bench_collect(void) { wane_collect(); }
static inline void bench_cycles_off(void) { wane_set_gc_percent(-1); }
static inline uint64_t bench_cycles(void) {
  struct wane_stats stats = {.size = sizeof stats};
  wane_read_stats(&stats);
  return stats.cycles_full;
}

#elif defined(BENCH_BDWGC)

#  define GC_THREADS
#  include <gc/gc.h>
#  define BENCH_PEER "bdwgc"
#  define BENCH_COLLECTED 1

static inline void bench_init(void) {
  GC_INIT();
  GC_start_mark_threads();
}
static inline void *bench_alloc(size_t size) { return GC_MALLOC(size); }
static inline void *bench_alloc_init(size_t size) { return GC_MALLOC(size); }
static inline void *bench_alloc_leaf(size_t size) {
  return memset(GC_MALLOC_ATOMIC(size), 0, size);
}
static inline void bench_free(void *ptr) { (void)ptr; }
/* GC_disable holds off GC_gcollect as well, so it is lifted around it. */
static inline void bench_collect(void) {
  bool off = GC_is_disabled();
  if (off) {
    GC_enable();
  }
  GC_gcollect();
  if (off) {
    GC_disable();
  }
}
static inline void bench_cycles_off(void) { GC_disable(); }
static inline uint64_t bench_cycles(void) { return GC_get_gc_no(); }

#elif defined(BENCH_MALLOC) || defined(BENCH_MIMALLOC)

#  if defined(BENCH_MALLOC)
#    include <stdlib.h>
#    define BENCH_PEER "malloc"
#    define BENCH_RAW_ALLOC malloc
#    define BENCH_RAW_ZALLOC(size) calloc(1, size)
#    define BENCH_RAW_FREE free
#  else
#    include <mimalloc.h>
#    define BENCH_PEER "mimalloc"
#    define BENCH_RAW_ALLOC mi_malloc
#    define BENCH_RAW_ZALLOC(size) mi_zalloc(size)
#    define BENCH_RAW_FREE mi_free
#  endif
#  define BENCH_COLLECTED 0

static inline void bench_init(void) {}
static inline void *bench_alloc(size_t size) { return BENCH_RAW_ZALLOC(size); }
static inline void *bench_alloc_init(size_t size) {
  return BENCH_RAW_ALLOC(size);
}
static inline void *bench_alloc_leaf(size_t size) {
  return BENCH_RAW_ZALLOC(size);
}
static inline void bench_free(void *ptr) { BENCH_RAW_FREE(ptr); }
static inline void bench_collect(void) {}
static inline void bench_cycles_off(void) {}
static inline uint64_t bench_cycles(void) { return 0; }

#elif defined(BENCH_NONE)

#  define BENCH_PEER "none"
#  define BENCH_COLLECTED 0

#else
#  error "name the peer: -DBENCH_WANE, _BDWGC, _MALLOC, _MIMALLOC or _NONE"
#endif

/* The compiler must believe that ptr is used, so it may not drop what made
   it. No code. */
static inline void bench_use(void *ptr) {
  __asm__ volatile("" : : "r"(ptr) : "memory");
}

#endif
