/* A child that forked again before its first allocation lost the record of
   its thread: the grandchild's stack was no root, and memory came dirty.
   Found by api/fork. G4. */
/* skip: tsan, whose runtime deadlocks when a child of threads forks again */
#include "support/child.h"

#include <sys/wait.h>
#include <unistd.h>

static void fork_down(int depth) {
  uint64_t *local = wane_alloc(64);
  local[1] = ~UINT64_C(5);
  for (; depth > 0; depth--) {
    pid_t pid = fork();
    if (pid != 0) {
      int status = -1;
      require(waitpid(pid, &status, 0) == pid && status == 0);
      _exit(0);
    }
  }
  for (int i = 0; i < 3000; i++) {
    uint64_t *fresh = wane_alloc(64);
    require(fresh[0] == 0 && fresh[7] == 0);
    memset(fresh, 0xfe, 64);
    if (i % 1000 == 0) {
      wane_collect();
    }
  }
  require(wane_base(local) == local && local[1] == ~UINT64_C(5));
}

static void run(void *depth) { fork_down(*(int *)depth); }

static void grandchildren_work_on(void **state) {
  (void)state;
  for (int depth = 1; depth <= 4; depth++) {
    struct test_child child;
    test_fork(run, &depth, &child);
    test_assert_exit_0(&child, "forks");
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(grandchildren_work_on),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
