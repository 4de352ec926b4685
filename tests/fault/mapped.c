/*
 * Mapped files and adopted pages when the system refuses: at the Nth system
 * call (open, fstat, mmap and what else can fail; WANE_OPTIONS=fault=N, each N
 * a process of its own), and when the collector's addresses are used up. Each
 * call works or says why not, nothing is left open or mapped, and all works
 * again afterwards. P1, P2, P3.
 */
/* timeout: 300 */
#include "support/files.h"

#include <sys/mman.h>
#include <unistd.h>

#define FILES 8
#define SLOTS 40
#define STEPS 600
#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)
#define FEW 8

static const char *name_of(size_t number) {
  static char name[32];
  snprintf(name, sizeof name, "file%zu", number);
  return name;
}

/* One is empty. */
static size_t size_of(size_t number) { return number * 9000; }

enum sort { OWN, SHARED, BYTES, ADOPTED, SORTS };

static struct slot {
  enum sort sort;
  size_t number;
  struct wane_mapped *m; /* of the first two sorts */
  char *bytes;           /* inside; NULL: nothing */
} slots[SLOTS];

static struct test_random random_state;
static uint64_t served[SORTS];
static uint64_t refused[SORTS];
static uint64_t released; /* atomic */
/* Addresses that cannot be reserved again are lost to the collector: the
   system may put pages there that it does not take. */
static bool may_lose_addresses;

static size_t below(size_t limit) { return test_below(&random_state, limit); }

/* ---- One call ---- */

static void release(void *addr, size_t size, void *arg) {
  require(file_matches(addr, size, (uintptr_t)arg, 0));
  require(munmap(addr, size) == 0);
  test_add(&released);
}

static char *adopt(size_t number) {
  size_t size = (1 + number) * PAGE;
  char *addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(addr != MAP_FAILED);
  file_fill(addr, size, number);
  if (wane_adopt(addr, size, release, (void *)number) == 0) {
    return addr;
  }
  require(errno == ENOMEM || (errno == EINVAL && may_lose_addresses));
  require(wane_base(addr) == NULL || may_lose_addresses);
  require(munmap(addr, size) == 0);
  errno = ENOMEM;
  return NULL;
}

static void slot_open_struct(struct slot *slot) {
  const char *name = name_of(slot->number);
  slot->m = slot->sort == OWN ? wane_mapped_open(name)
                              : wane_mapped_open_shared(name);
  if (slot->m != NULL) {
    require(slot->m->data != NULL);
    require(slot->m->size == size_of(slot->number));
    slot->bytes = (char *)slot->m->data;
  }
}

/* True: it worked, and errno is as it was. */
static bool slot_open(struct slot *slot) {
  size_t size = 4711;
  errno = 0;
  slot->m = NULL;
  slot->bytes = NULL;
  switch (slot->sort) {
  case BYTES:
    slot->bytes = (char *)wane_map_bytes(name_of(slot->number), &size);
    require(slot->bytes == NULL || size == size_of(slot->number));
    break;
  case ADOPTED:
    slot->bytes = adopt(slot->number);
    break;
  default:
    slot_open_struct(slot);
  }
  bool ok = slot->bytes != NULL;
  require(ok == (errno == 0));
  require(ok || errno == ENOMEM || (errno == EMFILE && slot->sort != ADOPTED) ||
          (errno == EIO && slot->sort != ADOPTED));
  ++*(ok ? &served[slot->sort] : &refused[slot->sort]);
  errno = 0;
  return ok;
}

static size_t slot_size(const struct slot *slot) {
  return slot->sort == ADOPTED ? (1 + slot->number) * PAGE
                               : size_of(slot->number);
}

static void slot_check(const struct slot *slot) {
  if (slot->bytes != NULL) {
    require(file_matches(slot->bytes, slot_size(slot), slot->number, 0));
  }
}

static void slot_use(struct slot *slot) {
  slot_check(slot);
  if (slot->m != NULL && below(3) == 0) {
    wane_mapped_close(slot->m);
    if (slot->sort == OWN) {
      require(slot->m->data == NULL && slot->m->size == 0);
      slot->bytes = NULL;
    }
    require(errno == 0);
  }
  slot_check(slot);
  if (below(3) == 0) { /* by a pointer to the bytes alone */
    slot->m = NULL;
  }
}

static TEST_NOINLINE void use_files(size_t steps) {
  for (size_t i = 0; i < steps; i++) {
    struct slot *slot = &slots[below(SLOTS)];
    slot_use(slot);
    slot->sort = (enum sort)below(SORTS);
    slot->number = below(FILES);
    (void)slot_open(slot);
    slot_check(slot);
    if (below(200) == 0) {
      wane_collect();
      errno = 0;
    }
  }
  for (size_t i = 0; i < SLOTS; i++) {
    slot_check(&slots[i]);
  }
}

/* ---- What is left ---- */

static uint64_t adopted_live(void) {
  return served[ADOPTED] - test_get(&released);
}

