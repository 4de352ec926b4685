/*
 * Marking runs beside the program: threads move, hide, swap, replace, copy,
 * relink and receive pointers all the time while one cycle follows the other,
 * over a large live heap. A model beside the heap tells what must be there.
 * A4, D10, E1, F3, G1, W1, W9.
 *
 * beside [--seed N] [--seconds S]
 */
/* run: none WANE_OPTIONS=dirty=none */
/* run: uffd WANE_OPTIONS=dirty=uffd */
/* run: four_markers WANE_OPTIONS=mark_threads=4 */
/* run: overflow WANE_OPTIONS=mark_stack=8192,mark_threads=2 */
/* run: poison WANE_OPTIONS=poison=1 */
#include "support/places.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define ZERO_WORDS ((size_t)2 << 20) /* 16 MiB */
#define DATA_WORDS ((size_t)12 << 10)

TEST_ROOT void *zero_words[ZERO_WORDS];
static int something;
TEST_ROOT void *data_words[DATA_WORDS] = {&something};

static struct test_args args;
/* Of the test that runs: it ends then, if there were enough cycles. */
static double end;
static uint64_t end_cycles;

/* A fresh seed for each thread of each test. */
static struct test_random random_new(void) {
  static uint64_t count; /* atomic */
  return (struct test_random){args.seed * 1000 + test_add(&count)};
}

/* ---- A large heap that lives ---- */

struct node {
  uint64_t number;
  uint64_t check;
  struct node *next[2];
};

TEST_ROOT struct node *nodes;
static size_t node_count;

static uint64_t node_check(uint64_t number) {
  return (number + 1) * 0x9e3779b97f4a7c15u | 1;
}

static struct node *node_new(uint64_t number) {
  struct node *node = wane_new(struct node);
  require(node != NULL);
  node->number = number;
  node->check = node_check(number);
  return node;
}

/* A tree, by the bits of the numbers, one level after the other. */
static struct node *nodes_make(size_t first, size_t count) {
  if (count == 0) {
    return NULL;
  }
  struct node *node = node_new(first);
  size_t left = (count - 1) / 2;
  node->next[0] = nodes_make(first + 1, left);
  node->next[1] = nodes_make(first + 1 + left, count - 1 - left);
  return node;
}

static bool nodes_are_whole(const struct node *node, size_t first,
                            size_t count) {
  if (count == 0) {
    return node == NULL;
  }
  size_t left = (count - 1) / 2;
  return node->number == first && node->check == node_check(first) &&
         nodes_are_whole(node->next[0], first + 1, left) &&
         nodes_are_whole(node->next[1], first + 1 + left, count - 1 - left);
}

/* ---- Crews ---- */

#define CYCLES_MIN 4
#define SECONDS_MAX 20

static bool goes_on(void) {
  double now = test_now();
  return now < end ||
         (now < end + SECONDS_MAX && test_stats().cycles_full < end_cycles);
}

static void *collect_all_the_time(void *unused) {
  (void)unused;
  while (goes_on()) {
    wane_collect();
    test_breathe();
  }
  return NULL;
}

static void *allocate_all_the_time(void *unused) {
  struct test_random random = random_new();
  (void)unused;
  while (goes_on()) {
    size_t size = test_below(&random, 50) == 0 ? 50000 : 300;
    require(wane_alloc(test_below(&random, size)) != NULL);
  }
  return NULL;
}

/* Threads that do it, one that collects, one that allocates. */
static void run_beside(size_t count, void *(*fn)(void *arg)) {
  const struct test_crew crew[] = {
      {fn, count}, {collect_all_the_time, 1}, {allocate_all_the_time, 1}};
  end_cycles = test_stats().cycles_full + CYCLES_MIN;
  end = test_now() + args.seconds;
  test_crew_run(crew, TEST_COUNT(crew), 0);
  assert_true(test_stats().cycles_full >= end_cycles);
  assert_true(nodes_are_whole(nodes, 0, node_count));
}

/* ---- From place to place ---- */

static uint64_t next_number; /* of items. atomic */

/* A thread's items, by slot; and what lives as long as they do: values by the
   items as weak keys. */
