/* wane/lifetime.h: how long an object counts as used. */
#ifndef WANE_LIFETIME_H
#define WANE_LIFETIME_H

#ifdef __cplusplus
extern "C" {
#endif

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

#ifdef __cplusplus
}
#endif

#endif
