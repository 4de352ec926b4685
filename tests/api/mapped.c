/* Mapped files: what they hold, how long they stay, and what may be made for
   their bytes as for any object. P1, P3, D14. Errors are in mapped_errors.c,
   sharing in mapped_shared.c. */
/* timeout: 240 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,huge_pages=0 */
#include "support/files.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define MANY 200
#define FEW (2 + MANY / 50)

static const struct file {
  const char *name;
  uint64_t number;
  size_t size;
} files[] = {{"one", 1, 1},         {"less", 2, 4095},   {"page", 3, 4096},
             {"more", 4, 4097},     {"below", 5, 32767}, {"block", 6, 32768},
             {"above", 7, 32769},   {"two", 8, 65536},   {"big", 9, MIB + 3},
             {"middle", 10, 123456}};
#define FILES TEST_COUNT(files)

static const struct file *file_of(size_t idx) { return &files[idx % FILES]; }
static size_t offset_of(size_t idx) { return idx * 7919 % file_of(idx)->size; }

static struct wane_mapped *open_struct(const struct file *file) {
  struct wane_mapped *m = wane_mapped_open(file->name);
  require(m != NULL && m->data != NULL && m->size == file->size);
  return m;
}

/* The bytes alone, got either way. */
static char *open_bytes(size_t idx) {
  const struct file *file = file_of(idx);
  if (idx % 2 == 0) {
    return (char *)open_struct(file)->data;
  }
  size_t size = 0;
  const char *bytes = wane_map_bytes(file->name, &size);
  require(bytes != NULL && size == file->size);
  return (char *)bytes;
}

static void *make_bytes(size_t idx) { return open_bytes(idx); }
static void *make_struct(size_t idx) { return open_struct(file_of(idx)); }

static TEST_NOINLINE void check_bytes(const void *bytes, size_t idx) {
  require(file_matches(bytes, file_of(idx)->size, file_of(idx)->number, 0));
}

TEST_ROOT char *kept[MANY];

static void keep(void *bytes, size_t idx) {
  kept[idx] = (char *)bytes + offset_of(idx);
}

static TEST_NOINLINE void check_kept(void) {
  for (size_t i = 0; i < MANY; i++) {
    check_bytes(kept[i] - offset_of(i), i);
  }
}

/* All is unmapped but for a few that stray words keep. */
static void require_unmapped(void) {
  test_settle();
  if (maps_of(NULL) > FEW) {
    test_settle(); /* such words change */
  }
  require(maps_of(NULL) <= FEW);
  maps_require_counted();
}

static void drop_kept(void) {
  memset(kept, 0, sizeof kept);
  require_unmapped();
}

/* ---- What is mapped ---- */

/* Where the object of the bytes begins and ends. */
static void check_extent(const char *bytes, size_t size) {
  size_t usable = wane_size(bytes);
  assert_in_range(usable, size, (size + 4095) / 4096 * 4096);
  const size_t offsets[] = {0, size / 2, size - 1};
  for (size_t i = 0; i < TEST_COUNT(offsets); i++) {
    assert_ptr_equal(wane_base(bytes + offsets[i]), bytes);
    assert_int_equal(wane_size(bytes + offsets[i]), usable);
  }
  assert_ptr_not_equal(wane_base(bytes + usable), bytes);
  assert_ptr_not_equal(wane_base(bytes - 1), bytes);
}

/* P1: the content, and successful calls leave errno alone. */
static void the_bytes_are_those_of_the_file(void **state) {
  (void)state;
  size_t descriptors = descriptors_open();
  for (size_t i = 0; i < FILES; i++) {
    const struct file *file = file_of(i);
    size_t size = 0;
    errno = 77;
    struct wane_mapped *m = wane_mapped_open(file->name);
    const char *bytes = wane_map_bytes(file->name, &size);
    const char *more = wane_map_bytes(file->name, NULL);
    assert_int_equal(errno, 77);
    assert_true(m != NULL && bytes != NULL && more != NULL);
    assert_int_equal(m->size, file->size);
    assert_int_equal(size, file->size);
    assert_ptr_equal(wane_base(m), m);
    check_bytes(m->data, i);
    check_bytes(bytes, i);
    check_bytes(more, i);
    check_extent(m->data, file->size);
    check_extent(bytes, file->size);
    assert_true(m->data != bytes && bytes != more);
    assert_int_equal(maps_of(file->name), 3);
    wane_keep_alive(m);
    wane_keep_alive(bytes);
    wane_keep_alive(more);
  }
  assert_int_equal(descriptors_open(), descriptors);
}

