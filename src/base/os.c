/*
 * Operating system calls for Linux. Nothing here allocates with malloc, so
 * that it may be used while the world is stopped.
 */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "atomic.h"
#include "options.h"

/* Numbers of files from here on are left to the library, if the limit is high
   enough. */
#define OS_FILES_FROM 512

/* Counts calls that can fail; atomic, relaxed: tests are single-threaded
   where the exact number matters. */
static uint64_t os_fault_calls;

bool wane__os_fault(int error) {
  uint64_t nth = wane__options.fault;
  if (nth == 0) {
    return false;
  }
  uint64_t call = wane__add_relaxed(&os_fault_calls, 1) + 1;
  if (call == nth || (call > nth && wane__options.fault_more != 0)) {
    errno = error;
    return true;
  }
  return false;
}

void *wane__os_reserve(size_t bytes, size_t alignment) {
  size_t padded = bytes + alignment;
  if (padded < bytes || wane__os_fault(ENOMEM)) {
    errno = ENOMEM;
    return NULL;
  }
  char *raw = mmap(NULL, padded, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    return NULL;
  }
  uintptr_t start = ((uintptr_t)raw + alignment - 1) & ~(alignment - 1);
  size_t before = start - (uintptr_t)raw;
  size_t after = padded - bytes - before;
  if (before != 0) {
    munmap(raw, before);
  }
  if (after != 0) {
    munmap((char *)start + bytes, after);
  }
  return (void *)start;
}

void wane__os_unreserve(void *start, size_t bytes) { munmap(start, bytes); }

bool wane__os_commit(void *start, size_t bytes) {
  return !wane__os_fault(ENOMEM) &&
         mprotect(start, bytes, PROT_READ | PROT_WRITE) == 0;
}

bool wane__os_decommit(void *start, size_t bytes) {
  if (!wane__os_release(start, bytes)) {
    return false;
  }
  if (!wane__os_fault(ENOMEM) && mprotect(start, bytes, PROT_NONE) == 0) {
    return true;
  }
  (void)mprotect(start, bytes, PROT_READ | PROT_WRITE); /* a part may be done */
  return false;
}

bool wane__os_release(void *start, size_t bytes) {
  return !wane__os_fault(ENOMEM) && madvise(start, bytes, MADV_DONTNEED) == 0;
}

void wane__os_huge_pages(void *start, size_t bytes) {
  int saved = errno;
  (void)madvise(start, bytes, MADV_HUGEPAGE);
  errno = saved;
}

/* Reserves addresses that are free. A kernel that does not know the flag takes
   the address as a hint. */
static bool os_reserve_at(void *start, size_t bytes) {
  void *got = MAP_FAILED;
  if (!wane__os_fault(ENOMEM)) {
    got =
        mmap(start, bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
             -1, 0);
  }
  if (got != MAP_FAILED && got != start) {
    munmap(got, bytes);
  }
  return got == start;
}

/* The file's own part in mapping it may refuse (files of /sys do) after the
   kernel has taken away what was there, and then another thread's mmap finds
   the gap. So it is mapped elsewhere first; moving it needs no more from the
   file, and does not begin where it would be refused for the number of
   mappings. */
bool wane__os_map_file(void *start, size_t bytes, int fd) {
  if (wane__os_fault(ENOMEM)) {
    return false;
  }
  void *at = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  if (at == MAP_FAILED) {
    return false;
  }
  if (!wane__os_fault(ENOMEM) &&
      mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, start) == start) {
    return true;
  }
  int error = errno;
  munmap(at, bytes);
  (void)os_reserve_at(start, bytes); /* refused: it is still reserved */
  errno = error;
  return false;
}

/* mmap is refused at the limit on mappings even where it needs no new one;
   munmap makes room. In between another thread may map something there. */
bool wane__os_unmap_to_reserve(void *start, size_t bytes) {
  int saved = errno;
  bool ok = !wane__os_fault(ENOMEM) &&
            mmap(start, bytes, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                 0) == start;
  if (!ok && munmap(start, bytes) == 0) {
    ok = os_reserve_at(start, bytes);
  }
  errno = saved;
  return ok;
}

void __tsan_init(void) __attribute__((weak));

bool wane__os_has_tsan(void) { return __tsan_init != NULL; }

/* A wait that ThreadSanitizer sees, and delivers signals in. */
static bool os_poll(const uint32_t *word, uint32_t expected,
                    int64_t timeout_ns) {
  uint64_t step_ns = 50000;
  for (int64_t waited = 0; wane__load(word) == expected; waited += 50000) {
    if (timeout_ns >= 0 && waited >= timeout_ns) {
      return false;
    }
    wane__os_sleep_ns(step_ns);
  }
  return true;
}

