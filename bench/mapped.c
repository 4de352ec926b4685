/*
 * bench/mapped.c: mapped files and adopted ranges: what opening costs beside
 * the system calls it needs, and what those that live add to a cycle.
 *
 *   mapped --what shared [--count N] [--ops N] [--threads T] [--rounds N]
 *   mapped --what own    [--count N] [--ops N] [--rounds N]
 *   mapped --what files|ranges [--count N] [--collections N] [--rounds N]
 *          [--heap none|tree|list|near|into] [--nodes N]
 *
 * shared: N files are mapped and held, then asked for again by their paths,
 * ops times a round, and stat is asked for the same, rounds by turns. Printed
 * are medians: stat_ns and open_ns, in ns per operation of one thread, and the
 * ratio of one round.
 *
 * own: N files are opened in turn, ops times a round, none shared:
 *
 *   plain    open, fstat, mmap, close, munmap
 *   own      wane_mapped_open, and dropped
 *   bytes    wane_map_bytes, and dropped
 *   closed   wane_mapped_open, wane_mapped_close
 *
 * each with *_ns, the time of the loop by ops, *_all_ns, that until all are
 * unmapped (a collection and wane_drain), and *_cpu_ns, the CPU time of all
 * threads until then. Cycles begin by themselves, in no other part.
 *
 * files, ranges: full collections while so many live, and when all have just
 * been dropped at once: none, N / 50, N / 5, N (levels 0 to 3) pointers into
 * files mapped by wane_map_bytes or into adopted pages, and as many objects of
 * 32 bytes in their place. With a heap, only pointers into ranges, levels 0, 1,
 * N / 10, N, and so many nodes live beside them:
 *
 *   tree   of 16 bytes, all pointers to nodes
 *   list   of 32 bytes, the next and three small numbers
 *   near   the next and three addresses between the ranges, in none
 *   into   the next and three addresses in ranges (between, at level 0)
 *
 * Printed for each kind and level, medians but for the second:
 *
 *   stop_ns, stop_max_ns     the stop, from the statistics
 *   cycle_ns, cpu_ns         wane_collect, and the collector's CPU time in it
 *   added_ns, added_cpu_ns   beyond level 0 of the same round
 *   dropped_ns               the stop of the cycle that finds all dead
 *   gone_ns                  from its begin until all is unmapped or released
 */
/* peers: wane */
#include "shim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "report.h"
#include "tables.h"

enum { SHARED, OWN, FILES, RANGES };
enum { NONE, TREE, LIST, NEAR, INTO };
enum { FILE_BYTES = 10000, PATH_BYTES = 200, OBJECT_BYTES = 32 };

static const char *const whats[] = {"shared", "own", "files", "ranges", NULL};
static const char *const heaps[] = {"none", "tree", "list",
                                    "near", "into", NULL};
static long what = SHARED;
static long heap = NONE;
static long count = 1000;
static long ops = 20000;
static long threads = 1;
static long rounds = 5;
static long collections = 15;
static long nodes = 1000000;

static void fail(const char *call) {
  perror(call);
  exit(1);
}

static void series_add(struct series *series, double value) {
  series->ns_each[series->rounds++] = value;
}

/* Overwrites what the calls before have left on the stack. */
__attribute__((noinline)) static void clear_stack(void) {
  char bytes[16384];
  memset(bytes, 0, sizeof bytes);
  bench_use(bytes);
}

/* ---- Files in a directory of their own ---- */

static char directory[PATH_BYTES / 2];
static char (*paths)[PATH_BYTES];
static size_t files;

static void files_remove(void) {
  for (size_t i = 0; i < files; i++) {
    unlink(paths[i]);
  }
  rmdir(directory);
}

static void file_write(const char *path) {
  static const char bytes[FILE_BYTES];
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, bytes, sizeof bytes) != sizeof bytes) {
    fail(path);
  }
  close(fd);
}

static void files_make(size_t n) {
  const char *parent = getenv("TMPDIR");
  snprintf(directory, sizeof directory, "%s/wane-bench-XXXXXX",
           parent != NULL ? parent : P_tmpdir);
  if (mkdtemp(directory) == NULL) {
    fail(directory);
  }
  atexit(files_remove);
  paths = calloc(n, sizeof paths[0]);
  for (; files < n; files++) {
    snprintf(paths[files], sizeof paths[0], "%s/%zu", directory, files);
    file_write(paths[files]);
  }
}

