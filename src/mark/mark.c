/* What a marker does: scanning; see mark.h. Who they are is in round.c. */
#include "mark.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/lock.h"
#include "../base/meta.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../base/poison.h"
#include "../heap/block.h"
#include "../heap/foreign.h"
#include "../mutator/thread.h"
#include "ephemeron.h"
#include "marker.h"
#include "range.h"

#define RING 32u
#define WORDS_PER_LINE ((ptrdiff_t)8)
/* How far ahead an object that is longer than a cache line is fetched. */
#define PREFETCH_LINES 8
/* Objects between two looks at whether somebody is hungry. */
#define SHARE_INTERVAL 64u
/* Of memory that was written: words whose mark bytes are fetched together. */
#define AGAIN_AHEAD 64u
#define STACK_RELEASE_BYTES (1u << 20)
/* Ephemerons looked at before what they hold is marked: an empty stack has
   room for that. And how far ahead they, and then mark bytes, are fetched. */
#define LATER_PORTION 2048u
#define LATER_AHEAD ((size_t)12)
/* What tells a small object of words, in a map entry's head: only the first
   of these bits is set. */
#define MARK_HEAD_PLAIN                                                        \
  (WANE__HEAD_USED | 3u << WANE__HEAD_KIND_SHIFT | WANE__HEAD_LARGE)
/* An empty stack has room for a piece of a range, so that overflow can only
   concern words of objects, which the search of the heap finds again. */
#define STACK_WORDS_MIN 8192u
/* At most so much of the address space goes to each stack. */
#define STACK_ARENA_SHARE 64
static_assert(STACK_WORDS_MIN > WANE__RANGE_PIECE_BYTES / 8,
              "a root range must never overflow the mark stack");

/* A small typed one, whose layout is at its end. */
#define MARK_HEAD_TYPED ((unsigned)WANE__KIND_TYPED << WANE__HEAD_KIND_SHIFT)

/* And what tells that the object ends before its slot does. */
#define MARK_HEAD_BOUNDED (MARK_HEAD_TYPED | WANE__HEAD_LARGE)

/* What the inner loop needs of the arena, in registers. */
struct mark_view {
  uintptr_t start;
  uintptr_t bytes;
  const struct wane__block_map *map;
  uint8_t colour;
  bool has_foreign; /* there are adopted ranges */
};

static struct mark_view mark_view_now(void) {
  return (struct mark_view){wane__arena.start, wane__arena.committed,
                            wane__block_map, wane__arena.colour,
                            wane__foreign_is_any()};
}

/* Gives the stack twice the memory; false at its end, or without memory. */
static bool marker_grow(struct wane__marker *m) {
  size_t words = (size_t)(m->limit - m->stack);
  size_t left = (size_t)(m->end - m->limit);
  words = words < left ? words : left;
  if (words == 0 || !wane__os_commit(m->limit, words * sizeof *m->limit)) {
    return false;
  }
  m->limit += words;
  return true;
}

/* Room for words more, and one beyond that a push may write to. */
static bool marker_has_room(struct wane__marker *m, size_t words) {
  if ((size_t)(m->limit - m->top) > words) {
    return true;
  }
  size_t count = (size_t)(m->top - m->bottom); /* reclaim what was shared */
  memmove(m->stack, m->bottom, count * sizeof *m->stack);
  m->bottom = m->stack;
  m->top = m->stack + count;
  while ((size_t)(m->limit - m->top) <= words) {
    if (!marker_grow(m)) {
      return false;
    }
  }
  return true;
}

/* One word on the stack, if it lies in the arena. Written without a branch on
   what the word is: that would be guessed wrong too often. */
WANE_INLINE uintptr_t *mark_push(uintptr_t *top, const struct mark_view *view,
                                 uintptr_t word) {
  *top = word;
  return top + (word - view->start < view->bytes);
}

/* Pushes the stand-ins of adopted ranges that words lead to. */
static WANE_NOINLINE WANE_SCANS_MEMORY uintptr_t *
mark_push_foreign(uintptr_t *top, uintptr_t start, uintptr_t end) {
  for (uintptr_t at = start; at < end; at += sizeof(uintptr_t)) {
    uintptr_t word = *(const uintptr_t *)at;
    uintptr_t to = wane__foreign_translate(word);
    if (to != word) {
      *top++ = to;
    }
  }
  return top;
}

/* Pushes every word of [start, end) that lies in the arena; there is room.
   From the last to the first, so that the first, which the program most
   likely allocated next to its parent, is taken off first. Larger objects
   are fetched ahead line by line; the processor would take several misses to
   see the pattern, which is most of such an object. */
WANE_INLINE WANE_SCANS_MEMORY uintptr_t *
mark_push_words(uintptr_t *top, const struct mark_view *view, uintptr_t start,
                uintptr_t end) {
  const uintptr_t *at = (const uintptr_t *)end;
  const uintptr_t *first = (const uintptr_t *)start;
  while (at - first >= WORDS_PER_LINE) {
    __builtin_prefetch(at - PREFETCH_LINES * WORDS_PER_LINE);
    at -= WORDS_PER_LINE;
    for (ptrdiff_t i = WORDS_PER_LINE - 1; i >= 0; i--) {
      top = mark_push(top, view, at[i]);
    }
  }
  while (at > first) {
    top = mark_push(top, view, *--at);
  }
  return top;
}

