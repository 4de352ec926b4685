/* See places.h. */
#include "places.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- Items ---- */

#define ITEM_WORDS 8
#define LARGE_WORDS ((size_t)5000)
#define CHILDREN 3 /* one after the other */

struct item {
  uint64_t number;
  uint64_t check;
  struct item *child;
  uint64_t fill[ITEM_WORDS - 3];
};

WANE_TYPE(item_type, struct item, child);

enum item_sort { ITEM_WORD, ITEM_TYPED, ITEM_LARGE, ITEM_LARGE_TYPED };

static enum item_sort item_sort_of(uint64_t number) {
  return number % 32 == 5   ? ITEM_LARGE
         : number % 32 == 6 ? ITEM_LARGE_TYPED
         : number % 4 == 3  ? ITEM_TYPED
                            : ITEM_WORD;
}

static uint64_t item_mix(uint64_t number, uint64_t i) {
  struct test_random random = {number * 16 + i};
  return test_random(&random) | 1; /* no address of an object */
}

static struct item *item_alloc(uint64_t number) {
  switch (item_sort_of(number)) {
  case ITEM_TYPED:
    return wane_alloc_typed(&item_type, 1);
  case ITEM_LARGE:
    return wane_alloc(LARGE_WORDS * sizeof(uint64_t));
  case ITEM_LARGE_TYPED:
    return wane_alloc_typed(&item_type, LARGE_WORDS / ITEM_WORDS);
  default:
    return wane_alloc(sizeof(struct item));
  }
}

static void item_fill(struct item *item, uint64_t number) {
  item->number = number;
  item->check = item_mix(number, 0);
  for (size_t i = 0; i < TEST_COUNT(item->fill); i++) {
    item->fill[i] = item_mix(number, i + 1);
  }
}

/* Where it leads to the next: at the end of a large one. */
static struct item *item_last(struct item *item, uint64_t number) {
  enum item_sort sort = item_sort_of(number);
  return sort == ITEM_LARGE || sort == ITEM_LARGE_TYPED
             ? item + LARGE_WORDS / ITEM_WORDS - 1
             : item;
}

static uint64_t child_number(uint64_t number) {
  return number * 8 + 4; /* small */
}

void *item_new(uint64_t number) {
  struct item *first = item_alloc(number);
  struct item *item = first;
  require(item != NULL);
  item_fill(item, number);
  for (int i = 0; i < CHILDREN; i++) {
    struct item *last = item_last(item, number);
    number = child_number(number);
    last->child = item_alloc(number);
    require(last->child != NULL);
    item = last->child;
    item_fill(item, number);
  }
  return first;
}

static bool item_is_filled(const struct item *item, uint64_t number) {
  bool is_whole = item->number == number && item->check == item_mix(number, 0);
  for (size_t i = 0; i < TEST_COUNT(item->fill); i++) {
    is_whole = is_whole && item->fill[i] == item_mix(number, i + 1);
  }
  return is_whole && wane_base(item) == item;
}

bool item_is_whole(const void *object, uint64_t number) {
  struct item *item = (struct item *)object;
  for (int i = 0; i < CHILDREN; i++) {
    if (item == NULL || !item_is_filled(item, number)) {
      return false;
    }
    item = item_last(item, number)->child;
    number = child_number(number);
  }
  return item != NULL && item_is_filled(item, number) && item->child == NULL;
}

/* ---- Words ---- */

#define SLOTS (PLACE_ACTORS * PLACE_SLOTS)
#define PAGE_WORDS ((size_t)512)

struct typed {
  uint64_t number;
  void *first;
  uint64_t numbers[2];
  void *last;
};
WANE_TYPE(typed_type, struct typed, first, last);

/* Objects made when they are needed, sort by sort. */
enum made { NEW, NEW_TYPED, GROWN, EPHEMERON, UNIQUE, BY_KEY, BY_VALUE, MADE };