static const char *next_path(size_t *at) {
  *at = *at + 1 < files ? *at + 1 : 0;
  return paths[*at];
}

/* ---- Shared opens ---- */

static struct wane_mapped **held; /* managed */

static uint64_t stat_all(long thread) {
  size_t at = share_of(count, threads, thread);
  uint64_t done = 0;
  for (long i = 0; i < ops; i++) {
    struct stat status;
    done += stat(next_path(&at), &status) == 0 && status.st_size == FILE_BYTES;
  }
  return done;
}

static uint64_t open_all(long thread) {
  size_t at = share_of(count, threads, thread);
  uint64_t done = 0;
  for (long i = 0; i < ops; i++) {
    const char *path = next_path(&at);
    done += wane_mapped_open_shared(path) == held[at];
  }
  return done;
}

static uint64_t shared_run(void) {
  static struct series stats = {.name = "stat_ns"};
  static struct series opens = {.name = "open_ns"};
  static struct series ratios = {.name = "ratio"};
  uint64_t check = 0;
  files_make((size_t)count);
  held = bench_alloc(files * sizeof held[0]);
  for (size_t i = 0; i < files; i++) {
    held[i] = wane_mapped_open_shared(paths[i]);
  }
  for (long round = 0; round < rounds; round++) {
    struct series *first = round % 2 == 0 ? &stats : &opens;
    for (int i = 0; i < 2; i++) {
      struct series *now = i == 0 ? first : first == &stats ? &opens : &stats;
      check += series_run(now, threads, now == &stats ? stat_all : open_all);
    }
    series_add(&ratios, opens.ns_each[round] / stats.ns_each[round]);
  }
  report_stop();
  series_report(&stats);
  series_report(&opens);
  series_report(&ratios);
  return check;
}

/* ---- Opens of one's own ---- */

enum { PLAIN, MAPPED, BYTES, CLOSED, WAYS };

static void open_plain(const char *path) {
  struct stat status;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &status) != 0) {
    fail(path);
  }
  size_t size = (size_t)status.st_size;
  void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (data == MAP_FAILED || munmap(data, size) != 0) {
    fail("mmap");
  }
}

static void open_one(int way, const char *path) {
  if (way == PLAIN) {
    open_plain(path);
  } else if (way == BYTES) {
    if (wane_map_bytes(path, NULL) == NULL) {
      fail("wane_map_bytes");
    }
  } else {
    struct wane_mapped *mapped = wane_mapped_open(path);
    if (mapped == NULL) {
      fail("wane_mapped_open");
    } else if (way == CLOSED) {
      wane_mapped_close(mapped);
    }
  }
}

static uint64_t own_run(void) {
  static const char *const names[] = {"plain", "own", "bytes", "closed"};
  static struct series loops[WAYS], wholes[WAYS], cpus[WAYS];
  struct wane_stats stats = {.size = sizeof stats};
  size_t at = 0;
  files_make((size_t)count);
  for (long i = 0; i < rounds * WAYS; i++) {
    int way = (int)(i % WAYS);
    double cpu = cpu_seconds();
    uint64_t start = now_ns();
    for (long n = 0; n < ops; n++) {
      open_one(way, next_path(&at));
    }
    series_add(&loops[way], (double)(now_ns() - start) / (double)ops);
    clear_stack();
    wane_collect();
    wane_drain(-1);
    series_add(&wholes[way], (double)(now_ns() - start) / (double)ops);
    series_add(&cpus[way], (cpu_seconds() - cpu) * 1e9 / (double)ops);
  }
  report_stop();
  for (int way = 0; way < WAYS; way++) {
    struct series *all[] = {&loops[way], &wholes[way], &cpus[way]};
    static const char *const ends[] = {"ns", "all_ns", "cpu_ns"};
    for (size_t i = 0; i < 3; i++) {
      char name[40];
      snprintf(name, sizeof name, "%s_%s", names[way], ends[i]);
      all[i]->name = name;
      series_report(all[i]);
    }
  }
  wane_read_stats(&stats);
  report_count("left", stats.foreign_live);
  return (uint64_t)(rounds * ops);
}

