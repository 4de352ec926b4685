/*
 * mark/dirty: what the tracker of written pages needs and the system refuses,
 * from the start or from one moment on: no userfaultfd (seccomp, older
 * kernels), no PAGEMAP_SCAN, no locked memory, few files, files that the
 * program closes. Cycles find what lives all the same. Each case is a process
 * of its own.
 */
/* skip: tsan, with which nothing is tracked */
#include "support/child.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- Filters ---- */

#define USERFAULTFD_API 0xc018aa3fu
#define USERFAULTFD_REGISTER 0xc020aa00u
#define USERFAULTFD_WRITEPROTECT 0xc018aa06u
#define PAGEMAP_SCAN_REQUEST 0xc0606610u
#define ANY_REQUEST 0u

struct filter {
  uint32_t call;
  uint32_t request; /* of ioctl */
  uint32_t error;
};

/* From here on the call fails in all threads, and in what they become. */
static void forbid(void *arg) {
  const struct filter *filter = arg;
  bool is_any = filter->request == ANY_REQUEST;
  const struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, filter->call, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
               offsetof(struct seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, filter->request, 0, is_any ? 0 : 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | filter->error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {TEST_COUNT(code), (void *)code};
  require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                  SECCOMP_FILTER_FLAG_TSYNC, &program) == 0);
}

/* ---- Programs ---- */

#define NODES ((size_t)20000)

struct node {
  uint64_t number;
  struct node *next;
  uint64_t check;
};

TEST_ROOT struct node **nodes;

static uint64_t check_of(uint64_t number) {
  return number * 0x9e3779b97f4a7c15;
}

static struct node *node_new(uint64_t number) {
  struct node *node = wane_new(struct node);
  require(node != NULL);
  node->number = number;
  node->check = check_of(number);
  return node;
}

/* A chain of two at each index. */
static void nodes_make(void) {
  nodes = wane_new_array(struct node *, NODES);
  require(nodes != NULL);
  for (size_t i = 0; i < NODES; i++) {
    nodes[i] = node_new(i);
    nodes[i]->next = node_new(NODES + i);
  }
}

static void nodes_check(void) {
  size_t all = 0;
  for (size_t i = 0; i < NODES; i++) {
    const struct node *node = nodes[i];
    require(wane_base(node) == node && wane_base(node->next) == node->next);
    require(node->check == check_of(node->number) &&
            node->next->check == check_of(node->next->number));
    all += node->number + node->next->number;
  }
  require(all == NODES * (2 * NODES - 1)); /* each is there once */
}

static bool stopping; /* atomic */

/* Changes places all the time, by way of its stack. */
static void *swap_nodes(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  while (!__atomic_load_n(&stopping, __ATOMIC_RELAXED)) {
    size_t i = test_below(&random, NODES);
    size_t j = test_below(&random, NODES);
    struct node *volatile mine[2] = {nodes[i], nodes[j]};
    nodes[i] = nodes[j] = NULL;
    require(wane_alloc(test_below(&random, 500)) != NULL);
    nodes[j] = mine[0];
    if (i != j) {
      struct node *tail = mine[0]->next;
      mine[0]->next = mine[1]->next;
      mine[1]->next = tail;
      nodes[i] = mine[1];
    }
  }
  return NULL;
}

static pthread_t swapper;

static void swapper_begin(void) {
  stopping = false;
  require(pthread_create(&swapper, NULL, swap_nodes, (void *)1) == 0);
}

static void swapper_end(void) {
  __atomic_store_n(&stopping, true, __ATOMIC_RELAXED);
  require(pthread_join(swapper, NULL) == 0);
}

static void collect_beside(int cycles) {
  swapper_begin();
  for (int i = 0; i < cycles; i++) {
    wane_collect();
  }
  swapper_end();
  nodes_check();
}

static bool backend_is(const char *name) {
  return strcmp(test_stats().dirty_backend, name) == 0;
}

/* arg: the tracker to be had at the end, or "" for any. */
static void use(const char *arg) {
  nodes_make();
  collect_beside(10);
  require(arg[0] == '\0' || backend_is(arg));
}

/* ---- What is to be had without any of that ---- */

static char best[16];

static void say_backend(const char *arg) {
  (void)arg;
  wane_collect();
  fprintf(stderr, "%s", test_stats().dirty_backend);
}

static int find_best(void **state) {
  struct test_child child;
  (void)state;
  test_exec("say_backend", "", NULL, &child);
  test_assert_exit_0(&child, "say_backend");
  memcpy(best, child.text, sizeof best - 1);
  return best[0] == '\0';
}

static bool has_uffd(void) { return strcmp(best, "uffd") == 0; }

static void run_prepared(const char *role, const char *arg, const char *options,
                         void (*prepare)(void *), void *prepare_arg) {
  struct test_child child;
  test_exec_prepared(role, arg, options, prepare, prepare_arg, &child);
  test_assert_exit_0(&child, role);
  assert_string_equal(child.text, "");
}

static void run(const char *role, const char *arg, const char *options) {
  run_prepared(role, arg, options, NULL, NULL);
}