/* Fetches what of an object is scanned first: its end, and of a small one
   there is nothing else. */
WANE_INLINE void mark_prefetch_object(uintptr_t base, size_t bytes) {
  uintptr_t end = base + bytes;
  __builtin_prefetch((const void *)(end - 1));
  if (bytes > WANE_CACHE_LINE) {
    for (unsigned i = 1; i < PREFETCH_LINES; i++) {
      end -= WANE_CACHE_LINE;
      __builtin_prefetch((const void *)(end > base ? end : base));
    }
  }
}

static WANE_SCANS_MEMORY void marker_scan(struct wane__marker *m,
                                          const struct mark_view *view,
                                          uintptr_t start, uintptr_t end) {
  if (!marker_has_room(m, (end - start) / sizeof(uintptr_t))) {
    m->overflowed = true;
    return;
  }
  m->top = mark_push_words(m->top, view, start, end);
  if (view->has_foreign) {
    m->top = mark_push_foreign(m->top, start, end);
  }
}

static WANE_SCANS_MEMORY void marker_scan_typed(struct wane__marker *m,
                                                const struct mark_view *view,
                                                const struct wane_type *type,
                                                uintptr_t at, uintptr_t end) {
  if (type == NULL || type->pointer_count == 0) {
    return;
  }
  if (!marker_has_room(m, (end - at) / type->size * type->pointer_count)) {
    m->overflowed = true;
    return;
  }
  for (; at + type->size <= end; at += type->size) {
    for (size_t i = 0; i < type->pointer_count; i++) {
      uintptr_t word = *(const uintptr_t *)(at + type->pointer_offsets[i]);
      if (word - view->start < view->bytes) {
        *m->top++ = word;
      } else if (WANE_UNLIKELY(view->has_foreign)) {
        m->top = mark_push(m->top, view, wane__foreign_translate(word));
      }
    }
  }
}

/* True if the word points behind the end of a large or typed object. */
static bool mark_is_beyond(uintptr_t word, const struct wane__found *found) {
  return WANE_UNLIKELY((found->head & MARK_HEAD_BOUNDED) != 0) &&
         word - found->base >= wane__found_limit(found);
}

/* The object that a weak word points into is not marked: false for words that
   point into none, which never die. */
static bool mark_is_unmarked(const struct mark_view *view, uintptr_t word,
                             struct wane__found *out) {
  word = wane__foreign_translate(word);
  return word - view->start < view->bytes &&
         wane__block_resolve(word, view->start, view->map, out) &&
         !mark_is_beyond(word, out) && wane__load_relaxed(out->mark) != 0 &&
         wane__load(out->mark) != view->colour;
}

static bool mark_is_of_object(const struct mark_view *view, uintptr_t word) {
  return wane__foreign_translate(word) - view->start < view->bytes;
}

/* Marks what an ephemeron holds, or makes it wait. Returns the slot whose chain
   must be taken in out, if it was marked meanwhile. */
static bool marker_scan_pair(struct wane__marker *m,
                             const struct mark_view *view, uintptr_t object,
                             const struct wane__ephemeron_type *type,
                             struct wane__found *out) {
  struct wane__pair *pair = wane__ephemeron_pair(type, object);
  uintptr_t weak = wane__load_relaxed(&pair->weak);
  uintptr_t held = wane__load_relaxed(&pair->held);
  if (weak == WANE__GONE || held == WANE__GONE) {
    return false;
  }
  if (!marker_has_room(m, 2)) {
    wane__ephemeron_put_aside(object, pair);
    m->has_put_aside = true;
    return false;
  }
  if (mark_is_unmarked(view, weak, out) ||
      (type->is_both_weak && mark_is_unmarked(view, held, out))) {
    const struct wane__pair seen = {.weak = weak, .held = held};
    enum wane__wait wait = wane__ephemeron_wait(object, pair, &seen, out);
    if (wait == WANE__WAIT_AGAIN) {
      return marker_scan_pair(m, view, object, type, out);
    }
    m->waiting_bytes += wait == WANE__WAIT_DONE || wait == WANE__WAIT_MARKED
                            ? type->cleared_bytes
                            : 0;
    if (wait == WANE__WAIT_STALE) {
      /* it waits for what was a weak word before: what it has now lives for
         this cycle, and the sweep leaves it alone */
      m->top = mark_push(m->top, view, wane__foreign_translate(weak));
      m->top = mark_push(m->top, view, wane__foreign_translate(held));
    }
    return wait == WANE__WAIT_MARKED;
  }
  if (!type->is_both_weak) {
    m->top = mark_push(m->top, view, wane__foreign_translate(held));
  }
  if (WANE_UNLIKELY(wane__ephemerons_end) && type->ends_at_shutdown &&
      (mark_is_of_object(view, weak) ||
       (type->is_both_weak && mark_is_of_object(view, held)))) {
    wane__ephemeron_note(object, pair);
  }
  return false;
}

