/*
 * What the process has open and mapped, by the system's own account.
 */
#ifndef PROOF_H
#define PROOF_H

#include <stdbool.h>

/* Notes which descriptors are open, and how much of what lies beneath dir is
   mapped (of / or /usr, the program itself). dir is a path without links in it.
   False with errno: /proc cannot be read, or no memory. */
bool proof_begin(const char *dir);

/* True if no file beneath dir is mapped and no descriptor is open that were not
   so at the beginning. Names the others on stderr. */
bool proof_end(void);

#endif
