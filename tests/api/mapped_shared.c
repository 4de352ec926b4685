/* Shared mappings of files: which paths and which files share, threads that
   open at once, and how long a mapping lasts that many hold. P2, D14. */
/* timeout: 240 */
/* run: poison WANE_OPTIONS=poison=1 */
#include "support/files.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANY 200
#define FEW (2 + MANY / 50)
#define SIZE 20000

/* Opens it, which must work, and checks its bytes. */
static struct wane_mapped *open_file(const char *path, uint64_t number,
                                     size_t size) {
  errno = 77;
  struct wane_mapped *m = wane_mapped_open_shared(path);
  require(m != NULL && errno == 77);
  require(m->data != NULL && m->size == size);
  require(file_matches(m->data, size, number, 0));
  return m;
}

static uint64_t files_mapped(void) { return test_stats().files_mapped; }

/* All but a few that stray words keep; which may change. */
static void require_unmapped(void) {
  test_settle();
  if (maps_of(NULL) > FEW) {
    test_settle();
  }
  require(maps_of(NULL) <= FEW);
  maps_require_counted();
}

/* ---- Who shares ---- */

/* P2. */
static void spellings_of_a_path_share(void **state) {
  (void)state;
  char full[4000];
  char link_of_fd[64];
  assert_non_null(getcwd(full, sizeof full - 10));
  strcat(full, "/same");
  file_make("same", 1, SIZE);
  assert_int_equal(mkdir("dir", 0755), 0);
  assert_int_equal(link("same", "hard"), 0);
  assert_int_equal(link("same", "dir/hard"), 0);
  assert_int_equal(symlink("same", "soft"), 0);
  assert_int_equal(symlink("soft", "softer"), 0);
  int fd = open("same", O_RDONLY | O_CLOEXEC);
  assert_true(fd >= 0);
  snprintf(link_of_fd, sizeof link_of_fd, "/proc/self/fd/%d", fd);
  const char *paths[] = {"./same",   "dir/../same", full,     "hard",
                         "dir/hard", "soft",        "softer", link_of_fd};
  uint64_t mapped = files_mapped();
  struct wane_mapped *m = open_file("same", 1, SIZE);
  for (size_t i = 0; i < TEST_COUNT(paths); i++) {
    assert_ptr_equal(open_file(paths[i], 1, SIZE), m);
  }
  assert_int_equal(files_mapped(), mapped + 1);
  assert_int_equal(maps_of("same"), 1);
  close(fd);
  wane_keep_alive(m);
}

/* What is opened for one caller alone is not shared, nor with the shared. */
static void other_calls_do_not_share(void **state) {
  (void)state;
  file_make("own", 2, SIZE);
  struct wane_mapped *first = wane_mapped_open("own");
  const void *bytes = wane_map_bytes("own", NULL);
  struct wane_mapped *shared = open_file("own", 2, SIZE);
  struct wane_mapped *second = wane_mapped_open("own");
  assert_true(first != NULL && bytes != NULL && second != NULL);
  assert_true(first != shared && second != shared && first != second);
  assert_true(first->data != shared->data && second->data != shared->data);
  assert_true(bytes != shared->data && first->data != second->data);
  assert_ptr_equal(open_file("own", 2, SIZE), shared);
  assert_int_equal(maps_of("own"), 4);
  wane_mapped_close(first);
  assert_true(file_matches(shared->data, SIZE, 2, 0));
  assert_ptr_equal(open_file("own", 2, SIZE), shared);
  wane_keep_alive(second);
}

static void equal_files_do_not_share(void **state) {
  (void)state;
  struct timespec times[2] = {{1000, 5}, {1000, 5}};
  file_make("left", 3, SIZE);
  file_make("right", 3, SIZE);
  assert_int_equal(utimensat(AT_FDCWD, "left", times, 0), 0);
  assert_int_equal(utimensat(AT_FDCWD, "right", times, 0), 0);
  struct wane_mapped *left = open_file("left", 3, SIZE);
  struct wane_mapped *right = open_file("right", 3, SIZE);
  assert_true(left != right && left->data != right->data);
}

