/* Adopted pages: how long they live, what release gets, which ranges are
   refused, and that they are objects like others. P1, D15. */
/* timeout: 240 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,huge_pages=0 */
#include "support/files.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define PAGE ((size_t)4096)
#define MANY 200
#define FEW (2 + MANY / 50)

/* ---- Ranges, by number ---- */

static struct range { /* atomic: a late release may look */
  uint64_t hidden;
  uint64_t size;
} ranges[NOTES_MAX];
static uint64_t wrong; /* calls of release that had wrong arguments */

static void range_set(size_t idx, const void *addr, size_t size) {
  test_set(&ranges[idx].hidden, test_hide(addr));
  test_set(&ranges[idx].size, size);
}

static bool range_is_at(size_t idx, const void *addr) {
  return test_get(&ranges[idx].hidden) == test_hide(addr);
}

static bool range_is(size_t idx, const void *addr, size_t size) {
  return range_is_at(idx, addr) && test_get(&ranges[idx].size) == size;
}

static void *range_start(size_t idx) {
  return test_reveal(test_get(&ranges[idx].hidden));
}

static size_t size_of(size_t idx) { return PAGE * (1 + idx % 7); }
static size_t offset_of(size_t idx) { return idx * 7919 % size_of(idx); }

static void *map_memfd(size_t size) {
  int fd = memfd_create("wane-adopt", MFD_CLOEXEC);
  require(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
  void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  require(addr != MAP_FAILED);
  close(fd);
  return addr;
}

static void *map_anonymous(size_t size, int how, int protection) {
  void *addr =
      mmap(NULL, size, protection, how | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(addr != MAP_FAILED);
  return addr;
}

/* Of every fourth nothing may be read. */
static void *map_range(size_t idx) {
  const int both = PROT_READ | PROT_WRITE;
  void *addr = idx % 4 == 0   ? map_memfd(size_of(idx))
               : idx % 4 == 1 ? map_anonymous(size_of(idx), MAP_PRIVATE, both)
               : idx % 4 == 2 ? map_anonymous(size_of(idx), MAP_SHARED, both)
                              : map_anonymous(size_of(idx), MAP_PRIVATE, 0);
  if (idx % 4 != 3) {
    file_fill(addr, size_of(idx), idx);
  }
  return addr;
}

static TEST_NOINLINE void check_range(const void *addr, size_t idx) {
  require(idx % 4 == 3 || file_matches(addr, size_of(idx), idx, 0));
}

static void release(void *addr, size_t size, void *tag) {
  size_t idx = note_idx(tag);
  if (note_is_fresh(tag) &&
      (!range_is(idx, addr, size) ||
       (idx % 4 != 3 && !file_matches(addr, size, idx, 0)))) {
    test_add(&wrong);
  }
  require(munmap(addr, size) == 0);
  note(tag);
}

static void *make_range(size_t idx) {
  void *addr = map_range(idx);
  range_set(idx, addr, size_of(idx));
  errno = 77;
  require(wane_adopt(addr, size_of(idx), release, note_tag(idx)) == 0);
  require(errno == 77);
  return addr;
}

TEST_ROOT char *kept[MANY];

static void keep(void *addr, size_t idx) {
  kept[idx] = (char *)addr + offset_of(idx);
}

static void forget(void *object, size_t idx) {
  (void)object;
  (void)idx;
}

static void begin(void) {
  for (size_t i = 0; i < NOTES_MAX; i++) {
    range_set(i, test_reveal(0), 0);
  }
  test_set(&wrong, 0);
  notes_begin();
}

static void check_kept(void) {
  for (size_t i = 0; i < MANY; i++) {
    check_range(kept[i] - offset_of(i), i);
  }
}

/* All but a few that stray words keep, once, and with the right arguments. */
static void assert_released(size_t count) {
  assert_most(notes_total(), count);
  notes_require_once(count);
  assert_int_equal(test_get(&wrong), 0);
}

static void drop_kept(void) {
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_released(MANY);
}

/* ---- What keeps a range ---- */

/* P1. */
static void a_range_is_released_once_after_its_last_pointer(void **state) {
  (void)state;
  for (int round = 0; round < 3; round++) {
    begin();
    test_make_with(MANY, make_range, keep);
    for (int i = 0; i < 3; i++) {
      test_settle();
      check_kept();
    }
    assert_int_equal(notes_total(), 0);
    assert_in_range(maps_named("/memfd:wane-adopt"), MANY / 4, MANY / 4 + FEW);
    drop_kept();
    assert_in_range(maps_named("/memfd:wane-adopt"), 0, FEW);
    for (int i = 0; i < 3; i++) {
      test_settle();
    }
    assert_released(MANY);
  }
}

TEST_ROOT void **holder;

static void keep_in_object(void *addr, size_t idx) {
  holder[idx] = (char *)addr + offset_of(idx);
}

static void a_pointer_in_an_object_keeps_it(void **state) {
  (void)state;
  begin();
  holder = wane_alloc(MANY * sizeof *holder);
  test_make_with(MANY, make_range, keep_in_object);
  test_settle();
  assert_int_equal(notes_total(), 0);
  memset(holder, 0, MANY * sizeof *holder);
  test_settle();
  assert_released(MANY);
}

static void a_pointer_elsewhere_does_not(void **state) {
  (void)state;
  begin();
  holder = wane_alloc_leaf(MANY * sizeof *holder);
  test_make_with(MANY, make_range, keep_in_object);
  test_settle();
  assert_released(MANY);
  begin();
  holder = malloc(MANY * sizeof *holder);
  assert_non_null(holder);
  test_make_with(MANY, make_range, keep_in_object);
  test_settle();
  assert_released(MANY);
  free(holder);
  holder = NULL;
}

static void hold_on_stack(void *arg) {
  char *volatile on_stack[MANY];
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    on_stack[i] = (char *)make_range(i) + offset_of(i);
  }
  test_settle();
  require(notes_total() == 0);
  for (size_t i = 0; i < MANY; i++) {
    check_range(on_stack[i] - offset_of(i), i);
  }
}

static void a_pointer_on_a_stack_keeps_it(void **state) {
  (void)state;
  begin();
  test_apart(hold_on_stack, NULL);
  test_settle();
  assert_released(MANY);
}

static void pin(void *addr, size_t idx) {
  wane_pin((char *)addr + offset_of(idx));
}

static void a_pin_keeps_it(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_range, pin);
  test_settle();
  assert_int_equal(notes_total(), 0);
  for (size_t i = 0; i < MANY; i++) {
    wane_unpin(range_start(i));
  }
  test_settle();
  assert_released(MANY);
}