/* What belongs to a slot: in managed memory, and in memory that is no root. */
static struct managed {
  void **smalls[SLOTS];
  struct typed *typed_smalls[SLOTS];
  void *map_keys[SLOTS];
  void *made[MADE][SLOTS];
  struct wane_map *maps_of_one[SLOTS];
} * managed;

struct held_by_cleanup {
  wane_cleanup cleanup;
  uintptr_t hidden;
};

static struct plain {
  pthread_t results[SLOTS];
  uintptr_t pinned[SLOTS];
  struct held_by_cleanup by_cleanup[SLOTS];
  struct held_by_cleanup by_cleanup_copy[SLOTS];
  wane_weak weaks[SLOTS];
  uint64_t cache_keys[SLOTS];
} * plain;

/* The compiler must do these. */
static void word_put(void **at, void *word) {
  __atomic_store_n(at, word, __ATOMIC_RELAXED);
}
static void *word_take(void **at) {
  void *word = __atomic_load_n(at, __ATOMIC_RELAXED);
  __atomic_store_n(at, NULL, __ATOMIC_RELAXED);
  return word;
}

/* A place that is a word, which at(slot) finds. */
#define PLACE_OF_WORDS(name, at)                                               \
  static void name##_put(size_t slot, void *word) {                            \
    word_put(at(slot), word);                                                  \
  }                                                                            \
  static void *name##_take(size_t slot) { return word_take(at(slot)); }

/* Objects that were there before, each with one word for a slot. */
#define SMALL_WORDS 6

static void **small_at(size_t slot) {
  return &managed->smalls[slot][slot % SMALL_WORDS];
}
PLACE_OF_WORDS(small, small_at)

/* A large array of words, each slot on a page of its own. */
static void **large;

static void **large_at(size_t slot) {
  return &large[slot * PAGE_WORDS + slot * 37 % PAGE_WORDS];
}
PLACE_OF_WORDS(large, large_at)

static void **typed_small_at(size_t slot) {
  struct typed *typed = managed->typed_smalls[slot];
  return slot % 2 == 0 ? &typed->first : &typed->last;
}
PLACE_OF_WORDS(typed_small, typed_small_at)

/* On a page of its own, or in an element that lies across the end of one, with
   its first pointer before the end and its last behind. */
static struct typed *typed_large;

static void **typed_large_at(size_t slot) {
  size_t page_end = (slot + 1) * PAGE_WORDS * sizeof(void *);
  bool is_across = slot % 4 >= 2;
  struct typed *typed =
      &typed_large[(page_end - (is_across ? 1 : 2000)) / sizeof *typed];
  return slot % 2 == 0 ? &typed->first : &typed->last;
}
PLACE_OF_WORDS(typed_large, typed_large_at)

/* ---- Roots ---- */

/* 10 MiB, but for a third of a page */
#define ROOT_WORDS (((size_t)10 << 17) - PAGE_WORDS / 3)

static struct place_roots statics;
static void **root_words;
static void **root_small_words;
static void **root_shared_words;

static void **bss_at(size_t slot) {
  return &statics.zero[slot * (statics.zero_words / SLOTS)];
}
PLACE_OF_WORDS(bss, bss_at)

static void **data_at(size_t slot) {
  return &statics.data[slot * (statics.data_words / SLOTS)];
}
PLACE_OF_WORDS(data, data_at)

static void **root_at(size_t slot) {
  return &root_words[PAGE_WORDS + slot * (ROOT_WORDS / (SLOTS + 1))];
}
PLACE_OF_WORDS(root, root_at)

/* The pages of which only a part belongs to the root. */
static void **root_end_at(size_t slot) {
  return slot % 2 == 0 ? &root_words[slot / 2]
                       : &root_words[ROOT_WORDS - 1 - slot / 2];
}
PLACE_OF_WORDS(root_end, root_end_at)

