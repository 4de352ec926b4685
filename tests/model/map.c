/*
 * Maps of all flags against a model that knows which entries must be there
 * and which must be gone. M1, E1, D11, D17.
 *
 * Objects with links hang on roots, on each other, and in maps, as keys and as
 * values; maps hang on roots and on objects. The program adds and removes at
 * random, each call's answer is compared; then everything is collected. What
 * the model reaches must live: strong maps keep both sides, an entry of a weak
 * map its held side if the weak one is reached, which is repeated until
 * nothing is added. Conservative roots may keep an object that the model does
 * not reach, but then not by halves: after a cycle an entry is there if and
 * only if its weak objects live, by what weak pointers to them say.
 *
 * map [--seed N] [--seconds S]
 */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: one_marker WANE_OPTIONS=mark_threads=1,background=0 */
/* run: overflow WANE_OPTIONS=mark_threads=4,mark_stack=8192 */
/* run: stress WANE_OPTIONS=stress=alloc:70 */
#include "support/lives.h"

#define OBJECTS 500
#define STATICS 8 /* numbered after them; they never die */
#define LINKS 2
#define MAPS 20
#define ENTRIES 3000
#define NOBODY (-1) /* as object: NULL */

struct object {
  uint64_t id;
  uint64_t number; /* what keys are compared by */
  struct object *links[LINKS];
  struct wane_map *map;
  uint64_t check; /* ~id */
};

struct shadow {
  uint64_t id; /* 0: free */
  uint64_t number;
  uintptr_t hidden;
  wane_weak weak;
  int links[LINKS];
  int map;
  bool rooted;
  bool reached;
};

struct shadow_map {
  bool used;
  unsigned flags;
  bool has_ops;
  uintptr_t hidden;
  wane_weak weak;
  bool rooted;
  bool reached;
};

/* A word is an object and an offset below 16. */
struct ref {
  int object;
  int offset;
};

struct entry {
  bool used;
  bool shown;
  int map;
  struct ref key;
  struct ref value;
};

static struct test_random random_state;
static struct test_args args;
static struct object statics[STATICS] __attribute__((aligned(16)));
static struct shadow shadows[OBJECTS + STATICS];
static struct shadow_map maps[MAPS];
static struct entry entries[ENTRIES];
TEST_ROOT struct object *roots[OBJECTS];
TEST_ROOT struct wane_map *map_roots[MAPS];
static uint64_t next_id = 1;
static bool stale; /* something was removed since the last reach_all */
static uint64_t deaths_due, deaths_late, entries_gone, calls;

static size_t below(size_t limit) { return test_below(&random_state, limit); }

static struct object *object_of(int idx) {
  return idx >= OBJECTS ? &statics[idx - OBJECTS]
                        : (struct object *)test_reveal(shadows[idx].hidden);
}
static struct wane_map *map_of(int m) { return test_reveal(maps[m].hidden); }

static void *word_of(struct ref ref) {
  return ref.object == NOBODY ? NULL
                              : (char *)object_of(ref.object) + ref.offset;
}

static bool ref_equal(struct ref a, struct ref b) {
  return a.object == b.object && a.offset == b.offset;
}

/* ---- Keys that are compared by their numbers ---- */

static uint64_t number_of(const void *key) {
  const struct object *object =
      (const struct object *)((uintptr_t)key & ~(uintptr_t)15);
  require(key == NULL || object->check == ~object->id);
  return key == NULL ? 1000 : object->number;
}
static uint64_t key_hash(const void *key) {
  struct test_random random = {number_of(key)};
  return test_random(&random) & (args.seed % 2 == 0 ? UINT64_MAX : 7);
}
static bool key_equal(const void *a, const void *b) {
  return number_of(a) == number_of(b);
}
static const struct wane_map_ops ops = {key_hash, key_equal};

static uint64_t shadow_number(struct ref key) {
  return key.object == NOBODY ? 1000 : shadows[key.object].number;
}