/* ---- Cycles beside many that live ---- */

enum { LEVELS = 4, KIND_OBJECTS = 0, KIND_MAPPED, KINDS };

static char **things; /* managed: what holds them */
static char *region;  /* of adopted pages, each followed by a gap */
static size_t page;
static atomic_ulong released;

static size_t region_bytes(void) { return 2 * page * (size_t)count; }

/* One that a stray word has kept may be of an earlier region. */
static void range_release(void *addr, size_t size, void *arg) {
  (void)size;
  (void)arg;
  if ((uintptr_t)addr - (uintptr_t)region < region_bytes()) {
    atomic_fetch_add(&released, 1);
  }
}

static char *thing_new(int kind, size_t idx) {
  if (kind == KIND_OBJECTS) {
    return bench_alloc(OBJECT_BYTES);
  }
  if (what == FILES) {
    const char *data = wane_map_bytes(paths[0], NULL);
    if (data == NULL) {
      fail("wane_map_bytes");
    }
    return (char *)data + idx % FILE_BYTES;
  }
  char *range = region + 2 * idx * page;
  if (wane_adopt(range, page, range_release, NULL) != 0) {
    fail("wane_adopt");
  }
  return range + idx % page;
}

__attribute__((noinline)) static void things_make(int kind, size_t n) {
  things = bench_alloc((n + 1) * sizeof things[0]);
  for (size_t i = 0; i < n; i++) {
    things[i] = thing_new(kind, i);
  }
}

__attribute__((noinline)) static void things_drop(size_t n) {
  memset(things, 0, n * sizeof things[0]);
  things = NULL;
}

static void region_make(void) {
  region = mmap(NULL, region_bytes(), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) {
    fail("mmap");
  }
  atomic_store(&released, 0);
}

/* If a range is kept, so is the region. */
static void region_drop(size_t adopted) {
  if (atomic_load(&released) == adopted) {
    munmap(region, region_bytes());
  }
  region = NULL;
}

struct node {
  struct node *next;
  uintptr_t words[3]; /* no more than one in a tree */
};

static struct node *live;

static struct node *tree_new(long size) {
  struct node *node = bench_alloc(2 * sizeof(void *));
  if (size > 1) {
    node->next = tree_new(size / 2);
    node->words[0] = (uintptr_t)tree_new(size - 1 - size / 2);
  }
  return node;
}

static void heap_make(void) {
  if (heap == TREE) {
    live = tree_new(nodes);
  }
  for (long i = 0; heap > TREE && i < nodes; i++) {
    struct node *node = bench_alloc(sizeof *node);
    *node = (struct node){live, {1, 2, 3}};
    live = node;
  }
}

/* Lets the nodes point into the ranges, or to where there is none. */
static void heap_aim(size_t adopted) {
  uint64_t random = 1;
  bool into = heap == INTO && adopted > 0;
  uint32_t most = (uint32_t)(into ? adopted : (size_t)count);
  for (struct node *n = live; heap > LIST && n != NULL; n = n->next) {
    for (size_t i = 0; i < 3; i++) {
      size_t idx = random_below(&random, most);
      n->words[i] = (uintptr_t)(region + (2 * idx + !into) * page + 64);
    }
  }
}

static void heap_aim_at_nothing(void) {
  for (struct node *n = live; heap > LIST && n != NULL; n = n->next) {
    memset(n->words, 0, sizeof n->words);
  }
}

struct cycle {
  double ns;
  double stop_ns;
  double cpu_ns;
};

static struct cycle cycle_run(void) {
  struct wane_stats before = {.size = sizeof before};
  struct wane_stats after = {.size = sizeof after};
  wane_read_stats(&before);
  uint64_t start = now_ns();
  wane_collect();
  uint64_t end = now_ns();
  wane_read_stats(&after);
  return (struct cycle){(double)(end - start),
                        (double)(after.pause_total_ns - before.pause_total_ns),
                        (double)(after.gc_cpu_ns - before.gc_cpu_ns)};
}

enum { STOP, CYCLE, CPU, ADDED, ADDED_CPU, DROPPED, GONE, METRICS };

