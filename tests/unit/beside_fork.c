/*
 * collect/beside, collect/fork: a process forks in the middle of marking, at
 * each step. What is marked so far is the child's, too, which goes on with it;
 * what was written since is known to nobody. In the parent the cycle goes on.
 * G4, A4, INV-beside-1, INV-grey-1.
 */
/* run: none WANE_OPTIONS=dirty=none */
/* run: softdirty WANE_OPTIONS=dirty=softdirty */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: plain WANE_OPTIONS=background=0,mark_threads=1 */
/* timeout: 240 */
/* skip: tsan, whose runtime deadlocks in children of threads */
#include "support/places.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "collect/phase.h"
#include "heap/block.h"
#include "mark/mark.h"

#if WANE_CHECK_LEVEL < 1
int main(void) { return 77; } /* no phases */
#else

#  define ZERO_WORDS ((size_t)8 << 10)
#  define DATA_WORDS ((size_t)8 << 10)
#  define LEAVES ((size_t)40000)
#  define TURNS ((size_t)15)
#  define WAIT_MS 300

TEST_ROOT void *zero_words[ZERO_WORDS];
static int something;
TEST_ROOT void *data_words[DATA_WORDS] = {&something};

/* ---- What there is to mark ---- */

struct leaf {
  uint64_t number;
  struct leaf *next;
};

TEST_ROOT struct leaf **leaves;

static struct leaf *leaf_new(uint64_t number) {
  struct leaf *leaf = wane_new(struct leaf);
  require(leaf != NULL);
  leaf->number = number;
  return leaf;
}

static void leaves_make(void) {
  leaves = wane_new_array(struct leaf *, LEAVES);
  require(leaves != NULL);
  for (size_t i = 0; i < LEAVES; i++) {
    leaves[i] = leaf_new(i);
    leaves[i]->next = leaf_new(i + 1);
  }
}

static void leaves_check(void) {
  for (size_t i = 0; i < LEAVES; i++) {
    require(leaves[i]->number == i && leaves[i]->next->number == i + 1);
  }
}

/* ---- Items, of the thread that forks ---- */

static uint64_t next_number;
static const struct place *place_of[PLACE_SLOTS]; /* NULL: nowhere */
static uint64_t number_of[PLACE_SLOTS];

static bool is_of_one_process(const struct place *place) {
  return !place->is_weak && !place->is_dear &&
         strcmp(place->name, "root_shared") != 0;
}

static const struct place *next_place(size_t turn) {
  const struct place *place = &places[turn % place_count];
  return is_of_one_process(place) ? place : &places[0];
}

static void *item_take(size_t i) {
  void *item = place_take(place_of[i], i);
  if (!item_is_whole(item, number_of[i])) {
    dprintf(STDERR_FILENO, "%p in %s was lost\n", item, place_of[i]->name);
    abort();
  }
  return item;
}

static void item_put(size_t i, size_t turn, void *item) {
  place_of[i] = next_place(turn + i);
  place_put(place_of[i], i, item);
}

/* New ones. */
static void items_put(size_t turn) {
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    if (place_of[i] != NULL) {
      (void)item_take(i);
    }
    number_of[i] = next_number++;
    item_put(i, turn, item_new(number_of[i]));
  }
}

/* Each goes to another place. */
static void items_move(size_t turn) {
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    item_put(i, turn, item_take(i));
  }
}

/* ---- Children ---- */

static void use_child(void) {
  wane__phase_hook = NULL;
  items_move(3);
  for (size_t i = 0; i < 2000; i++) {
    require(wane_alloc(i % 100 == 0 ? 40000 : 100) != NULL);
  }
  items_move(7);
  wane_collect();
  leaves_check();
  items_move(11);
  leaves_make();
  wane_collect();
  wane_collect();
  leaves_check();
  items_move(13);
}

static unsigned forks_while_marking;