/* P3. */
static void an_empty_file_has_no_bytes_and_an_address(void **state) {
  (void)state;
  size_t size = 7;
  file_make("empty", 0, 0);
  errno = 77;
  struct wane_mapped *m = wane_mapped_open("empty");
  const void *bytes = wane_map_bytes("empty", &size);
  const void *more = wane_map_bytes("empty", NULL);
  assert_int_equal(errno, 77);
  assert_true(m != NULL && m->data != NULL && m->size == 0);
  assert_true(bytes != NULL && more != NULL && size == 0);
  assert_ptr_equal(wane_base(m), m);
  assert_int_equal(maps_of("empty"), 0);
  wane_collect();
  assert_true(m->data != NULL && m->size == 0);
  (void)wane_weak_make(bytes); /* it is an object, or static data */
  (void)wane_weak_make(m->data);
  (void)wane_add_cleanup(bytes, note, note_tag(0));
  wane_mapped_close(m);
  assert_true(m->data == NULL && m->size == 0);
  wane_mapped_close(m);
}

static void write_byte(void *bytes) { *(volatile char *)bytes = 1; }

static void read_byte(void *address) { (void)*(volatile char *)address; }

static void assert_signal(int signal, void (*fn)(void *arg), void *arg) {
  struct test_child child;
  test_fork(fn, arg, &child);
  assert_true(WIFSIGNALED(child.status));
  assert_int_equal(WTERMSIG(child.status), signal);
}

static void the_bytes_are_read_only(void **state) {
  (void)state;
  for (size_t i = 0; i < FILES; i++) {
    char *bytes = open_bytes(i);
    assert_signal(SIGSEGV, write_byte, bytes + offset_of(i));
    check_bytes(bytes, i);
  }
}

static void a_deleted_file_stays_readable(void **state) {
  (void)state;
  file_make("deleted", 50, 50000);
  const char *bytes = wane_map_bytes("deleted", NULL);
  struct wane_mapped *m = wane_mapped_open("deleted");
  assert_true(bytes != NULL && m != NULL);
  assert_int_equal(unlink("deleted"), 0);
  test_settle();
  assert_true(file_matches(bytes, 50000, 50, 0));
  assert_true(file_matches(m->data, 50000, 50, 0));
  assert_int_equal(maps_of("deleted"), 2);
}

static void forget(void *object, size_t idx) {
  (void)object;
  (void)idx;
}

static void *make_short(size_t idx) {
  (void)idx;
  return (void *)wane_map_bytes("short", NULL);
}

/* Nothing that the library does with them reads the bytes. */
static void a_file_cut_shorter_does_not_hurt_the_library(void **state) {
  (void)state;
  file_make("short", 51, 50000);
  kept[0] = (char *)wane_map_bytes("short", NULL);
  assert_non_null(kept[0]);
  test_make_with(MANY, make_short, forget);
  assert_in_range(maps_of("short"), MANY / 2, MANY + 1);
  assert_int_equal(truncate("short", 0), 0);
  test_settle();
  assert_in_range(maps_of("short"), 1, FEW + 1);
  assert_ptr_equal(wane_base(kept[0] + 40000), kept[0]);
  assert_signal(SIGBUS, read_byte, kept[0] + 40000);
  drop_kept();
}

/* ---- What keeps the bytes ---- */

/* P1: from a root. */
static void a_pointer_into_the_bytes_keeps_them_mapped(void **state) {
  (void)state;
  for (int round = 0; round < 3; round++) {
    struct wane_stats before = test_stats();
    size_t maps_before = maps_of(NULL);
    test_make_with(MANY, make_bytes, keep);
    assert_in_range(maps_of(NULL), MANY, MANY + maps_before);
    for (int i = 0; i < 3; i++) {
      test_settle();
      check_kept();
    }
    assert_in_range(maps_of(NULL), MANY, MANY + FEW);
    struct wane_stats held = test_stats();
    assert_int_equal(held.files_mapped - before.files_mapped, MANY);
    assert_int_equal(held.foreign_live, maps_of(NULL));
    drop_kept();
    struct wane_stats after = test_stats();
    assert_int_equal(after.files_mapped, held.files_mapped);
    assert_in_range(after.files_unmapped - held.files_unmapped, MANY - FEW,
                    MANY + maps_before);
    assert_int_equal(after.foreign_live, maps_of(NULL));
  }
}

TEST_ROOT void **holder;

