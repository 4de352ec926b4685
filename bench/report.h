/*
 * bench/report.h: what every benchmark program has around its work: options,
 * the random generator, the clocks, and the one line of JSON at the end.
 *
 * Include it after shim.h. Elapsed and CPU time count from report_start to
 * report_stop; peak RSS is the kernel's high-water mark of the process
 * (VmHWM, since ru_maxrss also knows the parent's size before exec).
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* One option: --name VALUE or --name=VALUE; a flag is --name alone. With
   words (NULL-terminated), VALUE is one of them and *value its index. */
struct option {
  const char *name;
  long *value;
  bool flag;
  const char *const *words;
};

/* splitmix64 (Steele, Lea, Flood 2014): one add, three multiply-xors, the
   same numbers in C and in Go. */
static inline uint64_t random_next(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* A number below bound, by multiplication rather than a division. */
static inline uint32_t random_below(uint64_t *state, uint32_t bound) {
  return (uint32_t)(((random_next(state) >> 32) * bound) >> 32);
}

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline double seconds_of(struct timeval t) {
  return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static inline double cpu_seconds(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return seconds_of(use.ru_utime) + seconds_of(use.ru_stime);
}

static inline long peak_rss_kib(void) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[256];
  long kib = 0;
  if (file == NULL) {
    return 0;
  }
  while (fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "VmHWM: %ld", &kib) == 1) {
      break;
    }
  }
  fclose(file);
  return kib;
}

/* What is resident now. */
static inline long rss_bytes(void) {
  FILE *file = fopen("/proc/self/statm", "r");
  long pages = 0;
  if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1) {
    pages = 0;
  }
  if (file != NULL) {
    fclose(file);
  }
  return pages * sysconf(_SC_PAGESIZE);
}

static inline const struct option *find_option(const struct option *options,
                                               const char *arg) {
  for (; options->name != NULL; options++) {
    size_t length = strlen(options->name);
    if (strncmp(arg, "--", 2) == 0 &&
        strncmp(arg + 2, options->name, length) == 0 &&
        (arg[2 + length] == '\0' || arg[2 + length] == '=')) {
      return options;
    }
  }
  return NULL;
}

static inline void options_fail(const char *program,
                                const struct option *options) {
  fprintf(stderr, "usage: %s", program);
  for (; options->name != NULL; options++) {
    fprintf(stderr, " [--%s%s]", options->name, options->flag ? "" : " N");
  }
  fprintf(stderr, "\n");
  exit(2);
}

/* Reads text as the option's value. */
static inline bool option_set(const struct option *option, const char *text) {
  char *end = NULL;
  if (option->words == NULL) {
    *option->value = strtol(text, &end, 0);
    return end != text && *end == '\0' && *option->value >= 0;
  }
  for (long i = 0; option->words[i] != NULL; i++) {
    if (strcmp(text, option->words[i]) == 0) {
      *option->value = i;
      return true;
    }
  }
  return false;
}

/* Reads the command line into the options; a table ends with a NULL name. */
static inline void read_options(int argc, char **argv,
                                const struct option *options) {
  for (int i = 1; i < argc; i++) {
    const struct option *option = find_option(options, argv[i]);
    const char *text = strchr(argv[i], '=');
    if (option == NULL) {
      options_fail(argv[0], options);
    } else if (option->flag) {
      *option->value = 1;
    } else {
      text = text != NULL ? text + 1 : i + 1 < argc ? argv[++i] : "";
      if (!option_set(option, text)) {
        options_fail(argv[0], options);
      }
    }
  }
}

static struct {
  uint64_t start_ns;
  double start_cpu;
} report;

/* Starts the clocks, and the line with the program's name and options. */
static inline void report_start(const char *program,
                                const struct option *options) {
  printf("{\"program\": \"%s\", \"peer\": \"%s\"", program, BENCH_PEER);
  for (; options->name != NULL; options++) {
    if (options->words != NULL) {
      printf(", \"%s\": \"%s\"", options->name,
             options->words[*options->value]);
    } else {
      printf(", \"%s\": %ld", options->name, *options->value);
    }
  }
  report.start_cpu = cpu_seconds();
  report.start_ns = now_ns();
}

/* Stops the clocks. What is reported after this is not timed. */
static inline void report_stop(void) {
  double elapsed = (double)(now_ns() - report.start_ns) / 1e9;
  double cpu = cpu_seconds() - report.start_cpu;
  printf(", \"elapsed_s\": %.6f, \"cpu_s\": %.6f", elapsed, cpu);
  printf(", \"peak_rss_kib\": %ld", peak_rss_kib());
}

static inline void report_number(const char *name, double value) {
  printf(", \"%s\": %.4f", name, value);
}

static inline void report_count(const char *name, uint64_t value) {
  printf(", \"%s\": %" PRIu64, name, value);
}

static inline int compare_double(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The median of n > 0 values, which are sorted on the way. */
static inline double median(double *values, size_t n) {
  qsort(values, n, sizeof values[0], compare_double);
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

static inline void report_stats(void) {
#if defined(BENCH_WANE)
  struct wane_stats stats = {.size = sizeof stats};
  wane_read_stats(&stats);
  report_count("cycles", stats.cycles_full);
  report_count("pauses", stats.pause_count);
  report_count("pause_p50_ns", stats.pause_p50_ns);
  report_count("pause_p99_ns", stats.pause_p99_ns);
  report_count("pause_max_ns", stats.pause_max_ns);
  report_count("pause_total_ns", stats.pause_total_ns);
  report_count("gc_cpu_ns", stats.gc_cpu_ns);
  report_count("mark_threads", stats.mark_threads);
  report_count("heap_live_bytes", stats.heap_live_bytes);
  report_count("heap_peak_bytes", stats.heap_peak_bytes);
  report_count("allocated_bytes", stats.allocated_bytes);
  report_count("allocated_objects", stats.allocated_objects);
  printf(", \"dirty_backend\": \"%s\"",
         stats.dirty_backend != NULL ? stats.dirty_backend : "none");
#elif defined(BENCH_BDWGC)
  report_count("cycles", GC_get_gc_no());
  report_count("mark_threads", (uint64_t)GC_get_parallel() + 1);
#endif
}

static inline void report_end(void) {
  report_stats();
  printf("}\n");
}

#endif
