/*
 * wane/mapped.h: files in memory, and memory that is not the heap's, kept as
 * long as something points into them.
 *
 * A mapped file is a managed object of its own: its bytes lie among the heap's
 * addresses, so that any pointer into them, from a root or from a managed
 * object, keeps them mapped; no wrapper need be held. They are not scanned for
 * pointers. wane_base and wane_size know them, and weak pointers, cleanups,
 * finalizers, ephemerons and weak keys may be made for them as for any other
 * object. When the last pointer is gone, a cleanup of the library's unmaps the
 * file, on one of its workers: after wane_collect and wane_drain it is done.
 *
 * wane_shutdown(WANE_RUN_CLEANUPS) unmaps all files last, whoever still has a
 * pointer into them. Files that say they are empty though they can be read, as
 * in /proc, are empty here.
 *
 * The bytes are read-only, and what the file holds: a change to the file may
 * be seen through them, and reading behind the end of a file that was cut
 * shorter meanwhile raises SIGBUS, as with any mmap. Replace files (write
 * another, then rename) rather than write to them. No descriptor is held.
 *
 * Mapped and adopted bytes are not heap (wane_stats counts them in
 * foreign_bytes), but they make cycles come: mappings, by how many the system
 * allows (vm.max_map_count) and by address space; adopted bytes as if they were
 * heap. So a program that opens files in a loop runs out of neither. Of the
 * mappings that the system allows, files that are held can take half; beyond
 * that, opening may fail.
 *
 * Errors. NULL with the errno of stat, open or mmap: ENOENT, EACCES, EMFILE,
 * ENFILE, ELOOP, ...; EFAULT: path is NULL; EISDIR: a directory; ENODEV:
 * neither a directory nor a regular file (a FIFO is not waited for); ENOMEM: no
 * memory, no address space, or too many mappings even after a collection.
 * Nothing is left open or mapped then. All functions may be called from any
 * thread and from callbacks.
 */
#ifndef WANE_MAPPED_H
#define WANE_MAPPED_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A mapped file, itself a managed object that keeps its bytes mapped. Of an
   empty file, size is 0 and data some address that is not NULL. Neither member
   is the caller's to change. */
struct wane_mapped {
  const void *data;
  size_t size; /* bytes of the file when it was opened */
};

/* Maps a file, for this call alone. */
struct wane_mapped *wane_mapped_open(const char *path);

/* The mapping of a file that somebody holds already, by its struct or by a
   pointer into its bytes, or else a new one: however many threads ask at once,
   the file is mapped once. Which file it is, is told by device, inode, size and
   time of modification (to the nanosecond, if the file system has that): so
   other spellings of the path and hard links share, and a file that was
   replaced or written to is mapped anew, while those who hold the old one keep
   it. All who hold it share one struct. */
struct wane_mapped *wane_mapped_open_shared(const char *path);

/* Unmaps a file now that was opened with wane_mapped_open: data is NULL and
   size 0 from then on, and pointers into the bytes must not be used any more
   (they raise SIGSEGV; nothing else is placed there while any is left, and
   until then wane_base and wane_size know the bytes that were there). Of a
   shared mapping the caller gives up his claim, which is his pointer: it stays
   as it is for the others, and goes when nobody points to it any more. Closing
   twice is harmless, and so is NULL. Fatal: m is anything else but what the
   two functions above returned. */
void wane_mapped_close(struct wane_mapped *m);

/* Maps a file without a struct: returns its first byte, and in size, if that is
   not NULL, how many there are. Of an empty file, some address that is not
   NULL. */
const void *wane_map_bytes(const char *path, size_t *size);

/* Hands pages that the program has mapped (mmap, memfd, shared memory, a
   driver) to the collector: they live while any root or managed object points
   into [addr, addr + size). Some time after that release(addr, size, arg) runs,
   once, as a cleanup does; when it begins, the range is the program's again.
   release may be NULL: nothing is to be done. arg, if it is managed, lives
   until release has returned. The pages are not scanned; wane_base of a pointer
   into them gives addr. They cannot be taken back but by dying.

   0; or -1 and nothing changed, with EINVAL: addr is NULL or not aligned to a
   page, size is 0 or no multiple of a page, the range wraps around, or overlaps
   one that is adopted already or the collector's own addresses, arg points into
   it (it would never die); or ENOMEM. */
int wane_adopt(void *addr, size_t size,
               void (*release)(void *addr, size_t size, void *arg), void *arg);

#ifdef __cplusplus
}
#endif

#endif