bool wane__os_futex_wait(const uint32_t *word, uint32_t expected,
                         int64_t timeout_ns) {
  struct timespec ts;
  struct timespec *limit = NULL;
  if (wane__os_has_tsan()) {
    return os_poll(word, expected, timeout_ns);
  }
  if (timeout_ns >= 0) {
    ts.tv_sec = timeout_ns / 1000000000;
    ts.tv_nsec = timeout_ns % 1000000000;
    limit = &ts;
  }
  int saved = errno;
  long r =
      syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, limit, NULL, 0);
  bool timed_out = r != 0 && errno == ETIMEDOUT;
  errno = saved;
  return !timed_out;
}

void wane__os_futex_wake(const uint32_t *word, int count) {
  int saved = errno;
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
  errno = saved;
}

pid_t wane__os_tid(void) { return (pid_t)syscall(SYS_gettid); }

int wane__os_signal_thread(pid_t tid, int signal) {
  int saved = errno;
  int error = 0;
  if (wane__os_fault(EAGAIN) ||
      syscall(SYS_tgkill, getpid(), tid, signal) != 0) {
    error = errno;
  }
  errno = saved;
  return error;
}

static uint64_t os_clock(clockid_t id) {
  struct timespec ts;
  clock_gettime(id, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t wane__os_now_ns(void) { return os_clock(CLOCK_MONOTONIC); }

uint64_t wane__os_thread_cpu_ns(void) {
  return os_clock(CLOCK_THREAD_CPUTIME_ID);
}

void wane__os_sleep_ns(uint64_t ns) {
  int saved = errno;
  struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u),
                        .tv_nsec = (long)(ns % 1000000000u)};
  if (wane__os_has_tsan()) {
    nanosleep(&ts, NULL);
  } else { /* no point of cancellation */
    syscall(SYS_nanosleep, &ts, NULL);
  }
  errno = saved;
}

/* Nothing of a cycle may be a point of cancellation. */
int wane__os_open(const char *path) {
  return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
}

int wane__os_open_at_once(const char *path) {
  if (wane__os_fault(EMFILE)) {
    return -1;
  }
  return (int)syscall(SYS_openat, AT_FDCWD, path,
                      O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0);
}

bool wane__os_stat(const char *path, struct stat *out) {
  return !wane__os_fault(EIO) && stat(path, out) == 0;
}

bool wane__os_stat_open(int fd, struct stat *out) {
  return !wane__os_fault(EIO) && fstat(fd, out) == 0;
}

ssize_t wane__os_read_at(int fd, void *to, size_t bytes, uint64_t from) {
  size_t done = 0;
  while (done < bytes) {
    long n = syscall(SYS_pread64, fd, (char *)to + done, bytes - done,
                     (long)(from + done));
    if (n < 0 && errno != EINTR) {
      return -1;
    }
    if (n == 0) {
      break;
    }
    done += n > 0 ? (size_t)n : 0;
  }
  return (ssize_t)done;
}

ssize_t wane__os_read_link(const char *path, char *to, size_t bytes) {
  return syscall(SYS_readlinkat, AT_FDCWD, path, to, bytes);
}

static ssize_t os_read(int fd, void *buffer, size_t bytes) {
  return syscall(SYS_read, fd, buffer, bytes);
}

void wane__os_close(int fd) { syscall(SYS_close, fd); }

static int os_eventfd(unsigned count) {
  if (wane__os_fault(EMFILE)) {
    return -1;
  }
  return (int)syscall(SYS_eventfd2, count, EFD_CLOEXEC | EFD_NONBLOCK);
}

int wane__os_eventfd(void) { return os_eventfd(0); }

int wane__os_eventfd_replace(int fd, bool is_up) {
  wane__os_close(fd); /* first, in case there is no other number left */
  int fresh = os_eventfd(is_up);
  if (fresh < 0 || fresh == fd) {
    return fresh;
  }
  int result = (int)syscall(SYS_dup3, fresh, fd, O_CLOEXEC);
  wane__os_close(fresh);
  return result;
}

void wane__os_eventfd_set(int fd, bool is_up) {
  uint64_t count = 1;
  int saved = errno; /* neither blocks: the count is 0 or 1 */
  long n = is_up ? syscall(SYS_write, fd, &count, sizeof count)
                 : syscall(SYS_read, fd, &count, sizeof count);
  (void)n;
  errno = saved;
}