/* The last byte of one and the first of the next, which is no pointer to the
   one before it. */
static void keep_by_turns(void *addr, size_t idx) {
  kept[idx] = idx % 2 == 0 ? (char *)addr + size_of(idx) - 1 : addr;
}

TEST_ROOT char *rows[2];

/* One mapping cut into ranges that touch each other. */
static void *make_in_row(size_t idx) {
  char *addr = rows[0];
  rows[0] += size_of(idx);
  file_fill(addr, size_of(idx), idx);
  range_set(idx, addr, size_of(idx));
  require(wane_adopt(addr, size_of(idx), release, note_tag(idx)) == 0);
  return addr;
}

static size_t row_size(void) {
  size_t size = 0;
  for (size_t i = 0; i < MANY; i++) {
    size += size_of(i);
  }
  return size;
}

static void ranges_may_touch_each_other(void **state) {
  (void)state;
  begin();
  rows[0] = map_anonymous(row_size(), MAP_PRIVATE, PROT_READ | PROT_WRITE);
  test_make_with(MANY, make_in_row, keep_by_turns);
  rows[0] = NULL;
  test_settle();
  assert_int_equal(notes_total(), 0);
  for (size_t i = 0; i < MANY; i++) {
    assert_ptr_equal(wane_base(kept[i]), range_start(i));
    assert_int_equal(wane_size(kept[i]), size_of(i));
  }
  for (size_t i = 1; i < MANY; i += 2) {
    kept[i] = NULL;
  }
  test_settle();
  assert_released(MANY / 2);
  for (size_t i = 0; i < MANY; i += 2) {
    assert_int_equal(notes_of(i), 0);
    check_range(kept[i] + 1 - size_of(i), i);
  }
  drop_kept();
}

/* ---- arg ---- */

static wane_weak weak[MANY];

struct packet {
  void *number;
  void **inner;
};

static void release_packet(void *addr, size_t size, void *arg) {
  struct packet *packet = arg;
  void *tag = test_reveal((uintptr_t)packet->number);
  if (wane_base(arg) != arg || wane_base(packet->inner) != packet->inner ||
      (note_is_fresh(tag) &&
       (wane_weak_value(weak[note_idx(tag)]) != packet->inner ||
        packet->inner[0] != packet->number))) {
    test_add(&wrong);
  }
  if (note_idx(tag) % 10 == 0) {
    wane_collect(); /* A10; and it lives on */
  }
  if (packet->inner[0] != packet->number) {
    test_add(&wrong);
  }
  require(munmap(addr, size) == 0);
  note(tag);
}