static void marker_look(struct wane__marker *m, const struct mark_view *view,
                        uintptr_t object,
                        const struct wane__ephemeron_type *type);

/* Looks once more at all that waited for a slot, which is marked now. */
static WANE_NOINLINE void marker_wake(struct wane__marker *m,
                                      const struct mark_view *view,
                                      const struct wane__found *slot) {
  uintptr_t object = wane__ephemeron_take(slot);
  while (object != 0) {
    const struct wane__ephemeron_type *type = wane__ephemeron_type_at(object);
    uintptr_t next =
        wane__ephemeron_unchain(wane__ephemeron_pair(type, object));
    m->waiting_bytes -= type->cleared_bytes;
    marker_look(m, view, object, type);
    object = next;
  }
}

/* Looks at an ephemeron now. */
static void marker_look(struct wane__marker *m, const struct mark_view *view,
                        uintptr_t object,
                        const struct wane__ephemeron_type *type) {
  struct wane__found slot;
  if (marker_scan_pair(m, view, object, type, &slot)) {
    marker_wake(m, view, &slot);
  }
}

/* False: without memory. */
static bool marker_grow_later(struct wane__marker *m) {
  size_t words = m->later_room != 0 ? m->later_room : STACK_WORDS_MIN;
  size_t left = (size_t)(m->end - m->stack) - m->later_room;
  words = words < left ? words : left;
  if (words == 0 ||
      !wane__os_commit(m->later + m->later_room, words * sizeof *m->later)) {
    return false;
  }
  m->later_room += words;
  return true;
}

static void marker_scan_ephemeron(struct wane__marker *m,
                                  const struct mark_view *view,
                                  uintptr_t object,
                                  const struct wane__ephemeron_type *type) {
  if (type == m->last_type) {
    /* a table's entries have one type, and it is a word of each */
  } else if (marker_has_room(m, 1)) {
    m->top = mark_push(m->top, view, (uintptr_t)type);
    m->last_type = type;
  } else {
    m->overflowed = true;
  }
  if (WANE_LIKELY(m->later_count < m->later_room) || marker_grow_later(m)) {
    m->later[m->later_count++] = object;
  } else {
    marker_look(m, view, object, type);
  }
}

/* Begins to fetch what is looked at of an ephemeron's weak word. */
WANE_INLINE void mark_prefetch_weak(const struct mark_view *view,
                                    uintptr_t object) {
  struct wane__found slot;
  const struct wane__pair *pair =
      wane__ephemeron_pair(wane__ephemeron_type_at(object), object);
  uintptr_t weak = wane__load_relaxed(&pair->weak);
  if (weak - view->start < view->bytes &&
      wane__block_resolve(weak, view->start, view->map, &slot)) {
    __builtin_prefetch(slot.mark, 1);
    wane__ephemeron_prefetch_chain(&slot);
  }
}

/* Looks at some of the ephemerons left for later; false if there is none. */
static bool marker_look_later(struct wane__marker *m) {
  const struct mark_view view = mark_view_now();
  if (m->later_count == 0) {
    return false;
  }
  size_t first =
      m->later_count > LATER_PORTION ? m->later_count - LATER_PORTION : 0;
  for (size_t i = m->later_count + 2 * LATER_AHEAD; i-- > first;) {
    if (i - 2 * LATER_AHEAD >= first && i - 2 * LATER_AHEAD < m->later_count) {
      uintptr_t object = m->later[i - 2 * LATER_AHEAD];
      __builtin_prefetch((const void *)object, 1); /* it may be in two lines */
      __builtin_prefetch((const void *)(object + WANE_CACHE_LINE - 17), 1);
    }
    if (i - LATER_AHEAD >= first && i - LATER_AHEAD < m->later_count) {
      mark_prefetch_weak(&view, m->later[i - LATER_AHEAD]);
    }
    if (i < m->later_count) {
      marker_look(m, &view, m->later[i], wane__ephemeron_type_at(m->later[i]));
    }
  }
  m->later_count = first;
  return true;
}

/* A large object is left on the queue for all; false if that is full. */
static bool marker_defer(const struct wane__found *found, size_t bytes) {
  return wane__range_push((struct wane__mark_range){
      .start = found->base,
      .end = found->base + bytes,
      .type = wane__head_kind(found->head) == WANE__KIND_TYPED
                  ? wane__found_type(found)
                  : NULL});
}

/* Scans a small typed object. */
static void marker_scan_type(struct wane__marker *m,
                             const struct mark_view *view,
                             const struct wane_type *type, uintptr_t base,
                             uintptr_t end) {
  marker_scan_typed(m, view, type, base, end);
  const struct wane__ephemeron_type *ephemeron =
      type != NULL ? wane__ephemeron_type_of(type) : NULL;
  if (WANE_UNLIKELY(ephemeron != NULL)) {
    marker_scan_ephemeron(m, view, base, ephemeron);
  }
}