/* Reads a small file as a string; returns its length or -1. */
bool wane__os_write_file(const char *path, const char *text) {
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
  if (fd < 0) {
    return false;
  }
  ssize_t size = (ssize_t)strlen(text);
  bool ok = syscall(SYS_write, fd, text, size) == size;
  int saved = errno;
  wane__os_close(fd);
  errno = saved;
  return ok;
}

bool wane__os_file_is_ours(const struct wane__os_file *file) {
  struct stat now;
  return file->fd >= 0 && fstat(file->fd, &now) == 0 &&
         now.st_dev == file->dev && now.st_ino == file->ino;
}

/* The same file under a number above those that programs expect their own
   files to get. */
static int os_move_up(int fd) {
  struct rlimit limit;
  int least = OS_FILES_FROM;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
      limit.rlim_cur / 2 < OS_FILES_FROM) {
    least = (int)(limit.rlim_cur / 2);
  }
  int moved = fcntl(fd, F_DUPFD_CLOEXEC, least);
  if (moved < 0) {
    return fd;
  }
  wane__os_close(fd);
  return moved;
}

bool wane__os_file_set(struct wane__os_file *file, int fd) {
  struct stat now;
  if (fd < 0) {
    return false;
  }
  fd = os_move_up(fd);
  if (fstat(fd, &now) != 0) {
    wane__os_close(fd);
    return false;
  }
  *file = (struct wane__os_file){fd, now.st_dev, now.st_ino};
  return true;
}

void wane__os_file_close(struct wane__os_file *file) {
  int saved = errno;
  if (wane__os_file_is_ours(file)) {
    wane__os_close(file->fd);
  }
  file->fd = -1;
  errno = saved;
}

static ssize_t os_read_file(const char *path, char *buffer, size_t bytes) {
  int fd = wane__os_open(path);
  if (fd < 0) {
    return -1;
  }
  size_t used = 0;
  ssize_t n;
  while (used < bytes - 1 &&
         (n = os_read(fd, buffer + used, bytes - 1 - used)) > 0) {
    used += (size_t)n;
  }
  wane__os_close(fd);
  buffer[used] = '\0';
  return (ssize_t)used;
}

/* Calls read_limit on the file's text in the process's cgroup for controller
   (NULL: the unified hierarchy) and in each cgroup above it. */
static void os_each_cgroup(const char *controller, const char *mount,
                           const char *file,
                           void (*read_limit)(const char *text, void *out),
                           void *out) {
  char groups[4096];
  if (os_read_file("/proc/self/cgroup", groups, sizeof groups) < 0) {
    return;
  }
  char *save = NULL;
  for (char *line = strtok_r(groups, "\n", &save); line != NULL;
       line = strtok_r(NULL, "\n", &save)) {
    char *names = strchr(line, ':');
    char *group = names != NULL ? strchr(names + 1, ':') : NULL;
    if (group == NULL) {
      continue;
    }
    *group++ = '\0';
    names++;
    bool mine = controller == NULL ? names[0] == '\0'
                                   : strstr(names, controller) != NULL;
    for (char *end = group + strlen(group); mine && end >= group; end--) {
      if (*end != '/' && *end != '\0') {
        continue;
      }
      *end = '\0';
      char path[4096 + 256];
      char text[256];
      snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s/%s", mount, group, file);
      if (os_read_file(path, text, sizeof text) > 0) {
        read_limit(text, out);
      }
    }
  }
}

/* "max 100000" or "200000 100000": quota and period in microseconds. */
static void os_cpu_max(const char *text, void *out) {
  unsigned *cpus = out;
  unsigned long quota;
  unsigned long period;
  if (sscanf(text, "%lu %lu", &quota, &period) == 2 && period != 0) {
    unsigned n = (unsigned)((quota + period - 1) / period);
    *cpus = n < *cpus ? n : *cpus;
  }
}

/* The same for cgroup v1, whose period is nearly always 100 ms. */
static void os_cpu_quota_v1(const char *text, void *out) {
  unsigned *cpus = out;
  long quota = strtol(text, NULL, 10);
  if (quota > 0) {
    unsigned n = (unsigned)((quota + 99999) / 100000);
    *cpus = n < *cpus ? n : *cpus;
  }
}

unsigned wane__os_kernel_version(void) {
  struct utsname name;
  unsigned major;
  unsigned minor;
  return uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2
             ? 1000 * major + minor
             : 0;
}

