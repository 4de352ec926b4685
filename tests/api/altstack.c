/* Stacks that are not the thread's own: alternate signal stacks, stacks the
   program supplies, coroutines. D10. */
/* skip: tsan, which stops no thread in a loop that calls nothing */
#include "support/test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define STACK_BYTES (256u << 10)
#define OBJECTS 64

/* Objects that only this frame knows, whole after collections elsewhere. */
static uint32_t collections_wanted; /* atomic */
static uint32_t collections_done;   /* atomic */

static void *collector_thread(void *arg) {
  (void)arg;
  uint32_t done = 0;
  for (;;) {
    uint32_t wanted = __atomic_load_n(&collections_wanted, __ATOMIC_ACQUIRE);
    if (wanted == UINT32_MAX) {
      return NULL;
    }
    if (done == wanted) {
      usleep(100);
      continue;
    }
    for (int i = 0; i < 3; i++) {
      wane_collect();
      for (int n = 0; n < 500; n++) {
        memset(wane_alloc(128), 0xfe, 128);
      }
    }
    done = wanted;
    __atomic_store_n(&collections_done, done, __ATOMIC_RELEASE);
  }
}

static pthread_t collector;

static int collector_begin(void **state) {
  (void)state;
  collections_wanted = collections_done = 0;
  return pthread_create(&collector, NULL, collector_thread, NULL);
}

static int collector_end(void **state) {
  (void)state;
  __atomic_store_n(&collections_wanted, UINT32_MAX, __ATOMIC_RELEASE);
  return pthread_join(collector, NULL);
}

/* Lets another thread collect, touching nothing but two words meanwhile. */
static void others_collect(void) {
  uint32_t mine = __atomic_add_fetch(&collections_wanted, 1, __ATOMIC_ACQ_REL);
  while ((int32_t)(__atomic_load_n(&collections_done, __ATOMIC_ACQUIRE) -
                   mine) < 0) {
  }
}

static TEST_NOINLINE void objects_make(uint64_t **objects) {
  for (size_t i = 0; i < OBJECTS; i++) {
    objects[i] = wane_alloc(128);
    require(objects[i] != NULL);
    for (size_t w = 0; w < 16; w++) {
      objects[i][w] = ~(uint64_t)(i * w);
    }
  }
}

static TEST_NOINLINE void objects_check(uint64_t **objects) {
  for (size_t i = 0; i < OBJECTS; i++) {
    require(wane_base(objects[i]) == objects[i]);
    for (size_t w = 0; w < 16; w++) {
      require(objects[i][w] == ~(uint64_t)(i * w));
    }
  }
}

static TEST_NOINLINE void hold_objects_on_this_stack(void) {
  uint64_t *objects[OBJECTS];
  objects_make(objects);
  others_collect();
  wane_collect();
  objects_check(objects);
}

/* Handlers may not allocate: what they hold was made before. */
static uint64_t *handed[OBJECTS];
static uint32_t handler_runs; /* atomic */

static void handler(int signal) {
  (void)signal;
  uint64_t *objects[OBJECTS];
  for (size_t i = 0; i < OBJECTS; i++) {
    objects[i] = handed[i];
    handed[i] = NULL;
  }
  __asm__ volatile("" : : "r"(objects) : "memory");
  others_collect();
  objects_check(objects);
  __atomic_fetch_add(&handler_runs, 1, __ATOMIC_RELAXED);
}

static void check_handler(int flags) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
  struct sigaction old;
  void *memory = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  stack_t alt = {.ss_sp = memory, .ss_size = STACK_BYTES, .ss_flags = flags};
  stack_t off = {.ss_flags = SS_DISABLE};
  stack_t before;
  require(sigaltstack(&alt, &before) == 0);
  require(sigaction(SIGUSR1, &action, &old) == 0);
  for (int i = 0; i < 5; i++) {
    uint64_t *below[OBJECTS]; /* on the stack that the handler left */
    objects_make(handed);
    objects_make(below);
    uint32_t runs = handler_runs;
    raise(SIGUSR1);
    require(handler_runs == runs + 1);
    objects_check(below);
  }
  require(sigaction(SIGUSR1, &old, NULL) == 0);
  require(sigaltstack(before.ss_flags & SS_DISABLE ? &off : &before, NULL) ==
          0);
  munmap(memory, STACK_BYTES);
}

#ifndef SS_AUTODISARM
#  define SS_AUTODISARM (1u << 31)
#endif

static void *check_handler_in_thread(void *arg) {
  check_handler(*(int *)arg);
  return NULL;
}