/* A leaf has been marked: is it one that is not memory of the heap? */
static void marker_count_outside(struct wane__marker *m,
                                 const struct wane__found *found,
                                 size_t bytes) {
  if ((found->head & WANE__HEAD_LARGE) == 0) {
    return;
  }
  enum wane__outside sort = wane__group_of(found)->outside;
  if (sort != WANE__OUTSIDE_NOT) {
    m->outside.files += sort == WANE__OUTSIDE_FILE;
    m->outside.bytes += bytes;
    m->outside.adopted_bytes += sort == WANE__OUTSIDE_STANDIN ? bytes : 0;
  }
}

/* Scans an object that is not a small one of words. */
static WANE_NOINLINE WANE_SCANS_MEMORY void
marker_scan_special(struct wane__marker *m, const struct mark_view *view,
                    const struct wane__found *found, size_t bytes) {
  enum wane__kind kind = wane__head_kind(found->head);
  if (kind == WANE__KIND_LEAF) {
    marker_count_outside(m, found, bytes);
    return;
  }
  wane__fence_acquire(); /* a new object's layout is not older than its byte */
  if ((found->head & WANE__HEAD_LARGE) != 0 && marker_defer(found, bytes)) {
    return;
  }
  uintptr_t end = found->base + bytes;
  if (kind == WANE__KIND_TYPED) {
    marker_scan_type(m, view, wane__found_type(found), found->base, end);
  } else {
    marker_scan(m, view, found->base, end);
  }
}

/* Gives the older half of the stack to whoever is hungry. */
static WANE_NOINLINE void marker_share(struct wane__marker *m) {
  size_t count = (size_t)(m->top - m->bottom) / 2;
  if (count == 0 || wane__load_relaxed(&m->share_count) != 0) {
    return;
  }
  count = count < WANE__MARKER_SHARE_WORDS ? count : WANE__MARKER_SHARE_WORDS;
  wane__lock_acquire(&m->share_lock);
  memcpy(m->share_words, m->bottom, count * sizeof *m->bottom);
  wane__store_relaxed(&m->share_count, (uint32_t)count);
  wane__lock_release(&m->share_lock);
  m->bottom += count;
}

/* What is rare about an object that has just been marked. The common case,
   a small object of words for which there is room, is in wane__marker_drain. */
static WANE_NOINLINE void marker_visit_rare(struct wane__marker *m,
                                            const struct mark_view *view,
                                            const struct wane__found *found,
                                            size_t bytes,
                                            uint64_t marked_bytes) {
  if ((found->head & MARK_HEAD_PLAIN) == WANE__HEAD_USED) {
    marker_scan(m, view, found->base, found->base + bytes);
  } else {
    marker_scan_special(m, view, found, bytes);
  }
  if (m->top > m->highest) {
    m->highest = m->top;
  }
  wane__store_relaxed(&m->progress_bytes, m->done_bytes + marked_bytes);
  if (wane__load_relaxed(&wane__mark_state.hungry) != 0) {
    marker_share(m);
  }
}

/* What the loop of the collector keeps in registers: a marker's stack and
   counts, which go back to it only for the rare cases. */
struct mark_loop {
  uintptr_t *top;
  uintptr_t *bottom;
  uintptr_t *safe_limit; /* below it there is room for any small object... */
  uintptr_t *fast_limit; /* ...and no pass for adopted ranges: NULL if any */
  uint64_t objects;
  uint64_t bytes;
  unsigned until_rare; /* objects before the next look at who is hungry */
  uint8_t old;         /* the colour of what is not marked yet */
};

WANE_INLINE void mark_loop_load(struct mark_loop *loop,
                                const struct wane__marker *m,
                                const struct mark_view *view) {
  loop->top = m->top;
  loop->bottom = m->bottom;
  loop->safe_limit = m->limit - (WANE__SMALL_BYTES_MAX / 8 + 1);
  loop->fast_limit = view->has_foreign ? NULL : loop->safe_limit;
  loop->until_rare = SHARE_INTERVAL;
  if (WANE_UNLIKELY(m->may_rest && wane__load_relaxed(&wane__mark_rest))) {
    /* what is in the ring is still looked at, the stack stays as it is */
    loop->bottom = loop->top;
    loop->until_rare = 1;
  }
}

/* An entry of the ring. bytes is 0 for what is not a small object of words:
   its group is then looked up again. */
struct mark_entry {
  uintptr_t base;
  uint8_t *mark;
  size_t bytes;
};

/* Marks a slot for which ephemerons wait; false if another marker has. */
static WANE_NOINLINE bool mark_loop_wake(struct mark_loop *loop,
                                         struct wane__marker *m,
                                         const struct mark_view *view,
                                         uintptr_t base) {
  struct wane__found slot = wane__block_slot_of(base);
  if (wane__exchange(slot.mark, view->colour) == view->colour) {
    return false;
  }
  m->top = loop->top;
  marker_wake(m, view, &slot);
  unsigned until_rare = loop->until_rare;
  mark_loop_load(loop, m, view);
  loop->until_rare = until_rare;
  return true;
}

