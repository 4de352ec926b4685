/* Files that cannot be mapped: each error of wane/mapped.h for each call that
   opens, with nothing left open or mapped; and what may not be closed. P3. */
/* timeout: 240 */
#include "support/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- The calls ---- */

static const void *open_own(const char *path) { return wane_mapped_open(path); }
static const void *open_shared(const char *path) {
  return wane_mapped_open_shared(path);
}
static const void *map_sized(const char *path) {
  size_t size = 4711;
  const void *bytes = wane_map_bytes(path, &size);
  require(bytes != NULL || size == 4711 || size == 0);
  return bytes;
}
static const void *map_unsized(const char *path) {
  return wane_map_bytes(path, NULL);
}

static const void *(*const opens[])(const char *) = {open_own, open_shared,
                                                     map_sized, map_unsized};
#define OPENS TEST_COUNT(opens)

/* What may have been left. Files that were opened before may go meanwhile. */
struct traces {
  size_t descriptors;
  size_t maps;
  uint64_t mapped;
  uint64_t unmapped;
  uint64_t live;
  uint64_t bytes;
  uint64_t cleanups;
};

static struct traces traces_now(void) {
  struct wane_stats stats = test_stats();
  return (struct traces){
      .descriptors = descriptors_open(),
      .maps = maps_of(NULL),
      .mapped = stats.files_mapped,
      .unmapped = stats.files_unmapped,
      .live = stats.foreign_live,
      .bytes = stats.foreign_bytes,
      .cleanups = stats.cleanups_registered - stats.cleanups_run -
                  stats.cleanups_stopped,
  };
}

static void require_no_trace(const struct traces *before) {
  struct traces now = traces_now();
  require(now.descriptors == before->descriptors);
  require(now.maps <= before->maps);
  require(now.mapped - now.unmapped <= before->mapped - before->unmapped);
  require(now.live <= before->live);
  require(now.bytes <= before->bytes);
  require(now.cleanups <= before->cleanups);
}

/* Each call fails with this error. */
static void refuse(const char *path, int error) {
  struct traces before = traces_now();
  for (size_t i = 0; i < OPENS; i++) {
    for (int n = 0; n < 3; n++) {
      errno = 0;
      const void *opened = opens[i](path);
      if (opened != NULL || errno != error) {
        fprintf(stderr, "call %zu, %s: %p, %s\n", i,
                path != NULL ? path : "NULL", opened, strerror(errno));
        abort();
      }
    }
  }
  require_no_trace(&before);
}

/* Each call opens it. */
static void serve(const char *path, uint64_t number, size_t size) {
  for (size_t i = 0; i < OPENS; i++) {
    errno = 77;
    const void *opened = opens[i](path);
    require(opened != NULL && errno == 77);
    const void *bytes =
        i < 2 ? ((const struct wane_mapped *)opened)->data : opened;
    require(file_matches(bytes, size, number, 0));
  }
}

/* ---- What is there under the path ---- */

static void nothing_is_there(void **state) {
  (void)state;
  refuse("missing", ENOENT);
  refuse("missing/too", ENOENT);
  refuse("", ENOENT);
  refuse("file/inside", ENOTDIR);
  refuse(NULL, EFAULT);
  serve("file", 1, 10000);
}

static void a_directory_is_there(void **state) {
  (void)state;
  assert_int_equal(mkdir("directory", 0755), 0);
  refuse("directory", EISDIR);
  refuse("directory/", EISDIR);
  refuse(".", EISDIR);
  refuse("/", EISDIR);
  assert_int_equal(symlink("directory", "to_directory"), 0);
  refuse("to_directory", EISDIR);
}

