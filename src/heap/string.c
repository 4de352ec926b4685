/* Managed strings: leaf objects, as their bytes are never pointers. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../base/check.h"

static char *string_copy(const char *s, size_t length) {
  char *copy = wane_alloc_leaf(length + 1);
  if (copy != NULL) {
    memcpy(copy, s, length);
  }
  return copy;
}

WANE_PUBLIC char *wane_strdup(const char *s) {
  if (s == NULL) {
    wane__fatal("wane_strdup", "s is NULL");
  }
  return string_copy(s, strlen(s));
}

WANE_PUBLIC char *wane_strndup(const char *s, size_t n) {
  if (s == NULL) {
    wane__fatal("wane_strndup", "s is NULL");
  }
  return string_copy(s, strnlen(s, n));
}

WANE_PUBLIC char *wane_printf(const char *format, ...) {
  if (format == NULL) {
    wane__fatal("wane_printf", "format is NULL");
  }
  char buffer[256];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(buffer, sizeof buffer, format, args);
  va_end(args);
  if (length < 0) {
    return NULL;
  }
  if ((size_t)length < sizeof buffer) {
    return string_copy(buffer, (size_t)length);
  }
  char *string = wane_alloc_leaf((size_t)length + 1);
  if (string != NULL) {
    va_start(args, format);
    vsnprintf(string, (size_t)length + 1, format, args);
    va_end(args);
  }
  return string;
}