static struct entry *entry_find(int m, struct ref key) {
  for (size_t i = 0; i < ENTRIES; i++) {
    struct entry *e = &entries[i];
    if (e->used && e->map == m &&
        (maps[m].has_ops ? shadow_number(e->key) == shadow_number(key)
                         : ref_equal(e->key, key))) {
      return e;
    }
  }
  return NULL;
}

static struct entry *entry_free(void) {
  for (size_t i = 0; i < ENTRIES; i++) {
    if (!entries[i].used) {
      return &entries[i];
    }
  }
  return NULL;
}

/* ---- What the model reaches ---- */

static int reach_stack[OBJECTS + STATICS];
static size_t reach_depth;

static void reach(int idx) {
  if (idx != NOBODY && !shadows[idx].reached) {
    shadows[idx].reached = true;
    reach_stack[reach_depth++] = idx;
  }
}

static void reach_map(int m) {
  if (m >= 0) {
    maps[m].reached = true;
  }
}

static void reach_stacked(void) {
  while (reach_depth > 0) {
    const struct shadow *s = &shadows[reach_stack[--reach_depth]];
    for (size_t l = 0; l < LINKS; l++) {
      reach(s->links[l]);
    }
    reach_map(s->map);
  }
}

static bool ref_reached(struct ref ref) {
  return ref.object == NOBODY || shadows[ref.object].reached;
}

/* Must it be there, if its map is? */
static bool entry_reached(const struct entry *e) {
  unsigned flags = maps[e->map].flags;
  return ((flags & WANE_WEAK_KEYS) == 0 || ref_reached(e->key)) &&
         ((flags & WANE_WEAK_VALUES) == 0 || ref_reached(e->value));
}

static bool reach_entries(void) {
  bool more = false;
  for (size_t i = 0; i < ENTRIES; i++) {
    const struct entry *e = &entries[i];
    if (e->used && maps[e->map].reached && entry_reached(e) &&
        maps[e->map].flags != (WANE_WEAK_KEYS | WANE_WEAK_VALUES)) {
      more |= !ref_reached(e->key) || !ref_reached(e->value);
      reach(e->key.object);
      reach(e->value.object);
    }
  }
  return more;
}

static void reach_all(void) {
  for (int i = 0; i < OBJECTS + STATICS; i++) {
    shadows[i].reached = false;
  }
  for (int m = 0; m < MAPS; m++) {
    maps[m].reached = maps[m].used && maps[m].rooted;
  }
  for (int i = 0; i < OBJECTS + STATICS; i++) {
    if (shadows[i].rooted) {
      reach(i);
    }
  }
  do {
    reach_stacked();
  } while (reach_entries() || reach_depth > 0);
  for (size_t i = 0; i < ENTRIES; i++) { /* nobody can look any more */
    entries[i].used &= maps[entries[i].map].reached;
  }
  stale = false;
}

static void refresh(void) {
  if (stale) {
    reach_all();
  }
}

/* ---- What the program does ---- */

static int some_object(void) {
  for (int tries = 0; tries < 50; tries++) {
    int idx = (int)below(OBJECTS + STATICS);
    if (shadows[idx].reached) {
      return idx;
    }
  }
  return NOBODY;
}

static int some_map(void) {
  for (int tries = 0; tries < 50; tries++) {
    int m = (int)below(MAPS);
    if (maps[m].reached) {
      return m;
    }
  }
  return -1;
}

static struct ref some_ref(void) {
  int object = some_object();
  bool inner = object != NOBODY && below(4) == 0;
  return (struct ref){object, inner ? (int)below(16) : 0};
}

static TEST_NOINLINE void add_object(void) {
  int idx = (int)below(OBJECTS);
  struct shadow *s = &shadows[idx];
  if (s->id != 0) {
    return;
  }
  struct object *object = wane_alloc(sizeof *object);
  require(object != NULL);
  *s = (struct shadow){.id = next_id++ | UINT64_C(1) << 63,
                       .number = below(100),
                       .hidden = test_hide(object),
                       .weak = wane_weak_make(object),
                       .links = {NOBODY, NOBODY},
                       .map = -1,
                       .rooted = true,
                       .reached = true};
  object->id = s->id;
  object->check = ~s->id;
  object->number = s->number;
  roots[idx] = object;
}

