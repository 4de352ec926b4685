/*
 * Random object graphs against a model that knows what is reachable.
 *
 * The model remembers for each object its kind, its links and a checksum
 * seed, and where roots point; the collector sees only the objects and the
 * roots. After each wane_collect, everything that the model reaches is whole
 * (G1), and the bytes found live are those of the reachable objects, up to
 * SLACK for what stray words on stacks keep.
 *
 * model [--seed N] [--seconds S]
 */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: one_marker WANE_OPTIONS=mark_threads=1,background=0 */
/* run: four_markers WANE_OPTIONS=mark_threads=4,mark_stack=8192 */
/* run: stress WANE_OPTIONS=stress=alloc:50,verify=1 */
#include "support/test.h"

#include <pthread.h>

#include "heap/size_class.h"

#define OBJECTS 20000
#define LINKS_MAX 8
#define ROOTS 300
#define PINS 50
/* Of live bytes: a thousandth, and a few of the largest objects. */
#define SLACK_BYTES (3u << 20)

enum kind { SCAN, LEAF, TYPED, KINDS };

/* What every object looks like to the program; a leaf has no links, and
   then check is a function of the seed for every word of the rest. */
struct item {
  uint64_t id;
  struct item *links[LINKS_MAX];
  uint64_t words[]; /* check words to the end */
};
WANE_TYPE(item_type, struct item, links[0], links[1], links[2], links[3],
          links[4], links[5], links[6], links[7]);

struct shadow {
  uintptr_t hidden; /* 0: none */
  enum kind kind;
  size_t bytes;            /* asked for, without a typed array's further ones */
  uint64_t id;             /* unique; seeds the checksum */
  int links[LINKS_MAX];    /* indices; -1: none */
  size_t inner[LINKS_MAX]; /* offset into the target */
  bool reached;
};

static struct test_random random_state;
static struct shadow shadows[OBJECTS];
static uint64_t next_id;

TEST_ROOT void *roots[ROOTS]; /* static data */
static int root_shadow[ROOTS];
TEST_ROOT void **added_roots; /* malloc memory, added */
static int added_shadow[ROOTS];
static int pinned[PINS];

/* What lost a link since the model's last search: still reachable, so that
   the model may use all that its search reached. */
TEST_ROOT void *recent[8192];
static size_t recent_count;

static size_t below(size_t limit) { return test_below(&random_state, limit); }

static uint64_t check_word(const struct shadow *s, size_t i) {
  uint64_t word = (s->id * 0x9e3779b97f4a7c15ull) ^ (i * 0xff51afd7ed558ccdull);
  return word | 1ull << 63; /* never an address */
}

static size_t word_count(const struct shadow *s) {
  return s->kind == TYPED ? 0
                          : (s->bytes - sizeof(struct item)) / sizeof(uint64_t);
}

static struct item *item_of(int idx) {
  return test_reveal(shadows[idx].hidden);
}

static void keep_recent(int idx) {
  if (idx >= 0 &&
      (recent_count == 0 || recent[recent_count - 1] != item_of(idx))) {
    require(recent_count < TEST_COUNT(recent));
    recent[recent_count++] = item_of(idx);
  }
}

static void check_item(int idx) {
  const struct shadow *s = &shadows[idx];
  const struct item *item = item_of(idx);
  require(wane_base(item) == item);
  require(item->id == (s->id | 1ull << 63));
  for (size_t l = 0; l < LINKS_MAX; l++) {
    const char *expected =
        s->kind == LEAF || s->links[l] < 0
            ? NULL
            : (const char *)item_of(s->links[l]) + s->inner[l];
    require((const char *)item->links[l] == expected);
  }
  for (size_t i = 0; i < word_count(s); i++) {
    require(item->words[i] == check_word(s, i));
  }
}

static size_t random_size(void) {
  size_t extra = 0;
  switch (below(20)) {
  case 0:
    extra = below(30000);
    break;
  case 1:
    extra = below(400) == 0 ? below(1 << 20) : below(3000);
    break;
  default:
    extra = below(200);
  }
  return sizeof(struct item) + extra / 8 * 8;
}