struct wanderer {
  const struct place *place[PLACE_SLOTS]; /* NULL: there is none */
  uint64_t number[PLACE_SLOTS];
  struct wane_ephemeron *others[PLACE_SLOTS];
  struct wane_map *map_of_others;
  struct test_random random;
};

#define OTHER ((uint64_t)1 << 40)

static void other_make(struct wanderer *w, size_t i, void *item) {
  void *other = item_new(OTHER + w->number[i]);
  if (i % 2 == 0) {
    w->others[i] = wane_ephemeron_new(item, other);
    require(w->others[i] != NULL);
  } else {
    wane_map_store(w->map_of_others, item, other);
  }
}

static bool other_is_whole(struct wanderer *w, size_t i, void *item) {
  void *other = NULL;
  if (i % 2 == 0) {
    other = wane_ephemeron_value(w->others[i]);
  } else {
    (void)wane_map_load(w->map_of_others, item, &other);
  }
  return item_is_whole(other, OTHER + w->number[i]);
}

static TEST_NOINLINE void *wander_take(struct wanderer *w, size_t i) {
  void *item = place_take(w->place[i], i);
  if (item == NULL
          ? !w->place[i]->is_weak
          : !item_is_whole(item, w->number[i]) || !other_is_whole(w, i, item)) {
    dprintf(STDERR_FILENO, "%p in %s was lost, or what hangs on it\n", item,
            w->place[i]->name);
    abort();
  }
  return item;
}

static TEST_NOINLINE void wander_move(struct wanderer *w, size_t i) {
  void *item = w->place[i] != NULL ? wander_take(w, i) : NULL;
  if (item == NULL || test_below(&w->random, 50) == 0) {
    w->number[i] = test_add(&next_number);
    item = item_new(w->number[i]);
    other_make(w, i, item);
  }
  do {
    w->place[i] = &places[test_below(&w->random, place_count)];
  } while (w->place[i]->is_dear && test_below(&w->random, 100) != 0);
  place_put(w->place[i], i, item);
}

static void wander(void *unused) {
  struct wanderer *w = wane_new(struct wanderer);
  (void)unused;
  require(w != NULL);
  w->map_of_others = wane_map_new(NULL, WANE_WEAK_KEYS);
  w->random = random_new();
  while (goes_on()) {
    for (int moves = 0; moves < 20; moves++) {
      wander_move(w, test_below(&w->random, PLACE_SLOTS));
    }
  }
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    void *item = w->place[i] != NULL ? wander_take(w, i) : NULL;
    require(item != NULL || w->place[i] == NULL || w->place[i]->is_weak);
  }
}

static void *wander_as(void *actor) {
  places_act((uintptr_t)actor, wander, NULL);
  return NULL;
}

static void what_threads_move_about_lives(void **state) {
  (void)state;
  run_beside(3, wander_as);
}

/* ---- Arrays of pointers ---- */

#define CHAINS ((size_t)40000) /* 320 kB of pointers */
#define CHAIN_MAX 5

/* A thread's array, and the numbers of what is in it, first node first. */
struct chains {
  struct node **heads;
  struct chain {
    uint32_t length;
    uint64_t numbers[CHAIN_MAX];
  } model[CHAINS];
  struct test_random random;
  uint64_t next_number;
};

static TEST_NOINLINE void chain_replace(struct chains *c, size_t i) {
  struct chain *model = &c->model[i];
  model->length = 1 + (uint32_t)test_below(&c->random, CHAIN_MAX - 1);
  struct node *head = NULL;
  for (uint32_t n = model->length; n-- > 0;) {
    struct node *node = node_new(c->next_number++);
    model->numbers[n] = node->number;
    node->next[1] = head;
    head = node;
  }
  c->heads[i] = head;
}

static void chain_check(const struct chains *c, size_t i) {
  const struct node *node = c->heads[i];
  for (uint32_t n = 0; n < c->model[i].length; n++, node = node->next[1]) {
    uint64_t number = c->model[i].numbers[n];
    require(node->number == number && node->check == node_check(number));
    require(wane_base(node) == node);
  }
  require(node == NULL);
}

