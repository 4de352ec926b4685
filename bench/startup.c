/*
 * bench/startup.c: the empty program, linked with a peer; bench/run times it
 * from spawn to exit against one linked with nothing.
 *
 *   startup [alloc]      with an argument: one allocation of 16 bytes as well
 *
 * The peer's allocation function is referenced, so a static library is linked
 * in and its constructors run. bdwgc is initialised, as it must be before use,
 * without starting its markers. No output: printing would be timed too.
 */
/* peers: none wane bdwgc malloc mimalloc */
#include "shim.h"

int main(int argc, char **argv) {
  (void)argv;
#if defined(BENCH_NONE)
  return argc > 2;
#else
  static void *(*volatile allocate)(size_t) = bench_alloc;
#  if defined(BENCH_BDWGC)
  GC_INIT();
#  endif
  if (argc > 1) {
    bench_use(allocate(16));
  }
  return argc > 2; // NOLINT(clang-analyzer-unix.Malloc): the process ends
#endif
}