static void fill_words(struct item *item, const struct shadow *s, size_t from) {
  for (size_t i = from; i < word_count(s); i++) {
    require(item->words[i] == 0);
    item->words[i] = check_word(s, i);
  }
}

/* Who called holds the object until something leads to it: a cycle may end at
   any time. */
static TEST_NOINLINE struct item *new_item(int idx) {
  struct shadow *s = &shadows[idx];
  *s = (struct shadow){
      .kind = (enum kind)below(KINDS), .bytes = random_size(), .id = ++next_id};
  struct item *item = s->kind == SCAN   ? wane_alloc(s->bytes)
                      : s->kind == LEAF ? wane_alloc_leaf(s->bytes)
                                        : wane_alloc_typed(&item_type, 1);
  require(item != NULL);
  if (s->kind == TYPED) {
    s->bytes = sizeof *item;
  }
  item->id = s->id | 1ull << 63;
  s->hidden = test_hide(item);
  for (size_t l = 0; l < LINKS_MAX; l++) {
    require(item->links[l] == NULL);
    s->links[l] = -1;
  }
  fill_words(item, s, 0);
  return item;
}

static TEST_NOINLINE void set_link(int from, size_t l, int to) {
  struct shadow *s = &shadows[from];
  if (s->kind == LEAF) {
    return;
  }
  keep_recent(s->links[l]);
  s->links[l] = to;
  s->inner[l] = to < 0 ? 0 : below(shadows[to].bytes);
  item_of(from)->links[l] =
      to < 0 ? NULL : (void *)((char *)item_of(to) + s->inner[l]);
}

static TEST_NOINLINE void set_root(size_t r, int to) {
  keep_recent(root_shadow[r]);
  root_shadow[r] = to;
  roots[r] = to < 0 ? NULL : (char *)item_of(to) + below(shadows[to].bytes);
}

static TEST_NOINLINE void set_added(size_t r, int to) {
  keep_recent(added_shadow[r]);
  added_shadow[r] = to;
  added_roots[r] = to < 0 ? NULL : item_of(to);
}

static TEST_NOINLINE void set_pin(size_t p, int to) {
  keep_recent(pinned[p]);
  if (pinned[p] >= 0) {
    wane_unpin(item_of(pinned[p]));
  }
  pinned[p] = to;
  if (to >= 0) {
    wane_pin((char *)item_of(to) + below(shadows[to].bytes));
  }
}

static void reach(int idx) {
  static int stack[OBJECTS];
  size_t depth = 0;
  if (idx < 0 || shadows[idx].reached) {
    return;
  }
  shadows[idx].reached = true;
  stack[depth++] = idx;
  while (depth > 0) {
    const struct shadow *s = &shadows[stack[--depth]];
    for (size_t l = 0; l < LINKS_MAX; l++) {
      if (s->links[l] >= 0 && !shadows[s->links[l]].reached) {
        shadows[s->links[l]].reached = true;
        stack[depth++] = s->links[l];
      }
    }
  }
}

static void reach_all(void) {
  memset(recent, 0, sizeof recent);
  recent_count = 0;
  for (size_t i = 0; i < OBJECTS; i++) {
    shadows[i].reached = false;
  }
  for (size_t r = 0; r < ROOTS; r++) {
    reach(root_shadow[r]);
    reach(added_shadow[r]);
  }
  for (size_t p = 0; p < PINS; p++) {
    reach(pinned[p]);
  }
}

/* The bytes that the collector counts for it. */
static size_t slot_bytes(int idx) {
  size_t bytes = wane_size(item_of(idx));
  if (shadows[idx].kind == TYPED) { /* and the layout's address */
    bytes = wane__classes[wane__class_of(bytes + sizeof(void *))].slot_bytes;
  }
  return bytes;
}

