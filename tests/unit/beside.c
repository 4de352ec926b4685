/*
 * collect/beside: what moves while marking runs beside the program. At each
 * step of a cycle pointers are stored where marking has been already and erased
 * where it has not, in and out of every kind of place. INV-beside-1 and 3, A4,
 * E1, W1, W9, INV-grey-1.
 *
 * The mover is a thread that does so when it is told to; or the thread that
 * collects does it itself.
 */
/* run: none WANE_OPTIONS=dirty=none */
/* run: softdirty WANE_OPTIONS=dirty=softdirty */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: overflow WANE_OPTIONS=mark_stack=8192,mark_threads=4 */
/* run: plain WANE_OPTIONS=background=0,mark_threads=1 */
/* timeout: 240 */
#include "support/places.h"

#include <pthread.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "collect/phase.h"

#if WANE_CHECK_LEVEL < 1
int main(void) { return 77; } /* no phases */
#else

#  define ZERO_WORDS ((size_t)2 << 20) /* 16 MiB */
#  define DATA_WORDS ((size_t)12 << 10)
#  define PAGE_BYTES ((size_t)4096)
#  define PRESSURE_PAGES ((size_t)400)

TEST_ROOT void *zero_words[ZERO_WORDS];
static int something;
TEST_ROOT void *data_words[DATA_WORDS] = {&something};

static bool is_beside(void) {
  return strcmp(test_stats().dirty_backend, "none") != 0;
}

/* ---- Who moves ---- */

static struct {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  void (*job)(void); /* NULL: none */
  pthread_t thread;
} mover = {.mutex = PTHREAD_MUTEX_INITIALIZER,
           .changed = PTHREAD_COND_INITIALIZER};

static void mover_loop(void *arg) {
  (void)arg;
  pthread_mutex_lock(&mover.mutex);
  for (;;) {
    while (mover.job == NULL) {
      pthread_cond_wait(&mover.changed, &mover.mutex);
    }
    pthread_mutex_unlock(&mover.mutex);
    mover.job();
    test_scrub();
    pthread_mutex_lock(&mover.mutex);
    mover.job = NULL;
    pthread_cond_broadcast(&mover.changed);
  }
}

static void *mover_thread(void *arg) {
  places_act(1, mover_loop, arg);
  return NULL;
}

static void on_mover(void (*job)(void)) {
  pthread_mutex_lock(&mover.mutex);
  while (mover.job != NULL) {
    pthread_cond_wait(&mover.changed, &mover.mutex);
  }
  mover.job = job;
  pthread_cond_broadcast(&mover.changed);
  while (mover.job != NULL) {
    pthread_cond_wait(&mover.changed, &mover.mutex);
  }
  pthread_mutex_unlock(&mover.mutex);
}

/* The same, but does not wait for long: a mover that allocates may have to wait
   for the very cycle whose thread this is. */
static void on_mover_in_passing(void (*job)(void)) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += 3000000;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  pthread_mutex_lock(&mover.mutex);
  if (mover.job == NULL) {
    mover.job = job;
    pthread_cond_broadcast(&mover.changed);
  }
  while (mover.job != NULL &&
         pthread_cond_timedwait(&mover.changed, &mover.mutex, &until) == 0) {
  }
  pthread_mutex_unlock(&mover.mutex);
}

static void here(void (*job)(void)) {
  job();
  test_scrub();
}

static void (*act)(void (*job)(void)) = on_mover;

/* ---- When ---- */

static void (*attack)(enum wane__phase phase); /* NULL: nothing */
static unsigned phases_seen[WANE__PHASE_COUNT];

static void phase_hook(enum wane__phase phase) {
  phases_seen[phase]++;
  if (attack != NULL) {
    attack(phase);
  }
}

/* ---- Each item from one place to another, at certain steps ---- */

#  define EACH ((size_t)5) /* items from one place to another */

/* Items are taken from a place at one step, are nowhere but with the mover for
   a while, perhaps, and are put elsewhere at another. */
static struct {
  const struct place *from;
  const struct place *hiding;
  enum wane__phase hide;
  enum wane__phase show; /* if it is the same: from here to there at once */
  bool is_hidden;
  bool is_shown;
  uint64_t first_number;
} moves;

static uint64_t next_number; /* of items */

