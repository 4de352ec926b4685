/*
 * collect/beside: finalizers and cleanups of objects that die while marking
 * runs beside the program. At random steps of a cycle an object gets its
 * finalizer, gets the only pointer to an item, and is dropped: the finalizer
 * must find the item whole. In between nobody but a stack may know the object.
 * A1, A4, F1, F3, F5, F6, W1, W4, INV-beside-1, INV-grey-1.
 */
/* run: none WANE_OPTIONS=dirty=none */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,mark_threads=1 */
#include "support/places.h"

#include <unistd.h>

#include "collect/phase.h"

#if WANE_CHECK_LEVEL < 1
int main(void) { return 77; } /* no phases */
#else

#  define ZERO_WORDS ((size_t)8 << 10)
#  define DATA_WORDS ((size_t)8 << 10)
#  define LIVES_MAX ((size_t)20000)
#  define CYCLES 60

TEST_ROOT void *zero_words[ZERO_WORDS];
static int something;
TEST_ROOT void *data_words[DATA_WORDS] = {&something};

static bool is_beside(void) {
  return strcmp(test_stats().dirty_backend, "none") != 0;
}

/* ---- Objects that will die ---- */

/* The item's pointer is in the last of the elements. */
struct mortal {
  uint64_t life;
  void *item;
  struct mortal *self; /* does not keep it alive (F4) */
  uint64_t fill[5];
};
WANE_TYPE(mortal_type, struct mortal, item, self);

/* What has happened to the object of a number. */
static struct life {
  uint64_t has_item;  /* atomic: its number, or 0 */
  uint64_t finalized; /* atomic: how often */
  uint64_t cleaned;   /* atomic: how often */
  bool has_finalizer;
  bool has_cleanup;
} lives[LIVES_MAX];
static size_t life_count;
static struct wane_queue *queue;

static size_t mortal_elements(size_t life) {
  static const size_t counts[] = {1, 1, 2, 10, 1, 3, 40, 800};
  return counts[life % TEST_COUNT(counts)];
}

static struct mortal *mortal_new(size_t life) {
  size_t count = mortal_elements(life);
  struct mortal *mortal = life % 3 == 0 ? wane_alloc_typed(&mortal_type, count)
                                        : wane_alloc(count * sizeof *mortal);
  require(mortal != NULL);
  mortal->life = life;
  mortal->self = life % 2 == 0 ? mortal : NULL;
  return mortal;
}

static void **mortal_item(struct mortal *mortal) {
  return &mortal[mortal_elements(mortal->life) - 1].item;
}

/* The finalizer. */
static void mortal_dies(void *object) {
  struct mortal *mortal = object;
  struct life *life = &lives[mortal->life];
  uint64_t item = test_get(&life->has_item);
  if (!item_is_whole(*mortal_item(mortal), item) && item != 0) {
    dprintf(STDERR_FILENO, "the item of object %zu was lost\n",
            (size_t)mortal->life);
    abort();
  }
  test_add(&life->finalized);
}

/* The cleanup, whose argument is an item, too. */
static void mortal_is_gone(void *arg) {
  uint64_t number = *(uint64_t *)arg;
  size_t life = (size_t)(number / 2 - 1);
  require(number % 2 == 0 && item_is_whole(arg, number));
  test_add(&lives[life].cleaned);
}

/* ---- Their way through a cycle ---- */

/* At which steps things happen to the object of a slot; the phase after the
   last is after the cycle, and -1 before it. */
static struct way {
  size_t life;
  int finalizer;
  int cleanup;
  int item;
  int drop;
  int hide; /* both are taken from where marking may find them */
  const struct place *place;
  const struct place *item_place;
} ways[PLACE_SLOTS / 2];

static struct test_random random_state = {1};
static const struct place *small_place;
static const struct place *frame_place;
static const struct place *weak_place;

/* From first on. Without marking beside the program some do not come. */
static int random_step(int first) {
  if (test_below(&random_state, 3) == 0) {
    return first;
  }
  int step = first + (int)test_below(&random_state,
                                     (size_t)(WANE__PHASE_COUNT + 1 - first));
  bool comes = is_beside() || step <= WANE__PHASE_BEFORE_CYCLE ||
               step >= WANE__PHASE_AFTER_STOP;
  return comes ? step : WANE__PHASE_AFTER_STOP;
}

static const struct place *strong_place(void) {
  const struct place *place;
  do {
    place = &places[test_below(&random_state, place_count)];
  } while (place->is_weak || place->is_dear);
  return place;
}

static uint64_t item_number(size_t life) { return 2 * life + 1; }
static uint64_t arg_number(size_t life) { return 2 * life + 2; }

/* Slot i for the object, and that behind all of these for its item. */
static size_t item_slot(size_t i) { return i + TEST_COUNT(ways); }

