/* A module that holds pointers: in its writable data, and in thread-locals of
   both sorts. Used by tests/api/dlopen.c. */
#include <stddef.h>

#define HOLDS 64

void **holder_data(size_t *count);
void **holder_tls(size_t *count);

static void *data[HOLDS] = {(void *)data}; /* in .data */
static _Thread_local void *tls[HOLDS];

void **holder_data(size_t *count) {
  *count = HOLDS;
  return data;
}

void **holder_tls(size_t *count) {
  *count = HOLDS;
  return tls;
}
