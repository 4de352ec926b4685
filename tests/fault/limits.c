/*
 * Limits of the system: little address space, little data, a small range for
 * the heap. What cannot be met is NULL with ENOMEM; what dies makes room.
 */
/* skip: asan tsan ubsan, whose runtimes need more than these limits */
#include "support/child.h"

#include <sys/resource.h>

#define MIB ((size_t)1 << 20)

struct block {
  struct block *next;
  unsigned char bytes[];
};

TEST_ROOT struct block *chain;

/* Allocates until there is no more; returns how many bytes. */
static size_t exhaust(size_t block_bytes) {
  size_t total = 0;
  for (;;) {
    errno = 0;
    struct block *block = wane_alloc(block_bytes);
    if (block == NULL) {
      require(errno == ENOMEM);
      return total;
    }
    require(block->next == NULL && block->bytes[0] == 0);
    memset(block->bytes, 0x5e, block_bytes - sizeof *block);
    block->next = chain;
    chain = block;
    total += block_bytes;
    require(total < 4096 * MIB);
  }
}

static void check_chain(size_t block_bytes) {
  for (struct block *block = chain; block != NULL; block = block->next) {
    for (size_t i = 0; i < block_bytes - sizeof *block; i += 61) {
      require(block->bytes[i] == 0x5e);
    }
  }
}

/* Exhausts the heap, frees, and does so again with other sizes: each time
   about as much can be had, in whatever sizes the last one was. */
static void exhaust_repeatedly(const char *arg) {
  static const size_t sizes[] = {100000, 1000,  MIB,     256,
                                 20000,  40000, 5 * MIB, 64};
  size_t expected = (size_t)atol(arg) * MIB;
  for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
    size_t total = exhaust(sizes[s]);
    if (total < expected) {
      fprintf(stderr, "only %zu KiB in blocks of %zu\n", total >> 10, sizes[s]);
      abort();
    }
    check_chain(sizes[s]);
    require(wane_alloc(sizes[s]) == NULL && errno == ENOMEM);
    chain = NULL;
    test_scrub();
  }
  void *again = wane_alloc(MIB);
  require(again != NULL);
}

static void run(const char *role, const char *arg, const char *options,
                void (*prepare)(void *), void *prepare_arg) {
  struct test_child child;
  test_exec_prepared(role, arg, options, prepare, prepare_arg, &child);
  test_assert_exit_0(&child, role);
}

static void a_small_reserve_can_be_exhausted_and_used_again(void **state) {
  (void)state;
  run("exhaust", "35", "reserve_mb=64", NULL, NULL);
  run("exhaust", "35", "reserve_mb=64,background=0", NULL, NULL);
  run("exhaust", "35", "reserve_mb=64,poison=1", NULL, NULL);
  run("exhaust", "150", "reserve_mb=256,huge_pages=0", NULL, NULL);
}

struct limit {
  int resource;
  size_t bytes;
};

static void set_limit(void *arg) {
  const struct limit *limit = arg;
  struct rlimit now = {limit->bytes, limit->bytes};
  require(setrlimit(limit->resource, &now) == 0);
}

static void little_address_space_before_start(void **state) {
  (void)state;
  static const struct {
    size_t bytes;
    const char *expected_mib;
  } cases[] = {{100 * MIB, "4"}, {200 * MIB, "35"}, {1024 * MIB, "150"}};
  for (size_t i = 0; i < TEST_COUNT(cases); i++) {
    struct limit limit = {RLIMIT_AS, cases[i].bytes};
    run("exhaust", cases[i].expected_mib, NULL, set_limit, &limit);
  }
}

/* Too little for any heap: nothing can be had, and nothing crashes. */
static void try_all(const char *arg) {
  (void)arg;
  for (int i = 0; i < 3; i++) {
    errno = 0;
    void *ptr = wane_alloc(100);
    require(ptr != NULL || errno == ENOMEM);
    require(ptr == NULL || wane_base(ptr) == ptr);
    ptr = wane_alloc_aligned(100, 4096);
    require(ptr != NULL || errno == ENOMEM);
    ptr = wane_alloc_leaf(100000);
    require(ptr != NULL || errno == ENOMEM);
    ptr = wane_strdup("text");
    require(ptr != NULL || errno == ENOMEM);
    require(wane_base(&ptr) == NULL && wane_size(&ptr) == 0);
    wane_collect();
    (void)test_stats();
    (void)wane_set_gc_percent(50);
    (void)wane_set_memory_limit(SIZE_MAX);
  }
}

static void hardly_any_address_space(void **state) {
  (void)state;
  for (size_t mib = 8; mib <= 80; mib += 6) {
    struct limit limit = {RLIMIT_AS, mib * MIB};
    run("try_all", "", NULL, set_limit, &limit);
  }
}

static void limit_later(const char *arg) {
  (void)arg;
  struct limit limit = {RLIMIT_AS, 0};
  void *first = wane_alloc(100);
  require(first != NULL);
  set_limit(&limit); /* nothing more may be mapped */
  (void)exhaust(1000);
  check_chain(1000);
  chain = NULL;
  try_all("");
  require(wane_base(first) == first);
}

static void no_address_space_after_start(void **state) {
  (void)state;
  run("limit_later", "", "reserve_mb=64", NULL, NULL);
  run("limit_later", "", "reserve_mb=64,background=0,mark_threads=1", NULL,
      NULL);
}

static void little_data(void **state) {
  (void)state;
  static const struct {
    size_t bytes;
    const char *expected_mib;
  } cases[] = {{2 * MIB, "0"}, {64 * MIB, "16"}, {128 * MIB, "40"}};
  for (size_t i = 0; i < TEST_COUNT(cases); i++) {
    struct limit limit = {RLIMIT_DATA, cases[i].bytes};
    run(i == 0 ? "try_all" : "exhaust", cases[i].expected_mib, NULL, set_limit,
        &limit);
  }
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"exhaust", exhaust_repeatedly},
      {"try_all", try_all},
      {"limit_later", limit_later},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_small_reserve_can_be_exhausted_and_used_again),
      cmocka_unit_test(little_address_space_before_start),
      cmocka_unit_test(hardly_any_address_space),
      cmocka_unit_test(no_address_space_after_start),
      cmocka_unit_test(little_data),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
