/* See history.h. */
#include "history.h"

/* ---- What a sequential map does ---- */

/* Of each key its value and key object; both 0: it is not there. */
struct state {
  uint8_t value[HISTORY_KEYS];
  uint8_t object[HISTORY_KEYS];
};

static void state_set(struct state *s, const struct history_event *e) {
  if (s->value[e->key] == 0) {
    s->object[e->key] = e->object;
  }
  s->value[e->key] = e->value;
}

static void state_remove(struct state *s, uint8_t key) {
  s->value[key] = 0;
  s->object[key] = 0;
}

/* Would a sequential map have answered this? Then does it. */
static bool state_apply(struct state *s, const struct history_event *e) {
  uint8_t now = s->value[e->key];
  bool present = now != 0;
  bool same = present && now == e->old;
  switch (e->call) {
  case HISTORY_LOAD:
    return e->ok == present && e->got == now;
  case HISTORY_STORE:
    state_set(s, e);
    return true;
  case HISTORY_LOAD_OR_STORE:
    if (!present) {
      state_set(s, e);
    }
    return e->ok == present && e->got == s->value[e->key];
  case HISTORY_LOAD_AND_DELETE:
    state_remove(s, e->key);
    return e->ok == present && e->got == now;
  case HISTORY_DELETE:
    state_remove(s, e->key);
    return e->ok == present;
  case HISTORY_SWAP:
    state_set(s, e);
    return e->ok == present && e->got == now;
  case HISTORY_COMPARE_AND_SWAP:
    if (same) {
      state_set(s, e);
    }
    return e->ok == same;
  case HISTORY_COMPARE_AND_DELETE:
    if (same) {
      state_remove(s, e->key);
    }
    return e->ok == same;
  default:
    *s = (struct state){0};
    return true;
  }
}

/* ---- What was tried ---- */

#define SEEN_LOG2 16

struct seen {
  uint64_t turn;
  uint64_t done;
  struct state state;
};

struct search {
  const struct history *history;
  uint64_t all; /* calls to put in order, a bit each */
  struct seen *seen;
  size_t seen_count;
  uint64_t turn;
};

static _Thread_local struct search search;

static uint64_t seen_hash(uint64_t done, const struct state *state) {
  uint64_t words[2] = {0};
  memcpy(words, state, sizeof *state);
  struct test_random random = {done ^ words[0] * 31};
  return test_random(&random);
}

/* Notes it; true: it was there. The table may be full: then nothing is noted,
   which costs time only. */
static bool seen_before(struct search *s, uint64_t done,
                        const struct state *state) {
  size_t mask = ((size_t)1 << SEEN_LOG2) - 1;
  size_t idx = seen_hash(done, state) & mask;
  while (s->seen[idx].turn == s->turn) {
    if (s->seen[idx].done == done &&
        memcmp(&s->seen[idx].state, state, sizeof *state) == 0) {
      return true;
    }
    idx = (idx + 1) & mask;
  }
  if (s->seen_count < mask / 2) {
    s->seen_count++;
    s->seen[idx] = (struct seen){s->turn, done, *state};
  }
  return false;
}

/* ---- The search ---- */

static bool search_from(struct search *s, uint64_t done, struct state state);

/* The entry of a key may go once nobody holds its value or key object. */
static bool may_be_gone(const struct history *h, const struct state *state,
                        size_t key, uint64_t first_end) {
  uint64_t value = h->value_dropped[state->value[key]];
  uint64_t object = h->key_dropped[state->object[key]];
  return state->value[key] != 0 && ((value != 0 && value < first_end) ||
                                    (object != 0 && object < first_end));
}

static bool search_deaths(struct search *s, uint64_t done,
                          const struct state *state, uint64_t first_end) {
  for (size_t key = 0; key < HISTORY_KEYS; key++) {
    if (may_be_gone(s->history, state, key, first_end)) {
      struct state next = *state;
      state_remove(&next, (uint8_t)key);
      if (search_from(s, done, next)) {
        return true;
      }
    }
  }
  return false;
}

/* Next comes a call that began before any other of the rest had ended. */
static bool search_from(struct search *s, uint64_t done, struct state state) {
  const struct history *h = s->history;
  uint64_t first_end = UINT64_MAX;
  if (done == s->all) {
    return true;
  }
  if (seen_before(s, done, &state)) {
    return false;
  }
  for (uint64_t rest = s->all & ~done; rest != 0; rest &= rest - 1) {
    uint64_t end = h->events[__builtin_ctzll(rest)].end;
    first_end = end < first_end ? end : first_end;
  }
  for (uint64_t rest = s->all & ~done; rest != 0; rest &= rest - 1) {
    const struct history_event *event = &h->events[__builtin_ctzll(rest)];
    struct state next = state;
    if (event->begin < first_end && state_apply(&next, event) &&
        search_from(s, done | (rest & -rest), next)) {
      return true;
    }
  }
  return search_deaths(s, done, &state, first_end);
}

static bool search_calls(const struct history *history, uint64_t calls) {
  struct search *s = &search;
  if (s->seen == NULL) {
    s->seen = calloc((size_t)1 << SEEN_LOG2, sizeof *s->seen);
    require(s->seen != NULL);
  }
  s->history = history;
  s->all = calls;
  s->turn++;
  s->seen_count = 0;
  return search_from(s, 0, (struct state){0});
}

bool history_is_linearizable(const struct history *history) {
  uint64_t by_key[HISTORY_KEYS] = {0};
  uint64_t all = 0;
  bool clears = false;
  require(history->count <= HISTORY_CALLS);
  for (size_t i = 0; i < history->count; i++) {
    const struct history_event *event = &history->events[i];
    require(event->begin < event->end && event->key < HISTORY_KEYS);
    require(event->value < HISTORY_IDS && event->object < HISTORY_IDS);
    clears |= event->call == HISTORY_CLEAR;
    by_key[event->key] |= UINT64_C(1) << i;
    all |= UINT64_C(1) << i;
  }
  if (clears) {
    return search_calls(history, all);
  }
  for (size_t key = 0; key < HISTORY_KEYS; key++) {
    if (!search_calls(history, by_key[key])) {
      return false;
    }
  }
  return true;
}

/* ---- Printing ---- */

static const char *const names[HISTORY_KINDS] = {
    "load", "store", "load_or_store",      "load_and_delete", "delete",
    "swap", "c_a_s", "compare_and_delete", "clear",
};

static int compare_begins(const void *a, const void *b) {
  const struct history_event *left = a;
  const struct history_event *right = b;
  return (left->begin > right->begin) - (left->begin < right->begin);
}

void history_print(const struct history *history) {
  static struct history sorted;
  sorted = *history;
  qsort(sorted.events, sorted.count, sizeof sorted.events[0], compare_begins);
  for (size_t i = 0; i < sorted.count; i++) {
    const struct history_event *e = &sorted.events[i];
    fprintf(stderr,
            "[%llu, %llu] %s key %u object %u value %u old %u: %d, got %u\n",
            (unsigned long long)e->begin, (unsigned long long)e->end,
            names[e->call], e->key, e->object, e->value, e->old, e->ok, e->got);
  }
  for (size_t i = 0; i < HISTORY_IDS; i++) {
    if (history->value_dropped[i] != 0 || history->key_dropped[i] != 0) {
      fprintf(stderr, "%zu dropped: value %llu, key %llu\n", i,
              (unsigned long long)history->value_dropped[i],
              (unsigned long long)history->key_dropped[i]);
    }
  }
}
