/* A module that allocates itself, and keeps what it made in its data. Used by
   tests/api/dlopen.c. */
#include <stddef.h>
#include <wane.h>

int caller_run(void);

static struct item {
  struct item *next;
  long number;
} * list;

/* 0 if all is well. */
int caller_run(void) {
  for (long i = 0; i < 1000; i++) {
    struct item *item = wane_new(struct item);
    if (item == NULL) {
      return 1;
    }
    item->next = list;
    item->number = i;
    list = item;
    if (i % 250 == 0) {
      wane_collect();
    }
  }
  long number = 999;
  for (const struct item *item = list; item != NULL; item = item->next) {
    if (item->number != number--) {
      return 2;
    }
  }
  list = NULL;
  return number == -1 ? 0 : 3;
}