static void make_socket(const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(fd >= 0);
  require(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
  close(fd);
}

/* Nobody opens the other end of the FIFO, so an open would wait. */
static void a_special_file_is_there(void **state) {
  (void)state;
  assert_int_equal(mkfifo("fifo", 0600), 0);
  make_socket("socket");
  assert_int_equal(symlink("fifo", "to_fifo"), 0);
  refuse("fifo", ENODEV);
  refuse("to_fifo", ENODEV);
  refuse("socket", ENODEV);
  refuse("/dev/null", ENODEV);
  refuse("/dev/zero", ENODEV);
  refuse("/dev/tty", ENODEV);
}

/* Looking at a FIFO must not end a writer's wait for a reader. */
static void a_fifo_with_a_writer_is_left_alone(void **state) {
  (void)state;
  assert_int_equal(mkfifo("written", 0600), 0);
  int both = open("written", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  assert_true(both >= 0);
  assert_int_equal(write(both, "text", 4), 4);
  refuse("written", ENODEV);
  char text[8];
  assert_int_equal(read(both, text, sizeof text), 4);
  close(both);
}

static void a_path_leads_nowhere(void **state) {
  (void)state;
  static char name[300];
  static char path[6000];
  memset(name, 'n', sizeof name - 1);
  memset(path, '/', sizeof path - 1);
  memcpy(path + sizeof path - 5, "file", 4);
  refuse(name, ENAMETOOLONG);
  refuse(path, ENAMETOOLONG);
  assert_int_equal(symlink("loop", "loop"), 0);
  assert_int_equal(symlink("nowhere", "dangling"), 0);
  refuse("loop", ELOOP);
  refuse("loop/file", ELOOP);
  refuse("dangling", ENOENT);
  assert_int_equal(symlink("file", "to_file"), 0);
  serve("to_file", 1, 10000);
}

static void refuse_others_files(void *arg) {
  (void)arg;
  if (geteuid() == 0) {
    require(setgid(65534) == 0 && setuid(65534) == 0);
  }
  refuse("secret", EACCES);
  refuse("locked/file", EACCES);
  serve("file", 1, 10000);
}

/* As somebody who may not, though the tests may run as root. */
static void there_is_no_permission(void **state) {
  (void)state;
  struct test_child child;
  file_make("secret", 2, 100);
  assert_int_equal(chmod("secret", 0), 0);
  assert_int_equal(mkdir("locked", 0), 0);
  assert_int_equal(chmod(".", 0755), 0);
  test_fork(refuse_others_files, NULL, &child);
  test_assert_exit_0(&child, "others' files");
}

/* The kernel's own files: regular ones that cannot be mapped, or that say that
   they are empty. */
static void a_file_of_the_kernel_is_there(void **state) {
  (void)state;
  static const char *const paths[] = {
      "/proc/self/maps",
      "/proc/cmdline",
      "/proc/self/mem",
      "/proc/kcore",
      "/proc/self/pagemap",
      "/sys/kernel/uevent_seqnum",
      "/sys/kernel/mm/transparent_hugepage/enabled"};
  for (size_t i = 0; i < TEST_COUNT(paths); i++) {
    struct stat info;
    if (stat(paths[i], &info) != 0) {
      continue;
    }
    struct traces before = traces_now();
    errno = 0;
    struct wane_mapped *m = wane_mapped_open(paths[i]);
    bool refused = m == NULL;
    assert_true(refused == (errno != 0));
    assert_true(refused || (m->size == 0 && m->data != NULL));
    assert_true(refused || info.st_size == 0);
    wane_mapped_close(m);
    assert_int_equal(descriptors_open(), before.descriptors);
    assert_int_equal(test_stats().files_mapped - test_stats().files_unmapped,
                     before.mapped - before.unmapped);
    if (info.st_size > 0) { /* refused by mmap */
      refuse(paths[i], errno);
    }
  }
}

#define UNMAPPABLE "/sys/kernel/uevent_seqnum"

/* Each attempt takes addresses, of which there are few, and gives them back. */
static void refuse_often(const char *arg) {
  (void)arg;
  for (int i = 0; i < 2000; i++) {
    refuse(UNMAPPABLE, ENODEV);
  }
  size_t size = (size_t)20 << 20;
  const char *bytes = wane_map_bytes("sparse", NULL);
  require(bytes != NULL && bytes[size - 1] == 0);
}

static void what_mmap_refuses_costs_no_addresses(void **state) {
  (void)state;
  struct stat info;
  bool is_there = stat(UNMAPPABLE, &info) == 0 && info.st_size > 0;
  if (!is_there || !file_make_sparse("sparse", (size_t)20 << 20)) {
    skip();
  }
  test_run_role("refuse_often", "", "reserve_mb=64,gc_percent=-1");
}

/* ---- What the system has no more of ---- */

/* No descriptor beyond those that the process has. */
static void refuse_without_descriptors(void *arg) {
  struct rlimit limit;
  (void)arg;
  serve("file", 1, 10000);
  require(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  struct traces before = traces_now();
  struct rlimit none = {0, limit.rlim_max};
  require(setrlimit(RLIMIT_NOFILE, &none) == 0);
  for (int n = 0; n < 100; n++) {
    for (size_t i = 0; i < OPENS; i++) {
      errno = 0;
      require(opens[i]("other") == NULL && errno == EMFILE);
    }
  }
  require(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  require_no_trace(&before);
  serve("other", 3, 5000);
  require(descriptors_open() == before.descriptors);
}

static void there_are_too_many_descriptors(void **state) {
  (void)state;
  struct test_child child;
  file_make("other", 3, 5000);
  test_fork(refuse_without_descriptors, NULL, &child);
  test_assert_exit_0(&child, "no descriptors");
}

static void refuse_large(const char *arg) {
  refuse(arg, ENOMEM);
  serve("file", 1, 10000);
}

/* More than the addresses that there are. */
static void a_file_is_too_large(void **state) {
  (void)state;
  if (!file_make_sparse("large", (size_t)1 << 30)) {
    skip();
  }
  test_run_role("large", "large", "reserve_mb=64");
  if (file_make_sparse("larger", (size_t)15 << 40)) {
    test_run_role("large", "larger", NULL);
  }
}

/* Maps pages of alternating rights, each a mapping, until there are no more. */
static char *exhaust_maps(size_t pages) {
  char *start = mmap(NULL, pages * 4096, PROT_READ,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(start != MAP_FAILED);
  for (size_t i = 1; i < pages; i += 2) {
    if (mprotect(start + i * 4096, 4096, PROT_NONE) != 0) {
      require(errno == ENOMEM);
      return start;
    }
  }
  require(!"no more mappings can be made");
  return NULL;
}

static void refuse_without_maps(const char *arg) {
  size_t pages = 2 * maps_allowed();
  (void)arg;
  serve("file", 1, 10000);
  test_scrub();
  test_settle();
  struct traces before = traces_now();
  char *start = exhaust_maps(pages);
  size_t refused = 0;
  for (int n = 0; n < 3; n++) {
    for (size_t i = 0; i < OPENS; i++) {
      errno = 0;
      const void *opened = opens[i]("other");
      require(opened != NULL || errno == ENOMEM);
      refused += opened == NULL;
    }
  }
  require(refused > 0);
  require(munmap(start, pages * 4096) == 0);
  test_settle();
  maps_require_counted();
  require(descriptors_open() == before.descriptors);
  serve("file", 1, 10000);
  serve("other", 3, 5000);
}

static void there_are_too_many_mappings(void **state) {
  (void)state;
  if (maps_allowed() > 300000) {
    skip();
  }
  file_make("other", 3, 5000);
  test_run_role("no_maps", "", NULL);
  test_run_role("no_maps", "", "background=0,gc_percent=-1");
}

/* ---- What may not be closed ---- */

static void close_it(void *m) { wane_mapped_close(m); }

static struct wane_mapped static_struct;
WANE_TYPE(same_type, struct wane_mapped, data);

static void only_what_was_opened_may_be_closed(void **state) {
  (void)state;
  struct wane_mapped *m = wane_mapped_open("file");
  struct wane_mapped *shared = wane_mapped_open_shared("file");
  struct wane_mapped local = *m;
  struct wane_mapped *copy = wane_alloc_leaf(sizeof *copy);
  struct wane_mapped *same_size = wane_alloc(wane_size(m));
  struct wane_mapped *typed = wane_alloc_typed(&same_type, 1);
  assert_true(m != NULL && shared != NULL && copy != NULL);
  *copy = *m;
  *same_size = *m;
  *typed = *m;
  static_struct = *m;
  struct wane_mapped *unmanaged = malloc(sizeof *unmanaged);
  assert_non_null(unmanaged);
  *unmanaged = *m;
  void *wrong[] = {copy,
                   same_size,
                   typed,
                   &static_struct,
                   &local,
                   unmanaged,
                   (char *)m + 1,
                   (char *)m + 8,
                   (char *)shared + 8,
                   (void *)m->data,
                   (void *)shared->data,
                   (void *)wane_map_bytes("file", NULL),
                   wane_alloc(100),
                   wane_alloc_leaf(100000),
                   (void *)8};
  for (size_t i = 0; i < TEST_COUNT(wrong); i++) {
    test_assert_fatal_only("wane_mapped_close", close_it, wrong[i]);
  }
  free(unmanaged);
  wane_mapped_close(m);
  wane_mapped_close(shared);
  memset(&static_struct, 0, sizeof static_struct);
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"refuse_often", refuse_often},
                                           {"large", refuse_large},
                                           {"no_maps", refuse_without_maps}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_is_there),
      cmocka_unit_test(a_directory_is_there),
      cmocka_unit_test(a_special_file_is_there),
      cmocka_unit_test(a_fifo_with_a_writer_is_left_alone),
      cmocka_unit_test(a_path_leads_nowhere),
      cmocka_unit_test(there_is_no_permission),
      cmocka_unit_test(a_file_of_the_kernel_is_there),
      cmocka_unit_test(what_mmap_refuses_costs_no_addresses),
      cmocka_unit_test(there_are_too_many_descriptors),
      cmocka_unit_test(a_file_is_too_large),
      cmocka_unit_test(there_are_too_many_mappings),
      cmocka_unit_test(only_what_was_opened_may_be_closed),
  };
  files_begin();
  file_make("file", 1, 10000);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
