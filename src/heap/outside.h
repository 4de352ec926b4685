/*
 * Objects that are not memory of the heap: files mapped at addresses of the
 * arena, and stand-ins for adopted pages elsewhere (heap/foreign.h). Either is
 * a large leaf object in a part of the arena of its own (heap/extent.h), so
 * marking, weak pointers, cleanups and sweeping treat it as any other.
 *
 *   take --> (the file is mapped there) --> publish --> ... dead
 *                                                         |
 *       its sweep: no word leads to it any more --> SWEPT |  in any order;
 *       a cleanup, or a close: its memory is gone --> ENDED  the second one
 *                                                            gives the
 *                                                            addresses back
 *
 * So a file that was closed by hand keeps its addresses until nothing points
 * to them, and a dead one until it is unmapped. Cleanups know an object by
 * name, its place and its ticket, which is another each time that the place is
 * taken.
 *
 * Memory. Free addresses are reserved without access (PROT_NONE), so that
 * neighbours are one mapping to the kernel. A mapped file takes whole blocks,
 * pages beyond its end included, and so is one mapping and no more. Should
 * the system not let us reserve the addresses again, they are lost: no file
 * is, and never again a group's.
 *
 * INV-outside-1: addresses are free only when nothing is mapped there and no
 *   map entry leads to them.
 */
#ifndef WANE_HEAP_OUTSIDE_H
#define WANE_HEAP_OUTSIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"

/* What there is of either sort; what came since the last flip; and when that
   makes a cycle due. All relaxed. */
struct wane__outside_meter {
  uint64_t live; /* those whose memory is not gone */
  uint64_t file_bytes;
  uint64_t adopted_bytes;
  uint64_t mapped;              /* files, in all */
  uint64_t unmapped;            /* of these */
  uint64_t dying;               /* swept, and memory not gone */
  uint64_t dying_adopted_bytes; /* of these */
  uint64_t since_flip; /* files; the system may have limits for ranges, too,
                          but several may be one mapping to it */
  uint64_t since_flip_blocks;
  uint64_t since_flip_adopted_bytes;
  uint64_t trigger;
  uint64_t trigger_blocks;
  uint64_t trigger_adopted_bytes;
};
extern struct wane__outside_meter wane__outside_meter;

/* Addresses for bytes, off all lists; NULL with ENOMEM. Guarded. */
struct wane__block *wane__outside_take(size_t bytes);
/* Gives them back unpublished; nothing is mapped there. Guarded. */
void wane__outside_give(struct wane__block *block);
/* Makes it an object; the caller holds its address. Guarded. */
void wane__outside_publish(struct wane__block *block, enum wane__outside sort,
                           size_t bytes, uintptr_t stands_for);

/* By which a cleanup knows it; no address. */
uint64_t wane__outside_name(const struct wane__block *block);
/* NULL: its place has become another's. Only one who may end it asks. */
struct wane__block *wane__outside_find(uint64_t name);
/* Its memory is gone, and if is_lost, its addresses, too. Guarded. */
void wane__outside_end(struct wane__block *block, bool is_lost);
/* It is dead and swept. The caller owns it. */
void wane__outside_swept(struct wane__block *block);

/* In the child of fork: counts anew. An object that is in the hands of a thread
   of the parent, so that no cleanup of it is registered, is ended when it is
   swept. */
void wane__outside_settle(bool (*has_cleanup)(const struct wane__block *));

/* What came since the flip makes a cycle due: for the number of mappings or for
   addresses, which are limits of the system; for bytes adopted. */
bool wane__outside_is_due(void);
bool wane__outside_bytes_are_due(void);
/* A cycle that was due could not be run: not again at every turn. */
void wane__outside_put_off(void);
/* Counts from 0. STW. */
void wane__outside_flip_stw(void);

#endif
