/*
 * logfile: an open text file, read line by line. A small library type with an
 * explicit close, and a cleanup as a safety net for whoever forgets it.
 *
 * struct logfile is the outer object. It may be copied with = like any struct,
 * and all copies are the same open file. What they share is the inner object,
 * struct logfile_source, which callers cannot copy since they do not know what
 * is in it. The safety net hangs on the inner object: on the outer one it
 * would close the file as soon as the original died, however many copies were
 * still being read.
 *
 * The lines lie in the collected heap and are never overwritten: keep any of
 * them for as long as you like, also after the close. One thread at a time
 * reads or closes a file.
 */
#ifndef LOGFILE_H
#define LOGFILE_H

#include <stdbool.h>
#include <stddef.h>

struct logfile_source;

struct logfile {
  const char *path;
  struct logfile_source *source;
};

struct logfile_line {
  const char *text; /* without the newline; not terminated by a NUL */
  size_t length;
  size_t number; /* of the first: 1 */
};

/* Opens a file for reading. NULL with errno; a directory is EISDIR. When file
   descriptors run out, those of forgotten files are looked for first. A macro,
   so that the safety net knows the line that has to close the file. */
#define logfile_open(path) logfile_open_at((path), __FILE__, __LINE__)
struct logfile *logfile_open_at(const char *path, const char *file, int line);

/* Gives the next line. False at the end of the file, with errno 0, and on
   errors: EBADF after the close. */
bool logfile_next(struct logfile *log, struct logfile_line *line);

/* Closes the file at once, for all copies. A second close does nothing. */
void logfile_close(struct logfile *log);

#endif
