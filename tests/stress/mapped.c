/*
 * Mapped files in many threads while files are replaced and deleted: no byte
 * is ever wrong, no file is stale, and at the end nothing is mapped or open.
 *
 * A file's bytes follow from its number and its version, which its first words
 * say. A writer makes the next version beside it and puts it in its place with
 * rename; now and then it deletes the file. Each version has a size of its
 * own, so that a mapping tells by itself whether it is whole. Readers open
 * files in all ways and hold them for random whiles, most of them by nothing
 * but a pointer into the bytes: in a root, in a managed object, on their
 * stacks. What a shared opening gives is not older than what was in place when
 * it began, and two who hold the same version have the same struct.
 *
 * mapped [--seed N] [--seconds S]
 */
/* timeout: 240 */
/* run: verify WANE_OPTIONS=verify=1,stress=alloc:500 */
/* run: stress WANE_OPTIONS=stress=alloc:37 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,huge_pages=0 */
#include "support/files.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FILES 24
#define READERS 6
#define HELD 12
#define VERSION_BITS 32
#define FEW 12

static struct test_args args;
static double round_end;
static uint64_t published[FILES];  /* atomic: the least version in place */
static uint64_t opens, missing;    /* atomic */
static uint64_t adopted, released; /* atomic */

struct head {
  uint64_t number;
  uint64_t version;
};

static const char *name_of(size_t number) {
  static _Thread_local char name[32];
  snprintf(name, sizeof name, "file%zu", number);
  return name;
}

static size_t size_of(uint64_t number, uint64_t version) {
  struct test_random random = {number << VERSION_BITS | version};
  return sizeof(struct head) + test_below(&random, 40000);
}

static uint64_t bytes_of(uint64_t number, uint64_t version) {
  return number * 1000003 + version;
}

/* ---- Bytes that tell what they are ---- */

/* A mapping, as a reader holds it. */
struct hold {
  struct wane_mapped *m; /* NULL: only the bytes are held */
  const char *inside;    /* NULL: nothing is held */
  size_t offset;
  uint64_t number;
  uint64_t version;
  bool is_shared;
};

static void check(const char *start, uint64_t number, uint64_t version) {
  struct head head;
  memcpy(&head, start, sizeof head);
  require(head.number == number && head.version == version);
  size_t rest = size_of(number, version) - sizeof head;
  require(
      file_matches(start + sizeof head, rest, bytes_of(number, version), 0));
}

static void hold_check(const struct hold *hold) {
  if (hold->inside != NULL) {
    check(hold->inside - hold->offset, hold->number, hold->version);
  }
  if (hold->m != NULL) {
    require(hold->m->data == hold->inside - hold->offset);
    require(hold->m->size == size_of(hold->number, hold->version));
  }
}

/* Half of the time one that all are at. */
static size_t random_file(struct test_random *random) {
  return test_below(random, 2) == 0 ? 0 : test_below(random, FILES);
}

/* ---- The writer ---- */

static void write_version(uint64_t number, uint64_t version) {
  struct head head = {number, version};
  size_t size = size_of(number, version);
  char *bytes = malloc(size);
  require(bytes != NULL);
  memcpy(bytes, &head, sizeof head);
  file_fill(bytes + sizeof head, size - sizeof head, bytes_of(number, version));
  FILE *file = fopen("next", "we");
  require(file != NULL && fwrite(bytes, 1, size, file) == size);
  require(fclose(file) == 0);
  free(bytes);
  require(rename("next", name_of(number)) == 0);
  test_set(&published[number], version);
}

static void *write_files(void *arg) {
  struct test_random random = {args.seed * 1000 + (uintptr_t)arg};
  while (test_now() < round_end) {
    size_t number = random_file(&random);
    if (test_below(&random, 8) == 0) {
      require(unlink(name_of(number)) == 0 || errno == ENOENT);
    }
    if (test_below(&random, 8) != 0) {
      write_version(number, test_get(&published[number]) + 1);
    }
    if (test_below(&random, 4) == 0) {
      test_sleep_ms((unsigned)test_below(&random, 3));
    }
  }
  return NULL;
}

/* ---- The library's looks at files ---- */

/* Before an opening goes on, the file may well be replaced. */
static void nap_at_times(void) {
  static _Thread_local struct test_random random;
  struct timespec time = {0, (long)test_below(&random, 100) * 1000};
  if (test_below(&random, 8) == 0) {
    nanosleep(&time, NULL);
  }
}

/* In the place of the C library's. */
int stat(const char *restrict path, struct stat *restrict out) {
  int result = (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, 0);
  int error = errno;
  nap_at_times();
  errno = error;
  return result;
}

int fstat(int fd, struct stat *out) {
  nap_at_times();
  return (int)syscall(SYS_newfstatat, fd, "", out, AT_EMPTY_PATH);
}

/* ---- Readers ---- */

/* What was opened is whole, and of which version it is. */
static void identify(const char *start, size_t size, struct hold *hold) {
  struct head head;
  require(size >= sizeof head);
  memcpy(&head, start, sizeof head);
  require(head.number == hold->number);
  require(head.version >= hold->version);
  require(size == size_of(head.number, head.version));
  hold->version = head.version;
  check(start, head.number, head.version);
}