static void **root_small_at(size_t slot) { return &root_small_words[slot]; }
PLACE_OF_WORDS(root_small, root_small_at)

static void **root_shared_at(size_t slot) {
  return &root_shared_words[slot * PAGE_WORDS + slot % PAGE_WORDS];
}
PLACE_OF_WORDS(root_shared, root_shared_at)

static void *map_pages(size_t bytes, int fd) {
  int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  require(pages != MAP_FAILED);
  return pages;
}

static void begin_roots(void) {
  size_t shared_bytes = SLOTS * PAGE_WORDS * sizeof(void *);
  char *pages = map_pages(ROOT_WORDS * sizeof(void *), -1);
  root_words = (void **)(void *)pages + 1; /* neither end at a page's */
  wane_add_root(root_words, ROOT_WORDS * sizeof(void *));
  root_small_words = map_pages(SLOTS * sizeof(void *), -1);
  wane_add_root(root_small_words, SLOTS * sizeof(void *));
  int fd = memfd_create("shared root", MFD_CLOEXEC);
  require(fd >= 0 && ftruncate(fd, (off_t)shared_bytes) == 0);
  root_shared_words = map_pages(shared_bytes, fd);
  close(fd);
  wane_add_root(root_shared_words, shared_bytes);
}

/* ---- Threads ---- */

static __thread size_t actor_first; /* slot */
static __thread void **frame_words;
static __thread void *local_words[PLACE_SLOTS];
static pthread_key_t keys[PLACE_SLOTS];

static void **frame_at(size_t slot) { return &frame_words[slot % PLACE_SLOTS]; }
PLACE_OF_WORDS(frame, frame_at)

static void **local_at(size_t slot) { return &local_words[slot % PLACE_SLOTS]; }
PLACE_OF_WORDS(local, local_at)

static void specific_put(size_t slot, void *pointer) {
  require(pthread_setspecific(keys[slot % PLACE_SLOTS], pointer) == 0);
}
static void *specific_take(size_t slot) {
  void *pointer = pthread_getspecific(keys[slot % PLACE_SLOTS]);
  specific_put(slot, NULL);
  return pointer;
}

/* The result of a thread that nobody has joined. */
static void *return_it(void *arg) { return arg; }

static void result_put(size_t slot, void *pointer) {
  require(pthread_create(&plain->results[slot], NULL, return_it, pointer) == 0);
}
static void *result_take(size_t slot) {
  void *pointer;
  require(pthread_join(plain->results[slot], &pointer) == 0);
  return pointer;
}

/* ---- What was made just now ---- */

/* While marking, objects that are new count as marked. */
static void **new_at(size_t slot) {
  static const size_t words[8] = {4, 6, 8, 30, 100, 250, 1000, 5000};
  size_t count = words[slot % 8];
  void **object = managed->made[NEW][slot];
  if (object == NULL) {
    object = wane_alloc(count * sizeof(void *));
    require(object != NULL);
    word_put(&managed->made[NEW][slot], object);
  }
  return &object[slot % 3 == 0 ? 0 : count - 1];
}
static void new_put(size_t slot, void *pointer) {
  word_put(new_at(slot), pointer);
}
static void *new_take(size_t slot) {
  void *pointer = word_take(new_at(slot));
  word_put(&managed->made[NEW][slot], NULL);
  return pointer;
}

static void new_typed_put(size_t slot, void *pointer) {
  struct typed *typed = wane_alloc_typed(&typed_type, 1 + slot % 4 * 3);
  require(typed != NULL);
  typed[slot % 4 * 3].last = pointer;
  word_put(&managed->made[NEW_TYPED][slot], typed);
}
static void *new_typed_take(size_t slot) {
  struct typed *typed = word_take(&managed->made[NEW_TYPED][slot]);
  return typed[slot % 4 * 3].last;
}

