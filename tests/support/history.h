/*
 * Was a map's history linearizable? A history is what threads did to one map:
 * each call with its arguments, its result, and two stamps. The checker looks
 * for one order of all calls in which a sequential map would have answered
 * the same, and in which no call comes before one that had ended when it
 * began. The search is Wing and Gong's with Lowe's memory of what was tried:
 * the set of calls done and the map's state then.
 *
 * Calls on different keys do not touch each other, so a history without clear
 * is searched key by key.
 *
 * Words are numbers of one byte: a key, a value, an object that stands for a
 * key. Weak maps: from the stamp in value_dropped or key_dropped on, nobody
 * holds that value or key object any more, so that its entry may go at any
 * moment after, or never.
 */
#ifndef WANE_TEST_HISTORY_H
#define WANE_TEST_HISTORY_H

#include "test.h"

#define HISTORY_CALLS 64 /* at most */
#define HISTORY_KEYS 4
#define HISTORY_IDS 128

enum history_call {
  HISTORY_LOAD,
  HISTORY_STORE,
  HISTORY_LOAD_OR_STORE,
  HISTORY_LOAD_AND_DELETE,
  HISTORY_DELETE,
  HISTORY_SWAP,
  HISTORY_COMPARE_AND_SWAP,
  HISTORY_COMPARE_AND_DELETE,
  HISTORY_CLEAR,
  HISTORY_KINDS
};

struct history_event {
  uint64_t begin; /* not later than the call */
  uint64_t end;   /* not earlier than its return */
  uint8_t call;
  uint8_t key;
  uint8_t object; /* the key object used; kept if the key was not there */
  uint8_t value;  /* what is stored, not 0 */
  uint8_t old;    /* what is compared with */
  uint8_t got;    /* what came back; 0: nothing */
  bool ok;        /* the result, *loaded */
};

struct history {
  size_t count;
  struct history_event events[HISTORY_CALLS];
  uint64_t value_dropped[HISTORY_IDS]; /* 0: held all the time */
  uint64_t key_dropped[HISTORY_IDS];
};

bool history_is_linearizable(const struct history *history);

/* Prints it on stderr, in the order of begins. */
void history_print(const struct history *history);

#endif
