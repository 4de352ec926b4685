/* Tells AddressSanitizer and Valgrind which memory is free; see poison.h. */
#include "poison.h"

#include <string.h>

#if __has_include(<valgrind/memcheck.h>)
#  include <valgrind/memcheck.h>
#else
#  define VALGRIND_MAKE_MEM_DEFINED(start, bytes) ((void)0)
#  define VALGRIND_MAKE_MEM_NOACCESS(start, bytes) ((void)0)
#  define VALGRIND_DISABLE_ERROR_REPORTING ((void)0)
#  define VALGRIND_ENABLE_ERROR_REPORTING ((void)0)
#endif

void __asan_poison_memory_region(void const volatile *addr, size_t size)
    __attribute__((weak));
void __asan_unpoison_memory_region(void const volatile *addr, size_t size)
    __attribute__((weak));

void wane__poison_allow_slow(void *start, size_t bytes) {
  if (__asan_unpoison_memory_region != NULL) {
    __asan_unpoison_memory_region(start, bytes);
  }
  VALGRIND_MAKE_MEM_DEFINED(start, bytes);
}

void wane__poison_forbid_slow(void *start, size_t bytes) {
  wane__poison_allow_slow(start, bytes);
  memset(start, WANE__POISON_BYTE, bytes);
  if (__asan_poison_memory_region != NULL) {
    __asan_poison_memory_region(start, bytes);
  }
  VALGRIND_MAKE_MEM_NOACCESS(start, bytes);
}

void wane__poison_quiet_begin(void) { VALGRIND_DISABLE_ERROR_REPORTING; }
void wane__poison_quiet_end(void) { VALGRIND_ENABLE_ERROR_REPORTING; }