static void keep_in_object(void *bytes, size_t idx) {
  holder[idx] = (char *)bytes + offset_of(idx);
}

static void check_held(void) {
  for (size_t i = 0; i < MANY; i++) {
    check_bytes((char *)holder[i] - offset_of(i), i);
  }
  test_scrub();
}

static void a_pointer_in_an_object_keeps_them_mapped(void **state) {
  (void)state;
  holder = wane_alloc(MANY * sizeof *holder);
  test_make_with(MANY, make_bytes, keep_in_object);
  test_settle();
  assert_in_range(maps_of(NULL), MANY, MANY + FEW);
  check_held();
  memset(holder, 0, MANY * sizeof *holder);
  require_unmapped();
}

static void a_pointer_in_leaf_memory_does_not(void **state) {
  (void)state;
  holder = wane_alloc_leaf(MANY * sizeof *holder);
  test_make_with(MANY, make_bytes, keep_in_object);
  require_unmapped();
  holder = NULL;
}

static void hold_on_stack(void *arg) {
  char *volatile on_stack[MANY];
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    on_stack[i] = open_bytes(i) + offset_of(i);
  }
  test_settle();
  require(maps_of(NULL) >= MANY);
  for (size_t i = 0; i < MANY; i++) {
    check_bytes(on_stack[i] - offset_of(i), i);
  }
}

static void a_pointer_on_a_stack_keeps_them_mapped(void **state) {
  (void)state;
  test_apart(hold_on_stack, NULL);
  require_unmapped();
}

static void pin(void *bytes, size_t idx) {
  wane_pin((char *)bytes + offset_of(idx));
  kept[idx] = (char *)test_hide(bytes);
}

static void a_pin_keeps_them_mapped(void **state) {
  (void)state;
  test_make_with(MANY, make_bytes, pin);
  test_settle();
  assert_in_range(maps_of(NULL), MANY, MANY + FEW);
  for (size_t i = 0; i < MANY; i++) {
    check_bytes(test_reveal((uintptr_t)kept[i]), i);
    wane_unpin((char *)test_reveal((uintptr_t)kept[i]) + offset_of(i + FILES));
  }
  drop_kept();
}

static void keep_struct(void *object, size_t idx) { kept[idx] = object; }

/* P1: the struct alone keeps them, too. */
static void the_struct_keeps_them_mapped(void **state) {
  (void)state;
  test_make_with(MANY, make_struct, keep_struct);
  test_settle();
  assert_in_range(maps_of(NULL), MANY, MANY + FEW);
  for (size_t i = 0; i < MANY; i++) {
    struct wane_mapped *m = (struct wane_mapped *)kept[i];
    check_bytes(m->data, i);
    assert_int_equal(m->size, file_of(i)->size);
  }
  drop_kept();
}

static uintptr_t hidden[MANY]; /* atomic where finalizers look */

static void *make_addresses(size_t idx) {
  (void)idx;
  return (void *)wane_map_bytes("addresses", NULL);
}

static TEST_NOINLINE void check_addresses(const uintptr_t *words) {
  for (size_t i = 0; i < MANY; i++) {
    require(words[i] == (uintptr_t)test_reveal(hidden[i]));
  }
}

/* Pointers in the file's bytes are none. */
static void the_bytes_are_not_scanned(void **state) {
  (void)state;
  test_make_hidden(hidden, MANY, test_make_small);
  uintptr_t *words = malloc(MANY * sizeof *words);
  assert_non_null(words);
  for (size_t i = 0; i < MANY; i++) {
    words[i] = (uintptr_t)test_reveal(hidden[i]);
  }
  FILE *file = fopen("addresses", "we");
  assert_non_null(file);
  assert_int_equal(fwrite(words, sizeof *words, MANY, file), MANY);
  assert_int_equal(fclose(file), 0);
  free(words);
  test_scrub();
  test_make_with(1, make_addresses, keep_struct);
  check_addresses((uintptr_t *)kept[0]);
  assert_dead(hidden, MANY);
  assert_int_equal(maps_of("addresses"), 1);
  drop_kept();
}

/* ---- The numbers ---- */

static void *make_big(size_t idx) {
  (void)idx;
  return (void *)wane_map_bytes("big", NULL);
}

