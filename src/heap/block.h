/*
 * Blocks: the arena's 32 KiB units, what is known of each, and the way from
 * any word to the object it points into.
 *
 * One range of addresses is reserved at start; the arena is its committed
 * front part, which only grows. Block i has two records in dense side arrays:
 *
 *   wane__block_map[i]   16 bytes, all that the marker needs: the start of
 *                        the group of blocks that i belongs to, its kind and
 *                        class, and where the group's mark bytes are;
 *   wane__blocks[i]      the rest, used by allocation and sweeping.
 *
 * A group is what serves one class: 1 to 8 blocks with slots in them, or all
 * the blocks of one large object. Its first block's record speaks for it.
 *
 *   FREE --take--> INSIDE --assign--> SMALL or LARGE, its others INSIDE
 *     ^                                    |
 *     '----------give---- INSIDE <--unassign--'
 *
 * Mark bytes: one for each slot, dense per group, outside the arena. 0 is a
 * free slot, anything else a colour (and, from marking to sweep, perhaps the
 * bit WANE__MARK_AWAITED beside the old one). There are two colours, and the
 * current one changes at the start of each cycle, so that nothing need be
 * cleared: after marking, a byte of the other colour is a dead object. While
 * marking runs beside the program new objects have the other colour, too. One
 * more byte behind the last slot stays 0 for addresses in the unused end of a
 * group.
 *
 * INV-block-1: the byte of a slot that holds an object, or that a thread may
 *   hand out next, is not 0.
 * INV-block-2: but while marking, a mark byte of the colour that is not current
 *   stands only in a group that has not been swept since marking ended (epoch
 *   differs).
 * INV-block-3: while block i is in a SMALL or LARGE group, map[i].head leads
 *   to the group's start; otherwise it is 0.
 * INV-block-4: block 0 is never used. The address of its first slot stands in
 *   the library's own data, which is scanned, and would keep an object there
 *   alive for ever.
 *
 * Who may touch what. A group's fields belong to whoever owns the group: the
 * thread whose cache holds it, the sweeper that took it from a list, or the
 * holder of the lock of the list it is on. While marking runs (in a stop, or
 * from the first stop of a cycle to its last) markers write the bytes of slots
 * that have the old colour, owners those of slots that are 0 or in a run of
 * theirs; a marker gets to one of the latter only by a word that looks like it.
 * No group is swept or taken out of use meanwhile, and one that comes into use
 * has its map entry written marks first, head last.
 */
#ifndef WANE_HEAP_BLOCK_H
#define WANE_HEAP_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "size_class.h"

struct wane_type;
struct wane__specials;
struct wane__waiting;

enum wane__kind {
  WANE__KIND_SCAN,  /* any aligned word may be a pointer */
  WANE__KIND_LEAF,  /* no pointers */
  WANE__KIND_TYPED, /* scanned by a layout, whose address ends the slot */
  WANE__KIND_COUNT
};

enum wane__block_state {
  WANE__BLOCK_FREE,
  WANE__BLOCK_SMALL,
  WANE__BLOCK_LARGE,
  WANE__BLOCK_INSIDE, /* not the first of its group; or in between */
  WANE__BLOCK_LOST,   /* its addresses may be another's (heap/outside.h) */
};

/* What a large object stands for, if it is not memory of the heap. */
enum wane__outside {
  WANE__OUTSIDE_NOT,
  WANE__OUTSIDE_FILE,    /* a file is mapped at its addresses */
  WANE__OUTSIDE_STANDIN, /* for pages elsewhere; nothing is at its own */
};

/* Written by the owner before the group's first slot is handed out. */
struct wane__block_map {
  uint64_t head;  /* group start | class << 4 | large << 3 | kind << 1 |
                     1, or 0 */
  uint8_t *marks; /* of the group */
};

