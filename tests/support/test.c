/* See test.h. */
#include "test.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* Children of threaded parents create threads in many tests. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0"; }

_Noreturn void test_require_failed(const char *what, const char *file,
                                   int line) {
  dprintf(STDERR_FILENO, "%s:%d: required: %s\n", file, line, what);
  abort();
}

/* Reads arrays that it has not written: sanitizers would see a point. */
TEST_NOINLINE void test_scrub(void) {
  volatile uintptr_t stack[16384 / sizeof(uintptr_t)];
  for (size_t i = 0; i < TEST_COUNT(stack); i++) {
    stack[i] = 0;
  }
#if defined(__x86_64__)
  __asm__ volatile("xor %%eax, %%eax\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n"
                   "xor %%esi, %%esi\n xor %%edi, %%edi\n xor %%r8d, %%r8d\n"
                   "xor %%r9d, %%r9d\n xor %%r10d, %%r10d\n"
                   "xor %%r11d, %%r11d\n"
                   :
                   :
                   : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10",
                     "r11", "memory");
#endif
}

struct apart {
  void (*fn)(void *arg);
  void *arg;
};

static void *apart_thread(void *arg) {
  struct apart *apart = arg;
  apart->fn(apart->arg);
  return NULL;
}

void test_apart(void (*fn)(void *arg), void *arg) {
  struct apart apart = {fn, arg};
  pthread_t thread;
  require(pthread_create(&thread, NULL, apart_thread, &apart) == 0);
  require(pthread_join(thread, NULL) == 0);
}

struct make_hidden {
  uintptr_t *hidden;
  size_t count;
  void *(*make)(size_t idx);
};

/* Held until all are made, so that no address comes up twice. */
TEST_ROOT void *made[2000];

static void make_hidden_body(void *arg) {
  struct make_hidden *args = arg;
  require(args->count <= TEST_COUNT(made));
  for (size_t i = 0; i < args->count; i++) {
    made[i] = args->make(i);
    require(made[i] != NULL);
    args->hidden[i] = test_hide(made[i]);
  }
  memset(made, 0, sizeof made);
}

void test_make_hidden(uintptr_t *hidden, size_t count,
                      void *(*make)(size_t idx)) {
  struct make_hidden args = {hidden, count, make};
  test_apart(make_hidden_body, &args);
}

void *test_make_small(size_t idx) {
  (void)idx;
  return wane_alloc(64);
}

void *test_make_leaf(size_t idx) {
  (void)idx;
  return wane_alloc_leaf(64);
}

static TEST_NOINLINE size_t survivors_count(const uintptr_t *hidden,
                                            size_t count) {
  size_t alive = 0;
  for (size_t i = 0; i < count; i++) {
    void *object = test_reveal(hidden[i]);
    alive += wane_base(object) == object;
  }
  return alive;
}

size_t test_survivors(const uintptr_t *hidden, size_t count) {
  test_scrub();
  wane_collect();
  size_t alive = survivors_count(hidden, count);
  test_scrub();
  return alive;
}

uint64_t test_live_bytes(void) {
  test_scrub();
  wane_collect();
  return test_stats().heap_live_bytes;
}

struct wane_stats test_stats(void) {
  struct wane_stats stats = {.size = sizeof stats};
  wane_read_stats(&stats);
  return stats;
}

/* Vigna's splitmix64. */
uint64_t test_random(struct test_random *random) {
  uint64_t z = random->state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

size_t test_below(struct test_random *random, size_t limit) {
  return (size_t)(test_random(random) % limit);
}

double test_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Until a moment, since a stop of the world eats up what remains of a time. */
void test_sleep_ms(unsigned ms) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  uint64_t ns = (uint64_t)until.tv_nsec + ms * UINT64_C(1000000);
  until.tv_sec += (time_t)(ns / 1000000000);
  until.tv_nsec = (long)(ns % 1000000000);
  int error;
  do {
    error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
  } while (error == EINTR);
  require(error == 0);
}

void test_breathe(void) {
  if (TEST_TSAN) {
    test_sleep_ms(2);
  }
}

size_t test_scaled(size_t many, size_t few) {
  const char *options = getenv("WANE_OPTIONS");
  bool slow = TEST_ASAN || TEST_TSAN ||
              (options != NULL && (strstr(options, "stress") != NULL ||
                                   strstr(options, "verify") != NULL));
  return slow ? few : many;
}

struct test_args test_args_read(int argc, char **argv, double seconds) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  struct test_args args = {
      .seed =
          ((uint64_t)now.tv_sec * 1000003 + (uint64_t)now.tv_nsec) % 1000000007,
      .seconds = seconds};
  for (int i = 1; i + 1 < argc; i++) {
    if (strcmp(argv[i], "--seed") == 0) {
      args.seed = strtoull(argv[i + 1], NULL, 0);
    } else if (strcmp(argv[i], "--seconds") == 0) {
      args.seconds = strtod(argv[i + 1], NULL);
    }
  }
  printf("seed %llu\n", (unsigned long long)args.seed);
  fflush(stdout);
  return args;
}

size_t test_resident_bytes(void) {
  unsigned long pages = 0;
  FILE *statm = fopen("/proc/self/statm", "r");
  require(statm != NULL && fscanf(statm, "%*u %lu", &pages) == 1);
  fclose(statm);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

struct fill {
  struct fill *next;
};
TEST_ROOT struct fill *fills;

void test_use_up_memory(void) {
  for (size_t size = 1 << 20; size >= 16; size /= 2) {
    struct fill *fill;
    while ((fill = wane_alloc(size)) != NULL) {
      fill->next = fills;
      fills = fill;
    }
  }
}

void test_drop_memory(void) { fills = NULL; }
