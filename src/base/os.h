/*
 * What the library asks of the operating system: memory, futexes, signals to
 * threads, clocks, CPUs and the limits a container sets. Everything that can
 * fail returns false, a negative number or NULL and leaves errno.
 *
 * All calls that can fail pass through wane__os_fault first: with
 * WANE_OPTIONS=fault=N the Nth of them fails as if the system had said no
 * (ENOMEM, or EAGAIN for a signal), which is how the fault tests reach every
 * error path. With fault=N and fault_more=1 all later ones fail too.
 */
#ifndef WANE_BASE_OS_H
#define WANE_BASE_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WANE__PAGE_BYTES_MIN 4096u

/* True if this call is the one that is to fail; sets errno. */
bool wane__os_fault(int error);

/* Address space without memory behind it, aligned to alignment bytes. */
void *wane__os_reserve(size_t bytes, size_t alignment);
void wane__os_unreserve(void *start, size_t bytes);
/* Makes reserved pages usable. Pages come zeroed, when they are touched. */
bool wane__os_commit(void *start, size_t bytes);
/* The opposite: the memory goes back, the addresses are reserved. False: they
   are usable as before, but may read as zero. */
bool wane__os_decommit(void *start, size_t bytes);
/* Gives the memory behind pages back; they stay usable and read as zero. */
bool wane__os_release(void *start, size_t bytes);
/* Asks for huge pages behind a range; a hint, nothing fails. */
void wane__os_huge_pages(void *start, size_t bytes);

/* True in a program that runs under ThreadSanitizer. Its runtime has locks of
   its own, which a thread stopped by a plain signal might hold: signals must
   come through it, at moments of its choice, and waiting must be by calls
   that it knows. */
bool wane__os_has_tsan(void);

/* Sleeps while *word is expected, at most timeout_ns (negative: no limit).
   May return early; callers check again. False when the time is over. */
bool wane__os_futex_wait(const uint32_t *word, uint32_t expected,
                         int64_t timeout_ns);
void wane__os_futex_wake(const uint32_t *word, int count);

pid_t wane__os_tid(void);
/* 0, or an errno value: ESRCH, the thread is gone; EAGAIN, try again. */
int wane__os_signal_thread(pid_t tid, int signal);

uint64_t wane__os_now_ns(void);        /* monotonic */
uint64_t wane__os_thread_cpu_ns(void); /* of the calling thread */
void wane__os_sleep_ns(uint64_t ns);
/* A clock of the processor's that costs a few ns, in units of its own; all
   CPUs' agree about. */
static inline uint64_t wane__os_ticks(void) {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  uint64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  return wane__os_now_ns();
#endif
}

/* The kernel's version as 1000 * major + minor; 0: it does not say. */
unsigned wane__os_kernel_version(void);

/* CPUs the process may use: affinity mask and cgroup quota, at least 1. */
unsigned wane__os_cpu_count(void);
/* The memory limit of the cgroup in bytes, SIZE_MAX if there is none: what the
   kernel would kill for (memory.max), or slows the process down for
   (memory.high). */
size_t wane__os_cgroup_memory_limit(void);
/* In per cent, of the last ten seconds, the time in which some task of the
   cgroup, or of the machine, waited for memory to be reclaimed (PSI); 0 if the
   kernel does not say. */
unsigned wane__os_memory_pressure(void);
/* Bytes of address space the process may still take, SIZE_MAX: no limit. */
size_t wane__os_address_space_left(void);

/* A counter as a file, empty, non-blocking, closed at exec; -1 with errno. */
int wane__os_eventfd(void);
/* A fresh one under the number of another, which is closed; -1 with errno. In a
   process of one thread. */
int wane__os_eventfd_replace(int fd, bool is_up);
/* Makes it readable, or not any more. */
void wane__os_eventfd_set(int fd, bool is_up);

/* Copies the process's own memory that may not be mapped; bytes copied. */
size_t wane__os_copy_memory(void *to, uintptr_t from, size_t bytes);
/* False where a filter of system calls forbids that. */
bool wane__os_can_copy_memory(void);

/* How many mappings a process may have (vm.max_map_count); where /proc cannot
   be read, the kernel's own default. */
#define WANE__OS_MAP_COUNT_USUAL 65530
uint64_t wane__os_map_count_max(void);

/* Maps a file from its beginning, read-only, over reserved addresses. False
   with errno: they are reserved as before. */
bool wane__os_map_file(void *start, size_t bytes, int fd);
/* Reserves such addresses again, whatever is mapped there. False: nothing of
   ours is there any more, and the program's next mmap may be. */
bool wane__os_unmap_to_reserve(void *start, size_t bytes);

/* What a path leads to, and a file that is there. Opening does not wait for
   anything. false, or -1, with errno. */
struct stat;
bool wane__os_stat(const char *path, struct stat *out);
bool wane__os_stat_open(int fd, struct stat *out);
int wane__os_open_at_once(const char *path);

/* Files, by the system calls themselves: the C library's functions are points
   where a thread can be cancelled. -1 with errno, or bytes read; read_at reads
   on until it has all or the file ends. */
int wane__os_open(const char *path);
ssize_t wane__os_read_at(int fd, void *to, size_t bytes, uint64_t from);
ssize_t wane__os_read_link(const char *path, char *to, size_t bytes);
void wane__os_close(int fd);
/* Writes a text to a file of the system's. False with errno. */
bool wane__os_write_file(const char *path, const char *text);

/* An open file of the library's, and what it was when it was opened: a program
   may close all files it knows nothing of, and get the number for another.
   None: fd is -1. */
struct wane__os_file {
  int fd;
  dev_t dev;
  ino_t ino;
};
/* Takes fd over; false with errno if it is -1, or nothing can be known of it.
 */
bool wane__os_file_set(struct wane__os_file *file, int fd);
bool wane__os_file_is_ours(const struct wane__os_file *file);
/* Closes it, if it is. Keeps errno. */
void wane__os_file_close(struct wane__os_file *file);

/* The mapping of the process that holds addr, from /proc/self/maps. */
struct wane__os_mapping {
  uintptr_t start;
  uintptr_t end;
};
bool wane__os_find_mapping(uintptr_t addr, struct wane__os_mapping *out);

#endif