static void check_handler_everywhere(int flags) {
  pthread_t thread;
  check_handler(flags);
  require(pthread_create(&thread, NULL, check_handler_in_thread, &flags) == 0);
  pthread_join(thread, NULL);
}

static void alternate_signal_stacks_are_roots(void **state) {
  (void)state;
  check_handler_everywhere(0);
}

static void disarmed_alternate_stacks_are_roots(void **state) {
  (void)state;
  check_handler_everywhere((int)SS_AUTODISARM);
}

static void *hold_in_thread(void *arg) {
  for (int i = 0; i < 5; i++) {
    hold_objects_on_this_stack();
  }
  return arg;
}

static void stacks_of_the_program_are_roots(void **state) {
  (void)state;
  size_t bytes = 4 * STACK_BYTES;
  void *memories[] = {
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
           0),
      aligned_alloc(4096, bytes),
  };
  for (size_t i = 0; i < TEST_COUNT(memories); i++) {
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    assert_int_equal(pthread_attr_setstack(&attr, memories[i], bytes), 0);
    for (int n = 0; n < 3; n++) {
      assert_int_equal(pthread_create(&thread, &attr, hold_in_thread, NULL), 0);
      pthread_join(thread, NULL);
    }
    pthread_attr_destroy(&attr);
  }
  munmap(memories[0], bytes);
  free(memories[1]);
}

static ucontext_t main_context;
static ucontext_t coroutine_context;

static void coroutine(void) {
  for (;;) {
    hold_objects_on_this_stack();
    swapcontext(&coroutine_context, &main_context);
  }
}

static void run_coroutine(void *stack, size_t bytes) {
  uint64_t *objects[OBJECTS]; /* on the stack that is left */
  require(stack != NULL);
  objects_make(objects);
  require(getcontext(&coroutine_context) == 0);
  coroutine_context.uc_stack.ss_sp = stack;
  coroutine_context.uc_stack.ss_size = bytes;
  coroutine_context.uc_link = NULL;
  makecontext(&coroutine_context, coroutine, 0);
  for (int i = 0; i < 5; i++) {
    swapcontext(&main_context, &coroutine_context);
  }
  objects_check(objects);
}

static void *run_coroutines(void *arg) {
  void *stack = malloc(STACK_BYTES);
  run_coroutine(stack, STACK_BYTES);
  free(stack);
  stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  run_coroutine(stack, STACK_BYTES);
  munmap(stack, STACK_BYTES);
  run_coroutine(wane_alloc(STACK_BYTES), STACK_BYTES);
  return arg;
}

static void stacks_of_running_coroutines_are_roots(void **state) {
  (void)state;
  if (TEST_ASAN || TEST_TSAN) {
    skip(); /* they must be told of each switch */
  }
  (void)run_coroutines(NULL);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, run_coroutines, NULL), 0);
  pthread_join(thread, NULL);
}

static void *coroutine_kept[OBJECTS];

static void coroutine_that_waits(void) {
  uint64_t *objects[OBJECTS];
  objects_make(objects);
  swapcontext(&coroutine_context, &main_context);
  objects_check(objects);
  swapcontext(&coroutine_context, &main_context);
}

/* One that waits lives in its stack, if that is managed memory. */
static void suspended_coroutines_live_in_managed_stacks(void **state) {
  (void)state;
  if (TEST_ASAN || TEST_TSAN) {
    skip();
  }
  char *stack = wane_alloc(STACK_BYTES);
  getcontext(&coroutine_context);
  coroutine_context.uc_stack.ss_sp = stack;
  coroutine_context.uc_stack.ss_size = STACK_BYTES;
  coroutine_context.uc_link = NULL;
  makecontext(&coroutine_context, coroutine_that_waits, 0);
  swapcontext(&main_context, &coroutine_context);
  coroutine_kept[0] = stack;
  wane_collect();
  for (int n = 0; n < 500; n++) {
    memset(wane_alloc(128), 0xfe, 128);
  }
  swapcontext(&main_context, &coroutine_context);
  wane_keep_alive(coroutine_kept[0]);
}

#define with_collector(test)                                                   \
  cmocka_unit_test_setup_teardown(test, collector_begin, collector_end)

int main(void) {
  const struct CMUnitTest tests[] = {
      with_collector(alternate_signal_stacks_are_roots),
      with_collector(disarmed_alternate_stacks_are_roots),
      with_collector(stacks_of_the_program_are_roots),
      with_collector(stacks_of_running_coroutines_are_roots),
      cmocka_unit_test(suspended_coroutines_live_in_managed_stacks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