/* ---- What is forbidden ---- */

/* EPERM: vm.unprivileged_userfaultfd, or a container's filter. ENOSYS, EINVAL,
   ENOTTY: older kernels. Nobody is told. */
static void without_userfaultfd_cycles_go_on(void **state) {
  static const struct filter filters[] = {
      {SYS_userfaultfd, ANY_REQUEST, EPERM},
      {SYS_userfaultfd, ANY_REQUEST, ENOSYS},
      {SYS_userfaultfd, ANY_REQUEST, EINVAL},
      {SYS_ioctl, USERFAULTFD_API, EINVAL},
  };
  (void)state;
  for (size_t i = 0; i < TEST_COUNT(filters); i++) {
    run_prepared("use", has_uffd() ? "none" : "", NULL, forbid,
                 (void *)&filters[i]);
    run_prepared("use", "", "background=0", forbid, (void *)&filters[i]);
    run_prepared("use", "", "verify=1", forbid, (void *)&filters[i]);
  }
}

static void what_cannot_be_forced_is_said(void **state) {
  static const struct filter filter = {SYS_userfaultfd, ANY_REQUEST, EPERM};
  (void)state;
  struct test_child child;
  test_exec_prepared("use", "none", "dirty=uffd", forbid, (void *)&filter,
                     &child);
  test_assert_exit_0(&child, "dirty=uffd");
  assert_string_equal(
      child.text, "wane: WANE_OPTIONS: the system does not offer dirty=uffd\n");
}

static void what_is_forced_is_used(void **state) {
  (void)state;
  struct test_child child;
  run("use", "none", "dirty=none");
  run("use", best, "dirty=auto");
  if (has_uffd()) {
    run("use", "uffd", "dirty=uffd");
  }
  test_exec("use", "", "dirty=softdirty", &child);
  test_assert_exit_0(&child, "dirty=softdirty");
}

/* From the start; the tracker was chosen before that can be known. */
static void without_pagemap_scan_cycles_go_on(void **state) {
  static const uint32_t errors[] = {EPERM, ENOTTY, EINVAL, EFAULT};
  (void)state;
  for (size_t i = 0; i < TEST_COUNT(errors); i++) {
    struct filter filter = {SYS_ioctl, PAGEMAP_SCAN_REQUEST, errors[i]};
    run_prepared("use", has_uffd() ? "none" : "", NULL, forbid, &filter);
    run_prepared("use", "", "verify=1", forbid, &filter);
  }
}

static const struct filter late_filters[] = {
    {SYS_ioctl, PAGEMAP_SCAN_REQUEST, EPERM},
    {SYS_ioctl, PAGEMAP_SCAN_REQUEST, ENOTTY},
    {SYS_ioctl, USERFAULTFD_REGISTER, ENOMEM},
    {SYS_ioctl, USERFAULTFD_WRITEPROTECT, EPERM},
    {SYS_userfaultfd, ANY_REQUEST, EPERM},
};

/* At some moment of some cycle. arg: which. */
static void forbid_later(const char *arg) {
  const struct filter *filter = &late_filters[atoi(arg) % 10];
  struct test_random random = {(uint64_t)atoi(arg)};
  nodes_make();
  collect_beside(3);
  swapper_begin();
  uint64_t cycles = test_stats().cycles_full;
  while (test_stats().cycles_full < cycles + test_below(&random, 4)) {
    require(wane_alloc(1000) != NULL);
  }
  forbid((void *)filter);
  for (int i = 0; i < 5; i++) {
    wane_collect();
  }
  swapper_end();
  nodes_check();
  require(filter->request != PAGEMAP_SCAN_REQUEST || !backend_is("uffd"));
}

static void what_is_forbidden_later_is_got_over(void **state) {
  (void)state;
  for (int i = 0; i < (int)TEST_COUNT(late_filters); i++) {
    for (int times = 0; times < 4; times++) {
      char arg[16];
      snprintf(arg, sizeof arg, "%d", times * 10 + i);
      run("forbid_later", arg, NULL);
      run("forbid_later", arg, "verify=1");
    }
  }
}

/* ---- Limits ---- */

static void set_limit(void *arg) {
  const rlim_t *limit = arg;
  struct rlimit now = {limit[1], limit[1]};
  require(setrlimit((int)limit[0], &now) == 0);
}

static void without_locked_memory_it_works(void **state) {
  rlim_t limit[] = {RLIMIT_MEMLOCK, 0};
  (void)state;
  run_prepared("use", best, NULL, set_limit, limit);
}

