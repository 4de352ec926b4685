/* See files.h. */
#include "files.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Files ---- */

static char files_dir[PATH_MAX];
static pid_t files_owner;

void files_begin(void) {
  const char *parent = getenv("TMPDIR");
  snprintf(files_dir, sizeof files_dir, "%s/wane-test-XXXXXX",
           parent != NULL && parent[0] == '/' ? parent : "/tmp");
  require(mkdtemp(files_dir) != NULL);
  require(chdir(files_dir) == 0);
  files_owner = getpid();
}

static int files_remove(const char *path, const struct stat *info, int type,
                        struct FTW *walk) {
  (void)info;
  (void)type;
  (void)walk;
  return remove(path);
}

void files_end(void) {
  if (files_owner == getpid()) {
    require(chdir("/") == 0);
    require(nftw(files_dir, files_remove, 20, FTW_DEPTH | FTW_PHYS) == 0);
    files_owner = 0;
  }
}

/* Every word of every number is another one. */
static uint64_t file_word(uint64_t number, size_t idx) {
  struct test_random random = {number * 0x100000001b3ull ^ (uint64_t)idx << 20};
  return test_random(&random);
}

#define WORD sizeof(uint64_t)

void file_fill(void *bytes, size_t size, uint64_t number) {
  unsigned char *at = bytes;
  for (size_t i = 0; i < size; i += WORD) {
    uint64_t word = file_word(number, i / WORD);
    memcpy(at + i, &word, size - i < WORD ? size - i : WORD);
  }
}

bool file_matches(const void *bytes, size_t size, uint64_t number,
                  size_t offset) {
  const unsigned char *at = bytes;
  size_t i = 0;
  for (; i < size && (offset + i) % WORD != 0; i++) { /* up to a whole word */
    uint64_t word = file_word(number, (offset + i) / WORD);
    if (memcmp(at + i, (char *)&word + (offset + i) % WORD, 1) != 0) {
      return false;
    }
  }
  for (; i < size; i += WORD) {
    uint64_t word = file_word(number, (offset + i) / WORD);
    if (memcmp(at + i, &word, size - i < WORD ? size - i : WORD) != 0) {
      return false;
    }
  }
  return true;
}

static void write_all(int fd, const void *bytes, size_t size) {
  const char *at = bytes;
  while (size > 0) {
    ssize_t wrote = write(fd, at, size);
    require(wrote > 0 || errno == EINTR);
    at += wrote > 0 ? wrote : 0;
    size -= wrote > 0 ? (size_t)wrote : 0;
  }
}

void file_make(const char *name, uint64_t number, size_t size) {
  int error = errno;
  unsigned char *bytes = malloc(size + 1);
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  require(bytes != NULL && fd >= 0);
  file_fill(bytes, size, number);
  write_all(fd, bytes, size);
  require(close(fd) == 0);
  free(bytes);
  errno = error;
}

void file_replace(const char *name, uint64_t number, size_t size) {
  char other[PATH_MAX];
  snprintf(other, sizeof other, "%s.new", name);
  file_make(other, number, size);
  require(rename(other, name) == 0);
}

bool file_make_sparse(const char *name, size_t size) {
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  require(fd >= 0);
  bool made = ftruncate(fd, (off_t)size) == 0;
  require(close(fd) == 0);
  return made;
}

/* ---- Mappings and descriptors ---- */

/* All of /proc/self/maps, to be freed. */
static char *maps_read(void) {
  size_t size = 1 << 16;
  size_t used = 0;
  char *text = malloc(size);
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  require(text != NULL && fd >= 0);
  for (;;) {
    if (size - used < 1 << 14) {
      size *= 2;
      text = realloc(text, size);
      require(text != NULL);
    }
    ssize_t n = read(fd, text + used, size - used - 1);
    require(n >= 0 || errno == EINTR);
    if (n == 0) {
      break;
    }
    used += n > 0 ? (size_t)n : 0;
  }
  require(close(fd) == 0);
  text[used] = '\0';
  return text;
}

/* Does the line's file have the name, which it may have had? With whole false:
   does its name begin so? */
static bool line_names(const char *line, const char *end, const char *name,
                       bool whole) {
  const char *path = memchr(line, '/', (size_t)(end - line));
  size_t length = strlen(name);
  if (path == NULL || (size_t)(end - path) < length ||
      memcmp(path, name, length) != 0) {
    return false;
  }
  static const char deleted[] = " (deleted)";
  size_t rest = (size_t)(end - path) - length;
  return !whole || rest == 0 ||
         (rest == sizeof deleted - 1 &&
          memcmp(path + length, deleted, rest) == 0);
}

/* name NULL: all lines. */
static size_t lines_count(const char *name, bool whole) {
  int error = errno;
  char *text = maps_read();
  size_t count = 0;
  for (char *line = text, *end; (end = strchr(line, '\n')) != NULL;
       line = end + 1) {
    count += name == NULL || line_names(line, end, name, whole);
  }
  free(text);
  errno = error;
  return count;
}

size_t maps_of(const char *name) {
  char path[2 * PATH_MAX];
  require(getcwd(path, PATH_MAX) != NULL);
  size_t length = strlen(path);
  snprintf(path + length, sizeof path - length, "/%s",
           name != NULL ? name : "");
  return lines_count(path, name != NULL);
}

size_t maps_named(const char *begin) { return lines_count(begin, false); }

size_t maps_total(void) { return lines_count(NULL, false); }

size_t maps_allowed(void) {
  size_t allowed = 0;
  FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
  require(file != NULL && fscanf(file, "%zu", &allowed) == 1);
  fclose(file);
  return allowed;
}

/* One of the two that the library may keep open, to see which pages are written
   to. */
static bool descriptor_is_wanes(int dir, const char *number) {
  char target[PATH_MAX];
  ssize_t size = readlinkat(dir, number, target, sizeof target - 1);
  target[size > 0 ? size : 0] = '\0';
  char *last = strrchr(target, '/');
  return strcmp(target, "anon_inode:[userfaultfd]") == 0 ||
         (last != NULL && strcmp(last, "/pagemap") == 0);
}

size_t descriptors_open(void) {
  int error = errno;
  size_t count = 0;
  size_t wanes = 0;
  struct dirent *entry;
  DIR *dir = opendir("/proc/self/fd");
  require(dir != NULL);
  while ((entry = readdir(dir)) != NULL) {
    bool is_wanes = descriptor_is_wanes(dirfd(dir), entry->d_name);
    count += !is_wanes;
    wanes += is_wanes;
  }
  closedir(dir);
  errno = error;
  require(wanes <= 3); /* one is being opened */
  return count - 3;    /* ".", ".." and its own */
}

void maps_require_counted(void) {
  struct wane_stats stats = test_stats();
  require(stats.files_mapped - stats.files_unmapped == maps_of(NULL));
}

/* Only a page that can be read can be written from. */
bool is_readable(const void *address) {
  int fds[2];
  int error = errno;
  require(pipe2(fds, O_CLOEXEC) == 0);
  ssize_t wrote = write(fds[1], address, 1);
  require(wrote == 1 || errno == EFAULT);
  close(fds[0]);
  close(fds[1]);
  errno = error;
  return wrote == 1;
}
