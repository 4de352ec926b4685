/*
 * The calling thread's callee-saved registers, put where a scan of its stack
 * finds them. Caller-saved ones, vector registers included, are dead or on
 * the stack at any call. A thread that is stopped by the signal needs none of
 * this: the kernel has put all its registers in the signal frame.
 */
#ifndef WANE_MUTATOR_REGISTERS_H
#define WANE_MUTATOR_REGISTERS_H

#include <stdint.h>

#include "../base/attr.h"

struct wane__registers {
#if defined(__x86_64__)
  uintptr_t words[6];
#elif defined(__aarch64__)
  uintptr_t words[11 + 8];
#else
#  error "wane knows the registers of x86-64 and aarch64"
#endif
};

WANE_INLINE void wane__registers_save(struct wane__registers *out) {
#if defined(__x86_64__)
  __asm__ volatile(
      "movq %%rbx, 0(%0)\n\tmovq %%rbp, 8(%0)\n\tmovq %%r12, 16(%0)\n\t"
      "movq %%r13, 24(%0)\n\tmovq %%r14, 32(%0)\n\tmovq %%r15, 40(%0)"
      :
      : "r"(out->words)
      : "memory");
#else
  __asm__ volatile("stp x19, x20, [%0]\n\tstp x21, x22, [%0, #16]\n\t"
                   "stp x23, x24, [%0, #32]\n\tstp x25, x26, [%0, #48]\n\t"
                   "stp x27, x28, [%0, #64]\n\tstr x29, [%0, #80]\n\t"
                   "stp d8, d9, [%0, #88]\n\tstp d10, d11, [%0, #104]\n\t"
                   "stp d12, d13, [%0, #120]\n\tstp d14, d15, [%0, #136]"
                   :
                   : "r"(out->words)
                   : "memory");
#endif
}

#if defined(__x86_64__)
#  define WANE__REGISTERS_LOW                                                  \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",    \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#  if defined(__AVX512F__)
#    define WANE__REGISTERS_HIGH                                               \
      "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",  \
          "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30",       \
          "xmm31"
#  else /* the compiler does not know them */
#    define WANE__REGISTERS_HIGH "memory"
#  endif
#else /* the low halves of v8 to v15 are kept by calls */
#  define WANE__REGISTERS_LOW                                                  \
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18",       \
        "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28",  \
        "v29", "v30", "v31"
#endif

/* Zeroes the vector registers, which a call need not keep: copying memory
   leaves words in them, for long, as most code has no use for them. */
WANE_INLINE void wane__registers_forget(void) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx")) {
    __asm__ volatile("vzeroall" : : : WANE__REGISTERS_LOW);
  } else {
    __asm__ volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
                     "pxor %%xmm\\n, %%xmm\\n\n\t.endr"
                     :
                     :
                     : WANE__REGISTERS_LOW);
  }
  if (__builtin_cpu_supports("avx512f")) {
    __asm__ volatile(
        ".irp n,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n\t"
        "vpxorq %%zmm\\n, %%zmm\\n, %%zmm\\n\n\t.endr"
        :
        :
        : WANE__REGISTERS_HIGH);
  }
#else
  __asm__ volatile(".irp n,0,1,2,3,4,5,6,7,16,17,18,19,20,21,22,23,24,25,26,27,"
                   "28,29,30,31\n\tmovi v\\n\\().2d, #0\n\t.endr"
                   :
                   :
                   : WANE__REGISTERS_LOW);
#endif
}

/* The address from which static thread-locals are counted. */
WANE_INLINE uintptr_t wane__thread_pointer(void) {
  uintptr_t tp;
#if defined(__x86_64__)
  __asm__("movq %%fs:0, %0" : "=r"(tp));
#else
  __asm__("mrs %0, tpidr_el0" : "=r"(tp));
#endif
  return tp;
}

#endif