static void mapped_bytes_are_not_heap(void **state) {
  (void)state;
  uint64_t live = test_live_bytes();
  struct wane_stats before = test_stats();
  size_t maps_before = maps_of(NULL);
  test_make_with(MANY, make_big, keep_struct);
  assert_in_range(test_live_bytes(), 0, live + MIB);
  struct wane_stats held = test_stats();
  assert_in_range(held.heap_used_bytes, 0, before.heap_used_bytes + MIB);
  assert_in_range(held.heap_committed_bytes, 0,
                  before.heap_committed_bytes + 8 * MIB);
  uint64_t most = before.foreign_bytes + MANY * (MIB + 65536);
  assert_in_range(held.foreign_bytes, MANY * (MIB + 3), most);
  assert_in_range(held.foreign_live, MANY, MANY + maps_before);
  drop_kept();
  assert_in_range(test_stats().foreign_bytes, 0, FEW * (MIB + 65536));
}

/* In all more than there is, 4 GiB. */
static void use_address_space(const char *arg) {
  const size_t size = 64 * MIB;
  (void)arg;
  for (size_t i = 0; i < 300; i++) {
    const char *bytes = wane_map_bytes("sparse", NULL);
    require(bytes != NULL);
    require((bytes[size - 1] | bytes[i * 4096]) == 0);
    struct wane_mapped *m = wane_mapped_open("sparse");
    require(m != NULL);
    wane_mapped_close(m);
  }
  require_unmapped();
}

static void address_space_comes_back(void **state) {
  (void)state;
  if (!file_make_sparse("sparse", 64 * MIB)) {
    skip();
  }
  test_run_role("space", "", "reserve_mb=4096");
  test_run_role("space", "", "reserve_mb=4096,gc_percent=-1,background=0");
}

/* ---- Closing ---- */

/* D14. */
static void closing_unmaps_at_once(void **state) {
  (void)state;
  for (size_t i = 0; i < FILES; i++) {
    const struct file *file = file_of(i);
    test_settle();
    struct wane_mapped *m = open_struct(file);
    const char *last = (const char *)m->data + m->size - 1;
    size_t maps = maps_of(file->name);
    uint64_t unmapped = test_stats().files_unmapped;
    errno = 77;
    wane_mapped_close(m);
    assert_true(m->data == NULL && m->size == 0);
    assert_false(is_readable(last));
    assert_in_range(maps_of(file->name), 0, maps - 1);
    assert_in_range(test_stats().files_unmapped - unmapped, 1, maps);
    wane_mapped_close(m);
    assert_false(is_readable(last));
    assert_int_equal(errno, 77);
    assert_in_range(test_stats().files_unmapped - unmapped, 1, maps);
  }
  wane_mapped_close(NULL);
  test_settle();
  maps_require_counted();
}

static char *stale[MANY];

static void *make_closed(size_t idx) {
  struct wane_mapped *m = open_struct(file_of(idx));
  char *inside = (char *)m->data + offset_of(idx);
  wane_mapped_close(m);
  kept[idx] = inside;
  return m;
}

static void require_not_stale(const char *begin, size_t size) {
  for (size_t i = 0; i < MANY; i++) {
    require(stale[i] < begin || stale[i] >= begin + size);
  }
}

/* A late use is a SIGSEGV, never another file's bytes or another object. */
static void nothing_is_placed_where_a_stale_pointer_is(void **state) {
  (void)state;
  static char *more[MANY];
  test_make_with(MANY, make_closed, forget);
  for (int round = 0; round < 4; round++) {
    memcpy(stale, kept, sizeof stale);
    for (size_t i = 0; i < MANY; i++) {
      more[i] = open_bytes(i);
      require_not_stale(more[i], file_of(i)->size);
      size_t size = file_of(i + 3)->size;
      require_not_stale(wane_alloc_leaf(size), size);
    }
    for (size_t i = 0; i < MANY; i++) {
      assert_false(is_readable(kept[i]));
    }
    memset(more, 0, sizeof more);
    memset(stale, 0, sizeof stale);
    test_settle();
  }
  for (size_t i = 0; i < FILES; i++) {
    assert_signal(SIGSEGV, read_byte, kept[i]);
  }
  drop_kept();
}

/* The cleanup that would have unmapped it must not unmap what came after. */
static void a_closed_file_is_unmapped_only_once(void **state) {
  (void)state;
  uint64_t mapped = test_stats().files_mapped;
  uint64_t unmapped = test_stats().files_unmapped;
  size_t maps = maps_of(NULL);
  for (int round = 0; round < 5; round++) {
    test_make_with(MANY, make_closed, forget);
    memset(kept, 0, sizeof kept);
    test_scrub();
    wane_collect();
    test_make_with(MANY, make_bytes, keep); /* perhaps at the same addresses */
    test_settle();
    check_kept();
    assert_in_range(maps_of(NULL), MANY, MANY + maps);
    drop_kept();
  }
  struct wane_stats stats = test_stats();
  assert_int_equal(stats.files_mapped - mapped, 10 * MANY);
  assert_in_range(stats.files_unmapped - unmapped, 10 * MANY - FEW,
                  10 * MANY + maps);
}

