/*
 * Attributes that the sources use by name, so that no other file asks which
 * compiler it has. Empty where a compiler does not know one.
 */
#ifndef WANE_BASE_ATTR_H
#define WANE_BASE_ATTR_H

/* Exported from the shared library. */
#define WANE_PUBLIC __attribute__((visibility("default")))
/* A public function that is not part of the wane_* API: it stands in front of
   the C library's function of the same name. */
#define WANE_INTERPOSE __attribute__((visibility("default")))

#define WANE_LIKELY(x) __builtin_expect(!!(x), 1)
#define WANE_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define WANE_NOINLINE __attribute__((noinline))
#define WANE_INLINE static inline __attribute__((always_inline))
/* A fast path: starts a cache line, so its speed is not left to chance. */
#define WANE_HOT __attribute__((hot, aligned(64)))
#define WANE_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* An inline function that scans memory, in callers that do not: there it must
   not be inlined where ThreadSanitizer looks. */
#if defined(__SANITIZE_THREAD__)
#  define WANE_TSAN 1
#elif defined(__has_feature)
#  if __has_feature(thread_sanitizer)
#    define WANE_TSAN 1
#  endif
#endif
#if defined(WANE_TSAN)
#  define WANE_INLINE_SCAN static WANE_NOINLINE __attribute__((unused))
#else
#  define WANE_INLINE_SCAN WANE_INLINE
#endif

#define WANE_CACHE_LINE 64
#define WANE_ALIGNED(n) __attribute__((aligned(n)))

/* One load per access, no call: dlopened libraries may use it too as long as
   it stays a pointer or two (the static TLS surplus is small). */
#define WANE_TLS _Thread_local __attribute__((tls_model("initial-exec")))

/* For code that reads the memory of other threads or of the program at large
   on purpose: conservative scanning. Sanitizers must not look there. */
#if defined(__clang__)
#  define WANE_SCANS_MEMORY                                                    \
    __attribute__((no_sanitize("address", "thread", "undefined")))
#else
#  define WANE_SCANS_MEMORY                                                    \
    __attribute__((no_sanitize_address, no_sanitize_thread,                    \
                   no_sanitize_undefined))
#endif

#endif