/* The common case, while there are adopted ranges. */
static WANE_NOINLINE WANE_SCANS_MEMORY void
mark_loop_scan_foreign(struct mark_loop *loop, const struct mark_view *view,
                       struct mark_entry out) {
  uintptr_t end = out.base + out.bytes;
  loop->top = mark_push_words(loop->top, view, out.base, end);
  loop->top = mark_push_foreign(loop->top, out.base, end);
}

/* Looks at what leaves the ring: marks it and pushes its words. */
WANE_INLINE WANE_SCANS_MEMORY void mark_loop_visit(struct mark_loop *loop,
                                                   struct wane__marker *m,
                                                   const struct mark_view *view,
                                                   struct mark_entry out) {
  uint8_t byte = wane__load_relaxed(out.mark);
  if (WANE_LIKELY(byte == loop->old)) {
    wane__store_relaxed(out.mark, view->colour);
  } else if (WANE_LIKELY((byte & WANE__MARK_AWAITED) == 0) ||
             !mark_loop_wake(loop, m, view, out.base)) {
    return;
  }
  loop->bytes += out.bytes;
  loop->objects++;
  if (WANE_LIKELY(out.bytes != 0 && loop->top < loop->fast_limit &&
                  --loop->until_rare != 0)) {
    loop->top =
        mark_push_words(loop->top, view, out.base, out.base + out.bytes);
    return;
  }
  if (view->has_foreign && out.bytes != 0 && loop->top < loop->safe_limit &&
      --loop->until_rare != 0) {
    mark_loop_scan_foreign(loop, view, out);
    return;
  }
  struct wane__found found = wane__block_slot_of(out.base);
  size_t bytes = wane__found_bytes(&found);
  loop->bytes += bytes - out.bytes;
  m->top = loop->top;
  marker_visit_rare(m, view, &found, bytes, m->bytes + loop->bytes);
  mark_loop_load(loop, m, view);
}

/* Empties the private stack. A word enters the ring when it is taken off; the
   ring is three arrays, so that single words are moved and not structs. */
WANE_SCANS_MEMORY void wane__marker_drain(struct wane__marker *m) {
  static uint8_t nothing; /* mark byte of an empty ring entry: 0, skipped */
  const struct mark_view view = mark_view_now();
  uintptr_t ring_base[RING] = {0};
  uint8_t *ring_mark[RING];
  size_t ring_bytes[RING] = {0};
  for (unsigned i = 0; i < RING; i++) {
    ring_mark[i] = &nothing;
  }
  struct mark_loop loop = {.old = (uint8_t)(3 - view.colour)};
  mark_loop_load(&loop, m, &view);
  unsigned at = 0;
  do {
    unsigned entered = 0;
    while (loop.top != loop.bottom) {
      uintptr_t word = *--loop.top;
      struct wane__found in;
      if (WANE_UNLIKELY(!wane__block_resolve(word, view.start, view.map, &in) ||
                        mark_is_beyond(word, &in))) {
        continue;
      }
      __builtin_prefetch(in.mark, 1);
      struct mark_entry out = {ring_base[at], ring_mark[at], ring_bytes[at]};
      ring_base[at] = in.base;
      ring_mark[at] = in.mark;
      ring_bytes[at] = 0;
      if (WANE_LIKELY((in.head & MARK_HEAD_PLAIN) == WANE__HEAD_USED)) {
        size_t bytes = wane__classes[wane__head_class(in.head)].slot_bytes;
        ring_bytes[at] = bytes;
        mark_prefetch_object(in.base, bytes);
      } else if ((in.head & MARK_HEAD_BOUNDED) == MARK_HEAD_TYPED) {
        __builtin_prefetch((const void *)in.base, 1);
        mark_prefetch_object(
            in.base, wane__classes[wane__head_class(in.head)].slot_bytes);
      }
      at = (at + 1) % RING;
      entered++;
      mark_loop_visit(&loop, m, &view, out);
    }
    entered = entered < RING ? entered : RING;
    at = (at - entered) % RING;
    for (; entered > 0; entered--) { /* what is still in the ring */
      struct mark_entry out = {ring_base[at], ring_mark[at], ring_bytes[at]};
      ring_mark[at] = &nothing;
      at = (at + 1) % RING;
      mark_loop_visit(&loop, m, &view, out);
    }
  } while (loop.top != loop.bottom);
  m->top = loop.top;
  m->objects += loop.objects;
  m->bytes += loop.bytes;
}

/* ---- Memory that was written while marking ---- */

/* Pushes the words of [start, end) that lead to objects which are not marked.
   Most are, so the mark bytes are looked at here, fetched ahead, before any
   word takes the way through stack and ring. */
static WANE_SCANS_MEMORY uintptr_t *
again_push_words(uintptr_t *top, const struct mark_view *view, uintptr_t start,
                 uintptr_t end) {
  struct again_word {
    uintptr_t word;
    const uint8_t *mark;
  } some[AGAIN_AHEAD];
  while (start < end) {
    unsigned count = 0;
    for (; start < end && count < AGAIN_AHEAD; start += sizeof(uintptr_t)) {
      uintptr_t word = *(const uintptr_t *)start;
      struct wane__found found;
      if (word - view->start < view->bytes &&
          wane__block_resolve(word, view->start, view->map, &found)) {
        __builtin_prefetch(found.mark);
        some[count++] = (struct again_word){word, found.mark};
      }
    }
    for (unsigned i = 0; i < count; i++) {
      uint8_t byte = wane__load_relaxed(some[i].mark);
      if (byte != view->colour && byte != 0) {
        *top++ = some[i].word;
      }
    }
  }
  return top;
}

