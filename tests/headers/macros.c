/*
 * tests/headers/macros.c: every public macro at work, so that its expansion is
 * compiled in each language; tests/headers/headers does it. Never run.
 */
#include <wane.h>

struct node {
  struct node *left;
  struct node *right;
  void *slot[2];
};

struct text {
  size_t length;
  char bytes[1];
};

WANE_TYPE(node_type, struct node, left, right, slot[0], slot[1]);
WANE_TYPE(pair_type, struct node, left);

void *wane_test_macros(size_t n);

void *wane_test_macros(size_t n) {
  struct node *node = wane_new(struct node);
  struct node *nodes = wane_new_array(struct node, n);
  int *number = wane_new_leaf(int);
  int *numbers = wane_new_leaf_array(int, n);
  struct text *text = wane_new_flex(struct text, bytes, n);
  node->left = nodes;
  node->right = (struct node *)wane_alloc_typed(&node_type, n);
  node->slot[0] = wane_alloc_typed(&pair_type, 1);
  node->slot[1] = text;
  *number = numbers[0];
  return node;
}