static void open_file(struct hold *hold, struct test_random *random) {
  const char *name = name_of(hold->number);
  size_t size = 0;
  const char *start = NULL;
  size_t way = test_below(random, 4);
  hold->version = test_get(&published[hold->number]);
  hold->is_shared = way >= 2;
  hold->m = NULL;
  errno = 0;
  if (way == 0) {
    start = wane_map_bytes(name, &size);
  } else {
    hold->m = hold->is_shared ? wane_mapped_open_shared(name)
                              : wane_mapped_open(name);
    start = hold->m != NULL ? hold->m->data : NULL;
    size = hold->m != NULL ? hold->m->size : 0;
  }
  if (start == NULL) {
    require(errno == ENOENT);
    test_add(&missing);
    hold->inside = NULL;
    return;
  }
  require(errno == 0);
  test_add(&opens);
  identify(start, size, hold);
  hold->offset = test_below(random, size);
  hold->inside = start + hold->offset;
}

static void release(void *addr, size_t size, void *arg) {
  require(file_matches(addr, size, (uintptr_t)arg, 0));
  require(munmap(addr, size) == 0);
  test_add(&released);
}

/* Pages of its own, instead of a file. */
static void adopt_pages(struct hold *hold, struct test_random *random) {
  size_t size = 4096 * (1 + test_below(random, 4));
  uint64_t number = test_random(random) % 1000;
  char *addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(addr != MAP_FAILED);
  file_fill(addr, size, number);
  require(wane_adopt(addr, size, release, (void *)number) == 0);
  test_add(&adopted);
  require(file_matches(addr, size, number, 0));
  *hold = (struct hold){0};
  if (test_below(random, 4) == 0) {
    wane_collect();
    require(file_matches(addr, size, number, 0));
  }
}

/* Of two that the reader holds, shared, of one version. */
static void compare(const struct hold *a, const struct hold *b) {
  if (a->inside != NULL && b->inside != NULL && a->is_shared && b->is_shared &&
      a->number == b->number && a->version == b->version) {
    require(a->inside - a->offset == b->inside - b->offset);
    require(a->m == NULL || b->m == NULL || a->m == b->m);
  }
}

static void use_hold(struct hold *holds, struct hold *hold,
                     struct test_random *random) {
  hold_check(hold);
  switch (test_below(random, 8)) {
  case 0: /* by the bytes alone from now on */
  case 1:
  case 2:
    hold->m = NULL;
    break;
  case 3:
    if (hold->m != NULL) {
      wane_mapped_close(hold->m);
      hold_check(hold->is_shared ? hold : &(struct hold){0});
      *hold = (struct hold){0};
    }
    break;
  case 4:
    if (test_below(random, 50) == 0) {
      adopt_pages(hold, random);
    }
    break;
  default:
    hold->number = random_file(random);
    open_file(hold, random);
    for (size_t i = 0; i < HELD; i++) {
      compare(hold, &holds[i]);
    }
  }
}

/* Their holds are in static memory, in an object, or on the stack. */
static struct hold holds_static[READERS][HELD];

static void *read_files(void *arg) {
  size_t self = (uintptr_t)arg % READERS;
  struct test_random random = {args.seed * 1000 + (uintptr_t)arg};
  struct hold on_stack[HELD];
  memset(on_stack, 0, sizeof on_stack);
  struct hold *holds = self % 3 == 0   ? holds_static[self]
                       : self % 3 == 1 ? wane_alloc(sizeof on_stack)
                                       : on_stack;
  while (test_now() < round_end) {
    for (int i = 0; i < 10; i++) {
      use_hold(holds, &holds[test_below(&random, HELD)], &random);
    }
    if (test_below(&random, 20) == 0) { /* drop all, as a server that idles */
      memset(holds, 0, sizeof on_stack);
      sched_yield();
    }
  }
  memset(holds, 0, sizeof on_stack);
  test_scrub();
  return NULL;
}

static void *collect(void *arg) {
  test_collect_until(round_end, args.seed * 1000 + (uintptr_t)arg, 10, NULL);
  return NULL;
}

/* ---- Rounds ---- */

#define ROUND_SECONDS 0.5

static void check_nothing_left(size_t descriptors) {
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  require(maps_of(NULL) <= FEW);
  maps_require_counted();
  require(descriptors_open() == descriptors);
  uint64_t live = test_get(&adopted) - test_get(&released);
  require(live <= FEW);
  require(test_stats().foreign_live == maps_of(NULL) + live);
}

static void mappings_are_whole_and_go(void **state) {
  const struct test_crew crew[] = {
      {read_files, READERS}, {write_files, 1}, {collect, 1}};
  (void)state;
  for (size_t i = 0; i < FILES; i++) {
    write_version(i, 1);
  }
  size_t descriptors = descriptors_open();
  double end = test_now() + args.seconds;
  for (uintptr_t round = 0; test_now() < end || round < 3; round++) {
    round_end = test_now() + ROUND_SECONDS;
    test_crew_run(crew, TEST_COUNT(crew), round * READERS * 2);
    check_nothing_left(descriptors);
  }
  uint64_t versions = 0;
  for (size_t i = 0; i < FILES; i++) {
    versions += published[i];
  }
  struct wane_stats stats = test_stats();
  printf("%llu opens of %llu versions, %llu missing, %llu mapped, %llu "
         "adopted, %llu cycles\n",
         (unsigned long long)opens, (unsigned long long)versions,
         (unsigned long long)missing, (unsigned long long)stats.files_mapped,
         (unsigned long long)adopted, (unsigned long long)stats.cycles_full);
  assert_true(opens > 0 && missing > 0 && versions > FILES && adopted > 0);
  assert_true(stats.files_mapped < opens); /* some were shared */
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mappings_are_whole_and_go),
  };
  args = test_args_read(argc, argv, 2);
  files_begin();
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
