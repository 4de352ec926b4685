/* The tests of base/symbol, for programs linked in different ways. */
#include "support/child.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/symbol.h"

TEST_NOINLINE static int case_static(int x) {
  static volatile int calls;
  calls += x;
  return calls;
}

int case_global(int x);
TEST_NOINLINE int case_global(int x) { return case_static(x) + 1; }

static const char *code(int (*fn)(int)) {
  const char *address;
  memcpy(&address, &fn, sizeof address);
  return address;
}

/* One of a few buffers in turn. */
static const char *describe(const void *address) {
  static char texts[4][WANE__SYMBOL_BYTES];
  static unsigned next;
  char *text = texts[next++ % TEST_COUNT(texts)];
  errno = 321;
  wane__symbol_describe(address, text, sizeof texts[0]);
  require(errno == 321);
  return text;
}

static const char *program_name(void) {
  static char path[4096];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
  require(n > 0);
  path[n] = '\0';
  return strrchr(path, '/') + 1;
}

static void start_of_a_function_is_its_bare_name(void **state) {
  (void)state;
  assert_string_equal(describe(code(case_static)), "case_static");
  assert_string_equal(describe(code(case_global)), "case_global");
}

static void inside_comes_with_offset_and_module(void **state) {
  (void)state;
  char expected[512];
  snprintf(expected, sizeof expected, "case_static+0x3 (%s)", program_name());
  assert_string_equal(describe(code(case_static) + 3), expected);
}

static void functions_of_libraries_have_names(void **state) {
  (void)state;
  void *address = dlsym(RTLD_DEFAULT, "hcreate_r");
  assert_non_null(address);
  assert_non_null(strstr(describe(address), "hcreate_r"));
  assert_null(strstr(describe(address), "("));
  assert_non_null(strstr(describe((char *)address + 1), "hcreate_r+0x1 ("));
}

/* As the program itself sees it: in one that is not moved, an entry of its
   own that leads to the library. */
static void address_taken_of_a_librarys_function(void **state) {
  (void)state;
  void (*fn)(void *) = free;
  const void *address;
  memcpy(&address, &fn, sizeof address);
  assert_non_null(strstr(describe(address), "free"));
}

static void what_is_no_function_is_given_as_a_place(void **state) {
  (void)state;
  static int data;
  char expected[512];
  const char *text = describe(&data);
  snprintf(expected, sizeof expected, "%p (%s+0x", (void *)&data,
           program_name());
  assert_memory_equal(text, expected, strlen(expected));
}

static void what_is_in_no_module_is_a_bare_address(void **state) {
  (void)state;
  char expected[64];
  void *memory = malloc(100);
  snprintf(expected, sizeof expected, "%p", memory);
  assert_string_equal(describe(memory), expected);
  free(memory);
  assert_string_equal(describe(NULL), "0x0");
  assert_string_equal(describe((void *)1), "0x1");
  assert_string_equal(describe((void *)UINTPTR_MAX), "0xffffffffffffffff");
}

static void text_is_cut_to_the_buffer(void **state) {
  (void)state;
  char text[8];
  memset(text, 'x', sizeof text);
  wane__symbol_describe(code(case_static), text, 5);
  assert_string_equal(text, "case");
  assert_int_equal(text[5], 'x');
  wane__symbol_describe(code(case_static), text, 1);
  assert_string_equal(text, "");
}

/* ---- Modules that come, go and change ---- */

static void copy_file(const char *from, const char *to) {
  static char buffer[65536];
  int in = open(from, O_RDONLY | O_CLOEXEC);
  int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
  require(in >= 0 && out >= 0);
  ssize_t n;
  while ((n = read(in, buffer, sizeof buffer)) > 0) {
    require(write(out, buffer, (size_t)n) == n);
  }
  require(n == 0);
  close(in);
  close(out);
}

struct temporary {
  char folder[32];
  char path[64];
};

static struct temporary temporary_make(const char *name) {
  struct temporary made = {.folder = "/tmp/wane-symbol-XXXXXX"};
  require(mkdtemp(made.folder) != NULL);
  snprintf(made.path, sizeof made.path, "%s/%s", made.folder, name);
  return made;
}

static void temporary_remove(const struct temporary *made) {
  unlink(made->path);
  rmdir(made->folder);
}

static const char *open_named(const char *path, void **module) {
  *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  require(*module != NULL);
  int (*(*get)(void))(int);
  void *symbol = dlsym(*module, "named_get");
  require(symbol != NULL);
  memcpy(&get, &symbol, sizeof get);
  return code(get());
}

static void static_functions_of_modules_until_dlclose(void **state) {
  (void)state;
  void *module;
  const char *address = open_named(PLUGIN_NAMED, &module);
  char expected[64];
  assert_string_equal(describe(address), "named_inside");
  assert_non_null(strstr(describe(address + 1), "named_inside+0x1 ("));
  assert_int_equal(dlclose(module), 0);
  snprintf(expected, sizeof expected, "%p", (const void *)address);
  assert_string_equal(describe(address), expected);
}