struct wane__block {
  struct wane__block *next; /* on the list that holds the group or run */
  struct wane__block *prev; /* free runs only. lock: pages */
  uint32_t blocks;          /* in the group; in a free run, first and last */
  uint32_t epoch;           /* cycle in which the group was last swept */
  uint8_t state; /* enum wane__block_state. owner, written last; neighbours
                    read it relaxed, lock: pages */
  uint8_t kind;  /* enum wane__kind */
  uint8_t class;
  bool clean;         /* memory reads as zero: never touched, or given back */
  uint16_t live;      /* slots in use after the last sweep */
  uint8_t mark;       /* the one mark byte of a large object... */
  uint8_t mark_end;   /* ...and the 0 behind it */
  uint32_t free_tick; /* when it became free. lock: pages */
  bool is_wall;       /* of another space than the one before. lock: pages */
  uint8_t outside;    /* enum wane__outside */
  uint8_t ends;       /* of such an object: which have come. seq_cst */
  uint32_t ticket;    /* and its number (heap/outside.h) */
  size_t large_bytes; /* of the large object */
  union {
    const struct wane_type *large_type; /* if it is typed */
    uintptr_t stands_for;               /* a stand-in: the start of the pages */
  };
  struct wane__specials *specials; /* records of its objects, or NULL. lock:
                                      stripe (special/group.h) */
  struct wane__waiting *waiting;   /* what waits for its objects, or NULL.
                                      markers; owner (mark/ephemeron.h) */
};

/* What every word is compared with. Grouped in one cache line of its own. */
struct wane__arena {
  uintptr_t start;     /* const after init */
  uintptr_t committed; /* bytes in use from start. lock: pages; atomic */
  uintptr_t reserved;  /* bytes. const after init */
  uint8_t colour;      /* 1 or 2. STW only */
  uint8_t fresh;       /* the colour of new objects: while marking, that of what
                          is not marked yet. STW only */
  uint8_t dead;        /* the colour of what was found dead; 0 while marking,
                          when the other colour is not marked yet. STW only */
  uint32_t epoch;      /* number of the cycle. STW only */
} WANE_ALIGNED(WANE_CACHE_LINE);

extern struct wane__arena wane__arena;

/* Of a mark byte read while guarded: that of an object not found dead. */
WANE_INLINE_SCAN bool wane__mark_lives(uint8_t byte) {
  return byte != 0 && (byte & 3) != wane__arena.dead;
}

/* Marking is under way, beside the program. */
static inline bool wane__is_marking(void) { return wane__arena.dead == 0; }
extern struct wane__block_map *wane__block_map; /* const after init */
extern struct wane__block *wane__blocks;        /* const after init */

/* Reserves the address space; false with ENOMEM if not even the smallest
   useful range is to be had. Idempotent. */
bool wane__arena_init(void);
/* Extends the committed part by at least blocks. lock: pages. */
bool wane__arena_grow_locked(size_t blocks);
/* The same by addresses without memory behind them (heap/outside.h). */
bool wane__arena_grow_outside_locked(size_t blocks);

static inline size_t wane__block_idx(const struct wane__block *block) {
  return (size_t)(block - wane__blocks);
}

static inline uintptr_t wane__block_start(const struct wane__block *block) {
  return wane__arena.start + (wane__block_idx(block) << WANE__BLOCK_LOG2);
}

static inline uint8_t *wane__block_marks(const struct wane__block *block) {
  return wane__block_map[wane__block_idx(block)].marks;
}

static inline struct wane__block *wane__block_at(uintptr_t addr) {
  return &wane__blocks[(addr - wane__arena.start) >> WANE__BLOCK_LOG2];
}

/* Of a group in use: 1 if it is a large object. */
static inline size_t wane__block_slots(const struct wane__block *block) {
  return block->state == WANE__BLOCK_SMALL ? wane__classes[block->class].slots
                                           : 1;
}

/* Makes a free run of blocks a group of slots. False: no memory for marks. */
bool wane__block_assign_small(struct wane__block *block, enum wane__kind kind,
                              unsigned class);
void wane__block_assign_large(struct wane__block *block, enum wane__kind kind,
                              size_t bytes, const struct wane_type *type);
/* The same for an object that is not memory of the heap: a leaf. */
void wane__block_assign_outside(struct wane__block *block,
                                enum wane__outside sort, size_t bytes,
                                uintptr_t stands_for);
/* Takes a group out of use; its blocks are to be given to the free runs. */
void wane__block_unassign(struct wane__block *block);

/* Checks the INV-block rules for a group that the caller owns. */
void wane__block_check(const struct wane__block *block);

