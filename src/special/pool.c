/* Records by number; see pool.h. */
#include "pool.h"

#include <assert.h>
#include <errno.h>

#include "../base/check.h"
#include "../base/meta.h"
#include "../base/os.h"
#include "../heap/block.h"
#include "../heap/foreign.h"
#include "../heap/grey.h"

/* So many go to a supply at once. */
#define POOL_SUPPLY 64u
/* Handles have the highest bit, so that none of them looks like an address. */
#define POOL_GENERATION_FIRST 0x80000000u
#define POOL_CHUNKS_MAX (1u << (WANE__POOL_INDEX_BITS - WANE__POOL_CHUNK_LOG2))
/* The list of chunks gets its memory in such portions, and takes at most
   this share of the arena's address space. */
#define POOL_LIST_STEP_BYTES 65536u
#define POOL_LIST_ARENA_SHARE 4096u
static_assert(POOL_LIST_STEP_BYTES % sizeof(struct wane__pool_chunk) == 0,
              "the list of chunks grows by whole entries");

static struct wane__pool_head *pool_head(const struct wane__pool *pool,
                                         uint32_t index) {
  return wane__pool_at(pool, index);
}

/* Reserves the list of chunks, and makes it reach one chunk more. */
static bool pool_extend_list_locked(struct wane__pool *pool) {
  if (pool->chunks == NULL) {
    size_t bytes = POOL_CHUNKS_MAX * sizeof *pool->chunks;
    size_t share = wane__arena.reserved / POOL_LIST_ARENA_SHARE;
    share = (share + POOL_LIST_STEP_BYTES - 1) & -(size_t)POOL_LIST_STEP_BYTES;
    bytes = bytes < share ? bytes : share;
    void *list = wane__meta_reserve(bytes);
    if (list == NULL) {
      return false;
    }
    pool->chunk_max = (uint32_t)(bytes / sizeof *pool->chunks);
    pool->chunks = list;
  }
  if (pool->chunk_count < pool->chunks_ready) {
    return true;
  }
  size_t used = (size_t)pool->chunks_ready * sizeof *pool->chunks;
  if (pool->chunk_count == pool->chunk_max ||
      !wane__os_commit((char *)pool->chunks + used, POOL_LIST_STEP_BYTES)) {
    errno = ENOMEM;
    return false;
  }
  pool->chunks_ready += POOL_LIST_STEP_BYTES / sizeof *pool->chunks;
  return true;
}

static bool pool_add_chunk_locked(struct wane__pool *pool) {
  if (!pool_extend_list_locked(pool)) {
    return false;
  }
  size_t arg_bytes = pool->has_args ? WANE__POOL_CHUNK * sizeof(uintptr_t) : 0;
  char *memory = wane__meta_alloc(arg_bytes + (size_t)WANE__POOL_CHUNK *
                                                  pool->record_bytes);
  if (memory == NULL) {
    return false;
  }
  pool->chunks[pool->chunk_count] =
      (struct wane__pool_chunk){.records = memory + arg_bytes};
  if (pool->chunk_count == 0) {
    pool->fresh = 1;
  }
  /* pairs with the acquire in wane__pool_find */
  wane__store_release(&pool->chunk_count, pool->chunk_count + 1);
  return true;
}

/* A chain of up to POOL_SUPPLY free records, or of fresh ones. */
static void pool_refill_locked(struct wane__pool *pool,
                               struct wane__pool_supply *supply) {
  uint32_t first = pool->free_first;
  if (first != 0) {
    struct wane__pool_head *last = pool_head(pool, first);
    supply->count = 1;
    for (; supply->count < POOL_SUPPLY && last->next != 0; supply->count++) {
      last = pool_head(pool, last->next);
    }
    pool->free_first = last->next;
    last->next = 0;
    supply->first = first;
    return;
  }
  if (pool->fresh >> WANE__POOL_CHUNK_LOG2 == pool->chunk_count &&
      !pool_add_chunk_locked(pool)) {
    return;
  }
  first = pool->fresh;
  uint32_t end = (first | (POOL_SUPPLY - 1)) + 1; /* never beyond a chunk */
  for (uint32_t i = first; i < end; i++) {
    *pool_head(pool, i) = (struct wane__pool_head){
        .generation = POOL_GENERATION_FIRST, .next = i + 1 < end ? i + 1 : 0};
  }
  wane__store_relaxed(&pool->fresh, end);
  supply->first = first;
  supply->count = end - first;
}