static void *make_with_packet(size_t idx) {
  struct packet *packet = wane_alloc(sizeof *packet);
  packet->number = (void *)test_hide(note_tag(idx));
  packet->inner = wane_alloc(48);
  packet->inner[0] = packet->number;
  weak[idx] = wane_weak_make(packet->inner);
  void *addr = map_range(idx);
  range_set(idx, addr, size_of(idx));
  require(wane_adopt(addr, size_of(idx), release_packet, packet) == 0);
  return addr;
}

/* D15, A4. */
static void arg_lives_until_release_has_returned(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_with_packet, keep);
  for (int i = 0; i < 3; i++) {
    test_settle();
    assert_int_equal(test_weak_alive(weak, MANY), MANY);
    test_scrub();
  }
  drop_kept();
  test_settle();
  assert_in_range(test_weak_alive(weak, MANY), 0, FEW);
}

#define LINKS 5
static uint64_t order;
static uint64_t turn_of[MANY];

static void release_link(void *addr, size_t size, void *arg) {
  size_t idx = 0;
  while (idx < MANY && !range_is_at(idx, addr)) {
    idx++;
  }
  if (idx < MANY) {
    turn_of[idx] = test_add(&order) + 1;
    if (arg != NULL) { /* the range before, still there */
      check_range(arg, idx - 1);
    }
    note(note_tag(idx));
  }
  require(munmap(addr, size) == 0);
}

static void *make_link(size_t idx) {
  void *addr = map_range(idx);
  void *before = idx % LINKS == 0 ? NULL : range_start(idx - 1);
  range_set(idx, addr, size_of(idx));
  require(wane_adopt(addr, size_of(idx), release_link, before) == 0);
  return addr;
}

/* A range that is another's argument: it goes after that. */
static void arg_may_point_to_another_range(void **state) {
  (void)state;
  test_set(&order, 0);
  memset(turn_of, 0, sizeof turn_of);
  begin();
  test_make_with(MANY, make_link, forget);
  for (int i = 0; i < LINKS; i++) {
    test_settle();
  }
  assert_in_range(notes_total(), MANY - LINKS * FEW, MANY);
  notes_require_once(MANY);
  for (size_t i = 0; i < MANY; i++) {
    if (i % LINKS != 0 && turn_of[i - 1] != 0) {
      assert_true(turn_of[i] != 0 && turn_of[i] < turn_of[i - 1]);
    }
  }
}

static void free_twice(void *addr, size_t size, void *arg) {
  (void)addr;
  (void)size;
  (void)arg;
  test_add(&wrong);
}

/* It would never die. One past the end is outside. */
static void arg_may_not_point_into_the_range(void **state) {
  (void)state;
  begin();
  char *addr = map_anonymous(4 * PAGE, MAP_PRIVATE, PROT_READ);
  const size_t inside[] = {0, 1, PAGE, 2 * PAGE - 1};
  for (size_t i = 0; i < TEST_COUNT(inside); i++) {
    errno = 0;
    assert_int_equal(wane_adopt(addr, 2 * PAGE, free_twice, addr + inside[i]),
                     -1);
    assert_int_equal(errno, EINVAL);
  }
  assert_null(wane_base(addr));
  assert_int_equal(wane_adopt(addr, 2 * PAGE, NULL, addr + 2 * PAGE), 0);
  assert_int_equal(munmap(addr + 3 * PAGE, PAGE), 0);
  assert_int_equal(test_get(&wrong), 0);
}

/* ---- Ranges that are refused ---- */

static void refuse(void *addr, size_t size) {
  struct wane_stats before = test_stats();
  errno = 0;
  require(wane_adopt(addr, size, free_twice, NULL) == -1);
  require(errno == EINVAL);
  struct wane_stats after = test_stats();
  require(after.foreign_live <= before.foreign_live);
  require(after.foreign_bytes <= before.foreign_bytes);
}

static void what_is_no_range_of_pages_is_refused(void **state) {
  (void)state;
  begin();
  char *addr = map_anonymous(8 * PAGE, MAP_PRIVATE, PROT_READ);
  refuse(NULL, PAGE);
  refuse(NULL, 0);
  refuse(addr, 0);
  const size_t sizes[] = {1, PAGE - 1, PAGE + 1, 2 * PAGE + 8};
  for (size_t i = 0; i < TEST_COUNT(sizes); i++) {
    refuse(addr, sizes[i]);
  }
  const size_t offsets[] = {1, 8, 16, PAGE / 2, PAGE - 1};
  for (size_t i = 0; i < TEST_COUNT(offsets); i++) {
    refuse(addr + offsets[i], PAGE);
  }
  refuse(addr, SIZE_MAX - PAGE + 1); /* wraps around */
  refuse(addr, 0 - (uintptr_t)addr);
  refuse((void *)(0 - PAGE), PAGE);
  refuse((void *)(0 - 2 * PAGE), 4 * PAGE);
  assert_null(wane_base(addr));
  assert_int_equal(munmap(addr, 8 * PAGE), 0);
  test_settle();
  assert_int_equal(test_get(&wrong), 0);
}