/* P3. */
static void an_empty_file_is_shared(void **state) {
  (void)state;
  file_make("empty", 0, 0);
  struct wane_mapped *m = open_file("empty", 0, 0);
  assert_ptr_equal(open_file("./empty", 0, 0), m);
  wane_mapped_close(m);
  assert_ptr_equal(open_file("empty", 0, 0), m);
  assert_non_null(m->data);
  file_replace("empty", 4, 10);
  assert_ptr_not_equal(open_file("empty", 4, 10), m);
  assert_int_equal(m->size, 0);
}

/* ---- Files that change ---- */

TEST_ROOT struct wane_mapped *versions[100];

/* P2: those who hold an old one keep it. */
static void a_replaced_file_is_mapped_anew(void **state) {
  (void)state;
  for (size_t i = 0; i < TEST_COUNT(versions); i++) {
    size_t size = SIZE + (i % 3) * 1000; /* some of the same size */
    file_replace("version", 100 + i, size);
    versions[i] = open_file("version", 100 + i, size);
    assert_ptr_equal(open_file("version", 100 + i, size), versions[i]);
  }
  test_settle();
  for (size_t i = 0; i < TEST_COUNT(versions); i++) {
    size_t size = SIZE + (i % 3) * 1000;
    assert_true(file_matches(versions[i]->data, size, 100 + i, 0));
    assert_int_equal(versions[i]->size, size);
    for (size_t n = 0; n < i; n++) {
      assert_ptr_not_equal(versions[i], versions[n]);
      assert_ptr_not_equal(versions[i]->data, versions[n]->data);
    }
  }
  memset(versions, 0, sizeof versions);
  require_unmapped();
}

static void a_deleted_and_remade_file_is_mapped_anew(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 50; i++) {
    file_make("remade", 200 + i, SIZE);
    struct wane_mapped *m = open_file("remade", 200 + i, SIZE);
    assert_int_equal(unlink("remade"), 0);
    assert_true(file_matches(m->data, SIZE, 200 + i, 0));
    assert_null(wane_mapped_open_shared("remade"));
    assert_int_equal(errno, ENOENT);
  }
}

static void append(const char *name) {
  int fd = open(name, O_WRONLY | O_APPEND | O_CLOEXEC);
  require(fd >= 0 && write(fd, "more", 4) == 4);
  close(fd);
}

static void set_mtime(const char *name, long seconds, long ns) {
  struct timespec times[2] = {{seconds, ns}, {seconds, ns}};
  require(utimensat(AT_FDCWD, name, times, 0) == 0);
}

/* P2: size and time of modification are part of what it is, to the
   nanosecond. */
static void a_rewritten_file_is_mapped_anew(void **state) {
  (void)state;
  file_make("rewritten", 5, SIZE);
  set_mtime("rewritten", 1000, 7);
  struct wane_mapped *first = open_file("rewritten", 5, SIZE);
  set_mtime("rewritten", 1000, 8);
  struct wane_mapped *second = open_file("rewritten", 5, SIZE);
  assert_ptr_not_equal(second, first);
  set_mtime("rewritten", 1001, 8);
  struct wane_mapped *third = open_file("rewritten", 5, SIZE);
  assert_true(third != first && third != second);
  set_mtime("rewritten", 1000, 7); /* it is the first again */
  assert_ptr_equal(open_file("rewritten", 5, SIZE), first);
  append("rewritten");
  set_mtime("rewritten", 1000, 7);
  struct wane_mapped *longer = wane_mapped_open_shared("rewritten");
  assert_true(longer != NULL && longer != first && longer != second);
  assert_int_equal(longer->size, SIZE + 4);
  assert_true(file_matches(longer->data, SIZE, 5, 0));
  assert_memory_equal((const char *)longer->data + SIZE, "more", 4);
  assert_int_equal(first->size, SIZE);
  assert_true(file_matches(first->data, SIZE, 5, 0));
  set_mtime("rewritten", -5, 999999999); /* before 1970 */
  struct wane_mapped *early = wane_mapped_open_shared("rewritten");
  assert_true(early != NULL && early != longer);
  assert_ptr_equal(wane_mapped_open_shared("rewritten"), early);
}