static struct wane_mapped *contended[MANY];
static pthread_barrier_t barrier;

static void *close_all(void *arg) {
  size_t from = (uintptr_t)arg;
  pthread_barrier_wait(&barrier);
  for (size_t i = 0; i < MANY; i++) {
    struct wane_mapped *m = contended[(i + from) % MANY];
    wane_mapped_close(m);
    require(__atomic_load_n(&m->data, __ATOMIC_RELAXED) == NULL);
    require(__atomic_load_n(&m->size, __ATOMIC_RELAXED) == 0);
  }
  return NULL;
}

/* D14: closing twice is harmless, also at the same time. */
static void threads_may_close_the_same_file(void **state) {
  (void)state;
  pthread_t threads[4];
  assert_int_equal(pthread_barrier_init(&barrier, NULL, 4), 0);
  for (size_t round = 0; round < 10; round++) {
    size_t maps = maps_of(NULL);
    uint64_t unmapped = test_stats().files_unmapped;
    for (size_t i = 0; i < MANY; i++) {
      contended[i] = open_struct(file_of(i));
    }
    for (size_t t = 0; t < 4; t++) {
      void *from = (void *)(t * (round % 2) * MANY / 4);
      assert_int_equal(pthread_create(&threads[t], NULL, close_all, from), 0);
    }
    for (size_t t = 0; t < 4; t++) {
      assert_int_equal(pthread_join(threads[t], NULL), 0);
    }
    assert_in_range(maps_of(NULL), 0, maps);
    assert_in_range(test_stats().files_unmapped - unmapped, MANY, MANY + maps);
  }
  memset(contended, 0, sizeof contended);
  pthread_barrier_destroy(&barrier);
  require_unmapped();
}

/* ---- As any object ---- */

static wane_weak weak[MANY];

static void keep_with_weak(void *bytes, size_t idx) {
  keep(bytes, idx);
  weak[idx] = wane_weak_make(kept[idx]);
  require(weak[idx].id != 0 && wane_weak_value(weak[idx]) == kept[idx]);
}

static TEST_NOINLINE size_t weak_alive(void) {
  size_t alive = 0;
  for (size_t i = 0; i < MANY; i++) {
    alive += wane_weak_value(weak[i]) != NULL;
  }
  return alive;
}

static void weak_pointers_know_mapped_bytes(void **state) {
  (void)state;
  test_make_with(MANY, make_bytes, keep_with_weak);
  for (int i = 0; i < 2; i++) {
    test_settle();
    for (size_t n = 0; n < MANY; n++) {
      assert_ptr_equal(wane_weak_value(weak[n]), kept[n]);
      assert_int_equal(wane_weak_make(kept[n]).id, weak[n].id);
    }
  }
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  assert_in_range(weak_alive(), 0, FEW);
  require_unmapped();
  assert_in_range(weak_alive(), 0, FEW);
}

static void keep_with_note(void *bytes, size_t idx) {
  keep(bytes, idx);
  require(wane_add_cleanup(bytes, note, note_tag(2 * idx)).id != 0);
  wane_cleanup other = wane_add_cleanup(kept[idx], note, note_tag(2 * idx + 1));
  require(idx % 4 != 0 || wane_cleanup_stop(other));
}

/* A1, A2: beside the library's own, which always runs. */
static void the_programs_cleanups_run_beside_the_librarys(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_bytes, keep_with_note);
  test_settle();
  check_kept();
  assert_int_equal(notes_total(), 0);
  drop_kept();
  assert_most(notes_total(), 2 * MANY - MANY / 4);
  notes_require_once(2 * MANY);
  for (size_t i = 0; i < MANY; i++) {
    assert_int_equal(notes_of(2 * i + 1), i % 4 == 0 ? 0 : notes_of(2 * i));
  }
}

static void struct_with_note(void *object, size_t idx) {
  require(wane_add_cleanup(object, note, note_tag(idx)).id != 0);
}

static void the_struct_may_have_cleanups(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_struct, struct_with_note);
  require_unmapped();
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
}