static void files_that_are_gone_or_changed_give_no_name(void **state) {
  (void)state;
  struct temporary made = temporary_make("named.so");
  copy_file(PLUGIN_NAMED, made.path);
  void *module;
  const char *address = open_named(made.path, &module);
  char place[64];
  snprintf(place, sizeof place, "%p (named.so+0x", (const void *)address);
  assert_string_equal(describe(address), "named_inside");

  unlink(made.path);
  assert_memory_equal(describe(address), place, strlen(place));

  copy_file("/proc/self/exe", made.path); /* another program */
  assert_memory_equal(describe(address), place, strlen(place));

  unlink(made.path);
  copy_file("/dev/null", made.path);
  assert_memory_equal(describe(address), place, strlen(place));

  static const char header[] = "\177ELF\2\1\1";
  int fd = open(made.path, O_WRONLY | O_CLOEXEC);
  require(write(fd, header, sizeof header) == sizeof header);
  close(fd);
  assert_memory_equal(describe(address), place, strlen(place));

  unlink(made.path);
  mkdir(made.path, 0755);
  assert_memory_equal(describe(address), place, strlen(place));
  rmdir(made.path);

  copy_file(PLUGIN_NAMED, made.path); /* the same again */
  assert_string_equal(describe(address), "named_inside");
  dlclose(module);
  temporary_remove(&made);
}

/* ---- Stripped programs ---- */

enum { HIDE_SYMTAB = 1, HIDE_ALL = 2 };

/* Rewrites a program's section headers as if it had been stripped. */
static void strip(const char *path, int what) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  ElfW(Ehdr) header;
  require(fd >= 0 && pread(fd, &header, sizeof header, 0) == sizeof header);
  for (unsigned i = 0; i < header.e_shnum; i++) {
    ElfW(Shdr) section;
    off_t at = (off_t)(header.e_shoff + i * sizeof section);
    require(pread(fd, &section, sizeof section, at) == sizeof section);
    if (section.sh_type == SHT_SYMTAB ||
        (what == HIDE_ALL && section.sh_type == SHT_DYNSYM)) {
      section.sh_type = SHT_NULL;
      require(pwrite(fd, &section, sizeof section, at) == sizeof section);
    }
  }
  close(fd);
}

/* What the program says of itself under another name. */
static void describe_self(const char *arg) {
  if (*arg == 'u') {
    char path[4096] = {0};
    require(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    unlink(path);
  }
  fprintf(stderr, "%s\n", describe(code(case_static)));
  fprintf(stderr, "%s\n", describe(code(case_global)));
}

static void run_copy(const char *path, const char *arg,
                     struct test_child *child) {
  memset(child, 0, sizeof *child);
  char command[256];
  snprintf(command, sizeof command, "%s --role describe_self %s 2>&1", path,
           arg);
  FILE *pipe = popen(command, "re");
  require(pipe != NULL);
  size_t n = fread(child->text, 1, sizeof child->text - 1, pipe);
  child->text[n] = '\0';
  assert_int_equal(pclose(pipe), 0);
}

static void stripped_programs_give_what_they_export(void **state) {
  (void)state;
  struct temporary made = temporary_make("copy");
  struct test_child child;
  copy_file("/proc/self/exe", made.path);
  strip(made.path, HIDE_SYMTAB);
  run_copy(made.path, "", &child);
  assert_memory_equal(child.text, "0x", 2);
  assert_non_null(strstr(child.text, " (copy+0x"));
  /* plugins make the test export its functions */
  assert_non_null(strstr(child.text, "\ncase_global\n"));

  strip(made.path, HIDE_ALL);
  run_copy(made.path, "", &child);
  assert_non_null(strstr(child.text, " (copy+0x"));
  assert_null(strstr(child.text, "case_"));
  temporary_remove(&made);
}

static void a_program_whose_file_is_gone_has_names(void **state) {
  (void)state;
  struct temporary made = temporary_make("copy");
  struct test_child child;
  copy_file("/proc/self/exe", made.path);
  run_copy(made.path, "unlink", &child);
  assert_string_equal(child.text, "case_static\ncase_global\n");
  temporary_remove(&made);
}

/* ---- Many at once, while modules come and go ---- */

static bool churn_ends;

static void *churn(void *arg) {
  (void)arg;
  while (!__atomic_load_n(&churn_ends, __ATOMIC_RELAXED)) {
    void *module = dlopen(PLUGIN_NAMED, RTLD_NOW | RTLD_LOCAL);
    require(module != NULL);
    dlclose(module);
    test_breathe();
  }
  return NULL;
}

static void dlopen_in_other_threads_does_no_harm(void **state) {
  (void)state;
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, churn, NULL), 0);
  for (int i = 0; i < 200; i++) {
    assert_string_equal(describe(code(case_static)), "case_static");
    if (i % (TEST_TSAN ? 100 : 5) == 0) {
      wane_collect();
    }
  }
  __atomic_store_n(&churn_ends, true, __ATOMIC_RELAXED);
  pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"describe_self", describe_self}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(start_of_a_function_is_its_bare_name),
      cmocka_unit_test(inside_comes_with_offset_and_module),
      cmocka_unit_test(functions_of_libraries_have_names),
      cmocka_unit_test(address_taken_of_a_librarys_function),
      cmocka_unit_test(what_is_no_function_is_given_as_a_place),
      cmocka_unit_test(what_is_in_no_module_is_a_bare_address),
      cmocka_unit_test(text_is_cut_to_the_buffer),
      cmocka_unit_test(static_functions_of_modules_until_dlclose),
      cmocka_unit_test(files_that_are_gone_or_changed_give_no_name),
      cmocka_unit_test(stripped_programs_give_what_they_export),
      cmocka_unit_test(a_program_whose_file_is_gone_has_names),
      cmocka_unit_test(dlopen_in_other_threads_does_no_harm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
