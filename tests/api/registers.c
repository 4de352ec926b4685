/* Objects that only a register holds while another thread collects: each of
   the callee-saved ones, others, and vector registers. API.md: "registers
   (vector registers too)". */
/* skip: tsan, which stops no thread in a loop that calls nothing */
#include "support/test.h"

#include <pthread.h>
#include <unistd.h>

static uint32_t wanted; /* atomic */
static uint32_t done;   /* atomic */

static void *collector_thread(void *arg) {
  uint32_t did = 0;
  for (;;) {
    uint32_t now = __atomic_load_n(&wanted, __ATOMIC_ACQUIRE);
    if (now == UINT32_MAX) {
      return arg;
    }
    if (now == did) {
      usleep(50);
      continue;
    }
    for (int i = 0; i < 2; i++) {
      wane_collect();
      for (int n = 0; n < 300; n++) {
        memset(wane_alloc(64), 0xfe, 64);
      }
    }
    did = now;
    __atomic_store_n(&done, did, __ATOMIC_RELEASE);
  }
}

/* Found by nobody: hidden in memory, and the stack below wiped. */
static TEST_NOINLINE uintptr_t make(void) {
  uint64_t *object = wane_alloc(64);
  for (size_t i = 0; i < 8; i++) {
    object[i] = ~(uint64_t)i;
  }
  return test_hide(object);
}

static TEST_NOINLINE void check(uintptr_t hidden) {
  const uint64_t *object = test_reveal(hidden);
  require(wane_base(object) == object);
  for (size_t i = 0; i < 8; i++) {
    require(object[i] == ~(uint64_t)i);
  }
}

#if defined(__x86_64__)
/* Puts the address in a register, asks for a collection, waits for it, and
   looks whether the register is as before. The address is in no other. */
#  define HOLD(load, store, clobber)                                           \
    do {                                                                       \
      uintptr_t hidden = make();                                               \
      uintptr_t after = hidden;                                                \
      test_scrub();                                                            \
      __asm__ volatile("mov %[value], %%rax\n"                                 \
                       "not %%rax\n" load "xor %%eax, %%eax\n"                 \
                       "mov $1, %%eax\n"                                       \
                       "lock xaddl %%eax, %[wanted]\n"                         \
                       "inc %%eax\n"                                           \
                       "1: pause\n"                                            \
                       "mov %[done], %%edx\n"                                  \
                       "cmp %%eax, %%edx\n"                                    \
                       "jne 1b\n" store "not %%rax\n"                          \
                       "mov %%rax, %[value]\n"                                 \
                       : [value] "+m"(after), [wanted] "+m"(wanted)            \
                       : [done] "m"(done)                                      \
                       : "rax", "rdx", "memory", "cc", clobber);               \
      require(after == hidden);                                                \
      check(hidden);                                                           \
    } while (0)

#  define HOLD_IN(reg)                                                         \
    HOLD("mov %%rax, %%" reg "\n", "mov %%" reg ", %%rax\n", reg)
#  define HOLD_IN_XMM(reg)                                                     \
    HOLD("movq %%rax, %%" reg "\n", "movq %%" reg ", %%rax\n", reg)
#  define HOLD_IN_XMM_HIGH(reg)                                                \
    HOLD("movq %%rax, %%" reg "\n pslldq $8, %%" reg "\n",                     \
         "psrldq $8, %%" reg "\n movq %%" reg ", %%rax\n", reg)

static void hold_in_general_registers(void) {
  HOLD_IN("rbx");
  HOLD_IN("rcx");
  HOLD_IN("rsi");
  HOLD_IN("rdi");
  HOLD_IN("r8");
  HOLD_IN("r9");
  HOLD_IN("r10");
  HOLD_IN("r11");
  HOLD_IN("r12");
  HOLD_IN("r13");
  HOLD_IN("r14");
  HOLD_IN("r15");
}

static void hold_in_vector_registers(void) {
  HOLD_IN_XMM("xmm0");
  HOLD_IN_XMM("xmm7");
  HOLD_IN_XMM("xmm15");
  HOLD_IN_XMM_HIGH("xmm1");
  HOLD_IN_XMM_HIGH("xmm14");
}

__attribute__((target("avx"))) static void hold_in_upper_halves(void) {
  HOLD("vmovq %%rax, %%xmm3\n vinsertf128 $1, %%xmm3, %%ymm4, %%ymm4\n"
       "vpxor %%xmm3, %%xmm3, %%xmm3\n",
       "vextractf128 $1, %%ymm4, %%xmm3\n vmovq %%xmm3, %%rax\n", "xmm3");
}

/* Below the stack pointer, where leaf functions may keep what they like. */
static TEST_NOINLINE void hold_in_red_zone(void) {
  HOLD("mov %%rax, -120(%%rsp)\n",
       "mov -120(%%rsp), %%rax\n movq $0, -120(%%rsp)\n", "rbx");
}
#else
static void hold_in_general_registers(void) { skip(); }
static void hold_in_vector_registers(void) { skip(); }
static void hold_in_upper_halves(void) { skip(); }
static void hold_in_red_zone(void) { skip(); }
#endif

static pthread_t collector;

static int collector_begin(void **state) {
  (void)state;
  wanted = done = 0;
  return pthread_create(&collector, NULL, collector_thread, NULL);
}

static int collector_end(void **state) {
  (void)state;
  __atomic_store_n(&wanted, UINT32_MAX, __ATOMIC_RELEASE);
  return pthread_join(collector, NULL);
}

static void general_registers_are_roots(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) {
    hold_in_general_registers();
  }
}

static void vector_registers_are_roots(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) {
    hold_in_vector_registers();
  }
}

static void upper_halves_of_vector_registers_are_roots(void **state) {
  (void)state;
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx")) {
    skip();
  }
#endif
  for (int i = 0; i < 10; i++) {
    hold_in_upper_halves();
  }
}

static void the_red_zone_is_a_root(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) {
    hold_in_red_zone();
  }
}

/* The collecting thread's own callee-saved registers. */
static void the_collecting_threads_registers_are_roots(void **state) {
  (void)state;
  for (int i = 0; i < 50; i++) {
    uintptr_t hidden = make();
    test_scrub();
#if defined(__x86_64__)
    register uintptr_t held __asm__("r14") = ~hidden;
    __asm__ volatile("" : "+r"(held));
    wane_collect();
    __asm__ volatile("" : "+r"(held));
#else
    uintptr_t held = ~hidden;
    wane_collect();
#endif
    for (int n = 0; n < 300; n++) {
      memset(wane_alloc(64), 0xfe, 64);
    }
    require(held == ~hidden);
    check(hidden);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(general_registers_are_roots),
      cmocka_unit_test(vector_registers_are_roots),
      cmocka_unit_test(upper_halves_of_vector_registers_are_roots),
      cmocka_unit_test(the_red_zone_is_a_root),
      cmocka_unit_test(the_collecting_threads_registers_are_roots),
  };
  return cmocka_run_group_tests(tests, collector_begin, collector_end);
}