static void with_cleanup_of_itself(void *bytes) {
  (void)wane_add_cleanup(bytes, note, (char *)bytes + 100);
}

/* A7. */
static void an_arg_inside_the_bytes_is_fatal(void **state) {
  (void)state;
  test_assert_fatal_only("wane_add_cleanup", with_cleanup_of_itself,
                         open_bytes(5));
}

/* Bytes that only a cleanup's argument holds. */
static void check_arg(void *arg) {
  void **words = arg;
  size_t idx = note_idx((void *)~(uintptr_t)words[1]);
  check_bytes(words[0], idx);
  note((void *)~(uintptr_t)words[1]);
}

static void with_bytes_as_arg(void *object, size_t idx) {
  void *args[] = {open_bytes(idx), (void *)~(uintptr_t)note_tag(idx)};
  require(wane_add_cleanup_copy(object, check_arg, args, sizeof args).id != 0);
}

/* A4. */
static void the_argument_of_a_cleanup_keeps_them_mapped(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_bytes_as_arg);
  test_settle();
  assert_most(notes_total(), MANY);
  require_unmapped();
}

static uint64_t tags[MANY]; /* hidden, as the objects are. atomic */
static uint64_t wrong;

static size_t idx_of(const void *bytes) {
  for (size_t i = 0; i < MANY; i++) {
    if (test_get(&hidden[i]) == test_hide(bytes)) {
      return i;
    }
  }
  return MANY;
}

static void finalize_bytes(void *bytes) {
  size_t idx = idx_of(bytes);
  if (idx == MANY) {
    return; /* of an earlier test */
  }
  if (wane_base(bytes) != bytes ||
      !file_matches(bytes, file_of(idx)->size, file_of(idx)->number, 0)) {
    test_add(&wrong);
  }
  note(test_reveal(test_get(&tags[idx])));
}

static void with_finalizer(void *bytes, size_t idx) {
  test_set(&hidden[idx], test_hide(bytes));
  test_set(&tags[idx], test_hide(note_tag(idx)));
  wane_set_finalizer(bytes, finalize_bytes);
}

/* F1, F5: given back, readable, and unmapped after their next death. */
static void finalizers_get_the_bytes_back(void **state) {
  (void)state;
  test_set(&wrong, 0);
  notes_begin();
  test_make_with(MANY, make_bytes, with_finalizer);
  test_scrub();
  wane_collect();
  assert_true(wane_drain(10000));
  assert_int_equal(test_get(&wrong), 0);
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
  require_unmapped();
  assert_most(notes_total(), MANY);
}

static void finalize_struct(void *object) {
  struct wane_mapped *m = object;
  size_t idx = idx_of(m);
  if (idx == MANY) {
    return;
  }
  if (m->size != file_of(idx)->size ||
      !file_matches(m->data, m->size, file_of(idx)->number, 0)) {
    test_add(&wrong);
  }
  if (idx % 2 == 0) {
    kept[idx] = object; /* lives on */
  } else if (idx % 4 == 1) {
    wane_mapped_close(object);
  }
  note(test_reveal(test_get(&tags[idx])));
}

static void struct_with_finalizer(void *object, size_t idx) {
  test_set(&hidden[idx], test_hide(object));
  test_set(&tags[idx], test_hide(note_tag(idx)));
  wane_set_finalizer(object, finalize_struct);
}

/* F6. */
static void a_finalizer_may_keep_or_close_the_file(void **state) {
  (void)state;
  test_set(&wrong, 0);
  notes_begin();
  test_make_with(MANY, make_struct, struct_with_finalizer);
  test_settle();
  assert_int_equal(test_get(&wrong), 0);
  assert_most(notes_total(), MANY);
  test_settle();
  assert_in_range(maps_of(NULL), MANY / 2 - FEW, MANY / 2 + FEW);
  for (size_t i = 0; i < MANY; i += 2) {
    if (kept[i] != NULL) {
      check_bytes(((struct wane_mapped *)kept[i])->data, i);
    }
  }
  drop_kept();
}

TEST_ROOT struct wane_ephemeron *pairs[MANY];

static void pair_of_key(void *bytes, size_t idx) {
  void **value = wane_alloc(32);
  value[0] = bytes; /* which does not keep the key */
  keep(bytes, idx);
  weak[idx] = wane_weak_make(value);
  pairs[idx] = wane_ephemeron_new(kept[idx], value);
}

