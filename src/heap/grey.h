/*
 * The grey log: objects that marking beside the program must still see,
 * because somebody came to hold them where neither the last stop nor the dirty
 * tracker would find that out.
 *
 * While marking runs beside the program (wane__is_marking), stores to the heap
 * and to roots are seen by the dirty tracker, registers and stacks by the
 * last stop. What is left is the collector's own memory, which is not tracked:
 * pins, arguments of cleanups, finalizers. These roots are walked once while
 * marking; what is added afterwards, or beside the walk, is noted here by
 * whoever adds it. The collector empties the log in each round and in the last
 * stop. An object noted is kept for this cycle, even if it is let go of again.
 *
 * Words that were read from weak references are noted as well: see
 * wane__grey_hint.
 *
 * INV-grey-1: a word is noted only while marking: at other times nobody would
 *   look, and it would be an old one when somebody does.
 *
 * Without memory for the log all these roots are walked again in the last
 * stop.
 */
#ifndef WANE_HEAP_GREY_H
#define WANE_HEAP_GREY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a word in the log asks for. */
enum wane__grey {
  WANE__GREY_OBJECT, /* the object that it points into is marked */
  WANE__GREY_FIELDS, /* what the object at this address points to is */
  WANE__GREY_HINT,   /* as OBJECT, but the last stop would find it, too */
  WANE__GREY_COUNT
};

/* Notes a word; any word that points into no object is harmless. Guarded, and
   only while marking. */
void wane__grey_add(enum wane__grey what, uintptr_t word);

/* A weak word was read, while marking. Whoever read it holds the object in a
   register, where the last stop finds it; but all that hangs on it might have
   to be marked in that stop, if nothing else leads there. Guarded. */
void wane__grey_hint(uintptr_t word);

/* Hands out what was noted since the last time. What was handed out then has
   been marked; until then it stays in the log, as a child of fork begins with
   empty mark stacks. The visit must not add. Cycle lock; STW or not. False:
   some could not be noted. */
typedef void wane__grey_visit(void *ctx, const uintptr_t *words, size_t count);
bool wane__grey_take(enum wane__grey what, wane__grey_visit *visit, void *ctx);

/* A cycle begins: what is left is an old one's. STW. */
void wane__grey_clear_stw(void);

/* A child goes on with the marking that it was born in. */
void wane__grey_fork_child(void);

#endif
