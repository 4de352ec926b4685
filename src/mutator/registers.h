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