static size_t pairs_alive(void) {
  size_t alive = 0;
  for (size_t i = 0; i < MANY; i++) {
    bool lives = wane_ephemeron_key(pairs[i]) != NULL;
    require(lives == (wane_ephemeron_value(pairs[i]) != NULL));
    alive += lives;
  }
  test_scrub();
  return alive;
}

/* E1. */
static void mapped_bytes_may_be_keys_of_ephemerons(void **state) {
  (void)state;
  test_make_with(MANY, make_bytes, pair_of_key);
  test_settle();
  assert_int_equal(pairs_alive(), MANY);
  assert_int_equal(weak_alive(), MANY);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_in_range(pairs_alive(), 0, FEW);
  assert_in_range(weak_alive(), 0, FEW);
  memset(pairs, 0, sizeof pairs);
  require_unmapped();
}

static void pair_of_value(void *bytes, size_t idx) {
  kept[idx] = wane_alloc(32);
  pairs[idx] = wane_ephemeron_new(kept[idx], (char *)bytes + offset_of(idx));
}

static void mapped_bytes_may_be_values_of_ephemerons(void **state) {
  (void)state;
  test_make_with(MANY, make_bytes, pair_of_value);
  test_settle();
  for (size_t i = 0; i < MANY; i++) {
    check_bytes((char *)wane_ephemeron_value(pairs[i]) - offset_of(i), i);
  }
  assert_in_range(maps_of(NULL), MANY, MANY + FEW);
  memset(kept, 0, sizeof kept);
  require_unmapped();
  memset(pairs, 0, sizeof pairs);
}

TEST_ROOT struct wane_map *maps[2]; /* weak keys, weak values */

static void in_weak_maps(void *bytes, size_t idx) {
  keep(bytes, idx);
  wane_map_store(maps[0], kept[idx], (void *)(idx + 1));
  wane_map_store(maps[1], (void *)(idx + 1), kept[idx]);
}

static void mapped_bytes_may_be_in_weak_maps(void **state) {
  (void)state;
  maps[0] = wane_map_new(NULL, WANE_WEAK_KEYS);
  maps[1] = wane_map_new(NULL, WANE_WEAK_VALUES);
  test_make_with(MANY, make_bytes, in_weak_maps);
  test_settle();
  for (size_t i = 0; i < MANY; i++) {
    void *value = NULL;
    assert_true(wane_map_load(maps[0], kept[i], &value));
    assert_ptr_equal(value, (void *)(i + 1));
    assert_true(wane_map_load(maps[1], (void *)(i + 1), &value));
    assert_ptr_equal(value, kept[i]);
  }
  check_kept();
  drop_kept();
  assert_in_range(wane_map_count(maps[0]), 0, FEW);
  assert_in_range(wane_map_count(maps[1]), 0, FEW);
  memset(maps, 0, sizeof maps);
}

/* The copy is the heap's, and the program's to write. */
static void realloc_copies_to_the_heap(void **state) {
  (void)state;
  for (size_t i = 0; i < FILES; i++) {
    const struct file *file = file_of(i);
    char *bytes = open_bytes(i);
    size_t sizes[] = {file->size, file->size + 1000, (file->size + 1) / 2};
    for (size_t n = 0; n < TEST_COUNT(sizes); n++) {
      char *copy = wane_realloc(bytes, sizes[n]);
      size_t same = sizes[n] < file->size ? sizes[n] : file->size;
      assert_true(copy != NULL && copy != bytes);
      assert_true(file_matches(copy, same, file->number, 0));
      assert_true(wane_size(copy) >= sizes[n]);
      for (size_t z = same; z < sizes[n]; z++) {
        assert_int_equal(copy[z], 0);
      }
      memset(copy, 1, sizes[n]);
      check_bytes(bytes, i);
    }
  }
}

/* ---- Elsewhere ---- */

static void open_in_callback(void *tag) {
  size_t idx = note_idx(tag);
  char *bytes = open_bytes(idx);
  check_bytes(bytes, idx);
  struct wane_mapped *m = open_struct(file_of(idx + 1));
  check_bytes(m->data, idx + 1);
  if (idx % 20 == 0) {
    wane_collect();
    check_bytes(m->data, idx + 1);
  }
  if (idx % 3 != 0) {
    wane_mapped_close(m);
  }
  check_bytes(bytes, idx);
  note(tag);
}

static void open_in_finalizer(void *bytes) {
  size_t idx = idx_of(bytes);
  if (idx < MANY) {
    open_in_callback(test_reveal(test_get(&tags[idx])));
  }
}