/* The library copies it. */
static void grown_put(size_t slot, void *pointer) {
  void **words = wane_alloc(SMALL_WORDS * sizeof(void *));
  require(words != NULL);
  words[slot % SMALL_WORDS] = pointer;
  words = wane_realloc(words, (SMALL_WORDS + 20 + slot % 900) * sizeof(void *));
  require(words != NULL);
  word_put(&managed->made[GROWN][slot], words);
}
static void *grown_take(size_t slot) {
  void **words = word_take(&managed->made[GROWN][slot]);
  return words[slot % SMALL_WORDS];
}

/* ---- What the library holds ---- */

static void *anchor;
static struct wane_map *map;
static struct wane_map *map_of_swaps;
static struct wane_map *map_by_objects; /* weak keys, which live */

static void pin_put(size_t slot, void *pointer) {
  wane_pin(pointer);
  plain->pinned[slot] = test_hide(pointer);
}
static void *pin_take(size_t slot) {
  void *pointer = test_reveal(plain->pinned[slot]);
  wane_unpin(pointer);
  wane_keep_alive(pointer);
  return pointer;
}

static void never_called(void *arg) {
  (void)arg;
  require(!"the anchor is alive");
}

static void cleanup_put(size_t slot, void *pointer) {
  plain->by_cleanup[slot] = (struct held_by_cleanup){
      wane_add_cleanup(anchor, never_called, pointer), test_hide(pointer)};
  require(plain->by_cleanup[slot].cleanup.id != 0);
}
static void *cleanup_take(size_t slot) {
  void *pointer = test_reveal(plain->by_cleanup[slot].hidden);
  require(wane_cleanup_stop(plain->by_cleanup[slot].cleanup));
  return pointer;
}

static void cleanup_copy_put(size_t slot, void *pointer) {
  void *copied[3] = {NULL, pointer, NULL};
  plain->by_cleanup_copy[slot] = (struct held_by_cleanup){
      wane_add_cleanup_copy(anchor, never_called, copied, sizeof copied),
      test_hide(pointer)};
  require(plain->by_cleanup_copy[slot].cleanup.id != 0);
}
static void *cleanup_copy_take(size_t slot) {
  void *pointer = test_reveal(plain->by_cleanup_copy[slot].hidden);
  require(wane_cleanup_stop(plain->by_cleanup_copy[slot].cleanup));
  return pointer;
}

static void *slot_word(size_t slot) { return (void *)(2 * slot + 1); }

static void map_put(size_t slot, void *pointer) {
  wane_map_store(map, slot_word(slot), pointer);
}
static void *map_take(size_t slot) {
  void *pointer = NULL;
  require(wane_map_load_and_delete(map, slot_word(slot), &pointer));
  return pointer;
}

/* The entry is there, and its value changes. */
static void map_swap_put(size_t slot, void *pointer) {
  void *previous = pointer;
  (void)wane_map_swap(map_of_swaps, slot_word(slot), pointer, &previous);
  require(previous == NULL);
}
static void *map_swap_take(size_t slot) {
  void *previous = NULL;
  require(wane_map_swap(map_of_swaps, slot_word(slot), NULL, &previous));
  return previous;
}

static void map_by_object_put(size_t slot, void *pointer) {
  wane_map_store(map_by_objects, managed->map_keys[slot], pointer);
}
static void *map_by_object_take(size_t slot) {
  void *pointer = NULL;
  require(wane_map_load_and_delete(map_by_objects, managed->map_keys[slot],
                                   &pointer));
  return pointer;
}

static void ephemeron_put(size_t slot, void *pointer) {
  void *ephemeron = wane_ephemeron_new(managed->map_keys[slot], pointer);
  require(ephemeron != NULL);
  word_put(&managed->made[EPHEMERON][slot], ephemeron);
}
static void *ephemeron_take(size_t slot) {
  return wane_ephemeron_value(word_take(&managed->made[EPHEMERON][slot]));
}