static void what_overlaps_another_is_refused(void **state) {
  (void)state;
  begin();
  char *addr = map_anonymous(12 * PAGE, MAP_PRIVATE, PROT_READ);
  for (size_t i = 0; i < 3; i++) {
    kept[i] = addr + 4 * i * PAGE;
  }
  assert_int_equal(wane_adopt(addr + 4 * PAGE, 4 * PAGE, NULL, NULL), 0);
  for (size_t from = 0; from < 12; from++) {
    for (size_t pages = 1; pages <= 12 - from; pages++) {
      if (from < 8 && from + pages > 4) {
        refuse(addr + from * PAGE, pages * PAGE);
      }
    }
  }
  assert_ptr_equal(wane_base(addr + 5 * PAGE), addr + 4 * PAGE);
  assert_int_equal(wane_size(addr + 5 * PAGE), 4 * PAGE);
  assert_int_equal(wane_adopt(addr, 4 * PAGE, NULL, NULL), 0);
  assert_int_equal(wane_adopt(addr + 8 * PAGE, 4 * PAGE, NULL, NULL), 0);
  refuse(addr, PAGE);
  refuse(addr + 11 * PAGE, PAGE);
  refuse(addr, 12 * PAGE);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_int_equal(test_get(&wrong), 0);
}

/* Its objects, its free addresses, mapped files, or all of it. */
static void the_collectors_addresses_are_refused(void **state) {
  (void)state;
  file_make("file", 1, 100000);
  char *object = wane_alloc_aligned(4 * PAGE, PAGE);
  char *mapped = (char *)wane_map_bytes("file", NULL);
  assert_true(object != NULL && mapped != NULL);
  refuse(object, 4 * PAGE);
  refuse(object + PAGE, PAGE);
  refuse(mapped, 2 * PAGE);
  refuse(mapped + 64 * MIB, 2 * PAGE);
  char *below = (char *)((uintptr_t)object >> 45 << 45);
  refuse(below != NULL ? below : (char *)PAGE, (size_t)1 << 46);
  refuse((char *)PAGE, (size_t)1 << 47);
  assert_true(file_matches(mapped, 100000, 1, 0));
  memset(object, 1, 4 * PAGE);
}

/* ---- After release, and without ---- */

static uint64_t second_lives;

static void release_second(void *addr, size_t size, void *tag) {
  test_add(&second_lives);
  release(addr, size, tag);
}

/* The range is the program's when release begins. */
static void adopt_again(void *addr, size_t size, void *tag) {
  if (wane_base(addr) != NULL ||
      wane_adopt(addr, size, release_second, tag) != 0) {
    test_add(&wrong);
  }
}

static void *make_for_two_lives(size_t idx) {
  void *addr = map_range(idx);
  range_set(idx, addr, size_of(idx));
  require(wane_adopt(addr, size_of(idx), adopt_again, note_tag(idx)) == 0);
  return addr;
}

static void release_may_adopt_the_range_again(void **state) {
  (void)state;
  begin();
  test_set(&second_lives, 0);
  test_make_with(MANY, make_for_two_lives, keep);
  test_settle();
  assert_int_equal(notes_total(), 0);
  memset(kept, 0, sizeof kept);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  assert_released(MANY);
  assert_int_equal(test_get(&second_lives), notes_total());
}

static void *make_without_release(size_t idx) {
  void *addr = range_start(idx);
  require(wane_adopt(addr, size_of(idx), NULL, NULL) == 0);
  return addr;
}