static TEST_NOINLINE void add_map(void) {
  int m = (int)below(MAPS);
  if (maps[m].used) {
    return;
  }
  bool has_ops = below(2) == 0;
  unsigned flags = below(8) == 0 ? 0 : 1 + (unsigned)below(3);
  struct wane_map *map = wane_map_new(has_ops ? &ops : NULL, flags);
  require(map != NULL);
  map_roots[m] = map;
  maps[m] = (struct shadow_map){.used = true,
                                .flags = flags,
                                .has_ops = has_ops,
                                .hidden = test_hide(map),
                                .weak = wane_weak_make(map),
                                .rooted = true,
                                .reached = true};
}

static void set_link(int from, size_t l, int to) {
  stale |= shadows[from].links[l] != NOBODY;
  shadows[from].links[l] = to;
  object_of(from)->links[l] = to == NOBODY ? NULL : object_of(to);
}

static void set_map(int from, int m) {
  stale |= shadows[from].map >= 0;
  shadows[from].map = m;
  object_of(from)->map = m < 0 ? NULL : map_of(m);
}

static void unroot(int idx) {
  shadows[idx].rooted = false;
  roots[idx] = NULL;
  stale = true;
}

/* ---- Calls of maps ---- */

static void entry_remove(struct entry *e) {
  e->used = false;
  stale = true;
}

static void entry_set(struct entry *e, int m, struct ref key,
                      struct ref value) {
  if (e == NULL) {
    e = entry_free();
    require(e != NULL);
    *e = (struct entry){.used = true, .map = m, .key = key};
  }
  e->value = value;
  stale = true; /* the old value */
}

/* One that may be gone or not, nobody knows: it is looked up, or deleted. */
static TEST_NOINLINE struct entry *settle_unsure(struct entry *e, int m,
                                                 struct ref key) {
  void *value = NULL;
  bool same_key = ref_equal(e->key, key);
  if (below(2) == 0) {
    if (wane_map_load(map_of(m), word_of(key), &value)) {
      require(value == word_of(e->value));
    } else {
      entry_remove(e);
      return NULL;
    }
  }
  if (same_key && below(2) == 0) { /* stored over, whether dying or not */
    wane_map_store(map_of(m), word_of(key), NULL);
    entry_set(e, m, key, (struct ref){NOBODY, 0});
    return e;
  }
  (void)wane_map_delete(map_of(m), word_of(key));
  entry_remove(e);
  return NULL;
}

static void change_call(int m, struct ref key, struct entry *e,
                        struct ref value) {
  struct wane_map *map = map_of(m);
  void *old = e != NULL ? word_of(e->value) : NULL;
  void *wrong = below(2) == 0 ? (void *)7 : word_of(some_ref());
  bool hits = e != NULL && below(2) == 0;
  bool deletes = below(2) == 0;
  void *expected = hits ? old : wrong;
  bool same = e != NULL && expected == old;
  if (deletes) {
    require(wane_map_compare_and_delete(map, word_of(key), expected) == same);
    if (same) {
      entry_remove(e);
    }
  } else {
    require(wane_map_compare_and_swap(map, word_of(key), expected,
                                      word_of(value)) == same);
    if (same) {
      entry_set(e, m, key, value);
    }
  }
}

static void plain_call(int m, struct ref key, struct entry *e,
                       struct ref value) {
  struct wane_map *map = map_of(m);
  const void *k = word_of(key);
  void *old = e != NULL ? word_of(e->value) : NULL;
  void *got = (void *)7;
  bool loaded = e == NULL;
  switch (below(5)) {
  case 0:
    require(wane_map_load(map, k, &got) == (e != NULL) && got == old);
    break;
  case 1:
    wane_map_store(map, k, word_of(value));
    entry_set(e, m, key, value);
    break;
  case 2:
    got = wane_map_load_or_store(map, k, word_of(value), &loaded);
    require(loaded == (e != NULL));
    require(got == (e != NULL ? old : word_of(value)));
    if (e == NULL) {
      entry_set(NULL, m, key, value);
    }
    break;
  case 3:
    require(wane_map_swap(map, k, word_of(value), &got) == (e != NULL));
    require(got == old);
    entry_set(e, m, key, value);
    break;
  default:
    if (below(2) == 0) {
      require(wane_map_delete(map, k) == (e != NULL));
    } else {
      require(wane_map_load_and_delete(map, k, &got) == (e != NULL));
      require(got == old);
    }
    if (e != NULL) {
      entry_remove(e);
    }
  }
}