static void unique_put(size_t slot, void *pointer) {
  wane_unique unique = wane_unique_make(&pointer, sizeof pointer);
  require(unique.ptr != NULL);
  word_put(&managed->made[UNIQUE][slot], (void *)unique.ptr);
}
static void *unique_take(size_t slot) {
  return *(void *const *)word_take(&managed->made[UNIQUE][slot]);
}

/* ---- Weak places ---- */

static struct wane_map *map_of_weaks; /* weak values */
static struct wane_cache *cache;
static uint64_t cache_key_last; /* atomic */
static __thread void *cache_fresh;

static void weak_put(size_t slot, void *pointer) {
  plain->weaks[slot] = wane_weak_make(pointer);
  require(plain->weaks[slot].id != 0);
}
static void *weak_take(size_t slot) {
  return wane_weak_value(plain->weaks[slot]);
}

static void weak_key_put(size_t slot, void *pointer) {
  void *ephemeron = wane_ephemeron_new(pointer, NULL);
  require(ephemeron != NULL);
  word_put(&managed->made[BY_KEY][slot], ephemeron);
}
static void *weak_key_take(size_t slot) {
  return wane_ephemeron_key(word_take(&managed->made[BY_KEY][slot]));
}

/* Its key is held by nobody. */
static void weak_held_put(size_t slot, void *pointer) {
  void *ephemeron = wane_ephemeron_new(wane_alloc(16), pointer);
  require(ephemeron != NULL);
  word_put(&managed->made[BY_VALUE][slot], ephemeron);
}
static void *weak_held_take(size_t slot) {
  return wane_ephemeron_value(word_take(&managed->made[BY_VALUE][slot]));
}

static void weak_value_put(size_t slot, void *pointer) {
  wane_map_store(map_of_weaks, slot_word(slot), pointer);
}
static void *weak_value_take(size_t slot) {
  void *pointer = NULL;
  (void)wane_map_load_and_delete(map_of_weaks, slot_word(slot), &pointer);
  return pointer;
}

/* A map with one weak key for each slot. */
static void weak_map_key_put(size_t slot, void *pointer) {
  struct wane_map *one = wane_map_new(NULL, WANE_WEAK_KEYS);
  require(one != NULL);
  managed->maps_of_one[slot] = one;
  wane_map_store(one, pointer, slot_word(slot));
}
static bool take_key(const void *key, void *value, void *ctx) {
  (void)value;
  *(const void **)ctx = key;
  return false;
}
static void *weak_map_key_take(size_t slot) {
  void *key = NULL;
  wane_map_range(managed->maps_of_one[slot], take_key, &key);
  (void)wane_map_delete(managed->maps_of_one[slot], key);
  return key;
}

static void *create_fresh(const void *key, size_t key_size, void *ctx) {
  (void)key;
  (void)key_size;
  (void)ctx;
  void *fresh = cache_fresh;
  cache_fresh = NULL;
  errno = ENOENT;
  return fresh;
}
static void cache_put(size_t slot, void *pointer) {
  plain->cache_keys[slot] = test_add(&cache_key_last);
  cache_fresh = pointer;
  require(wane_cache_get(cache, &plain->cache_keys[slot], sizeof(uint64_t)) ==
          pointer);
}
static void *cache_take(size_t slot) {
  return wane_cache_get(cache, &plain->cache_keys[slot], sizeof(uint64_t));
}

/* ---- All of them ---- */