/* Where item i goes: each strong place in turn. */
static const struct place *target_of(size_t i) {
  return i / EACH < place_count ? &places[i / EACH] : &places[0];
}

static bool is_moved(size_t i) { return !target_of(i)->is_weak; }

static uint64_t number_of(size_t i) { return moves.first_number + i; }

static _Noreturn void item_is_lost(const void *item, const struct place *from,
                                   const struct place *to) {
  dprintf(STDERR_FILENO,
          "%p, taken from %s at step %d, from %s to %s at %d, "
          "was lost\n",
          item, moves.from->name, (int)moves.hide, from->name, to->name,
          (int)moves.show);
  abort();
}

static void moves_prepare(void) {
  moves.first_number = next_number;
  next_number += PLACE_SLOTS;
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    if (is_moved(i)) {
      place_put(moves.from, i, item_new(number_of(i)));
    }
  }
}

static void move(size_t i, const struct place *from, const struct place *to) {
  bool may_be_dead = from->is_weak && moves.hide == WANE__PHASE_AFTER_STOP;
  void *item = place_take(from, i);
  if (item == NULL ? !may_be_dead : !item_is_whole(item, number_of(i))) {
    item_is_lost(item, from, to);
  }
  place_put(to, i, item != NULL ? item : item_new(number_of(i)));
}

static void moves_hide(void) {
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    if (is_moved(i)) {
      move(i, moves.from,
           moves.hide == moves.show ? target_of(i) : moves.hiding);
    }
  }
  moves.is_hidden = true;
  moves.is_shown = moves.hide == moves.show;
}

static void moves_show(void) {
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    if (is_moved(i)) {
      move(i, moves.hiding, target_of(i));
    }
  }
  moves.is_shown = true;
}

static void moves_check(void) {
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    void *item = is_moved(i) ? place_take(target_of(i), i) : NULL;
    if (is_moved(i) && !item_is_whole(item, number_of(i))) {
      item_is_lost(item, target_of(i), target_of(i));
    }
  }
}

static void moves_attack(enum wane__phase phase) {
  if (phase == moves.hide && !moves.is_hidden) {
    act(moves_hide);
  } else if (phase == moves.show && moves.is_hidden && !moves.is_shown) {
    act(moves_show);
  }
}

static void move_all(const struct place *from, const struct place *hiding,
                     enum wane__phase hide, enum wane__phase show) {
  moves.from = from;
  moves.hiding = hiding;
  moves.hide = hide;
  moves.show = show;
  moves.is_hidden = moves.is_shown = false;
  act(moves_prepare);
  attack = moves_attack;
  wane_collect();
  attack = NULL;
  if (!moves.is_hidden && !from->is_weak) {
    act(moves_hide); /* this cycle had no such step */
  }
  if (moves.is_hidden && !moves.is_shown) {
    act(moves_show);
  }
  if (moves.is_shown) {
    act(moves_check);
  }
}

static void move_from_each_place(void) {
  const struct place *frame = place_named("frame");
  const struct place *local = place_named("local");
  const struct place *specific = place_named("specific");
  for (size_t p = 0; p < place_count; p++) {
    const struct place *from = &places[p];
    for (int i = 0; i < WANE__PHASE_COUNT; i++) {
      enum wane__phase phase = (enum wane__phase)i;
      move_all(from, frame, phase, phase);
    }
    move_all(from, frame, WANE__PHASE_ARMED, WANE__PHASE_MARKED);
    move_all(from, local, WANE__PHASE_BEFORE_ARMING, WANE__PHASE_ROUND);
    move_all(from, specific, WANE__PHASE_ARMED, WANE__PHASE_BEFORE_STOP);
    move_all(from, frame, WANE__PHASE_FLIPPED, WANE__PHASE_AFTER_STOP);
  }
}

static void what_another_thread_moves_lives(void **state) {
  (void)state;
  act = on_mover;
  move_from_each_place();
}

static void what_the_collecting_thread_moves_lives(void **state) {
  (void)state;
  act = here;
  move_from_each_place();
  act = on_mover;
}

static void all_steps_were_come_to(void **state) {
  (void)state;
  for (int phase = 0; phase < WANE__PHASE_COUNT; phase++) {
    bool is_always =
        phase == WANE__PHASE_BEFORE_CYCLE || phase == WANE__PHASE_AFTER_STOP;
    assert_int_equal(phases_seen[phase] != 0, is_beside() || is_always);
  }
}

