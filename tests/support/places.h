/*
 * For tests of marking beside the program: places where a program may keep the
 * only pointer to an object, and ways to move it from one to another.
 *
 * An item is an object that knows its number; all of its words follow from
 * that, and so do those of the objects that it alone leads to. An item that was
 * freed too soon, or any of these, is not whole any more.
 *
 * Each thread that uses places is an actor and has PLACE_SLOTS slots of each
 * place to itself. place_put stores an item in a slot, and place_take takes it
 * out: afterwards nothing of the place leads to it. In between nobody else has
 * a pointer to it, but for stray words on stacks: ask about many items.
 */
#ifndef WANE_TEST_PLACES_H
#define WANE_TEST_PLACES_H

#include "lives.h"

/* ---- Items ---- */

/* Some are large, typed or leaves: which, follows from the number. Never NULL.
 */
void *item_new(uint64_t number);
bool item_is_whole(const void *item, uint64_t number);

/* ---- Places ---- */

#define PLACE_ACTORS 4
#define PLACE_SLOTS ((size_t)160)

struct place {
  const char *name;
  void (*put)(size_t slot, void *pointer);
  void *(*take)(size_t slot);
  bool is_weak; /* does not keep the item: take gives it until it is found dead,
                   and NULL from then on */
  bool is_dear; /* for use now and then */
};

extern const struct place places[];
extern const size_t place_count;
const struct place *place_named(const char *name);

/* The program's own static data: without and with initial values. (Defined
   here, they would be roots of every test.) */
struct place_roots {
  void **zero;
  size_t zero_words;
  void **data;
  size_t data_words;
};

/* Makes what the places are in. Main thread, once. */
void places_begin(const struct place_roots *roots);
/* Calls fn(arg) as the actor: its stack holds the slots of a place. */
void places_act(size_t actor, void (*fn)(void *arg), void *arg);

/* slot is below PLACE_SLOTS. The calling thread is an actor. */
void place_put(const struct place *place, size_t slot, void *item);
void *place_take(const struct place *place, size_t slot);

#endif
