/*
 * Three ways to stop the program, and when each is right.
 *
 * - wane__fatal: the caller of a public function made a mistake that the
 *   contract calls fatal. "wane: FUNCTION: what is wrong", then abort.
 * - WANE_ASSERT: an invariant of the library is broken; cheap, in all builds.
 * - WANE_CHECK: the same, for what costs more; only in the check and paranoid
 *   builds (WANE_CHECK_LEVEL >= 1).
 *
 * Both print "wane: internal: what was seen". The text names the invariant
 * (INV-...) where there is one. Nothing here allocates or takes a lock.
 */
#ifndef WANE_BASE_CHECK_H
#define WANE_BASE_CHECK_H

#include "attr.h"

/* Set by the build: 0 release, 1 check, 2 paranoid. */
#ifndef WANE_CHECK_LEVEL
#  define WANE_CHECK_LEVEL 0
#endif

_Noreturn void wane__fatal(const char *function, const char *format, ...)
    WANE_PRINTF(2, 3);
_Noreturn void wane__internal(const char *format, ...) WANE_PRINTF(1, 2);

/* One line on stderr that starts with "wane: ", for warnings and traces. */
void wane__log(const char *format, ...) WANE_PRINTF(1, 2);

#define WANE_ASSERT(cond, what)                                                \
  do {                                                                         \
    if (WANE_UNLIKELY(!(cond))) {                                              \
      wane__internal("%s (%s, %s:%d)", (what), #cond, __FILE_NAME__,           \
                     __LINE__);                                                \
    }                                                                          \
  } while (0)

#if WANE_CHECK_LEVEL >= 1
#  define WANE_CHECK(cond, what) WANE_ASSERT(cond, what)
#else
#  define WANE_CHECK(cond, what) ((void)sizeof(cond))
#endif

/* gcc 12 and clang 14 know it; the fallback keeps older ones compiling. */
#ifndef __FILE_NAME__
#  define __FILE_NAME__ __FILE__
#endif

#endif
