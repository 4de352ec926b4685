/* The one way in which the library speaks on stderr: a line is formatted in a
   buffer on the stack and written with one write(2), so that lines of several
   threads do not mix and nothing is allocated. */
#define _GNU_SOURCE
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void check_write(const char *prefix, const char *function,
                        const char *format, va_list args) {
  char line[1024];
  int n = snprintf(line, sizeof line, "wane: %s%s%s", prefix, function,
                   function[0] != '\0' ? ": " : "");
  size_t used = (size_t)n;
  int m = vsnprintf(line + used, sizeof line - used - 1, format, args);
  used += m < 0 ? 0 : (size_t)m;
  if (used > sizeof line - 2) {
    used = sizeof line - 2;
  }
  line[used++] = '\n';
  /* no point of cancellation; and there is nobody left to tell of errors */
  (void)syscall(SYS_write, STDERR_FILENO, line, used);
}

void wane__fatal(const char *function, const char *format, ...) {
  va_list args;
  va_start(args, format);
  check_write("", function, format, args);
  va_end(args);
  abort();
}

void wane__internal(const char *format, ...) {
  va_list args;
  va_start(args, format);
  check_write("internal: ", "", format, args);
  va_end(args);
  abort();
}

void wane__log(const char *format, ...) {
  va_list args;
  va_start(args, format);
  check_write("", "", format, args);
  va_end(args);
}