/* Nothing happens to its pages. */
static void a_range_may_go_without_release(void **state) {
  (void)state;
  for (size_t i = 0; i < MANY; i++) {
    range_set(i, map_range(i), size_of(i));
  }
  for (int round = 0; round < 3; round++) {
    uint64_t live = test_stats().foreign_live;
    test_make_with(MANY, make_without_release, keep);
    test_settle();
    check_kept();
    assert_in_range(test_stats().foreign_live, MANY, MANY + live);
    memset(kept, 0, sizeof kept);
    test_settle();
    assert_in_range(test_stats().foreign_live, 0, live + FEW);
    test_settle();
    size_t gone = 0;
    for (size_t i = 0; i < MANY; i++) {
      if (wane_base(range_start(i)) != NULL) {
        continue; /* a stray word keeps it */
      }
      gone++;
      check_range(range_start(i), i);
    }
    test_scrub();
    assert_most(gone, MANY);
    for (size_t i = 0; i < MANY; i++) { /* which are left alone from now on */
      if (wane_base(range_start(i)) != NULL) {
        range_set(i, map_range(i), size_of(i));
      }
    }
    test_scrub();
  }
}

/* ---- As any object ---- */

/* D15. */
static void wane_base_gives_the_start(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_range, keep);
  for (size_t i = 0; i < MANY; i++) {
    char *start = kept[i] - offset_of(i);
    assert_ptr_equal(wane_base(start), start);
    assert_ptr_equal(wane_base(kept[i]), start);
    assert_ptr_equal(wane_base(start + size_of(i) - 1), start);
    assert_ptr_not_equal(wane_base(start + size_of(i)), start);
    assert_ptr_not_equal(wane_base(start - 1), start);
    assert_int_equal(wane_size(start), size_of(i));
    assert_int_equal(wane_size(kept[i]), size_of(i));
  }
  drop_kept();
  for (size_t i = 0; i < MANY; i++) {
    if (notes_of(i) != 0) {
      assert_null(wane_base(range_start(i)));
    }
  }
}

static uintptr_t hidden[MANY];
TEST_ROOT uintptr_t *page_of_pointers;

/* D15. */
static void adopted_pages_are_not_scanned(void **state) {
  (void)state;
  test_make_hidden(hidden, MANY, test_make_small);
  page_of_pointers = map_anonymous(PAGE, MAP_PRIVATE, PROT_READ | PROT_WRITE);
  assert_int_equal(wane_adopt(page_of_pointers, PAGE, NULL, NULL), 0);
  for (size_t i = 0; i < MANY; i++) {
    page_of_pointers[i] = (uintptr_t)test_reveal(hidden[i]);
  }
  test_scrub();
  assert_dead(hidden, MANY);
  assert_int_equal(page_of_pointers[5], (uintptr_t)test_reveal(hidden[5]));
  page_of_pointers = NULL;
}

static void keep_with_weak(void *addr, size_t idx) {
  keep(addr, idx);
  weak[idx] = wane_weak_make(kept[idx]);
  require(weak[idx].id != 0 && wane_weak_value(weak[idx]) == kept[idx]);
}

static void weak_pointers_know_adopted_pages(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_range, keep_with_weak);
  test_settle();
  for (size_t i = 0; i < MANY; i++) {
    assert_ptr_equal(wane_weak_value(weak[i]), kept[i]);
    assert_int_equal(wane_weak_make(kept[i]).id, weak[i].id);
  }
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  assert_in_range(test_weak_alive(weak, MANY), 0, FEW);
  test_settle();
  assert_released(MANY);
}

static void with_cleanups(void *addr, size_t idx) {
  keep(addr, idx);
  require(wane_add_cleanup(addr, note, note_tag(MANY + idx)).id != 0);
  require(wane_add_cleanup(kept[idx], note, note_tag(2 * MANY + idx)).id != 0);
}

static void cleanups_run_beside_release(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_range, with_cleanups);
  test_settle();
  assert_int_equal(notes_total(), 0);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_released(3 * MANY);
  for (size_t i = 0; i < MANY; i++) {
    assert_int_equal(notes_of(i), notes_of(MANY + i));
    assert_int_equal(notes_of(i), notes_of(2 * MANY + i));
  }
}

static size_t idx_of(const void *addr) {
  size_t idx = 0;
  while (idx < MANY && !range_is_at(idx, addr)) {
    idx++;
  }
  return idx;
}

/* F1: the pages are there; release comes after the next death. */
static void finalize(void *addr) {
  size_t idx = idx_of(addr);
  if (idx == MANY) {
    return; /* of an earlier test */
  }
  if (wane_base(addr) != addr || notes_of(idx) != 0) {
    test_add(&wrong);
  }
  check_range(addr, idx);
  note(note_tag(MANY + idx));
}

static void with_finalizer(void *addr, size_t idx) {
  keep(addr, idx);
  wane_set_finalizer(addr, finalize);
}

static void finalizers_get_the_pages_back(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_range, with_finalizer);
  test_settle();
  assert_int_equal(notes_total(), 0);
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  assert_true(wane_drain(10000));
  assert_most(notes_total(), MANY);
  for (size_t i = 0; i < MANY; i++) {
    assert_int_equal(notes_of(i), 0);
  }
  test_settle();
  test_settle();
  assert_released(2 * MANY);
}

