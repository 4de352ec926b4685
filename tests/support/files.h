/*
 * For tests of mapped files: files whose bytes tell which file they are, and
 * what the process has mapped and open.
 *
 * Files lie in a directory of the test's own, which is the working directory,
 * so that they are named without a path, in children too.
 */
#ifndef WANE_TEST_FILES_H
#define WANE_TEST_FILES_H

#include "lives.h"

/* ---- Files ---- */

/* Makes the directory and enters it; removes it with all that is in it. The
   second does so only in the process that called the first. */
void files_begin(void);
void files_end(void);

/* Makes or overwrites a file of size bytes, which are those of the number. */
void file_make(const char *name, uint64_t number, size_t size);
/* Makes another file and puts it in the place of this one. */
void file_replace(const char *name, uint64_t number, size_t size);
/* Makes a file of so many bytes that takes no room. False: the file system
   has no such files. */
bool file_make_sparse(const char *name, size_t size);
/* Are these the bytes of the number, from byte offset on? */
bool file_matches(const void *bytes, size_t size, uint64_t number,
                  size_t offset);
/* Writes the bytes of the number there. */
void file_fill(void *bytes, size_t size, uint64_t number);

/* ---- Mappings and descriptors, as the system counts them ---- */

/* Mappings of a file of the directory, NULL: of all. Also when it was deleted
   or replaced since. */
size_t maps_of(const char *name);
/* Mappings whose file name begins so. */
size_t maps_named(const char *begin);
size_t maps_total(void);
/* How many mappings the system allows. */
size_t maps_allowed(void);
/* Without those that the library keeps from its start on, or opens later if it
   could not then: two at most. */
size_t descriptors_open(void);

/* After test_settle: the library's numbers are those of the system. What is
   mapped of the directory is mapped by the library alone. */
void maps_require_counted(void);

/* Is the page readable? Asks the system, not the page. */
bool is_readable(const void *address);

#endif
