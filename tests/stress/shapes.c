/*
 * Graphs of the shapes that are hard for a marker: wide arrays and arrays of
 * arrays, long lists, large typed arrays, everything pointing to one object.
 * With a mark stack of 8192 words they overflow it.
 *
 * shapes [--seed N] [--seconds S]
 */
/* run: overflow WANE_OPTIONS=mark_stack=8192,mark_threads=1,verify=1 */
/* run: overflow4 WANE_OPTIONS=mark_stack=8192,mark_threads=4,verify=1 */
/* run: four_markers WANE_OPTIONS=mark_threads=4,verify=1 */
/* run: poison WANE_OPTIONS=poison=1,background=0 */
/* run: small_pages WANE_OPTIONS=huge_pages=0,idle_ms=100 */
#include "support/test.h"

#define WIDE 60000

static struct test_args args;
static struct test_random random_state;

struct node {
  struct node *links[3];
  uint64_t tag;
};
WANE_TYPE(node_type, struct node, links[0], links[1], links[2]);

static struct node *node_new(uint64_t tag) {
  struct node *node = test_below(&random_state, 2) == 0
                          ? wane_new(struct node)
                          : wane_alloc_typed(&node_type, 1);
  require(node != NULL);
  node->tag = ~tag;
  return node;
}

TEST_ROOT void *held;

/* An array of arrays of nodes. */
static void wide_arrays(void *unused) {
  (void)unused;
  size_t rows = 40;
  struct node ***table = wane_new_array(struct node **, rows);
  held = table;
  for (size_t r = 0; r < rows; r++) {
    size_t count = r % 8 == 0 ? WIDE / 4 : 500 + r;
    table[r] = wane_new_array(struct node *, count + 1);
    for (size_t i = 0; i < count; i++) {
      table[r][i] = node_new(r * WIDE + i);
    }
  }
  wane_collect();
  for (size_t r = 0; r < rows; r++) {
    for (size_t i = 0; table[r][i] != NULL; i++) {
      require(~table[r][i]->tag == r * WIDE + i);
    }
  }
}

static void long_list(void *unused) {
  (void)unused;
  struct node *head = NULL;
  for (uint64_t i = 0; i < 200000; i++) {
    struct node *node = node_new(i);
    node->links[i % 3] = head;
    head = node;
    held = head;
  }
  wane_collect();
  for (uint64_t i = 200000; i-- > 0;) {
    require(~head->tag == i);
    head = head->links[i % 3];
  }
}

/* One typed array larger than any mark stack here, shuffled links. */
static void large_typed_array(void *unused) {
  (void)unused;
  struct node *array = wane_alloc_typed(&node_type, WIDE);
  held = array;
  for (size_t i = 0; i < WIDE; i++) {
    array[i].tag = ~(uint64_t)i;
    array[i].links[0] = node_new(i);
    array[i].links[1] = &array[test_below(&random_state, WIDE)];
    array[i].links[2] = array[i].links[0];
  }
  wane_collect();
  for (size_t i = 0; i < WIDE; i++) {
    require(~array[i].tag == i && ~array[i].links[0]->tag == i);
  }
}

/* Small objects, each as full of links as a mark stack is of words. */
static void full_nodes(void *unused) {
  (void)unused;
  enum { NODES = 60, LINKS = 4000 };
  void ***nodes = wane_new_array(void **, NODES);
  held = nodes;
  for (size_t n = 0; n < NODES; n++) {
    nodes[n] = wane_new_array(void *, LINKS);
    for (size_t i = 0; i < LINKS; i++) {
      nodes[n][i] = i % 100 == 0
                        ? (void *)node_new(n)
                        : (void *)nodes[test_below(&random_state, n + 1)];
    }
  }
  wane_collect();
  for (size_t n = 0; n < NODES; n++) {
    for (size_t i = 0; i < LINKS; i += 100) {
      require(~((struct node *)nodes[n][i])->tag == n);
    }
  }
}

/* A random graph that is held by one node and walked at random. */
static void random_graph(void *unused) {
  (void)unused;
  enum { NODES = 100000 };
  struct node **all = wane_new_array(struct node *, NODES);
  for (size_t i = 0; i < NODES; i++) {
    all[i] = node_new(i);
  }
  for (size_t i = 1; i < NODES; i++) { /* a tree, and links across */
    struct node *parent = all[(i - 1) / 2];
    parent->links[(i - 1) % 2] = all[i];
    parent->links[2] = all[test_below(&random_state, NODES)];
  }
  held = all[0];
  wane_keep_alive(all);
  all = NULL;
  test_scrub();
  wane_collect();
  const struct node *node = held;
  for (int i = 0; i < 100000; i++) {
    uint64_t tag = ~node->tag;
    require(tag < NODES);
    size_t way = test_below(&random_state, 3);
    const struct node *next = node->links[way];
    require(next == NULL || way == 2 || ~next->tag == 2 * tag + 1 + way);
    node = next != NULL ? next : held;
  }
}

static void check_shape(void (*shape)(void *)) {
  random_state.state = args.seed;
  test_apart(shape, NULL);
  held = NULL;
  assert_true(test_live_bytes() < 2u << 20);
}

static void wide_arrays_are_kept_and_let_go(void **state) {
  (void)state;
  check_shape(wide_arrays);
}

static void long_lists_are_kept_and_let_go(void **state) {
  (void)state;
  check_shape(long_list);
}

static void large_typed_arrays_are_kept_and_let_go(void **state) {
  (void)state;
  check_shape(large_typed_array);
}

static void full_nodes_are_kept_and_let_go(void **state) {
  (void)state;
  check_shape(full_nodes);
}

static void random_graphs_are_kept_and_let_go(void **state) {
  (void)state;
  double end = test_now() + args.seconds;
  do {
    check_shape(random_graph);
    args.seed++;
  } while (test_now() < end);
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 0);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wide_arrays_are_kept_and_let_go),
      cmocka_unit_test(long_lists_are_kept_and_let_go),
      cmocka_unit_test(large_typed_arrays_are_kept_and_let_go),
      cmocka_unit_test(full_nodes_are_kept_and_let_go),
      cmocka_unit_test(random_graphs_are_kept_and_let_go),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