static TEST_NOINLINE void call_map(void) {
  int m = some_map();
  struct ref key = some_ref();
  struct ref value = below(20) == 0 ? (struct ref){NOBODY, 0} : some_ref();
  if (m < 0 || entry_free() == NULL) {
    return;
  }
  struct entry *e = entry_find(m, key);
  if (e != NULL && !entry_reached(e)) {
    e = settle_unsure(e, m, key);
    refresh();
    if (!ref_reached(key) || !ref_reached(value) || !maps[m].reached ||
        (e != NULL && !entry_reached(e))) {
      return;
    }
  }
  if (below(3) == 0) {
    change_call(m, key, e, value);
  } else {
    plain_call(m, key, e, value);
  }
  calls++;
}

static void clear_map(int m) {
  wane_map_clear(map_of(m));
  for (size_t i = 0; i < ENTRIES; i++) {
    entries[i].used &= entries[i].map != m;
  }
  stale = true;
}

static void do_something(void) {
  int a = some_object();
  int m = some_map();
  switch (below(20)) {
  case 0:
  case 1:
    add_object();
    break;
  case 2:
    add_map();
    break;
  case 3:
    if (a != NOBODY && a < OBJECTS && shadows[a].rooted) {
      unroot(a);
    }
    break;
  case 4:
    if (a != NOBODY && a < OBJECTS) {
      set_link(a, below(LINKS), below(3) == 0 ? NOBODY : some_object());
    }
    break;
  case 5:
    if (a != NOBODY && a < OBJECTS) {
      set_map(a, below(3) == 0 ? -1 : m);
    }
    break;
  case 6:
    if (m >= 0 && below(5) == 0) {
      map_roots[m] = NULL;
      maps[m].rooted = false;
      stale = true;
    } else if (m >= 0 && below(30) == 0) {
      clear_map(m);
    }
    break;
  default:
    call_map();
  }
}

/* Growth now and then: many at once into one map. */
static void fill_map(void) {
  int m = some_map();
  for (int i = 0; i < 150 && m >= 0 && maps[m].reached; i++) {
    struct ref key = {some_object(), (int)below(16)};
    struct ref value = some_ref();
    if (key.object == NOBODY || entry_free() == NULL ||
        entry_find(m, key) != NULL) {
      continue;
    }
    wane_map_store(map_of(m), word_of(key), word_of(value));
    entry_set(NULL, m, key, value);
    refresh();
  }
}

/* A fresh thread, whose stack nobody scans afterwards. */
static void mutate(void *arg) {
  (void)arg;
  size_t steps = below(600);
  for (size_t i = 0; i < steps; i++) {
    do_something();
    refresh();
  }
  if (below(4) == 0) {
    fill_map();
  }
  size_t drops = below(150);
  for (size_t i = 0; i < drops; i++) {
    int idx = (int)below(OBJECTS);
    if (shadows[idx].rooted) {
      unroot(idx);
    }
  }
  refresh();
  steps = below(100); /* while what has been dropped lies about */
  for (size_t i = 0; i < steps; i++) {
    call_map();
    refresh();
  }
}

/* ---- After a cycle ---- */

static TEST_NOINLINE bool object_lives(int idx) {
  const struct shadow *s = &shadows[idx];
  if (idx == NOBODY || idx >= OBJECTS) {
    return true;
  }
  const struct object *object = wane_weak_value(s->weak);
  require(object == NULL || object == object_of(idx));
  return object != NULL;
}