/* Scans the part of a marked object that lies in [start, end). */
static WANE_SCANS_MEMORY void again_object(struct wane__marker *m,
                                           const struct mark_view *view,
                                           const struct wane__found *object,
                                           uintptr_t start, uintptr_t end) {
  uintptr_t base = object->base;
  uintptr_t limit = base + (wane__found_bytes(object) & ~(uintptr_t)7);
  if (wane__head_kind(object->head) == WANE__KIND_TYPED) {
    const struct wane_type *type = wane__found_type(object);
    if (type == NULL || type->size == 0) {
      return;
    }
    if ((object->head & WANE__HEAD_LARGE) != 0) {
      uintptr_t from = start > base ? (start - base) / type->size : 0;
      base += from * type->size;
      limit = end + type->size < limit ? end + type->size : limit;
      if (base < limit) { /* else it is the unused end of the last block */
        marker_scan_typed(m, view, type, base, limit);
      }
    } else {
      marker_scan_type(m, view, type, base, limit);
    }
    return;
  }
  start = start > base ? start : base;
  end = end < limit ? end : limit;
  if (start >= end) {
    return;
  }
  if (!marker_has_room(m, (end - start) / sizeof(uintptr_t))) {
    m->overflowed = true;
    return;
  }
  m->top = again_push_words(m->top, view, start, end);
  if (view->has_foreign) {
    m->top = mark_push_foreign(m->top, start, end);
  }
}

/* Whether some of eight slots may be marked. Of the first memory that is looked
   at in a cycle, that which was not armed, hardly any is. */
static bool again_has_marked(const uint8_t *marks, uint8_t colour) {
  const uint64_t ones = 0x0101010101010101ull;
  uint64_t word;
  memcpy(&word, marks, sizeof word);
  word = (word & 3 * ones) ^ colour * ones; /* 0 is a marked one */
  return ((word - ones) & ~word & 0x80 * ones) != 0;
}

/* The part of a group that lies in [start, end). */
static void again_group(struct wane__marker *m, const struct mark_view *view,
                        const struct wane__block_map *entry, uint64_t head,
                        uintptr_t start, uintptr_t end) {
  const struct wane__class *class = &wane__classes[wane__head_class(head)];
  uintptr_t group = wane__head_start(head);
  uint8_t *marks = wane__load_relaxed(&entry->marks);
  bool is_large = (head & WANE__HEAD_LARGE) != 0;
  size_t idx = is_large ? 0 : (start - group) / class->slot_bytes;
  size_t last = is_large ? 0 : (end - 1 - group) / class->slot_bytes;
  last = !is_large && last >= class->slots ? class->slots - 1u : last;
  for (; idx <= last; idx++) {
    if (idx % 8 == 0 && idx + 8 <= last &&
        !again_has_marked(marks + idx, view->colour)) {
      idx += 7;
      continue;
    }
    if ((wane__load_relaxed(&marks[idx]) & 3) == view->colour) {
      wane__fence_acquire(); /* what has the colour is an object, and zeroed */
      struct wane__found object = {.base = group + idx * class->slot_bytes,
                                   .mark = marks + idx,
                                   .head = head};
      again_object(m, view, &object, start, end);
    }
  }
}

static void marker_scan_written(struct wane__marker *m,
                                const struct mark_view *view, uintptr_t start,
                                uintptr_t end) {
  while (start < end) {
    size_t i = (start - view->start) >> WANE__BLOCK_LOG2;
    uintptr_t next = view->start + ((i + 1) << WANE__BLOCK_LOG2);
    /* pairs with the release in block_map_set */
    uint64_t head = wane__load_acquire(&view->map[i].head);
    next = next < end ? next : end;
    if (head != 0 && wane__head_kind(head) != WANE__KIND_LEAF) {
      again_group(m, view, &view->map[i], head, start, next);
    }
    start = next;
  }
}

/* Scans one piece of a range, if there is one. */
static bool marker_take_range(struct wane__marker *m) {
  struct mark_view view = mark_view_now();
  struct wane__mark_range piece;
  if (!wane__range_take(&piece)) {
    return false;
  }
  if (piece.is_written) {
    marker_scan_written(m, &view, piece.start, piece.end);
  } else if (piece.type != NULL) {
    marker_scan_typed(m, &view, piece.type, piece.start, piece.end);
  } else {
    marker_scan(m, &view, piece.start, piece.end);
  }
  return true;
}

static bool marker_steal(struct wane__marker *m, struct wane__marker *victim) {
  if (wane__load_relaxed(&victim->share_count) == 0) {
    return false;
  }
  wane__lock_acquire(&victim->share_lock);
  uint32_t count = victim->share_count;
  if (!marker_has_room(m, count)) { /* cannot be: the stack is empty */
    wane__internal("a mark stack has no room for %u stolen words", count);
  }
  memcpy(m->top, victim->share_words, count * sizeof *m->top);
  wane__store_relaxed(&victim->share_count, 0);
  wane__lock_release(&victim->share_lock);
  m->top += count;
  return count != 0;
}

