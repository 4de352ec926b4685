/*
 * tests/install/consumer.c: a user's smallest program. A thread builds a list
 * long enough for several cycles; the main thread counts it.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <wane.h>

enum { LENGTH = 1000, GARBAGE_BYTES = 100000 };

struct item {
  struct item *next;
  char *name;
};

static void *build(void *arg) {
  struct item **head = (struct item **)arg;
  for (int i = 0; i < LENGTH; i++) {
    struct item *item = wane_new(struct item);
    item->next = *head;
    item->name = wane_strdup("item");
    *head = item;
    (void)wane_alloc_leaf(GARBAGE_BYTES);
  }
  return NULL;
}

int main(void) {
  static struct item *head;
  pthread_t thread;
  int count = 0;
  if (pthread_create(&thread, NULL, build, &head) != 0) {
    return 1;
  }
  pthread_join(thread, NULL);
  wane_collect();
  for (struct item *item = head; item != NULL; item = item->next) {
    count += strcmp(item->name, "item") == 0;
  }
  if (count != LENGTH) {
    fprintf(stderr, "%d items, not %d\n", count, LENGTH);
    return 1;
  }
  return 0;
}