/* ---- Many moves in a cycle ---- */

static struct {
  struct {
    const struct place *place; /* NULL: nowhere yet */
    uint64_t number;
    unsigned ends; /* cycles that had ended when it came there */
  } items[PLACE_SLOTS];
  struct test_random random;
  size_t pressure; /* pages written at each step, at most */
  unsigned ends;   /* cycles that have ended */
} wander;

/* Written to, so that marking has more to look at. */
TEST_ROOT char *pages;

static const struct place *random_place(void) {
  const struct place *place;
  do {
    place = &places[test_below(&wander.random, place_count)];
  } while (place->is_dear && test_below(&wander.random, 20) != 0);
  return place;
}

/* What lives as long as the items do: values by the items as weak keys, of
   ephemerons or in a map. */
TEST_ROOT struct wane_ephemeron *others[PLACE_SLOTS];
TEST_ROOT struct wane_map *map_of_others;

#  define OTHER ((uint64_t)1 << 40)

static void other_make(size_t i, void *item) {
  void *other = item_new(OTHER + wander.items[i].number);
  if (i % 2 == 0) {
    others[i] = wane_ephemeron_new(item, other);
    require(others[i] != NULL);
  } else {
    wane_map_store(map_of_others, item, other);
  }
}

static bool other_is_whole(size_t i, void *item) {
  void *other = NULL;
  if (i % 2 == 0) {
    other = wane_ephemeron_value(others[i]);
  } else {
    (void)wane_map_load(map_of_others, item, &other);
  }
  return item_is_whole(other, OTHER + wander.items[i].number);
}

/* Where it is, it lives; and what was put in a weak place as long as no cycle
   has come to its end. */
static void *wander_take(size_t i) {
  const struct place *place = wander.items[i].place;
  void *item = place_take(place, i);
  bool may_be_dead = place->is_weak && (act == on_mover_in_passing ||
                                        wander.items[i].ends != wander.ends);
  if (item == NULL ? !may_be_dead
                   : !item_is_whole(item, wander.items[i].number) ||
                         !other_is_whole(i, item)) {
    dprintf(STDERR_FILENO, "%p in %s was lost, or what hangs on it\n", item,
            place->name);
    abort();
  }
  return item;
}

static TEST_NOINLINE void wander_move(size_t i) {
  void *item = wander.items[i].place != NULL ? wander_take(i) : NULL;
  if (item == NULL || test_below(&wander.random, 20) == 0) {
    wander.items[i].number = next_number++;
    item = item_new(wander.items[i].number);
    other_make(i, item);
  }
  wander.items[i].place = random_place();
  wander.items[i].ends = wander.ends;
  place_put(wander.items[i].place, i, item);
}

static void wander_step(void) {
  size_t count = test_below(&wander.random, wander.pressure + 1);
  for (size_t i = 0; i < count; i++) {
    ++pages[test_below(&wander.random, PRESSURE_PAGES) * PAGE_BYTES];
  }
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    if (test_below(&wander.random, 6) == 0) {
      wander_move(i);
    }
  }
}

static void wander_check(void) {
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    void *item = wander.items[i].place != NULL ? wander_take(i) : NULL;
    wander.items[i].place = NULL;
    if (item != NULL) {
      wander.items[i].place = &places[0];
      place_put(&places[0], i, item);
    }
  }
}

static void wander_attack(enum wane__phase phase) {
  wander.ends += phase == WANE__PHASE_AFTER_STOP;
  act(wander_step);
}

static void wander_for(unsigned cycles, size_t pressure) {
  wander.pressure = pressure;
  attack = wander_attack;
  for (unsigned i = 0; i < cycles; i++) {
    wane_collect();
    act(wander_step);
  }
  attack = NULL;
  act(wander_check);
}

static void what_wanders_lives(void **state) {
  (void)state;
  wander_for((unsigned)test_scaled(40, 20), 0);
}