static void way_begin(size_t i) {
  struct way *way = &ways[i];
  require(life_count < LIVES_MAX);
  *way = (struct way){.life = life_count++,
                      .finalizer = random_step(-1),
                      .cleanup = random_step(-1),
                      .item_place = strong_place()};
  way->hide = random_step(-1);
  way->item = random_step(way->hide);
  way->drop = random_step(way->item);
  way->place = i % 3 == 0 ? weak_place : small_place;
  place_put(way->place, i, mortal_new(way->life));
  place_put(way->item_place, item_slot(i), item_new(item_number(way->life)));
}

static void life_set_finalizer(struct mortal *mortal) {
  struct life *life = &lives[mortal->life];
  life->has_finalizer = true;
  if (mortal->life % 4 == 1) {
    wane_set_finalizer_on(queue, mortal, mortal_dies);
  } else {
    wane_set_finalizer(mortal, mortal_dies);
  }
}

static void life_add_cleanup(struct mortal *mortal) {
  void *arg = item_new(arg_number(mortal->life));
  lives[mortal->life].has_cleanup = true;
  require(wane_add_cleanup(mortal, mortal_is_gone, arg).id != 0);
}

/* What is to happen to the object of slot i at the step. */
static TEST_NOINLINE void way_go(size_t i, int step) {
  struct way *way = &ways[i];
  if (way->place == NULL) {
    return;
  }
  struct mortal *mortal = place_take(way->place, i);
  if (mortal == NULL) { /* the weak pointer's object was found dead */
    require(way->place->is_weak);
    way->place = NULL;
    (void)place_take(way->item_place, item_slot(i));
    return;
  }
  if (step == way->finalizer) {
    life_set_finalizer(mortal);
  }
  if (step == way->cleanup) {
    life_add_cleanup(mortal);
  }
  if (step == way->hide) {
    void *item = place_take(way->item_place, item_slot(i));
    way->item_place = frame_place;
    place_put(frame_place, item_slot(i), item);
  }
  if (step == way->item) {
    *mortal_item(mortal) = place_take(way->item_place, item_slot(i));
    test_set(&lives[way->life].has_item, item_number(way->life));
  }
  way->place = step == way->drop   ? NULL
               : step == way->hide ? frame_place
                                   : way->place;
  if (way->place != NULL) {
    place_put(way->place, i, mortal);
  }
}

static bool is_touched(const struct way *way, int step) {
  return step == way->finalizer || step == way->cleanup || step == way->item ||
         step == way->drop || step == way->hide;
}

static void take_step(int step) {
  for (size_t i = 0; i < TEST_COUNT(ways); i++) {
    if (is_touched(&ways[i], step)) {
      way_go(i, step);
    }
  }
  test_scrub();
}

static void phase_hook(enum wane__phase phase) {
  static unsigned last_cycle;
  static unsigned seen;
  unsigned cycle = (unsigned)test_stats().cycles_full;
  seen = phase == WANE__PHASE_BEFORE_CYCLE && cycle >= last_cycle ? 0 : seen;
  last_cycle = cycle;
  if ((seen >> phase & 1) == 0) { /* rounds may be many */
    seen |= 1u << phase;
    take_step((int)phase);
  }
}

static TEST_NOINLINE void one_cycle(void) {
  for (size_t i = 0; i < TEST_COUNT(ways); i++) {
    way_begin(i);
  }
  take_step(-1);
  wane__phase_hook = phase_hook;
  wane_collect();
  wane__phase_hook = NULL;
  take_step(WANE__PHASE_COUNT);
  for (size_t i = 0; i < TEST_COUNT(ways); i++) {
    require(ways[i].place == NULL);
  }
}

static void settle(void) {
  for (int i = 0; i < 4; i++) { /* X2: finalizers first */
    test_scrub();
    wane_collect();
    require(wane_drain(10000));
    (void)wane_queue_run(queue, SIZE_MAX);
  }
}

static void mortals_find_their_items(void **state) {
  (void)state;
  for (int i = 0; i < CYCLES; i++) {
    one_cycle();
    (void)wane_queue_run(queue, SIZE_MAX);
  }
  settle();
  size_t due[2] = {0};
  size_t done[2] = {0};
  for (size_t i = 0; i < life_count; i++) {
    const struct life *life = &lives[i];
    assert_true(life->finalized <= life->has_finalizer);
    assert_true(life->cleaned <= life->has_cleanup);
    due[0] += life->has_finalizer;
    due[1] += life->has_cleanup;
    done[0] += life->finalized;
    done[1] += life->cleaned;
  }
  assert_true(due[0] > life_count / 2 && due[1] > life_count / 2);
  assert_most(done[0], due[0]);
  assert_most(done[1], due[1]);
}

static void run_all(void *failed) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mortals_find_their_items),
  };
  *(int *)failed = cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
  const struct place_roots roots = {zero_words, ZERO_WORDS, data_words,
                                    DATA_WORDS};
  int failed = 1;
  places_begin(&roots);
  small_place = place_named("small");
  frame_place = place_named("frame");
  weak_place = place_named("weak");
  queue = wane_queue_new();
  require(queue != NULL);
  places_act(0, run_all, &failed);
  return failed;
}

#endif