TEST_ROOT struct wane_ephemeron *pairs[MANY];

static void pair_of_key(void *addr, size_t idx) {
  void **value = wane_alloc(32);
  value[0] = addr;
  keep(addr, idx);
  weak[idx] = wane_weak_make(value);
  pairs[idx] = wane_ephemeron_new(kept[idx], value);
}

static size_t pairs_alive(void) {
  size_t alive = 0;
  for (size_t i = 0; i < MANY; i++) {
    void *key = wane_ephemeron_key(pairs[i]);
    require((key != NULL) == (wane_ephemeron_value(pairs[i]) != NULL));
    require(key == NULL || key == (char *)range_start(i) + offset_of(i));
    alive += key != NULL;
  }
  test_scrub();
  return alive;
}

static void adopted_pages_may_be_keys_of_ephemerons(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_range, pair_of_key);
  for (int i = 0; i < 2; i++) {
    test_settle();
    assert_int_equal(pairs_alive(), MANY);
    assert_int_equal(test_weak_alive(weak, MANY), MANY);
    test_scrub();
  }
  drop_kept();
  assert_in_range(pairs_alive(), 0, FEW);
  assert_in_range(test_weak_alive(weak, MANY), 0, FEW);
  memset(pairs, 0, sizeof pairs);
}

static void pair_of_value(void *addr, size_t idx) {
  kept[idx] = wane_alloc(32);
  pairs[idx] = wane_ephemeron_new(kept[idx], (char *)addr + offset_of(idx));
}

static void adopted_pages_may_be_values_of_ephemerons(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, make_range, pair_of_value);
  test_settle();
  assert_int_equal(notes_total(), 0);
  for (size_t i = 0; i < MANY; i++) {
    check_range((char *)wane_ephemeron_value(pairs[i]) - offset_of(i), i);
  }
  drop_kept();
  memset(pairs, 0, sizeof pairs);
}

TEST_ROOT struct wane_map *maps[2]; /* weak keys, weak values */

static void in_weak_maps(void *addr, size_t idx) {
  keep(addr, idx);
  wane_map_store(maps[0], kept[idx], (void *)(idx + 1));
  wane_map_store(maps[1], (void *)(idx + 1), kept[idx]);
}

static void adopted_pages_may_be_in_weak_maps(void **state) {
  (void)state;
  begin();
  maps[0] = wane_map_new(NULL, WANE_WEAK_KEYS);
  maps[1] = wane_map_new(NULL, WANE_WEAK_VALUES);
  test_make_with(MANY, make_range, in_weak_maps);
  test_settle();
  for (size_t i = 0; i < MANY; i++) {
    void *value = NULL;
    assert_true(wane_map_load(maps[0], kept[i], &value));
    assert_ptr_equal(value, (void *)(i + 1));
    assert_true(wane_map_load(maps[1], (void *)(i + 1), &value));
    assert_ptr_equal(value, kept[i]);
  }
  drop_kept();
  assert_in_range(wane_map_count(maps[0]), 0, FEW);
  assert_in_range(wane_map_count(maps[1]), 0, FEW);
  memset(maps, 0, sizeof maps);
}

/* ---- Many, large, anywhere ---- */

#define THOUSAND 1000

/* From a page to 64 MiB. */
static size_t random_size(size_t idx) {
  struct test_random random = {idx};
  return PAGE * (1 + test_below(&random, (size_t)1 << test_below(&random, 15)));
}

TEST_ROOT char *thousand[THOUSAND];

static void release_large(void *addr, size_t size, void *tag) {
  size_t idx = note_idx(tag);
  if (note_is_fresh(tag) && !range_is(idx, addr, size)) {
    test_add(&wrong);
  }
  require(munmap(addr, size) == 0);
  note(tag);
}

static void *make_large(size_t idx) {
  size_t size = random_size(idx);
  char *addr = map_anonymous(size, MAP_PRIVATE, PROT_READ | PROT_WRITE);
  range_set(idx, addr, size);
  addr[idx * 4001 % size] = (char)(idx % 100 + 1);
  require(wane_adopt(addr, size, release_large, note_tag(idx)) == 0);
  return addr;
}

static void keep_large(void *addr, size_t idx) {
  thousand[idx] = (char *)addr + idx * 4001 % random_size(idx);
}