/* So that there are many rounds, and several last stops. */
static void what_wanders_among_much_that_is_written_lives(void **state) {
  (void)state;
  unsigned rounds = phases_seen[WANE__PHASE_ROUND];
  unsigned stops = phases_seen[WANE__PHASE_BEFORE_STOP];
  unsigned cycles = (unsigned)test_scaled(25, 15);
  wander_for(cycles, 5 * PRESSURE_PAGES);
  if (is_beside()) { /* softdirty hands out a page in one round only */
    assert_true(phases_seen[WANE__PHASE_ROUND] - rounds > cycles);
  }
  if (strcmp(test_stats().dirty_backend, "uffd") == 0) {
    assert_true(phases_seen[WANE__PHASE_ROUND] - rounds > 2 * cycles);
    assert_true(phases_seen[WANE__PHASE_BEFORE_STOP] - stops > cycles);
  }
}

static void what_the_collecting_thread_lets_wander_lives(void **state) {
  (void)state;
  act(wander_check);
  memset(wander.items, 0, sizeof wander.items);
  act = here;
  wander_for((unsigned)test_scaled(25, 15), PRESSURE_PAGES);
  memset(wander.items, 0, sizeof wander.items);
  act = on_mover;
}

/* In cycles that allocation brings, and another thread runs. */
static void what_wanders_beside_allocation_lives(void **state) {
  (void)state;
  uint64_t before = test_stats().cycles_full;
  wander.pressure = PRESSURE_PAGES;
  attack = wander_attack;
  act = on_mover_in_passing;
  for (size_t i = 0; test_stats().cycles_full < before + 20; i++) {
    require(wane_alloc(i % 3 == 0 ? 20000 : 600) != NULL);
    require(i < 100000000);
  }
  attack = NULL;
  wane_collect(); /* the one under way is over, too */
  on_mover(wander_check);
  act = on_mover;
}

/* ---- Cycles that cannot be ended ---- */

static void let_signals_queue(bool may) {
  static struct rlimit old;
  struct rlimit none = {0};
  if (may) {
    require(setrlimit(RLIMIT_SIGPENDING, &old) == 0);
    return;
  }
  require(getrlimit(RLIMIT_SIGPENDING, &old) == 0);
  none.rlim_max = old.rlim_max;
  require(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
}

static void unending_attack(enum wane__phase phase) {
  wander_attack(phase);
  if (phase == WANE__PHASE_BEFORE_STOP) {
    let_signals_queue(false);
  }
}

/* No thread can be stopped any more, when a cycle is to end: it is gone on with
   later, and until then the program is one that marking runs beside. */
static void a_cycle_that_cannot_be_ended_goes_on_later(void **state) {
  (void)state;
  if (!is_beside()) {
    return;
  }
  for (int i = 0; i < 5; i++) {
    uint64_t cycles = test_stats().cycles_full;
    attack = unending_attack;
    wane_collect();
    let_signals_queue(true);
    attack = NULL;
    assert_int_equal(test_stats().cycles_full, cycles);
    for (int step = 0; step < 10; step++) {
      act(wander_step);
    }
    attack = wander_attack;
    wane_collect();
    assert_in_range(test_stats().cycles_full, cycles + 1, cycles + 2);
    attack = NULL;
    act(wander_check);
  }
}

static void run_all(void *failed) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_another_thread_moves_lives),
      cmocka_unit_test(what_the_collecting_thread_moves_lives),
      cmocka_unit_test(all_steps_were_come_to),
      cmocka_unit_test(what_wanders_lives),
      cmocka_unit_test(what_wanders_among_much_that_is_written_lives),
      cmocka_unit_test(what_the_collecting_thread_lets_wander_lives),
      cmocka_unit_test(what_wanders_beside_allocation_lives),
      cmocka_unit_test(a_cycle_that_cannot_be_ended_goes_on_later),
  };
  *(int *)failed = cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
  const struct place_roots roots = {zero_words, ZERO_WORDS, data_words,
                                    DATA_WORDS};
  int failed = 1;
  places_begin(&roots);
  map_of_others = wane_map_new(NULL, WANE_WEAK_KEYS);
  pages = wane_alloc(PRESSURE_PAGES * PAGE_BYTES);
  require(map_of_others != NULL && pages != NULL);
  require(pthread_create(&mover.thread, NULL, mover_thread, NULL) == 0);
  wane__phase_hook = phase_hook;
  places_act(0, run_all, &failed);
  return failed;
}

#endif