/* Two slots: both are on the stack alone for a while. */
static TEST_NOINLINE void chain_swap(struct chains *c, size_t i, size_t j) {
  struct node *volatile mine[2] = {c->heads[i], c->heads[j]};
  struct chain models[2] = {c->model[i], c->model[j]};
  c->heads[i] = c->heads[j] = NULL;
  chain_replace(c, test_below(&c->random, CHAINS)); /* something takes time */
  c->heads[i] = mine[1];
  c->heads[j] = mine[0];
  c->model[i] = models[1];
  c->model[j] = models[0];
}

/* The end of one chain goes to the end of another, which is shorter. */
static TEST_NOINLINE void chain_relink(struct chains *c, size_t i, size_t j) {
  struct chain *from = &c->model[i];
  struct chain *to = &c->model[j];
  if (i == j || from->length < 2 || to->length != 1) {
    return;
  }
  struct node *tail = c->heads[i]->next[1];
  c->heads[i]->next[1] = NULL;
  for (uint32_t n = 1; n < from->length; n++) {
    to->numbers[n] = from->numbers[n];
  }
  to->length = from->length;
  from->length = 1;
  c->heads[j]->next[1] = tail;
}

/* A block of slots moves within the array; what was there before goes where
   that came from, by way of an array of its own. */
static TEST_NOINLINE void chain_move_block(struct chains *c) {
  size_t count = 1 + test_below(&c->random, CHAINS / 4);
  size_t gap = test_below(&c->random, CHAINS / 4);
  size_t at = test_below(&c->random, CHAINS - count - gap + 1);
  struct node **old = wane_new_array(struct node *, gap + 1);
  struct chain *old_model = malloc((gap + 1) * sizeof *old_model);
  require(old != NULL && old_model != NULL);
  memcpy(old, c->heads + at + count, gap * sizeof *old);
  memcpy(old_model, c->model + at + count, gap * sizeof *old_model);
  memmove(c->heads + at + gap, c->heads + at, count * sizeof *old);
  memmove(c->model + at + gap, c->model + at, count * sizeof *old_model);
  memcpy(c->heads + at, old, gap * sizeof *old);
  memcpy(c->model + at, old_model, gap * sizeof *old_model);
  free(old_model);
}

/* To another array, larger or not, which is all that has them then. */
static TEST_NOINLINE void chain_move_all(struct chains *c) {
  struct node **fresh =
      test_below(&c->random, 2) == 0
          ? wane_realloc(c->heads, (CHAINS + test_below(&c->random, CHAINS)) *
                                       sizeof *fresh)
          : wane_new_array(struct node *, CHAINS);
  require(fresh != NULL);
  if (fresh != c->heads && fresh[0] == NULL) {
    memcpy(fresh, c->heads, CHAINS * sizeof *fresh);
  }
  memset(c->heads, 0, fresh != c->heads ? CHAINS * sizeof *fresh : 0);
  c->heads = fresh;
}

static void chains_step(struct chains *c) {
  size_t i = test_below(&c->random, CHAINS);
  size_t j = test_below(&c->random, CHAINS);
  switch (test_below(&c->random, 4)) {
  case 0:
    chain_check(c, i);
    chain_replace(c, i);
    break;
  case 1:
    chain_swap(c, i, j);
    break;
  case 2:
    chain_relink(c, i, j);
    break;
  default:
    chain_check(c, i);
  }
}

static void *change_chains(void *unused) {
  struct chains *c = calloc(1, sizeof *c);
  struct node **root;
  (void)unused;
  require(c != NULL);
  wane_add_root(&c->heads, sizeof c->heads);
  c->random = random_new();
  c->heads = root = wane_new_array(struct node *, CHAINS);
  require(root != NULL);
  for (size_t i = 0; i < CHAINS; i++) {
    chain_replace(c, i);
  }
  for (size_t steps = 0; goes_on(); steps++) {
    for (int i = 0; i < 50; i++) {
      chains_step(c);
    }
    if (steps % 20 == 0) {
      chain_move_block(c);
    }
    if (steps % 50 == 0) {
      chain_move_all(c);
    }
  }
  for (size_t i = 0; i < CHAINS; i++) {
    chain_check(c, i);
  }
  wane_remove_root(&c->heads);
  free(c);
  return NULL;
}