static void check_object(int idx) {
  const struct shadow *s = &shadows[idx];
  const struct object *object = object_of(idx);
  require(object_lives(idx));
  require(object->id == s->id && object->check == ~s->id);
  for (size_t l = 0; l < LINKS; l++) {
    require(object->links[l] ==
            (s->links[l] == NOBODY ? NULL : object_of(s->links[l])));
  }
  require(object->map == (s->map < 0 ? NULL : map_of(s->map)));
}

static int shown_map;
static size_t shown_count;

static bool see_entry(const void *key, void *value, void *ctx) {
  require(ctx == &shown_map);
  for (size_t i = 0; i < ENTRIES; i++) {
    struct entry *e = &entries[i];
    if (e->used && e->map == shown_map && word_of(e->key) == key &&
        object_lives(e->key.object)) { /* not of before at this address */
      require(!e->shown && word_of(e->value) == value);
      e->shown = true;
      shown_count++;
      return true;
    }
  }
  require(!"what a map shows is in the model");
  return false;
}

/* There if and only if what is weak in it lives; the held side too, then. */
static void check_entry(struct entry *e) {
  unsigned flags = maps[e->map].flags;
  bool lives =
      ((flags & WANE_WEAK_KEYS) == 0 || object_lives(e->key.object)) &&
      ((flags & WANE_WEAK_VALUES) == 0 || object_lives(e->value.object));
  require(lives || !entry_reached(e));
  require(e->shown == lives);
  if (!lives) {
    e->used = false;
    entries_gone++;
  } else {
    require(object_lives(e->key.object) && object_lives(e->value.object));
  }
}

static TEST_NOINLINE void check_maps(void) {
  for (int m = 0; m < MAPS; m++) {
    if (!maps[m].reached) {
      continue;
    }
    require(wane_weak_value(maps[m].weak) == map_of(m));
    shown_map = m;
    shown_count = 0;
    wane_map_range(map_of(m), see_entry, &shown_map);
    require(wane_map_count(map_of(m)) == shown_count);
  }
  for (size_t i = 0; i < ENTRIES; i++) {
    if (entries[i].used) {
      check_entry(&entries[i]);
      entries[i].shown = false;
    }
  }
}

static TEST_NOINLINE void check_objects(void) {
  for (int i = 0; i < OBJECTS; i++) {
    if (shadows[i].id == 0) {
      continue;
    }
    if (shadows[i].reached) {
      check_object(i);
      continue;
    }
    deaths_due++;
    if (object_lives(i)) {
      deaths_late++;
    } else {
      shadows[i] = (struct shadow){0};
    }
  }
  for (int m = 0; m < MAPS; m++) {
    if (maps[m].used && !maps[m].reached) {
      maps[m].used = wane_weak_value(maps[m].weak) != NULL;
    }
  }
}

static void each_entry_is_there_as_long_as_it_must(void **state) {
  (void)state;
  size_t rounds = 0;
  random_state.state = args.seed;
  for (int i = 0; i < STATICS; i++) {
    statics[i] = (struct object){.id = (uint64_t)i + 1, .number = (uint64_t)i};
    statics[i].check = ~statics[i].id;
    shadows[OBJECTS + i] = (struct shadow){.id = statics[i].id,
                                           .number = statics[i].number,
                                           .links = {NOBODY, NOBODY},
                                           .map = -1,
                                           .rooted = true};
  }
  wane_set_gc_percent(-1);
  reach_all();
  for (double end = test_now() + args.seconds; test_now() < end; rounds++) {
    test_apart(mutate, NULL);
    test_scrub();
    wane_collect();
    check_maps();
    check_objects();
    reach_all();
    test_scrub();
  }
  printf("%zu rounds, %llu calls, %llu entries gone, of %llu due %llu late\n",
         rounds, (unsigned long long)calls, (unsigned long long)entries_gone,
         (unsigned long long)deaths_due, (unsigned long long)deaths_late);
  assert_true(entries_gone > 0);
  /* sanitizers leave more words behind */
  uint64_t few = deaths_due / (TEST_ASAN || TEST_TSAN ? 3 : 50);
  assert_in_range(deaths_late, 0, few + 20);
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 3);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_entry_is_there_as_long_as_it_must),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
