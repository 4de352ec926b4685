/* The range taken for the main thread's thread-locals once included whatever
   mapping the kernel had merged with theirs; when the program unmapped that,
   the next cycle read unmapped memory. Found by api/altstack. */
#include "support/test.h"

#include <sys/mman.h>

#define MAPPINGS 64
#define BYTES (64u << 10)

static void mappings_beside_thread_locals_may_go(void **state) {
  (void)state;
  void *mappings[MAPPINGS];
  for (size_t i = 0; i < MAPPINGS; i++) {
    mappings[i] = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(mappings[i] != MAP_FAILED);
  }
  wane_collect();
  for (size_t i = 0; i < MAPPINGS; i++) {
    munmap(mappings[i], BYTES);
    wane_collect();
  }
  assert_true(test_stats().cycles_forced >= MAPPINGS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mappings_beside_thread_locals_may_go),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