static void chains_that_are_relinked_and_copied_live(void **state) {
  (void)state;
  run_beside(2, change_chains);
}

/* ---- What the kernel stores ---- */

#define BATCH ((size_t)500) /* pointers at once */
#define RECEIVED ((size_t)16000)

/* Where they are received: in the middle of something large. */
static struct node **receive_into(size_t turn) {
  static __thread struct node **array;
  size_t at = turn % 7 * 1000;
  if (turn % 3 == 0) {
    array = wane_new_array(struct node *, RECEIVED);
    require(array != NULL);
  }
  return turn % 4 == 1 ? (struct node **)&zero_words[at * 100] : array + at;
}

static size_t receive(int fd, size_t turn, void *to, size_t bytes) {
  struct iovec parts[2] = {{to, bytes / 3}, {(char *)to + bytes / 3, 0}};
  parts[1].iov_len = bytes - bytes / 3;
  ssize_t got = turn % 3 == 0   ? read(fd, to, bytes)
                : turn % 3 == 1 ? recv(fd, to, bytes, 0)
                                : readv(fd, parts, 2);
  require(got > 0 || errno == EINTR); /* not EFAULT */
  return got > 0 ? (size_t)got : 0;
}

static int sockets[2];

/* Sends nodes that only its stack holds, until they were received. */
static TEST_NOINLINE void send_and_receive(size_t turn,
                                           struct test_random *random) {
  struct node *mine[BATCH];
  size_t count = 1 + test_below(random, TEST_COUNT(mine));
  size_t bytes = count * sizeof *mine;
  struct node **to = receive_into(turn);
  for (size_t i = 0; i < count; i++) {
    mine[i] = node_new(turn * BATCH + i);
  }
  require(write(sockets[0], mine, bytes) == (ssize_t)bytes);
  for (size_t done = 0; done < bytes;) {
    done += receive(sockets[1], turn, (char *)to + done, bytes - done);
  }
  memset(mine, 0, sizeof mine);
  __asm__ volatile("" : : "r"(mine) : "memory");
  for (int i = 0; i < 30; i++) {
    require(wane_alloc(3000) != NULL);
  }
  if (turn % 20 == 0) {
    wane_collect();
  }
  for (size_t i = 0; i < count; i++) {
    uint64_t number = turn * BATCH + i;
    require(to[i]->number == number && to[i]->check == node_check(number));
    require(wane_base(to[i]) == to[i]);
    to[i] = NULL;
  }
}

static void *send_and_receive_often(void *unused) {
  struct test_random random = random_new();
  (void)unused;
  for (size_t turn = 0; goes_on(); turn++) {
    send_and_receive(turn, &random);
  }
  return NULL;
}