/* What the library opens is out of the way of the program's numbers. */
static void use_few_files(const char *arg) {
  struct rlimit limit;
  use(arg);
  require(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  int highest = limit.rlim_cur < 1024 ? (int)limit.rlim_cur / 2 : 512;
  for (int fd = 3; fd < highest; fd++) {
    struct stat now;
    if (fstat(fd, &now) == 0) {
      require(!"a file of the library's has a small number");
    }
  }
}

static void close_all(void *arg) {
  require(syscall(SYS_close_range, 3u, ~0u, 0u) == 0);
  if (arg != NULL) {
    set_limit(arg);
  }
}

static void few_files_are_enough(void **state) {
  static const rlim_t counts[] = {12, 20, 64, 256, 511, 512, 1024, 4096};
  (void)state;
  for (size_t i = 0; i < TEST_COUNT(counts); i++) {
    rlim_t limit[] = {RLIMIT_NOFILE, counts[i]};
    run_prepared("use_few_files", best, NULL, close_all, limit);
  }
}

/* Without any left, it is tried again when there are. */
static void use_no_files(const char *arg) {
  struct rlimit old;
  require(getrlimit(RLIMIT_NOFILE, &old) == 0);
  int next = dup(STDERR_FILENO);
  struct rlimit none = {(rlim_t)next, old.rlim_max};
  close(next);
  require(setrlimit(RLIMIT_NOFILE, &none) == 0);
  nodes_make();
  collect_beside(5);
  require(setrlimit(RLIMIT_NOFILE, &old) == 0);
  collect_beside(5);
  require(backend_is(arg));
}

static void files_may_come_later(void **state) {
  (void)state;
  rlim_t limit[] = {RLIMIT_NOFILE, 5};
  run_prepared("use_no_files", best, NULL, close_all, NULL);
  run_prepared("use", "", NULL, close_all, limit);
}

/* ---- Files that the program closes ---- */

/* As closefrom(3) does: programs that become daemons. */
static void close_and_go_on(const char *arg) {
  nodes_make();
  for (int i = 0; i < 5; i++) {
    collect_beside(2);
    swapper_begin();
    close_all(NULL);
    wane_collect();
    swapper_end();
    nodes_check();
  }
  collect_beside(2);
  require(arg[0] == '\0' || backend_is(arg));
}

static void files_may_be_closed(void **state) {
  (void)state;
  run("close_and_go_on", best, "background=0,gc_percent=-1");
  run("close_and_go_on", "", NULL); /* perhaps in the middle of a cycle, */
  run("close_and_go_on", "", "verify=1"); /* which is the tracker's end */
}

/* The program has files of its own at all the numbers that the library's had:
   they are not closed, and nothing is asked of them. */
static void replace_files(const char *arg) {
  struct stat mine;
  nodes_make();
  collect_beside(2);
  close_all(NULL);
  int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  require(fd >= 0 && fstat(fd, &mine) == 0);
  for (int number = 3; number < 600; number++) {
    require(number == fd || dup2(fd, number) == number);
  }
  collect_beside(3);
  for (int number = 3; number < 600; number++) {
    struct stat now;
    require(fstat(number, &now) == 0 && now.st_ino == mine.st_ino &&
            now.st_dev == mine.st_dev);
  }
  require(backend_is(arg));
}

static void files_of_the_program_are_left_alone(void **state) {
  (void)state;
  run("replace_files", best, NULL);
}

/* ---- Calls that fail, one by one ---- */

/* What the library needs to start with may be what fails. */
static void survive(const char *arg) {
  (void)arg;
  for (int tries = 0; tries < 3; tries++) {
    if (wane_alloc(16) != NULL) {
      break;
    }
  }
  for (int i = 0; i < 5; i++) {
    struct node *volatile kept[100] = {0};
    for (size_t n = 0; n < TEST_COUNT(kept); n++) {
      struct node *node = wane_new(struct node);
      if (node != NULL) {
        node->number = n;
        node->check = check_of(n);
        kept[n] = node;
      }
    }
    wane_collect();
    for (size_t n = 0; n < TEST_COUNT(kept); n++) {
      require(kept[n] == NULL || kept[n]->check == check_of(n));
    }
  }
}

static void calls_of_the_tracker_may_fail(void **state) {
  (void)state;
  for (int nth = 1; nth <= 60; nth++) {
    char options[64];
    struct test_child child;
    snprintf(options, sizeof options, "dirty=uffd,fault=%d,background=%d", nth,
             nth % 2);
    test_exec("survive", "", options, &child);
    test_assert_exit_0(&child, options);
  }
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"say_backend", say_backend},     {"use", use},
      {"forbid_later", forbid_later},   {"use_few_files", use_few_files},
      {"use_no_files", use_no_files},   {"close_and_go_on", close_and_go_on},
      {"replace_files", replace_files}, {"survive", survive},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_userfaultfd_cycles_go_on),
      cmocka_unit_test(what_cannot_be_forced_is_said),
      cmocka_unit_test(what_is_forced_is_used),
      cmocka_unit_test(without_pagemap_scan_cycles_go_on),
      cmocka_unit_test(what_is_forbidden_later_is_got_over),
      cmocka_unit_test(without_locked_memory_it_works),
      cmocka_unit_test(few_files_are_enough),
      cmocka_unit_test(files_may_come_later),
      cmocka_unit_test(files_may_be_closed),
      cmocka_unit_test(files_of_the_program_are_left_alone),
      cmocka_unit_test(calls_of_the_tracker_may_fail),
  };
  return cmocka_run_group_tests(tests, find_best, NULL);
}
