/*
 * From a code address to the name of its function, for reports: static
 * functions and those of programs that export nothing included, which dladdr
 * does not see.
 *
 * The dynamic linker tells which module an address lies in and by how much it
 * was moved; the names are read from the module's file: .symtab if it has
 * one, else .dynsym. The file is opened at each call, read in small pieces,
 * never mapped (it could be cut short under us), and nothing is kept: slow,
 * some hundred system calls, and free of state.
 *
 * What comes out:
 *   function                  the address is the function's first
 *   function+0x12 (module)    it lies further inside
 *   0x7f..78 (module+0x1678)  no name known; the offset is what addr2line and
 *                             objdump take, whether the module was moved or not
 *   0x7f..78                  in no module
 *
 * A function is only named if its size says that the address is in it; one
 * without a size (some assembly), if no other begins before the address and
 * its section reaches so far. So a stripped module gives no names of
 * neighbours. Of several names the one others can link with is taken, and of
 * those the one with fewer leading underscores.
 *
 * Failure: the file is gone, was replaced (its program headers or its notes,
 * with the build ID, are not those in memory) or is no ELF file: no name, but
 * still module and offset. Nothing else fails. errno is left alone.
 *
 * No malloc, no stdio stream, no lock of ours; the linker's own for a moment,
 * which dlopen does not hold while it runs constructors. So it may be called
 * anywhere but in a stop and in a signal handler.
 */
#ifndef WANE_BASE_SYMBOL_H
#define WANE_BASE_SYMBOL_H

#include <stddef.h>

/* Long names are cut to fit. */
#define WANE__SYMBOL_BYTES 320

/* Writes the text, cut to bytes (at least 1), with its end. */
void wane__symbol_describe(const void *address, char *out, size_t bytes);

#endif