static void pointers_that_the_kernel_stores_are_seen(void **state) {
  (void)state;
  int bytes = 1 << 20;
  require(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  require(setsockopt(sockets[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) ==
          0);
  run_beside(1, send_and_receive_often);
  close(sockets[0]);
  close(sockets[1]);
}

/* Large reads go through whole, whatever the pages are. */
static void *read_files_often(void *unused) {
  const size_t size = (size_t)2 << 20;
  struct test_random random = random_new();
  int fd = memfd_create("file", MFD_CLOEXEC);
  (void)unused;
  char *bytes = malloc(size);
  require(fd >= 0 && bytes != NULL);
  for (size_t i = 0; i < size; i++) {
    bytes[i] = (char)(i * 7 + i / 4096);
  }
  require(write(fd, bytes, size) == (ssize_t)size);
  char *to = wane_alloc_leaf(size);
  char *scanned = wane_alloc(size);
  require(to != NULL && scanned != NULL);
  while (goes_on()) {
    size_t at = test_below(&random, size);
    size_t count = test_below(&random, size - at) + 1;
    char *into = test_below(&random, 2) == 0 ? to : scanned;
    require(pread(fd, into + at, count, (off_t)at) == (ssize_t)count);
    require(memcmp(into + at, bytes + at, count) == 0);
  }
  free(bytes);
  close(fd);
  return NULL;
}

static void large_reads_do_not_fail(void **state) {
  (void)state;
  run_beside(1, read_files_often);
}

/* ---- Roots that come and go ---- */

#define ROOT_BYTES ((size_t)1 << 20)

/* Often at the same addresses. */
static TEST_NOINLINE void use_root(size_t turn, struct test_random *random) {
  int flags = MAP_ANONYMOUS | (turn % 3 == 0 ? MAP_SHARED : MAP_PRIVATE);
  char *pages = mmap(NULL, ROOT_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
  require(pages != MAP_FAILED);
  size_t skip = test_below(random, 3) * sizeof(void *);
  size_t count = (ROOT_BYTES - 2 * skip) / sizeof(void *);
  struct node **root = (struct node **)(void *)(pages + skip);
  wane_add_root(root, count * sizeof *root);
  for (int times = 0; times < 3; times++) {
    size_t step = 1 + test_below(random, 2000);
    for (size_t i = 0; i < count; i += step) {
      root[i] = node_new(i);
    }
    if (turn % 5 == 0) { /* and they go on as a root */
      struct node **copy = wane_new_array(struct node *, count);
      require(copy != NULL);
      memcpy(copy, root, count * sizeof *root);
      wane_remove_root(root);
      wane_add_root(root, count * sizeof *root);
      wane_keep_alive(copy);
    }
    require(wane_alloc(20000) != NULL);
    if (turn % 10 == 0) {
      wane_collect();
    }
    for (size_t i = 0; i < count; i += step) {
      require(root[i]->number == i && root[i]->check == node_check(i));
      require(wane_base(root[i]) == root[i]);
    }
  }
  wane_remove_root(root);
  require(munmap(pages, ROOT_BYTES) == 0);
}

static void *use_roots(void *unused) {
  struct test_random random = random_new();
  (void)unused;
  for (size_t turn = 0; goes_on(); turn++) {
    use_root(turn, &random);
  }
  return NULL;
}

static void roots_come_and_go(void **state) {
  (void)state;
  run_beside(2, use_roots);
}

/* ---- Pins ---- */

#define PINS ((size_t)20000)

/* Pins are all that holds them: in a table whose entries move. */
static void *pin_and_unpin(void *unused) {
  struct test_random random = random_new();
  uintptr_t *hidden = calloc(PINS, sizeof *hidden);
  (void)unused;
  require(hidden != NULL);
  while (goes_on()) {
    size_t i = test_below(&random, PINS);
    struct node *node = test_reveal(hidden[i]);
    if (hidden[i] != 0) {
      require(node->number == i && node->check == node_check(i));
      wane_unpin(node);
    }
    node = node_new(i);
    wane_pin(node);
    hidden[i] = test_hide(node);
  }
  for (size_t i = 0; i < PINS; i++) {
    if (hidden[i] != 0) {
      struct node *node = test_reveal(hidden[i]);
      require(node->number == i && node->check == node_check(i));
      wane_unpin(node);
    }
  }
  free(hidden);
  return NULL;
}

static void what_is_pinned_lives(void **state) {
  (void)state;
  run_beside(2, pin_and_unpin);
}

/* ---- What callbacks are given ---- */

/* An object and its item: the object is dropped, and the callback has the
   item. */
struct mortal {
  uint64_t number;
  void *item;
};

static uint64_t callbacks_due;  /* atomic */
static uint64_t callbacks_done; /* atomic */

static void finalize_mortal(void *object) {
  struct mortal *mortal = object;
  require(item_is_whole(mortal->item, mortal->number));
  test_add(&callbacks_done);
}

static void clean_after_mortal(void *arg) {
  require(item_is_whole(arg, *(uint64_t *)arg));
  test_add(&callbacks_done);
}

/* The item's number is the first of its words. */
static void clean_after_mortal_by_copy(void *args_copied) {
  clean_after_mortal(*(void **)args_copied);
}

/* Items change hands until the object is dropped, at any moment. */
static TEST_NOINLINE void make_mortals(struct test_random *random) {
  struct mortal *volatile mortals[20];
  for (size_t i = 0; i < TEST_COUNT(mortals); i++) {
    struct mortal *mortal = wane_new(struct mortal);
    require(mortal != NULL);
    mortals[i] = mortal;
    mortal->number = test_add(&next_number);
    mortal->item = item_new(mortal->number);
    wane_set_finalizer(mortal, finalize_mortal);
    void *copied[2] = {item_new(test_add(&next_number)), NULL};
    require(wane_add_cleanup(mortal, clean_after_mortal,
                             item_new(test_add(&next_number)))
                .id != 0);
    require(wane_add_cleanup_copy(mortal, clean_after_mortal_by_copy, copied,
                                  sizeof copied)
                .id != 0);
    test_add(&callbacks_due);
    test_add(&callbacks_due);
    test_add(&callbacks_due);
  }
  for (int changes = 0; changes < 40; changes++) {
    struct mortal *a = mortals[test_below(random, TEST_COUNT(mortals))];
    struct mortal *b = mortals[test_below(random, TEST_COUNT(mortals))];
    struct mortal old = *a;
    a->number = b->number;
    a->item = b->item;
    b->number = old.number;
    b->item = old.item;
    require(wane_alloc(500) != NULL);
  }
}

static void *make_mortals_often(void *unused) {
  struct test_random random = random_new();
  (void)unused;
  while (goes_on()) {
    make_mortals(&random);
  }
  return NULL;
}

static void callbacks_get_what_they_were_promised(void **state) {
  (void)state;
  run_beside(2, make_mortals_often);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  assert_true(callbacks_due > 100);
  assert_most(callbacks_done, callbacks_due);
}

/* ---- Weak pointers ---- */

#define WEAKS ((size_t)3000)
#define HELD ((size_t)500)

struct weak_reader {
  wane_weak weaks[WEAKS];
  struct test_random random;
};

static uint64_t weaks_lost; /* atomic */

static void require_whole(const struct node *node) {
  require(wane_base(node) == node && node->check == node_check(node->number));
}

/* A weak pointer's object comes back to life by being read, and dies: what was
   read is whole as long as it is held, wherever that is. */
static TEST_NOINLINE void read_for_a_while(struct weak_reader *reader) {
  struct node **held = wane_new_array(struct node *, HELD);
  require(held != NULL);
  for (size_t step = 0; step < 10 * WEAKS; step++) {
    size_t i = test_below(&reader->random, WEAKS);
    size_t j = test_below(&reader->random, HELD);
    struct node *node = wane_weak_value(reader->weaks[i]);
    if (node == NULL) {
      __atomic_fetch_add(&weaks_lost, reader->weaks[i].id != 0,
                         __ATOMIC_RELAXED);
      node = node_new(i);
      reader->weaks[i] = wane_weak_make(node);
    }
    require(node->number == i);
    require_whole(node);
    if (held[j] != NULL) {
      require_whole(held[j]);
    }
    held[j] = node;
  }
}

static void *read_weak_pointers(void *unused) {
  struct weak_reader *reader = calloc(1, sizeof *reader);
  (void)unused;
  require(reader != NULL);
  reader->random = random_new();
  while (goes_on()) {
    read_for_a_while(reader);
    test_scrub();
    uint64_t cycles = test_stats().cycles_full;
    while (goes_on() && test_stats().cycles_full < cycles + 2) {
      test_sleep_ms(1); /* what nobody reads of, dies */
    }
  }
  read_for_a_while(reader);
  free(reader);
  return NULL;
}

static void what_weak_pointers_gave_lives(void **state) {
  (void)state;
  run_beside(2, read_weak_pointers);
  assert_true(weaks_lost > 0);
}

int main(int argc, char **argv) {
  const struct place_roots roots = {zero_words, ZERO_WORDS, data_words,
                                    DATA_WORDS};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_threads_move_about_lives),
      cmocka_unit_test(chains_that_are_relinked_and_copied_live),
      cmocka_unit_test(pointers_that_the_kernel_stores_are_seen),
      cmocka_unit_test(large_reads_do_not_fail),
      cmocka_unit_test(roots_come_and_go),
      cmocka_unit_test(what_is_pinned_lives),
      cmocka_unit_test(callbacks_get_what_they_were_promised),
      cmocka_unit_test(what_weak_pointers_gave_lives),
  };
  args = test_args_read(argc, argv, 0.5);
  node_count = test_scaled(300000, 30000);
  nodes = nodes_make(0, node_count);
  places_begin(&roots);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