static void drop_all(void) {
  memset(slots, 0, sizeof slots);
  test_scrub();
  wane_collect();
}

/* Whatever happened: nothing is open, mapped or adopted that should not be. */
static void require_nothing_left(size_t descriptors) {
  for (int i = 0; i < 3; i++) {
    drop_all();
    require(wane_drain(10000));
  }
  require(descriptors_open() == descriptors);
  require(maps_of(NULL) <= FEW);
  maps_require_counted();
  require(adopted_live() <= FEW);
  struct wane_stats stats = test_stats();
  require(stats.foreign_live == maps_of(NULL) + adopted_live());
  require(stats.foreign_live != 0 || stats.foreign_bytes == 0);
}

static void all_works(void) {
  memset(refused, 0, sizeof refused);
  use_files(STEPS);
  for (enum sort sort = 0; sort < SORTS; sort++) {
    require(refused[sort] == 0 && served[sort] > 0);
  }
}

/* ---- The Nth call ---- */

/* arg: "1" if all later calls fail too, so that nothing recovers. */
static void use_with_faults(const char *arg) {
  bool recovers = arg[0] != '1';
  size_t descriptors = descriptors_open();
  random_state.state = 1;
  may_lose_addresses = !recovers;
  use_files(STEPS);
  if (recovers) {
    require_nothing_left(descriptors);
    all_works();
    require_nothing_left(descriptors);
    return;
  }
  drop_all();
  bool is_drained = wane_drain(100); /* perhaps there are no threads */
  require(descriptors_open() == descriptors);
  if (is_drained) {
    maps_require_counted();
  }
  require(adopted_live() <= served[ADOPTED]);
}

#define NTH_MAX (TEST_TSAN ? 15 : 60)
#define NTH_FAR_MAX 1600
#define NTH_FAR_STEP (TEST_TSAN ? 397 : 97)

static void run_from_first_to_far(int more) {
  int step = 1;
  for (int nth = 1; nth < NTH_FAR_MAX; nth += step) {
    char options[128];
    snprintf(options, sizeof options, "fault=%d,fault_more=%d,background=%d",
             nth, more, nth % 2);
    test_run_role("faults", more ? "1" : "0", options);
    step = nth < NTH_MAX ? 1 : NTH_FAR_STEP;
  }
}

static void one_failing_call_is_got_over(void **state) {
  (void)state;
  run_from_first_to_far(0);
}

static void calls_that_go_on_failing_are_survived(void **state) {
  (void)state;
  run_from_first_to_far(1);
}

/* ---- No address left ---- */

#define LARGE_MAX 1000
#define LARGE (3 * MIB)
TEST_ROOT const char *large[LARGE_MAX];
TEST_ROOT const char *held[LARGE_MAX];

/* Maps until there is no place; returns how often. */
static size_t fill_addresses(void) {
  for (size_t count = 0; count < LARGE_MAX; count++) {
    errno = 0;
    large[count] = wane_map_bytes("large", NULL);
    if (large[count] == NULL) {
      require(errno == ENOMEM);
      return count;
    }
    size_t last = LARGE - PAGE;
    require(file_matches(large[count] + last, PAGE, 99, last));
  }
  require(!"the addresses are used up");
  return 0;
}

static void check_large(const char **bytes) {
  for (size_t i = 0; i < LARGE_MAX; i++) {
    require(bytes[i] == NULL || file_matches(bytes[i], LARGE, 99, 0));
  }
  test_scrub();
}

/* Also for heap objects then, and the other way round. */
static void use_up_addresses(const char *arg) {
  size_t descriptors = descriptors_open();
  size_t first = 0;
  (void)arg;
  random_state.state = 2;
  for (int round = 0; round < 10; round++) {
    size_t count = fill_addresses();
    first = round == 0 ? count : first;
    /* stray words may keep some, or the object below */
    require(count >= 8 && count + 6 >= first);
    require(maps_of("large") >= count);
    for (size_t i = 0; i < count; i += 2) {
      held[i] = large[i];
    }
    memset(large, 0, sizeof large);
    test_scrub();
    require(fill_addresses() + 4 >= count / 2);
    check_large(large);
    check_large(held);
    memset(large, 0, sizeof large);
    memset(held, 0, sizeof held);
    test_scrub();
    require(wane_alloc(10 * MIB) != NULL);
  }
  use_files(STEPS);
  require_nothing_left(descriptors);
}

static void addresses_that_are_used_up_come_back(void **state) {
  (void)state;
  file_make("large", 99, 3 * MIB);
  test_run_role("addresses", "", "reserve_mb=64");
  test_run_role("addresses", "", "reserve_mb=64,background=0,gc_percent=-1");
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"faults", use_with_faults},
                                           {"addresses", use_up_addresses}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_failing_call_is_got_over),
      cmocka_unit_test(calls_that_go_on_failing_are_survived),
      cmocka_unit_test(addresses_that_are_used_up_come_back),
  };
  files_begin();
  for (size_t i = 0; i < FILES; i++) {
    file_make(name_of(i), i, size_of(i));
  }
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