static const char *const metrics[] = {"stop",      "cycle",   "cpu", "added",
                                      "added_cpu", "dropped", "gone"};
static struct series measured[KINDS][LEVELS][METRICS];

/* The median of this round's collections. */
static double round_median(const struct series *series) {
  double values[ROUNDS_MAX];
  size_t n = (size_t)collections;
  memcpy(values, &series->ns_each[series->rounds - n], n * sizeof values[0]);
  return median(values, n);
}

static void level_run(int kind, int level, size_t n) {
  struct series *all = measured[kind][level];
  bool ranges = what == RANGES && kind == KIND_MAPPED;
  if (ranges) {
    region_make();
  }
  things_make(kind, n);
  heap_aim(n);
  clear_stack();
  wane_collect();
  for (long i = 0; i < collections; i++) {
    struct cycle cycle = cycle_run();
    series_add(&all[STOP], cycle.stop_ns);
    series_add(&all[CYCLE], cycle.ns);
    series_add(&all[CPU], cycle.cpu_ns);
  }
  const struct series *none = measured[kind][0];
  series_add(&all[ADDED],
             round_median(&all[CYCLE]) - round_median(&none[CYCLE]));
  series_add(&all[ADDED_CPU],
             round_median(&all[CPU]) - round_median(&none[CPU]));
  things_drop(n);
  heap_aim_at_nothing();
  clear_stack();
  uint64_t start = now_ns();
  series_add(&all[DROPPED], cycle_run().stop_ns);
  wane_drain(-1);
  series_add(&all[GONE], (double)(now_ns() - start));
  if (ranges) {
    region_drop(n);
  }
}

static void level_report(const char *kind, int level, struct series *all) {
  char name[60];
  for (int i = 0; i < METRICS; i++) {
    snprintf(name, sizeof name, "%s_%s_ns_%d", kind, metrics[i], level);
    all[i].name = name;
    series_report(&all[i]); /* sorts it */
  }
  snprintf(name, sizeof name, "%s_stop_max_ns_%d", kind, level);
  report_number(name, all[STOP].ns_each[all[STOP].rounds - 1]);
}

static uint64_t levels_run(void) {
  size_t n = (size_t)count;
  size_t sizes[LEVELS] = {0, n / 50, n / 5, n};
  int first = KIND_OBJECTS;
  if (heap != NONE) {
    sizes[1] = 1;
    sizes[2] = n / 10;
    first = KIND_MAPPED;
  }
  if (what == FILES) {
    files_make(1);
  }
  page = (size_t)sysconf(_SC_PAGESIZE);
  bench_cycles_off();
  heap_make();
  for (long round = -1; round < rounds; round++) { /* the first warms up */
    for (int level = 0; level < LEVELS; level++) {
      for (int kind = first; kind < KINDS; kind++) {
        level_run(kind, level, sizes[level]);
      }
    }
    if (round < 0) {
      memset(measured, 0, sizeof measured);
    }
  }
  report_stop();
  for (int level = 0; level < LEVELS; level++) {
    for (int kind = first; kind < KINDS; kind++) {
      level_report(kind == KIND_OBJECTS ? "objects" : whats[what], level,
                   measured[kind][level]);
    }
  }
  return (uint64_t)rounds;
}

int main(int argc, char **argv) {
  const struct option options[] = {
      {.name = "what", .value = &what, .words = whats},
      {.name = "heap", .value = &heap, .words = heaps},
      {.name = "count", .value = &count},
      {.name = "ops", .value = &ops},
      {.name = "threads", .value = &threads},
      {.name = "rounds", .value = &rounds},
      {.name = "collections", .value = &collections},
      {.name = "nodes", .value = &nodes},
      {0}};
  bench_init();
  read_options(argc, argv, options);
  if (count < 1 || ops < 1 || threads < 1 || threads > THREADS_MAX ||
      rounds < 1 || collections < 1 || nodes < 1 ||
      rounds * (what < FILES ? 1 : collections) > ROUNDS_MAX ||
      (heap != NONE && what != RANGES)) {
    options_fail(argv[0], options);
  }
  report_start("mapped", options);
  uint64_t check = what == SHARED ? shared_run()
                   : what == OWN  ? own_run()
                                  : levels_run();
  report_count("check", check);
  report_end();
  return 0;
}