/* Access and permissions are not. */
static void a_file_that_was_only_looked_at_stays_the_same(void **state) {
  (void)state;
  struct timespec times[2] = {{5, 5}, {0, UTIME_OMIT}};
  file_make("looked_at", 6, SIZE);
  struct wane_mapped *m = open_file("looked_at", 6, SIZE);
  assert_int_equal(utimensat(AT_FDCWD, "looked_at", times, 0), 0);
  assert_ptr_equal(open_file("looked_at", 6, SIZE), m);
  assert_int_equal(chmod("looked_at", 0600), 0);
  assert_int_equal(rename("looked_at", "renamed"), 0);
  assert_ptr_equal(open_file("renamed", 6, SIZE), m);
}

/* ---- Threads ---- */

#define THREADS 16
#define RACES 40

static pthread_barrier_t barrier;
static struct wane_mapped *raced[THREADS][RACES];

static const char *race_name(size_t idx) {
  static _Thread_local char name[32];
  snprintf(name, sizeof name, "race%zu", idx);
  return name;
}

static void *race(void *arg) {
  size_t self = (uintptr_t)arg;
  pthread_barrier_wait(&barrier);
  for (size_t i = 0; i < RACES; i++) {
    if (i % 4 == 0) { /* all at this one, or in between */
      pthread_barrier_wait(&barrier);
    }
    raced[self][i] = open_file(race_name(i), 300 + i, SIZE + i);
  }
  return NULL;
}

static void run_race(void) {
  pthread_t threads[THREADS];
  for (size_t t = 0; t < THREADS; t++) {
    require(pthread_create(&threads[t], NULL, race, (void *)t) == 0);
  }
  for (size_t t = 0; t < THREADS; t++) {
    require(pthread_join(threads[t], NULL) == 0);
  }
}

/* P2: races map once. */
static void however_many_threads_race_it_is_mapped_once(void **state) {
  (void)state;
  assert_int_equal(pthread_barrier_init(&barrier, NULL, THREADS), 0);
  for (size_t i = 0; i < RACES; i++) {
    file_make(race_name(i), 300 + i, SIZE + i);
  }
  for (int round = 0; round < 10; round++) {
    uint64_t mapped = files_mapped();
    run_race();
    assert_in_range(files_mapped() - mapped, RACES - FEW, RACES);
    for (size_t i = 0; i < RACES; i++) {
      for (size_t t = 1; t < THREADS; t++) {
        assert_ptr_equal(raced[t][i], raced[0][i]);
      }
      assert_int_equal(maps_of(race_name(i)), 1);
    }
    run_race(); /* while it is held */
    assert_in_range(files_mapped() - mapped, RACES - FEW, RACES);
    memset(raced, 0, sizeof raced);
    require_unmapped();
  }
  pthread_barrier_destroy(&barrier);
}

/* ---- How long ---- */

/* D14: it is the others' to use as long as they like. */
static void closing_one_does_not_take_it_from_the_others(void **state) {
  (void)state;
  file_make("held", 7, SIZE);
  struct wane_mapped *m = open_file("held", 7, SIZE);
  struct wane_mapped *other = open_file("held", 7, SIZE);
  for (int i = 0; i < 3; i++) {
    errno = 77;
    wane_mapped_close(m);
    assert_int_equal(errno, 77);
    test_settle();
    assert_int_equal(other->size, SIZE);
    assert_true(file_matches(other->data, SIZE, 7, 0));
    assert_int_equal(maps_of("held"), 1);
  }
  assert_ptr_equal(open_file("held", 7, SIZE), other);
}

static const char *many_name(size_t idx) {
  static _Thread_local char name[32];
  snprintf(name, sizeof name, "many%zu", idx);
  return name;
}

static size_t many_size(size_t idx) { return 1 + idx * 331; }

static void *make_shared(size_t idx) {
  return open_file(many_name(idx), idx, many_size(idx));
}

static void forget(void *object, size_t idx) {
  (void)object;
  (void)idx;
}

static void close_often(void *object, size_t idx) {
  for (size_t i = 0; i < idx % 4; i++) {
    wane_mapped_close(object);
  }
}

TEST_ROOT void *kept[MANY];
static uint64_t hidden[MANY]; /* atomic */
static wane_weak weak[MANY];

static void keep_struct(void *object, size_t idx) { kept[idx] = object; }