static void with_opening_callback(void *bytes, size_t idx) {
  test_set(&hidden[idx], test_hide(bytes));
  test_set(&tags[idx], test_hide(note_tag(idx)));
  if (idx % 2 == 0) {
    (void)wane_add_cleanup(bytes, open_in_callback, note_tag(idx));
  } else {
    wane_set_finalizer(bytes, open_in_finalizer);
  }
}

/* A10. */
static void callbacks_may_open_and_close(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_bytes, with_opening_callback);
  test_settle();
  assert_most(notes_total(), MANY);
  test_settle();
  require_unmapped();
}

static void without_cycles_of_its_own(void **state) {
  (void)state;
  int percent = wane_set_gc_percent(-1);
  test_make_with(MANY, make_bytes, keep);
  test_settle();
  check_kept();
  drop_kept();
  (void)wane_set_gc_percent(percent);
}

static void shut_down(void *arg) {
  (void)arg;
  wane_shutdown(WANE_RUN_CLEANUPS);
  require(maps_of(NULL) == 0);
  require(test_stats().files_mapped == test_stats().files_unmapped);
  wane_shutdown(WANE_RUN_CLEANUPS);
  char *bytes = open_bytes(3); /* goes on */
  check_bytes(bytes, 3);
  require(maps_of(NULL) == 1);
}

/* A12, D4: also what is held, and with finalizers. */
static void shutdown_unmaps_all(void **state) {
  (void)state;
  struct test_child child;
  notes_begin();
  test_make_with(MANY, make_bytes, keep_with_note);
  for (size_t i = 0; i < MANY; i += 2) {
    wane_set_finalizer(wane_base(kept[i]), finalize_bytes);
  }
  contended[0] = open_struct(file_of(0));
  test_fork(shut_down, NULL, &child);
  test_assert_exit_0(&child, "shutdown");
  check_kept();
  for (size_t i = 0; i < MANY; i += 2) {
    wane_set_finalizer(wane_base(kept[i]), NULL);
  }
  contended[0] = NULL;
  drop_kept();
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"space", use_address_space}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_bytes_are_those_of_the_file),
      cmocka_unit_test(an_empty_file_has_no_bytes_and_an_address),
      cmocka_unit_test(the_bytes_are_read_only),
      cmocka_unit_test(a_deleted_file_stays_readable),
      cmocka_unit_test(a_file_cut_shorter_does_not_hurt_the_library),
      cmocka_unit_test(a_pointer_into_the_bytes_keeps_them_mapped),
      cmocka_unit_test(a_pointer_in_an_object_keeps_them_mapped),
      cmocka_unit_test(a_pointer_in_leaf_memory_does_not),
      cmocka_unit_test(a_pointer_on_a_stack_keeps_them_mapped),
      cmocka_unit_test(a_pin_keeps_them_mapped),
      cmocka_unit_test(the_struct_keeps_them_mapped),
      cmocka_unit_test(the_bytes_are_not_scanned),
      cmocka_unit_test(mapped_bytes_are_not_heap),
      cmocka_unit_test(address_space_comes_back),
      cmocka_unit_test(closing_unmaps_at_once),
      cmocka_unit_test(nothing_is_placed_where_a_stale_pointer_is),
      cmocka_unit_test(a_closed_file_is_unmapped_only_once),
      cmocka_unit_test(threads_may_close_the_same_file),
      cmocka_unit_test(weak_pointers_know_mapped_bytes),
      cmocka_unit_test(the_programs_cleanups_run_beside_the_librarys),
      cmocka_unit_test(the_struct_may_have_cleanups),
      cmocka_unit_test(an_arg_inside_the_bytes_is_fatal),
      cmocka_unit_test(the_argument_of_a_cleanup_keeps_them_mapped),
      cmocka_unit_test(finalizers_get_the_bytes_back),
      cmocka_unit_test(a_finalizer_may_keep_or_close_the_file),
      cmocka_unit_test(mapped_bytes_may_be_keys_of_ephemerons),
      cmocka_unit_test(mapped_bytes_may_be_values_of_ephemerons),
      cmocka_unit_test(mapped_bytes_may_be_in_weak_maps),
      cmocka_unit_test(realloc_copies_to_the_heap),
      cmocka_unit_test(shutdown_unmaps_all),
      cmocka_unit_test(callbacks_may_open_and_close),
      cmocka_unit_test(without_cycles_of_its_own),
  };
  files_begin();
  for (size_t i = 0; i < FILES; i++) {
    file_make(files[i].name, files[i].number, files[i].size);
  }
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