unsigned wane__os_cpu_count(void) {
  cpu_set_t set;
  unsigned cpus = 1;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    cpus = (unsigned)CPU_COUNT(&set);
  } else { /* more CPUs than the set holds */
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    cpus = n > 0 ? (unsigned)n : 1;
  }
  int saved = errno;
  os_each_cgroup(NULL, "", "cpu.max", os_cpu_max, &cpus);
  os_each_cgroup("cpu", "cpu", "cpu.cfs_quota_us", os_cpu_quota_v1, &cpus);
  errno = saved;
  return cpus > 0 ? cpus : 1;
}

static void os_memory_max(const char *text, void *out) {
  size_t *limit = out;
  char *end;
  unsigned long long n = strtoull(text, &end, 10);
  /* v1 writes "none" as the largest multiple of a page */
  if (end != text && n < (1ull << 62) && n < *limit) {
    *limit = (size_t)n;
  }
}

size_t wane__os_cgroup_memory_limit(void) {
  size_t limit = SIZE_MAX;
  int saved = errno;
  os_each_cgroup(NULL, "", "memory.max", os_memory_max, &limit);
  os_each_cgroup(NULL, "", "memory.high", os_memory_max, &limit);
  os_each_cgroup("memory", "memory", "memory.limit_in_bytes", os_memory_max,
                 &limit);
  errno = saved;
  return limit;
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", and another line. */
static void os_pressure(const char *text, void *out) {
  unsigned *most = out;
  const char *average = strstr(text, "some avg10=");
  unsigned long percent =
      average != NULL ? strtoul(average + strlen("some avg10="), NULL, 10) : 0;
  *most = percent > *most ? (unsigned)percent : *most;
}

unsigned wane__os_memory_pressure(void) {
  unsigned percent = 0;
  char text[256];
  int saved = errno;
  os_each_cgroup(NULL, "", "memory.pressure", os_pressure, &percent);
  if (os_read_file("/proc/pressure/memory", text, sizeof text) > 0) {
    os_pressure(text, &percent);
  }
  errno = saved;
  return percent;
}

uint64_t wane__os_map_count_max(void) {
  char text[64];
  unsigned long long n = 0;
  int saved = errno;
  if (os_read_file("/proc/sys/vm/max_map_count", text, sizeof text) > 0) {
    n = strtoull(text, NULL, 10);
  }
  errno = saved;
  return n != 0 ? n : WANE__OS_MAP_COUNT_USUAL;
}

size_t wane__os_address_space_left(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return SIZE_MAX;
  }
  char text[256];
  unsigned long pages = 0;
  if (os_read_file("/proc/self/statm", text, sizeof text) > 0) {
    pages = strtoul(text, NULL, 10);
  }
  size_t used = pages * (size_t)sysconf(_SC_PAGESIZE);
  return used < limit.rlim_cur ? (size_t)limit.rlim_cur - used : 0;
}

size_t wane__os_copy_memory(void *to, uintptr_t from, size_t bytes) {
  struct iovec local = {to, bytes};
  struct iovec remote = {(void *)from, bytes};
  int saved = errno;
  long n =
      syscall(SYS_process_vm_readv, getpid(), &local, 1ul, &remote, 1ul, 0ul);
  errno = saved;
  return n > 0 ? (size_t)n : 0;
}

bool wane__os_can_copy_memory(void) {
  uint64_t from = 1;
  uint64_t to = 0;
  return wane__os_copy_memory(&to, (uintptr_t)&from, sizeof to) == sizeof to;
}

/* Lines are read in pieces from a buffer on the stack: a maps file can be of
   any length, and malloc may be locked by a stopped thread. */
bool wane__os_find_mapping(uintptr_t addr, struct wane__os_mapping *out) {
  int fd = wane__os_open("/proc/self/maps");
  if (fd < 0) {
    return false;
  }
  char buffer[4096];
  size_t used = 0;
  bool found = false;
  ssize_t n;
  while (!found &&
         (n = os_read(fd, buffer + used, sizeof buffer - 1 - used)) > 0) {
    used += (size_t)n;
    buffer[used] = '\0';
    char *line = buffer;
    char *end;
    while (!found && (end = strchr(line, '\n')) != NULL) {
      unsigned long lo;
      unsigned long hi;
      if (sscanf(line, "%lx-%lx", &lo, &hi) == 2 && addr >= lo && addr < hi) {
        *out = (struct wane__os_mapping){lo, hi};
        found = true;
      }
      line = end + 1;
    }
    used -= (size_t)(line - buffer);
    if (used == sizeof buffer - 1) {
      used = 0; /* an overlong path: its line's head has been read */
    }
    memmove(buffer, line, used);
  }
  wane__os_close(fd);
  return found;
}