static bool marker_find_work(struct wane__marker *m) {
  if (marker_take_range(m)) {
    return true;
  }
  for (unsigned i = 0; i < wane__mark_state.active; i++) {
    if (marker_steal(m, wane__markers[i])) {
      return true;
    }
  }
  return false;
}

bool wane__mark_is_work_left(void) {
  bool left = wane__range_is_left();
  for (unsigned i = 0; !left && i < wane__mark_state.active; i++) {
    left = wane__load_relaxed(&wane__markers[i]->share_count) != 0;
  }
  return left;
}

/* Everybody is to leave their work as it is. */
static bool marker_rests(const struct wane__marker *m) {
  return m->may_rest && wane__load_relaxed(&wane__mark_rest) != 0;
}

/* Waits for work; false when all markers wait, or rest. */
static bool marker_wait(const struct wane__marker *m) {
  wane__add(&wane__mark_state.hungry, 1);
  for (unsigned spins = 0;; spins++) {
    if (marker_rests(m)) {
      return false;
    }
    if (wane__mark_is_work_left()) {
      wane__sub(&wane__mark_state.hungry, 1);
      return true;
    }
    if (wane__load(&wane__mark_state.hungry) == wane__mark_state.active) {
      return false;
    }
    if (spins % 128 == 127) {
      sched_yield();
    } else {
      wane__cpu_relax();
    }
  }
}

void wane__marker_work(struct wane__marker *m) {
  uint64_t start = wane__os_thread_cpu_ns();
  wane__poison_quiet_begin();
  do {
    do {
      wane__marker_drain(m);
    } while (!marker_rests(m) && (marker_find_work(m) || marker_look_later(m)));
  } while (marker_wait(m));
  wane__poison_quiet_end();
  m->cpu_ns += wane__os_thread_cpu_ns() - start;
}

static void rescan_drain(struct wane__marker *m) {
  wane__marker_drain(m);
  while (marker_take_range(m) || marker_look_later(m)) {
    wane__marker_drain(m);
  }
}

/* Pushes the unmarked children of a marked object one by one. */
static WANE_SCANS_MEMORY void rescan_object(struct wane__marker *m,
                                            const struct mark_view *view,
                                            const struct wane__found *object) {
  const struct wane_type *type =
      wane__head_kind(object->head) == WANE__KIND_TYPED
          ? wane__found_type(object)
          : NULL;
  if (type != NULL && wane__ephemeron_type_of(type) != NULL) {
    marker_scan_type(m, view, type, object->base, object->base + type->size);
    rescan_drain(m);
    return;
  }
  uintptr_t end = object->base + wane__found_bytes(object);
  for (uintptr_t at = object->base; at < end; at += 8) {
    uintptr_t word = *(const uintptr_t *)at;
    struct wane__found child;
    word = wane__foreign_translate(word);
    if (word - view->start >= view->bytes ||
        !wane__block_resolve(word, view->start, view->map, &child) ||
        mark_is_beyond(word, &child) || *child.mark == 0 ||
        *child.mark == view->colour) {
      continue;
    }
    *m->top++ = word;
    rescan_drain(m);
  }
}

/* After overflow: every marked object's children once more. A typed object
   is scanned by its words here, which keeps more alive, never less. */
void wane__marker_search_heap(struct wane__marker *m) {
  struct mark_view view = mark_view_now();
  size_t blocks = view.bytes >> WANE__BLOCK_LOG2;
  for (size_t i = 0; i < blocks; i++) {
    uint64_t head = wane__load_acquire(&view.map[i].head);
    if (head == 0 ||
        wane__head_start(head) != wane__block_start(&wane__blocks[i]) ||
        wane__head_kind(head) == WANE__KIND_LEAF) {
      continue;
    }
    unsigned class = wane__head_class(head);
    size_t slots = class == WANE__CLASS_LARGE ? 1 : wane__classes[class].slots;
    for (size_t s = 0; s < slots; s++) {
      struct wane__found object = {.base = wane__head_start(head) +
                                           s * wane__classes[class].slot_bytes,
                                   .mark = view.map[i].marks + s,
                                   .head = head};
      if (*object.mark == view.colour) {
        rescan_object(m, &view, &object);
      }
    }
  }
}

struct wane__marker *wane__marker_new(void) {
  struct wane__marker *m = wane__meta_alloc(sizeof *m);
  if (m == NULL) {
    return NULL;
  }
  size_t words = (size_t)wane__options.mark_stack;
  size_t most = wane__arena.reserved / STACK_ARENA_SHARE / sizeof *m->stack;
  words = words < most ? words : most;
  words = words > STACK_WORDS_MIN ? words : STACK_WORDS_MIN;
  uintptr_t *stack = wane__meta_reserve(2 * words * sizeof *stack);
  if (stack == NULL ||
      !wane__os_commit(stack, STACK_WORDS_MIN * sizeof *stack)) {
    return NULL;
  }
  m->stack = m->bottom = m->top = m->highest = stack;
  m->limit = stack + STACK_WORDS_MIN;
  m->end = m->later = stack + words;
  m->share_lock.rank = WANE__RANK_MARK;
  return m;
}