/* Dropped in a random order, a quarter at a time. */
static void a_thousand_ranges_of_all_sizes(void **state) {
  struct test_random random = {12};
  (void)state;
  begin();
  test_make_with(THOUSAND, make_large, keep_large);
  for (int step = 0; step < 5; step++) {
    test_settle();
    size_t held = 0;
    for (size_t i = 0; i < THOUSAND; i++) {
      if (thousand[i] != NULL) {
        held++;
        assert_int_equal(notes_of(i), 0);
        assert_int_equal(*thousand[i], i % 100 + 1);
        assert_ptr_equal(wane_base(thousand[i]), range_start(i));
        assert_int_equal(wane_size(thousand[i]), random_size(i));
        thousand[i] =
            test_below(&random, 4) == 0 || step == 3 ? NULL : thousand[i];
      }
    }
    assert_in_range(notes_total() + FEW * 4, THOUSAND - held,
                    THOUSAND - held + FEW * 4);
    test_scrub();
  }
  assert_released(THOUSAND);
}

/* A page not far above this address. */
static void *map_at(uintptr_t place) {
  for (uintptr_t i = 0; i < 64; i++) {
    void *want = (void *)(place + i * 64 * KIB);
    void *addr = mmap(want, PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (addr == want) {
      return addr;
    }
    require(addr == MAP_FAILED && errno == EEXIST);
  }
  require(!"there is such a page");
  return NULL;
}

static char *stack_top; /* the main thread's */

static void *make_below_or_above(size_t idx) {
  uintptr_t above = ((uintptr_t)stack_top - 100 * MIB) & ~(MIB - 1);
  uintptr_t places[] = {(uintptr_t)1 << 32, (uintptr_t)1 << 40, above};
  void *addr = map_at(places[idx % TEST_COUNT(places)]);
  range_set(idx, addr, PAGE);
  require(wane_adopt(addr, PAGE, release_large, note_tag(idx)) == 0);
  return addr;
}

static void keep_start(void *addr, size_t idx) { kept[idx] = addr; }

/* On both sides of the collector's own addresses. */
static void ranges_may_lie_anywhere(void **state) {
  (void)state;
  if (TEST_TSAN || TEST_ASAN) {
    skip(); /* their shadows are there */
  }
  begin();
  stack_top = (char *)&state;
  test_make_with(60, make_below_or_above, keep_start);
  char *object = wane_alloc(16);
  size_t lower = 0;
  for (size_t i = 0; i < 60; i++) {
    assert_ptr_equal(wane_base(kept[i] + 100), kept[i]);
    lower += kept[i] < object;
  }
  assert_int_equal(lower, 40);
  test_settle();
  assert_int_equal(notes_total(), 0);
  assert_ptr_equal(wane_base(object), object);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_released(60);
}

/* Numbers that look like pointers between ranges, of any value. */
static void what_is_in_no_range_is_in_no_object(void **state) {
  struct test_random random = {5};
  (void)state;
  begin();
  test_make_with(MANY, make_range, keep);
  for (int i = 0; i < 100000; i++) {
    size_t n = test_below(&random, MANY);
    uintptr_t word = (uintptr_t)kept[n] + test_below(&random, 64 * KIB);
    const char *base = wane_base((void *)word);
    size_t size = wane_size((void *)word);
    assert_true((base == NULL) == (size == 0));
    if (base != NULL) {
      assert_true(word - (uintptr_t)base < size);
      size_t idx = idx_of(base); /* or of an earlier test */
      assert_true(idx == MANY || range_is(idx, base, size));
    }
  }
  drop_kept();
}

/* ---- The numbers, and when cycles come ---- */

static void adopted_bytes_are_counted(void **state) {
  (void)state;
  begin();
  test_settle();
  struct wane_stats before = test_stats();
  uint64_t live = before.heap_live_bytes;
  test_make_with(MANY, make_range, keep);
  uint64_t sum = 0;
  for (size_t i = 0; i < MANY; i++) {
    sum += size_of(i);
  }
  struct wane_stats held = test_stats();
  assert_in_range(held.foreign_live, MANY, before.foreign_live + MANY);
  assert_in_range(held.foreign_bytes, sum, before.foreign_bytes + sum);
  assert_in_range(test_live_bytes(), 0, live + 256 * KIB);
  assert_int_equal(held.files_mapped, before.files_mapped);
  drop_kept();
  struct wane_stats after = test_stats();
  assert_in_range(after.foreign_live, 0, before.foreign_live + FEW);
  assert_in_range(after.foreign_bytes, 0,
                  before.foreign_bytes + FEW * 7 * PAGE);
}

#define LARGE (16 * MIB)
static uint64_t large_released;

static void release_counted(void *addr, size_t size, void *arg) {
  (void)arg;
  require(munmap(addr, size) == 0);
  test_add(&large_released);
}

static void adopt_and_drop(void *arg) {
  uint64_t peak = 0;
  uint64_t *most = arg;
  for (uint64_t i = 0; i < 1000; i++) {
    char *addr = map_memfd(LARGE);
    addr[i * PAGE % LARGE] = 1;
    require(wane_adopt(addr, LARGE, release_counted, NULL) == 0);
    require(wane_drain(10000)); /* what is found dead is released at once */
    uint64_t live = i + 1 - test_get(&large_released);
    peak = live > peak ? live : peak;
  }
  *most = peak;
}

/* Nobody calls wane_collect. */
static void adopted_bytes_make_cycles_come(void **state) {
  (void)state;
  uint64_t peak = 0;
  uint64_t forced = test_stats().cycles_forced;
  test_set(&large_released, 0);
  test_apart(adopt_and_drop, &peak);
  assert_int_equal(test_stats().cycles_forced, forced);
  assert_in_range(peak, 1, 50);
  test_settle();
  assert_in_range(test_get(&large_released), 1000 - 22, 1000);
}

/* ---- Threads; the end ---- */

static void *adopt_many(void *arg) {
  size_t self = (uintptr_t)arg;
  for (size_t i = 0; i < 1000; i++) {
    void *addr = make_range(self * 1000 + i);
    check_range(addr, self * 1000 + i);
  }
  return NULL;
}

static void threads_may_adopt_at_once(void **state) {
  (void)state;
  pthread_t threads[4];
  begin();
  for (size_t t = 0; t < 4; t++) {
    assert_int_equal(pthread_create(&threads[t], NULL, adopt_many, (void *)t),
                     0);
  }
  for (size_t t = 0; t < 4; t++) {
    assert_int_equal(pthread_join(threads[t], NULL), 0);
  }
  test_settle();
  assert_released(4000);
}

static void shut_down(void *arg) {
  (void)arg;
  wane_shutdown(WANE_RUN_CLEANUPS);
  require(notes_total() == MANY && test_get(&wrong) == 0);
  notes_require_once(MANY);
  require(test_stats().foreign_live == 0);
  require(test_stats().foreign_bytes == 0);
}

/* A12, D4. */
static void shutdown_releases_all(void **state) {
  (void)state;
  struct test_child child;
  begin();
  test_make_with(MANY, make_range, keep);
  test_fork(shut_down, NULL, &child);
  test_assert_exit_0(&child, "shutdown");
  assert_int_equal(notes_total(), 0);
  drop_kept();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_range_is_released_once_after_its_last_pointer),
      cmocka_unit_test(a_pointer_in_an_object_keeps_it),
      cmocka_unit_test(a_pointer_elsewhere_does_not),
      cmocka_unit_test(a_pointer_on_a_stack_keeps_it),
      cmocka_unit_test(a_pin_keeps_it),
      cmocka_unit_test(ranges_may_touch_each_other),
      cmocka_unit_test(arg_lives_until_release_has_returned),
      cmocka_unit_test(arg_may_point_to_another_range),
      cmocka_unit_test(arg_may_not_point_into_the_range),
      cmocka_unit_test(what_is_no_range_of_pages_is_refused),
      cmocka_unit_test(what_overlaps_another_is_refused),
      cmocka_unit_test(the_collectors_addresses_are_refused),
      cmocka_unit_test(release_may_adopt_the_range_again),
      cmocka_unit_test(a_range_may_go_without_release),
      cmocka_unit_test(wane_base_gives_the_start),
      cmocka_unit_test(adopted_pages_are_not_scanned),
      cmocka_unit_test(weak_pointers_know_adopted_pages),
      cmocka_unit_test(cleanups_run_beside_release),
      cmocka_unit_test(finalizers_get_the_pages_back),
      cmocka_unit_test(adopted_pages_may_be_keys_of_ephemerons),
      cmocka_unit_test(adopted_pages_may_be_values_of_ephemerons),
      cmocka_unit_test(adopted_pages_may_be_in_weak_maps),
      cmocka_unit_test(a_thousand_ranges_of_all_sizes),
      cmocka_unit_test(ranges_may_lie_anywhere),
      cmocka_unit_test(what_is_in_no_range_is_in_no_object),
      cmocka_unit_test(adopted_bytes_are_counted),
      cmocka_unit_test(adopted_bytes_make_cycles_come),
      cmocka_unit_test(threads_may_adopt_at_once),
      cmocka_unit_test(shutdown_releases_all),
  };
  files_begin();
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