#define WANE__HEAD_USED 1u
#define WANE__HEAD_KIND_SHIFT 1
#define WANE__HEAD_LARGE (1u << 3)
#define WANE__HEAD_CLASS_SHIFT 4 /* also the log2 of a class's record */

/* An object as found from some address: its slot and mark byte. */
struct wane__found {
  uintptr_t base;
  uint8_t *mark;
  uint64_t head; /* of its group's map entry */
};

static inline unsigned wane__head_class(uint64_t head) {
  return (unsigned)(head >> WANE__HEAD_CLASS_SHIFT) & 127;
}

static inline enum wane__kind wane__head_kind(uint64_t head) {
  return (enum wane__kind)(head >> WANE__HEAD_KIND_SHIFT & 3);
}

static inline uintptr_t wane__head_start(uint64_t head) {
  return head & ~(uint64_t)(WANE__BLOCK_BYTES - 1);
}

/* The slot that addr lies in, whether it holds an object or not: the caller
   looks at the mark byte. addr - arena.start must be below arena.committed.
   False: the block is free. A large object's unused end is found as part of
   it; wane__object_find sorts that out. */
WANE_INLINE bool wane__block_resolve(uintptr_t addr, uintptr_t arena_start,
                                     const struct wane__block_map *map,
                                     struct wane__found *out) {
  const struct wane__block_map *entry =
      &map[(addr - arena_start) >> WANE__BLOCK_LOG2];
  /* pairs with the release in block_map_set: the marks are not older */
  uint64_t head = wane__load_acquire(&entry->head);
  if (head == 0) {
    return false;
  }
  uintptr_t start = wane__head_start(head);
  const struct wane__class *class = &wane__classes[wane__head_class(head)];
  uint64_t granule = (addr - start) >> WANE__GRANULE_LOG2;
  size_t idx = granule * class->reciprocal >> 32;
  out->base = start + idx * class->slot_bytes;
  out->mark = entry->marks + idx;
  out->head = head;
  return true;
}

/* The same for an address that is known to lie in a group. */
static inline struct wane__found wane__block_slot_of(uintptr_t addr) {
  struct wane__found found = {0};
  bool is_in_group =
      wane__block_resolve(addr, wane__arena.start, wane__block_map, &found);
  WANE_ASSERT(is_in_group, "INV-block-3: an address in use is in a group");
  return found;
}

/* The first block of the group that a found object lies in. */
static inline struct wane__block *
wane__group_of(const struct wane__found *found) {
  return wane__block_at(wane__head_start(found->head));
}

/* Where it lies in the arena: its base, but for pages that a stand-in stands
   for. */
static inline uintptr_t wane__found_slot(const struct wane__found *found) {
  return (found->head & WANE__HEAD_LARGE) != 0 ? wane__head_start(found->head)
                                               : found->base;
}

/* And where its user knows it to be. */
static inline uintptr_t wane__found_object(const struct wane__found *found) {
  return (found->head & WANE__HEAD_LARGE) != 0 &&
                 wane__group_of(found)->outside == WANE__OUTSIDE_STANDIN
             ? wane__group_of(found)->stands_for
             : found->base;
}

/* Bytes of the slot or of the large object. */
WANE_INLINE size_t wane__found_bytes(const struct wane__found *found) {
  if (WANE_UNLIKELY((found->head & WANE__HEAD_LARGE) != 0)) {
    return wane__group_of(found)->large_bytes;
  }
  return wane__classes[wane__head_class(found->head)].slot_bytes;
}

/* Where the part of it ends that its user has: a pointer beyond is not one
   to this object. */
WANE_INLINE size_t wane__found_limit(const struct wane__found *found) {
  size_t bytes = wane__found_bytes(found);
  return wane__head_kind(found->head) == WANE__KIND_TYPED &&
                 (found->head & WANE__HEAD_LARGE) == 0
             ? bytes - sizeof(struct wane_type *)
             : bytes;
}

/* A typed slot's layout; NULL as long as its allocation is not complete. */
static inline const struct wane_type *
wane__found_type(const struct wane__found *found) {
  unsigned class = wane__head_class(found->head);
  if (class == WANE__CLASS_LARGE) {
    return wane__group_of(found)->large_type;
  }
  const struct wane_type **last =
      (const struct wane_type **)(found->base +
                                  wane__classes[class].slot_bytes);
  return last[-1];
}

#endif
