/*
 * bench/binary_trees.c: the benchmark game's binary trees: many short-lived
 * trees of 16-byte nodes beside one that lives throughout.
 *
 *   binary_trees [--depth N] [--threads T]
 *
 * With T > 1 every thread does the whole work by itself at the same time, so
 * T threads do T times as much. The check (nodes counted, all threads) must
 * be the same for every peer.
 */
/* peers: wane bdwgc malloc mimalloc */
#include "shim.h"

#include <pthread.h>

#include "report.h"

enum { MIN_DEPTH = 4, MAX_THREADS = 256 };

struct node {
  struct node *left;
  struct node *right;
};

static long depth = 18;
static long threads = 1;

static struct node *tree_new(long levels) {
  struct node *node = bench_alloc_init(sizeof *node);
  if (levels > 0) {
    node->left = tree_new(levels - 1);
    node->right = tree_new(levels - 1);
  } else {
    node->left = NULL;
    node->right = NULL;
  }
  return node;
}

static uint64_t tree_count(const struct node *node) {
  if (node->left == NULL) {
    return 1;
  }
  return 1 + tree_count(node->left) + tree_count(node->right);
}

static void tree_free(struct node *node) {
#if BENCH_COLLECTED
  (void)node;
#else
  if (node->left != NULL) {
    tree_free(node->left);
    tree_free(node->right);
  }
  bench_free(node);
#endif
}

static uint64_t count_one(long levels) {
  struct node *tree = tree_new(levels);
  uint64_t count = tree_count(tree);
  tree_free(tree);
  return count;
}

/* The classic: a stretch tree, a long-lived tree, then per depth the number
   of trees that makes the same number of nodes. */
static void *run_trees(void *result) {
  long max = depth > MIN_DEPTH + 2 ? depth : MIN_DEPTH + 2;
  uint64_t check = count_one(max + 1);
  struct node *lasting = tree_new(max);
  for (long levels = MIN_DEPTH; levels <= max; levels += 2) {
    long trees = 1L << (max - levels + MIN_DEPTH);
    for (long i = 0; i < trees; i++) {
      check += count_one(levels);
    }
  }
  check += tree_count(lasting);
  tree_free(lasting);
  *(uint64_t *)result = check;
  return NULL;
}

static uint64_t run_threads(void) {
  static uint64_t results[MAX_THREADS];
  pthread_t ids[MAX_THREADS] = {0};
  uint64_t check = 0;
  for (long i = 1; i < threads; i++) {
    if (pthread_create(&ids[i], NULL, run_trees, &results[i]) != 0) {
      abort();
    }
  }
  run_trees(&results[0]);
  for (long i = 1; i < threads; i++) {
    pthread_join(ids[i], NULL);
  }
  for (long i = 0; i < threads; i++) {
    check += results[i];
  }
  return check;
}

int main(int argc, char **argv) {
  const struct option options[] = {{.name = "depth", .value = &depth},
                                   {.name = "threads", .value = &threads},
                                   {0}};
  uint64_t check;
  bench_init();
  read_options(argc, argv, options);
  if (threads < 1 || threads > MAX_THREADS || depth > 30) {
    options_fail(argv[0], options);
  }
  report_start("binary_trees", options);
  check = run_threads();
  report_stop();
  report_count("check", check);
  report_end();
  return 0;
}