/* P1, P2. Closed or not: the last pointer counts. */
static void what_all_have_dropped_is_unmapped(void **state) {
  (void)state;
  static void (*const with[])(void *, size_t) = {forget, close_often};
  for (size_t w = 0; w < TEST_COUNT(with); w++) {
    uint64_t mapped = files_mapped();
    test_make_with(MANY, make_shared, keep_struct);
    test_make_with(MANY, make_shared, with[w]); /* a second holder, gone */
    test_settle();
    assert_in_range(files_mapped() - mapped, MANY - FEW, MANY);
    assert_in_range(maps_of(NULL), MANY, MANY + FEW);
    for (size_t i = 0; i < MANY; i++) {
      struct wane_mapped *m = kept[i];
      assert_int_equal(m->size, many_size(i));
      assert_true(file_matches(m->data, m->size, i, 0));
    }
    memset(kept, 0, sizeof kept);
    require_unmapped();
  }
}

static void keep_inside(void *object, size_t idx) {
  struct wane_mapped *m = object;
  kept[idx] = (char *)m->data + idx * 7 % many_size(idx);
  weak[idx] = wane_weak_make(kept[idx]);
}

/* A pointer into the bytes holds the mapping for new callers, too, who may get
   another struct, but all the same one. */
static void a_pointer_into_the_bytes_holds_it(void **state) {
  (void)state;
  test_make_with(MANY, make_shared, keep_inside);
  uint64_t mapped = files_mapped();
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  for (size_t i = 0; i < MANY; i++) {
    char *bytes = (char *)kept[i] - i * 7 % many_size(i);
    assert_true(file_matches(bytes, many_size(i), i, 0));
    struct wane_mapped *m = make_shared(i);
    assert_ptr_equal(m->data, bytes);
    assert_ptr_equal(make_shared(i), m);
    assert_ptr_equal(wane_weak_value(weak[i]), kept[i]);
  }
  assert_int_equal(files_mapped(), mapped);
  assert_in_range(maps_of(NULL), MANY, MANY + FEW);
  memset(kept, 0, sizeof kept);
  require_unmapped();
  assert_in_range(test_weak_alive(weak, MANY), 0, FEW);
}

/* Each death is one, and the next opening is another life. */
static void a_file_may_be_mapped_again(void **state) {
  (void)state;
  static wane_weak earlier[20][MANY];
  uint64_t mapped = files_mapped();
  for (size_t round = 0; round < TEST_COUNT(earlier); round++) {
    test_make_with(MANY, make_shared, keep_inside);
    memcpy(earlier[round], weak, sizeof weak);
    memset(kept, 0, sizeof kept);
    require_unmapped();
    assert_in_range(test_weak_alive(weak, MANY), 0, FEW);
  }
  assert_in_range(files_mapped() - mapped, TEST_COUNT(earlier) * (MANY - FEW),
                  TEST_COUNT(earlier) * MANY);
  size_t same = 0; /* of those that a stray word has kept */
  for (size_t i = 0; i < MANY; i++) {
    same += earlier[0][i].id == earlier[1][i].id;
  }
  assert_in_range(same, 0, FEW);
}

/* ---- Callbacks ---- */

static uint64_t wrong;

/* The old mapping is dead: a callback of its gets another. */
static void open_again(void *tag) {
  size_t idx = note_idx(tag);
  struct wane_mapped *m = make_shared(idx);
  if (!note_is_fresh(tag)) {
    return;
  }
  if (wane_weak_value(weak[idx]) != NULL) {
    test_add(&wrong);
  }
  wane_mapped_close(m);
  note(tag);
}

static void with_cleanup(void *object, size_t idx) {
  struct wane_mapped *m = object;
  weak[idx] = wane_weak_make(idx % 2 == 0 ? object : m->data);
  const void *of = idx % 2 == 0 ? object : m->data;
  require(wane_add_cleanup(of, open_again, note_tag(idx)).id != 0);
}

static void a_cleanup_may_open_the_file_again(void **state) {
  (void)state;
  for (int round = 0; round < 5; round++) {
    test_set(&wrong, 0);
    notes_begin();
    test_make_with(MANY, make_shared, with_cleanup);
    test_settle();
    assert_most(notes_total(), MANY);
    notes_require_once(MANY);
    assert_int_equal(test_get(&wrong), 0);
    require_unmapped();
  }
}

static uint64_t tags[MANY]; /* hidden, too. atomic */

static size_t idx_of(const void *object) {
  for (size_t i = 0; i < MANY; i++) {
    if (test_get(&hidden[i]) == test_hide(object)) {
      return i;
    }
  }
  return MANY;
}