#define PLACE(place, ...)                                                      \
  { .name = #place, .put = place##_put, .take = place##_take, __VA_ARGS__ }

const struct place places[] = {
    PLACE(small),
    PLACE(large),
    PLACE(typed_small),
    PLACE(typed_large),
    PLACE(bss),
    PLACE(data),
    PLACE(root),
    PLACE(root_end),
    PLACE(root_small),
    PLACE(root_shared),
    PLACE(frame),
    PLACE(local),
    PLACE(specific),
    PLACE(result, .is_dear = true),
    PLACE(new),
    PLACE(new_typed),
    PLACE(grown),
    PLACE(pin),
    PLACE(cleanup),
    PLACE(cleanup_copy),
    PLACE(map),
    PLACE(map_swap),
    PLACE(map_by_object),
    PLACE(ephemeron),
    PLACE(unique),
    PLACE(weak, .is_weak = true),
    PLACE(weak_key, .is_weak = true),
    PLACE(weak_held, .is_weak = true),
    PLACE(weak_value, .is_weak = true),
    PLACE(weak_map_key, .is_weak = true),
    PLACE(cache, .is_weak = true),
};
const size_t place_count = TEST_COUNT(places);

static void begin_objects(void) {
  managed = wane_new(struct managed);
  plain = calloc(1, sizeof *plain);
  require(managed != NULL && plain != NULL);
  large = wane_alloc((SLOTS + 1) * PAGE_WORDS * sizeof(void *));
  typed_large =
      wane_alloc_typed(&typed_type, (SLOTS + 1) * PAGE_WORDS * sizeof(void *) /
                                        sizeof *typed_large);
  anchor = wane_alloc(64);
  require(large != NULL && typed_large != NULL && anchor != NULL);
  for (size_t slot = 0; slot < SLOTS; slot++) {
    managed->smalls[slot] = wane_alloc(SMALL_WORDS * sizeof(void *));
    managed->typed_smalls[slot] = wane_alloc_typed(&typed_type, 1);
    managed->map_keys[slot] = wane_alloc(16);
    require(managed->smalls[slot] != NULL &&
            managed->typed_smalls[slot] != NULL &&
            managed->map_keys[slot] != NULL);
  }
}

void places_begin(const struct place_roots *roots) {
  struct wane_cache_config config = {.create = create_fresh};
  statics = *roots;
  require(statics.zero_words >= SLOTS && statics.data_words >= SLOTS);
  begin_objects();
  begin_roots();
  for (size_t i = 0; i < PLACE_SLOTS; i++) {
    require(pthread_key_create(&keys[i], NULL) == 0);
  }
  map = wane_map_new(NULL, 0);
  map_of_swaps = wane_map_new(NULL, 0);
  map_by_objects = wane_map_new(NULL, WANE_WEAK_KEYS);
  map_of_weaks = wane_map_new(NULL, WANE_WEAK_VALUES);
  cache = wane_cache_new(&config);
  require(map != NULL && map_of_swaps != NULL && map_by_objects != NULL &&
          map_of_weaks != NULL && cache != NULL);
  for (size_t slot = 0; slot < SLOTS; slot++) {
    wane_map_store(map_of_swaps, slot_word(slot), NULL);
  }
}

const struct place *place_named(const char *name) {
  size_t i = 0;
  while (i < place_count && strcmp(places[i].name, name) != 0) {
    i++;
  }
  require(i < place_count);
  return &places[i];
}

TEST_NOINLINE void places_act(size_t actor, void (*fn)(void *arg), void *arg) {
  void *words[PLACE_SLOTS] = {0};
  require(actor < PLACE_ACTORS);
  actor_first = actor * PLACE_SLOTS;
  frame_words = words;
  __asm__ volatile("" : : "r"(words) : "memory");
  fn(arg);
  frame_words = NULL;
  __asm__ volatile("" : : "r"(words) : "memory");
}

/* Pointers to anywhere in the first words of an item. */
static size_t inner_bytes(size_t slot) { return slot % 4 * sizeof(uint64_t); }

void place_put(const struct place *place, size_t slot, void *item) {
  require(slot < PLACE_SLOTS);
  place->put(actor_first + slot, (char *)item + inner_bytes(slot));
}

void *place_take(const struct place *place, size_t slot) {
  require(slot < PLACE_SLOTS);
  char *pointer = place->take(actor_first + slot);
  return pointer != NULL ? pointer - inner_bytes(slot) : NULL;
}
