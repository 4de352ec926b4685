/*
 * Pools: records with numbers, from which handles are made.
 *
 * A record is found by its index in constant time, keeps its address as long
 * as the process runs, and is used again after it was given back. A handle is
 * index | generation << 32; giving a record back adds one to its generation,
 * so that no handle from before fits it any more, however late it comes. A
 * record whose generation would wrap is never used again (SEMANTICS D7, S1).
 * Index 0 is not used: the handle 0 is none.
 *
 * Records lie in chunks of 1024, in the collector's own memory, unscanned. A
 * pool with arguments has a word for each record besides, and these words lie
 * together, at the head of the chunk, so that marking can scan them as one
 * range: they are roots. Chunks in which no argument points into the heap are
 * not scanned: a flag is set with the first, and taken back when a stop finds
 * none.
 *
 * Free records are handed out and taken back in chains; whoever needs many
 * keeps a supply under a lock of its own (struct wane__pool_supply).
 *
 * INV-pool-1: a record's generation only grows, by one each time it is given
 *   back, before it can be handed out again.
 *
 * When memory runs out, wane__pool_take says so with ENOMEM; giving back
 * needs none.
 */
#ifndef WANE_SPECIAL_POOL_H
#define WANE_SPECIAL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/spin.h"

#define WANE__POOL_CHUNK_LOG2 10
#define WANE__POOL_CHUNK (1u << WANE__POOL_CHUNK_LOG2)
/* Two bits of an index are left to its users. */
#define WANE__POOL_INDEX_BITS 30

/* How every record begins. */
struct wane__pool_head {
  uint32_t generation; /* atomic: release with the pool's users' protocol */
  uint32_t next;       /* in a chain: of free records, of a queue */
};

struct wane__pool_chunk {
  char *records;       /* behind the arguments. const once the chunk counts */
  uint32_t is_managed; /* an arg may point into the heap. relaxed; STW */
};

struct wane__pool {
  struct wane__spin lock;
  uint32_t record_bytes;           /* const */
  bool has_args;                   /* const */
  uint32_t chunk_count;            /* lock: lock; acquire */
  uint32_t chunk_max;              /* lock: lock */
  uint32_t free_first;             /* a chain. lock: lock */
  uint32_t fresh;                  /* the next index never used. lock: lock */
  uint32_t chunks_ready;           /* entries with memory. lock: lock */
  uint32_t tidied;                 /* the last chunk that was. STW */
  struct wane__pool_chunk *chunks; /* const once there is one */
};

#define WANE__POOL_INIT(bytes, args)                                           \
  {                                                                            \
    .lock = WANE__SPIN_INIT(WANE__RANK_POOL), .record_bytes = (bytes),         \
    .has_args = (args)                                                         \
  }

/* Some free records beside a lock that their user holds anyway. */
struct wane__pool_supply {
  uint32_t first; /* a chain, or 0 */
  uint32_t count; /* in it */
};

/* Records on their way back. Zero is empty. */
struct wane__pool_chain {
  uint32_t first;
  uint32_t last;
  uint32_t count;
};

/* Fills an empty supply; false with ENOMEM. */
bool wane__pool_refill(struct wane__pool *pool,
                       struct wane__pool_supply *supply);
/* Gives the records of a chain back, and empties it. */
void wane__pool_give(struct wane__pool *pool, struct wane__pool_chain *chain);

static inline void *wane__pool_at(const struct wane__pool *pool,
                                  uint32_t index) {
  return pool->chunks[index >> WANE__POOL_CHUNK_LOG2].records +
         (size_t)(index & (WANE__POOL_CHUNK - 1)) * pool->record_bytes;
}

/* Takes a record; 0 with ENOMEM. Of what is in it only the head is known: its
   generation, which is not 0. */
static inline uint32_t wane__pool_take(struct wane__pool *pool,
                                       struct wane__pool_supply *supply) {
  if (WANE_UNLIKELY(supply->first == 0) && !wane__pool_refill(pool, supply)) {
    return 0;
  }
  uint32_t index = supply->first;
  struct wane__pool_head *head = wane__pool_at(pool, index);
  WANE_CHECK(head->generation != 0, "INV-pool-1: a worn-out record is free");
  supply->first = head->next;
  supply->count--;
  head->next = 0;
  return index;
}

/* The same for an index from outside, which may be any number: NULL. */
static inline void *wane__pool_find(const struct wane__pool *pool,
                                    uint32_t index) {
  /* pairs with the release in pool_add_chunk */
  uint32_t chunks = wane__load_acquire(&pool->chunk_count);
  return (index >> WANE__POOL_CHUNK_LOG2) < chunks ? wane__pool_at(pool, index)
                                                   : NULL;
}

/* All handles to the record are void from here on; it goes to the chain,
   unless it is worn out. */
void wane__pool_retire(struct wane__pool *pool, uint32_t index,
                       struct wane__pool_chain *chain);

static inline uint64_t wane__pool_handle(const struct wane__pool_head *head,
                                         uint32_t index) {
  return (uint64_t)head->generation << 32 | index;
}

/* A record's argument, in front of the chunk's records. */
static inline uintptr_t *wane__pool_arg_at(const struct wane__pool *pool,
                                           uint32_t index) {
  char *records = pool->chunks[index >> WANE__POOL_CHUNK_LOG2].records;
  return (uintptr_t *)(void *)records - WANE__POOL_CHUNK +
         (index & (WANE__POOL_CHUNK - 1));
}
static inline uintptr_t wane__pool_arg(const struct wane__pool *pool,
                                       uint32_t index) {
  return wane__load_relaxed(wane__pool_arg_at(pool, index));
}
void wane__pool_set_arg(struct wane__pool *pool, uint32_t index,
                        uintptr_t value);

/* Visits the arguments of all chunks that have managed ones. STW, or while
   marking: what is set meanwhile is in the grey log (heap/grey.h). */
void wane__pool_visit_args(struct wane__pool *pool,
                           void (*visit)(void *ctx, uintptr_t start,
                                         uintptr_t end, bool is_copy),
                           void *ctx);
/* Looks at so many chunks, those after the last that were: one without any is
   not visited from now on. STW. */
void wane__pool_tidy_args_stw(struct wane__pool *pool, uint32_t chunks);
/* One more than the highest index ever handed out; to walk all records. */
uint32_t wane__pool_limit(const struct wane__pool *pool);

#endif