/* Changes the object's size and place; those that point to it follow. */
static TEST_NOINLINE void realloc_item(int idx) {
  struct shadow *s = &shadows[idx];
  size_t old_words = word_count(s);
  size_t bytes = s->kind == TYPED ? s->bytes : random_size();
  struct item *item = wane_realloc(item_of(idx), bytes);
  require(item != NULL);
  s->hidden = test_hide(item);
  s->bytes = bytes;
  keep_recent(idx);
  wane_keep_alive(item);
  if (word_count(s) > old_words) {
    fill_words(item, s, old_words);
  }
  for (int i = 0; i < OBJECTS; i++) {
    for (size_t l = 0; l < LINKS_MAX && shadows[i].reached; l++) {
      if (shadows[i].links[l] == idx) {
        set_link(i, l, idx);
      }
    }
  }
  for (size_t r = 0; r < ROOTS; r++) {
    if (root_shadow[r] == idx) {
      set_root(r, idx);
    }
    if (added_shadow[r] == idx) {
      set_added(r, idx);
    }
  }
}

/* Only what the model reaches may be touched; dead shadows are forgotten. */
static int reached_item(void) {
  for (int tries = 0; tries < 50; tries++) {
    int idx = (int)below(OBJECTS);
    if (shadows[idx].reached) {
      return idx;
    }
  }
  return -1;
}

static bool is_pinned(int idx) {
  for (size_t p = 0; p < PINS; p++) {
    if (pinned[p] == idx) {
      return true;
    }
  }
  return false;
}

/* New objects are hung on something reached at once, or on a root. */
static void add_item(void) {
  int idx = (int)below(OBJECTS);
  if (shadows[idx].reached) {
    return;
  }
  int parent = reached_item();
  struct item *item = new_item(idx);
  if (parent >= 0 && shadows[parent].kind != LEAF && below(10) != 0) {
    set_link(parent, below(LINKS_MAX), idx);
  } else {
    set_root(below(ROOTS), idx);
  }
  wane_keep_alive(item);
  shadows[idx].reached = true;
}

static void mutate(void) {
  int a = reached_item();
  int b = reached_item();
  switch (below(16)) {
  case 0:
    set_root(below(ROOTS), below(3) == 0 ? -1 : b);
    break;
  case 1:
    set_added(below(ROOTS), below(3) == 0 ? -1 : b);
    break;
  case 2:
    set_pin(below(PINS), below(2) == 0 ? -1 : b);
    break;
  case 3:
    if (a >= 0 && below(20) == 0 && !is_pinned(a)) {
      realloc_item(a);
    }
    break;
  case 4:
  case 5:
  case 6:
    if (a >= 0) {
      set_link(a, below(LINKS_MAX), below(4) == 0 ? -1 : b);
    }
    break;
  default:
    add_item();
  }
}

/* A fresh thread, whose stack nobody scans afterwards. */
static void mutate_some(void *arg) {
  (void)arg;
  size_t steps = 200 + below(12000);
  for (size_t i = 0; i < steps; i++) {
    mutate();
    if (i % 64 == 0) {
      reach_all();
    }
  }
}

static void check_all(void) {
  reach_all();
  uint64_t live = test_live_bytes();
  uint64_t expected = 0;
  size_t objects = 0;
  for (int i = 0; i < OBJECTS; i++) {
    if (shadows[i].reached) {
      check_item(i);
      expected += slot_bytes(i);
      objects++;
    } else {
      shadows[i] = (struct shadow){0};
    }
  }
  if (live < expected || live > expected + SLACK_BYTES) {
    fail_msg("%zu objects reachable with %llu bytes, found %llu live", objects,
             (unsigned long long)expected, (unsigned long long)live);
  }
}

static struct test_args args;

static void what_is_reachable_is_whole_and_the_rest_is_gone(void **state) {
  (void)state;
  random_state.state = args.seed;
  added_roots = calloc(ROOTS, sizeof *added_roots);
  wane_add_root(added_roots, ROOTS * sizeof *added_roots);
  for (size_t r = 0; r < ROOTS; r++) {
    root_shadow[r] = added_shadow[r] = -1;
  }
  memset(pinned, -1, sizeof pinned);
  double end = test_now() + args.seconds;
  do {
    test_apart(mutate_some, NULL);
    check_all();
  } while (test_now() < end);
  for (size_t r = 0; r < ROOTS; r++) {
    set_root(r, -1);
    set_added(r, -1);
  }
  for (size_t p = 0; p < PINS; p++) {
    set_pin(p, -1);
  }
  check_all();
  wane_remove_root(added_roots);
  free(added_roots);
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 2.5);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_reachable_is_whole_and_the_rest_is_gone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