void wane__mark_add_range(void *unused, uintptr_t start, uintptr_t end,
                          bool is_copy) {
  (void)unused;
  if (start >= end) {
    return;
  }
  if (!is_copy &&
      wane__range_push((struct wane__mark_range){.start = start, .end = end})) {
    return;
  }
  struct wane__marker *first =
      wane__markers[0]; /* its words are marked in the round */
  struct mark_view view = mark_view_now();
  for (uintptr_t at = start; at < end; at += WANE__RANGE_PIECE_BYTES) {
    uintptr_t rest = end - at;
    rest = rest < WANE__RANGE_PIECE_BYTES ? rest : WANE__RANGE_PIECE_BYTES;
    if (!marker_has_room(first, rest / sizeof(uintptr_t))) {
      wane__marker_drain(first);
    }
    marker_scan(first, &view, at, at + rest);
  }
}

static void mark_add_field(uintptr_t word, const struct wane__found *object) {
  struct wane__marker *first = wane__markers[0]; /* marked in the round */
  struct mark_view view = mark_view_now();
  word = wane__foreign_translate(word);
  if (word - view.start >= view.bytes ||
      word - object->base < wane__found_bytes(object)) {
    return;
  }
  if (!marker_has_room(first, 1)) {
    wane__marker_drain(first);
  }
  *first->top++ = word;
}

/* Looks at an ephemeron on behalf of the first marker; a new one's type
   is marked as well. */
static void mark_add_ephemeron(uintptr_t object,
                               const struct wane__ephemeron_type *type,
                               bool is_new) {
  struct mark_view view = mark_view_now();
  if (!marker_has_room(wane__markers[0], 2)) {
    wane__marker_drain(wane__markers[0]);
  }
  if (is_new) {
    marker_scan_ephemeron(wane__markers[0], &view, object, type);
  } else {
    marker_look(wane__markers[0], &view, object, type);
  }
}

void wane__mark_wake_ephemeron(uintptr_t object, bool has_waited) {
  const struct wane__ephemeron_type *type = wane__ephemeron_type_at(object);
  if (has_waited) {
    wane__markers[0]->waiting_bytes -= type->cleared_bytes;
  }
  mark_add_ephemeron(object, type, false);
}

WANE_SCANS_MEMORY void wane__mark_add_fields(const struct wane__found *object) {
  uintptr_t end = object->base + wane__found_bytes(object);
  enum wane__kind kind = wane__head_kind(object->head);
  const struct wane_type *type =
      kind == WANE__KIND_TYPED ? wane__found_type(object) : NULL;
  if (kind == WANE__KIND_SCAN) {
    for (uintptr_t at = object->base; at < end; at += sizeof(uintptr_t)) {
      mark_add_field(*(const uintptr_t *)at, object);
    }
  } else if (type != NULL && type->pointer_count != 0) {
    for (uintptr_t at = object->base; at + type->size <= end;
         at += type->size) {
      for (size_t i = 0; i < type->pointer_count; i++) {
        mark_add_field(*(const uintptr_t *)(at + type->pointer_offsets[i]),
                       object);
      }
    }
  }
  const struct wane__ephemeron_type *ephemeron =
      type != NULL ? wane__ephemeron_type_of(type) : NULL;
  if (ephemeron != NULL) {
    mark_add_ephemeron(object->base, ephemeron, true);
  }
}

void wane__mark_again(uintptr_t start, uintptr_t end) {
  if (start - wane__arena.start >= wane__arena.reserved) {
    wane__mark_add_range(NULL, start, end, true);
    return;
  }
  if (!wane__range_push((struct wane__mark_range){
          .start = start, .end = end, .is_written = true})) {
    wane__mark_again_now(start, end);
  }
}

void wane__mark_again_now(uintptr_t start, uintptr_t end) {
  struct mark_view view = mark_view_now();
  if (!marker_has_room(wane__markers[0], STACK_WORDS_MIN / 2)) {
    wane__marker_drain(wane__markers[0]);
  }
  marker_scan_written(wane__markers[0], &view, start, end);
}

void wane__mark_all_again(void) { wane__markers[0]->overflowed = true; }

/* Gives back what a deep stack took. */
void wane__marker_release(struct wane__marker *m) {
  size_t used = (size_t)(m->highest - m->stack) * sizeof *m->stack;
  if (used > STACK_RELEASE_BYTES) {
    uintptr_t from = ((uintptr_t)m->stack + 65535) & ~(uintptr_t)65535;
    (void)wane__os_release((void *)from, (uintptr_t)m->limit - from);
  }
  m->highest = m->bottom = m->top = m->stack;
  if (m->later_room * sizeof *m->later > STACK_RELEASE_BYTES) {
    (void)wane__os_release(m->later, m->later_room * sizeof *m->later);
  }
  m->last_type = NULL;
}