static void fork_now(size_t turn) {
  int status = -1;
  int marking[2];
  require(pipe(marking) == 0);
  items_put(turn);
  pid_t pid = fork();
  require(pid >= 0);
  if (pid == 0) {
    alarm(60);
    char is_marking = wane__is_marking();
    require(write(marking[1], &is_marking, 1) == 1);
    use_child();
    _exit(0);
  }
  items_move(turn + 1);
  char was_marking = 0;
  require(read(marking[0], &was_marking, 1) == 1);
  forks_while_marking += was_marking != 0;
  require(waitpid(pid, &status, 0) == pid);
  if (status != 0) {
    dprintf(STDERR_FILENO, "child of turn %zu: status %#x\n", turn,
            (unsigned)status);
    abort();
  }
  items_move(turn + 2);
  close(marking[0]);
  close(marking[1]);
}

/* ---- When ---- */

static struct {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  bool is_wanted;
  bool is_over;
  enum wane__phase phase;
  unsigned times; /* that the phase is still to come */
} forks = {.mutex = PTHREAD_MUTEX_INITIALIZER,
           .changed = PTHREAD_COND_INITIALIZER};

static void forker_loop(void *arg) {
  (void)arg;
  pthread_mutex_lock(&forks.mutex);
  for (size_t turn = 0;; turn++) {
    while (!forks.is_wanted && !forks.is_over) {
      pthread_cond_wait(&forks.changed, &forks.mutex);
    }
    if (forks.is_over) {
      break;
    }
    pthread_mutex_unlock(&forks.mutex);
    fork_now(turn);
    test_scrub();
    pthread_mutex_lock(&forks.mutex);
    forks.is_wanted = false;
    pthread_cond_broadcast(&forks.changed);
  }
  pthread_mutex_unlock(&forks.mutex);
}

static void *forker_thread(void *arg) {
  places_act(1, forker_loop, arg);
  return NULL;
}

/* The collecting thread lets the fork happen where it rests next. */
static void phase_hook(enum wane__phase phase) {
  if (phase != forks.phase || forks.times == 0 || --forks.times != 0) {
    return;
  }
  pthread_mutex_lock(&forks.mutex);
  forks.is_wanted = true;
  pthread_cond_broadcast(&forks.changed);
  pthread_mutex_unlock(&forks.mutex);
  for (int ms = 0; ms < WAIT_MS && wane__load(&wane__mark_rest) == 0; ms++) {
    test_sleep_ms(1);
  }
}

static void await_forks(void) {
  pthread_mutex_lock(&forks.mutex);
  while (forks.is_wanted) {
    pthread_cond_wait(&forks.changed, &forks.mutex);
  }
  pthread_mutex_unlock(&forks.mutex);
}

static void children_go_on_with_what_is_marked(void **state) {
  (void)state;
  pthread_t thread;
  require(pthread_create(&thread, NULL, forker_thread, NULL) == 0);
  for (size_t turn = 0; turn < TURNS * WANE__PHASE_COUNT; turn++) {
    forks.phase = (enum wane__phase)(turn % WANE__PHASE_COUNT);
    forks.times = 1 + (unsigned)(turn / WANE__PHASE_COUNT % 2);
    wane__phase_hook = phase_hook;
    wane_collect();
    wane__phase_hook = NULL;
    await_forks();
    leaves_check();
  }
  pthread_mutex_lock(&forks.mutex);
  forks.is_over = true;
  pthread_cond_broadcast(&forks.changed);
  pthread_mutex_unlock(&forks.mutex);
  require(pthread_join(thread, NULL) == 0);
  if (strcmp(test_stats().dirty_backend, "none") != 0) {
    assert_true(forks_while_marking >= TURNS);
  }
}

static void run_all(void *failed) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(children_go_on_with_what_is_marked),
  };
  *(int *)failed = cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
  const struct place_roots roots = {zero_words, ZERO_WORDS, data_words,
                                    DATA_WORDS};
  int failed = 1;
  places_begin(&roots);
  leaves_make();
  places_act(0, run_all, &failed);
  return failed;
}

#endif