bool wane__pool_refill(struct wane__pool *pool,
                       struct wane__pool_supply *supply) {
  wane__spin_acquire(&pool->lock);
  pool_refill_locked(pool, supply);
  wane__spin_release(&pool->lock);
  return supply->first != 0;
}

void wane__pool_retire(struct wane__pool *pool, uint32_t index,
                       struct wane__pool_chain *chain) {
  struct wane__pool_head *head = pool_head(pool, index);
  uint32_t generation = head->generation + 1;
  /* pairs with the acquire in weak_read and cleanup_find */
  wane__store_release(&head->generation, generation);
  if (generation == 0) {
    return;
  }
  head->next = chain->first;
  chain->first = index;
  chain->last = chain->count == 0 ? index : chain->last;
  chain->count++;
}

void wane__pool_give(struct wane__pool *pool, struct wane__pool_chain *chain) {
  if (chain->count == 0) {
    return;
  }
  wane__spin_acquire(&pool->lock);
  pool_head(pool, chain->last)->next = pool->free_first;
  pool->free_first = chain->first;
  wane__spin_release(&pool->lock);
  *chain = (struct wane__pool_chain){0};
}

static bool pool_is_managed(uintptr_t word) {
  return word - wane__arena.start < wane__arena.reserved;
}

void wane__pool_set_arg(struct wane__pool *pool, uint32_t index,
                        uintptr_t value) {
  wane__store_relaxed(wane__pool_arg_at(pool, index), value);
  if (wane__is_marking() && value != 0) {
    wane__grey_add(WANE__GREY_OBJECT, value);
  }
  uint32_t *is_managed =
      &pool->chunks[index >> WANE__POOL_CHUNK_LOG2].is_managed;
  if (pool_is_managed(value) && wane__load_relaxed(is_managed) == 0) {
    wane__store_relaxed(is_managed, 1);
  }
}

static bool pool_has_managed(const uintptr_t *args) {
  bool has = false;
  for (uint32_t i = 0; i < WANE__POOL_CHUNK; i++) {
    has |= pool_is_managed(args[i]);
  }
  return has;
}

static const uintptr_t *pool_args(const struct wane__pool_chunk *chunk) {
  return (const uintptr_t *)(const void *)chunk->records - WANE__POOL_CHUNK;
}

void wane__pool_visit_args(struct wane__pool *pool,
                           void (*visit)(void *ctx, uintptr_t start,
                                         uintptr_t end, bool is_copy),
                           void *ctx) {
  /* pairs with the release in pool_add_chunk */
  uint32_t count = wane__load_acquire(&pool->chunk_count);
  for (uint32_t i = 0; i < count; i++) {
    const struct wane__pool_chunk *chunk = &pool->chunks[i];
    /* words into adopted ranges are not noted one by one */
    if (wane__load_relaxed(&chunk->is_managed) != 0 || wane__foreign_is_any()) {
      visit(ctx, (uintptr_t)pool_args(chunk), (uintptr_t)chunk->records, false);
    }
  }
}

void wane__pool_tidy_args_stw(struct wane__pool *pool, uint32_t chunks) {
  chunks = chunks < pool->chunk_count ? chunks : pool->chunk_count;
  while (chunks-- > 0) {
    pool->tidied = pool->tidied + 1 < pool->chunk_count ? pool->tidied + 1 : 0;
    struct wane__pool_chunk *chunk = &pool->chunks[pool->tidied];
    if (chunk->is_managed != 0 && !pool_has_managed(pool_args(chunk))) {
      chunk->is_managed = 0;
    }
  }
}

uint32_t wane__pool_limit(const struct wane__pool *pool) {
  return wane__load_relaxed(&pool->fresh);
}