/* Both are whole: the one that is brought back, and what is opened. */
static void compare_with_new(size_t idx, const void *bytes) {
  struct wane_mapped *other = make_shared(idx);
  if (!file_matches(bytes, many_size(idx), idx, 0) || other->data == bytes ||
      wane_weak_value(weak[idx]) != NULL) {
    test_add(&wrong);
  }
  note(test_reveal(test_get(&tags[idx])));
}

static void finalize_bytes(void *bytes) {
  size_t idx = idx_of(bytes);
  if (idx < MANY) { /* else of an earlier test */
    compare_with_new(idx, bytes);
  }
}

static void finalize_struct(void *object) {
  struct wane_mapped *m = object;
  size_t idx = idx_of(m);
  if (idx == MANY) {
    return;
  }
  if (wane_mapped_open_shared(many_name(idx)) == m) {
    test_add(&wrong);
  }
  if (m->size != many_size(idx) || !file_matches(m->data, m->size, idx, 0)) {
    test_add(&wrong);
  }
  note(test_reveal(test_get(&tags[idx])));
}

/* By turns for the bytes and for the struct. (What a stray word has kept may
   have a finalizer.) */
static void with_finalizer(void *object, size_t idx) {
  struct wane_mapped *m = object;
  void *of = idx % 2 == 0 ? (void *)m->data : object;
  test_set(&hidden[idx], test_hide(of));
  test_set(&tags[idx], test_hide(note_tag(idx)));
  weak[idx] = wane_weak_make(of);
  wane_set_finalizer(of, NULL);
  wane_set_finalizer(of, idx % 2 == 0 ? finalize_bytes : finalize_struct);
}

/* F1, W5. */
static void a_finalizer_may_open_the_file_again(void **state) {
  (void)state;
  for (int round = 0; round < 3; round++) {
    test_set(&wrong, 0);
    notes_begin();
    test_make_with(MANY, make_shared, with_finalizer);
    test_settle();
    assert_most(notes_total(), MANY);
    notes_require_once(MANY);
    assert_int_equal(test_get(&wrong), 0);
    test_settle();
    require_unmapped();
  }
}

static void shut_down(void *arg) {
  (void)arg;
  wane_shutdown(WANE_RUN_CLEANUPS);
  require(maps_of(NULL) == 0);
  require(test_stats().files_mapped == test_stats().files_unmapped);
  for (size_t i = 0; i < MANY; i++) { /* no dead one is given */
    require(make_shared(i) != NULL);
  }
}

static void after_a_shutdown_files_are_mapped_anew(void **state) {
  (void)state;
  struct test_child child;
  test_make_with(MANY, make_shared, keep_struct);
  test_fork(shut_down, NULL, &child);
  test_assert_exit_0(&child, "shutdown");
  for (size_t i = 0; i < MANY; i++) {
    assert_ptr_equal(make_shared(i), kept[i]);
  }
  memset(kept, 0, sizeof kept);
  require_unmapped();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(spellings_of_a_path_share),
      cmocka_unit_test(other_calls_do_not_share),
      cmocka_unit_test(equal_files_do_not_share),
      cmocka_unit_test(an_empty_file_is_shared),
      cmocka_unit_test(a_replaced_file_is_mapped_anew),
      cmocka_unit_test(a_deleted_and_remade_file_is_mapped_anew),
      cmocka_unit_test(a_rewritten_file_is_mapped_anew),
      cmocka_unit_test(a_file_that_was_only_looked_at_stays_the_same),
      cmocka_unit_test(however_many_threads_race_it_is_mapped_once),
      cmocka_unit_test(closing_one_does_not_take_it_from_the_others),
      cmocka_unit_test(what_all_have_dropped_is_unmapped),
      cmocka_unit_test(a_pointer_into_the_bytes_holds_it),
      cmocka_unit_test(a_file_may_be_mapped_again),
      cmocka_unit_test(after_a_shutdown_files_are_mapped_anew),
      cmocka_unit_test(a_cleanup_may_open_the_file_again),
      cmocka_unit_test(a_finalizer_may_open_the_file_again),
  };
  files_begin();
  for (size_t i = 0; i < MANY; i++) {
    file_make(many_name(i), i, many_size(i));
  }
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
