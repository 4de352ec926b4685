/*
 * wane/map.h: a hash map for many threads, in the managed heap.
 *
 * The map behaves as a sequential one under any interleaving: each call below
 * but wane_map_range takes effect at one moment between its begin and its end.
 * No call takes a lock or waits for another. A map grows and shrinks with what
 * is in it. It is a managed object: keep a pointer to it, drop that to drop
 * the map. Many keys with one hash are slow, not wrong.
 *
 * Keys and values are words: pointers to managed objects, which the map keeps
 * alive, or anything else, NULL included. Without ops keys are equal if they
 * are the same word. With ops they are compared by equal, and hash must agree:
 * equal keys, equal hashes, and neither may change while the key is in the map.
 * If they disagree, a key may not be found or be in the map twice; nothing
 * else goes wrong. Both are called without any lock held and may allocate and
 * use other maps, but not this one, nor detach the thread. What they get is a
 * key of the map or of a caller, alive for the call.
 *
 * Weak maps. With WANE_WEAK_VALUES an entry is gone as soon as its value's
 * object is found dead; the map keeps the key alive as long as the value lives.
 * With WANE_WEAK_KEYS it is gone as soon as its key's object is found dead, and
 * keeps the value alive as long as the key lives. What the map so keeps alive
 * does not count as a use of the weak side: a value that points to its own key
 * does not hold it, nor do two entries each other (entries are ephemerons).
 * With both flags an entry keeps neither alive, and goes with the first of the
 * two. A weak key or value that is NULL or not in the managed heap never dies.
 * A gone entry is out of all calls and of the count when the cycle's sweep of
 * its object is done, which wane_collect waits for, and cannot be told from
 * one that was never there.
 *
 * With NULL as map, every call is fatal. When there is no memory a call that
 * stores sets ENOMEM and leaves the map as it was; successful calls leave
 * errno alone. Calls that do not store need no memory.
 */
#ifndef WANE_MAP_H
#define WANE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct wane_map;

struct wane_map_ops {
  uint64_t (*hash)(const void *key);
  bool (*equal)(const void *a, const void *b);
};

/* Keys are strings that end with a zero byte, compared by their bytes. */
extern const struct wane_map_ops wane_string_keys;

#define WANE_WEAK_KEYS 1u
#define WANE_WEAK_VALUES 2u

/* An empty map; ops is copied, NULL: keys are compared as words. NULL with
   ENOMEM, or with EINVAL for unknown flags. Fatal: ops without one of its
   functions. */
struct wane_map *wane_map_new(const struct wane_map_ops *ops, unsigned flags);

/* The key's value in *value, if value is not NULL. False, and NULL there: the
   key is not in the map. */
bool wane_map_load(struct wane_map *m, const void *key, void **value);

/* Sets the key's value. A key that is there already stays the same object. */
void wane_map_store(struct wane_map *m, const void *key, void *value);

/* The key's value, if it has one; else stores value and returns it. *loaded,
   if loaded is not NULL, tells which. No memory: NULL, *loaded false. */
void *wane_map_load_or_store(struct wane_map *m, const void *key, void *value,
                             bool *loaded);

/* Removes the key; what it had is in *value as after wane_map_load. */
bool wane_map_load_and_delete(struct wane_map *m, const void *key,
                              void **value);

/* Removes the key. False: it was not there. */
bool wane_map_delete(struct wane_map *m, const void *key);

/* Sets the key's value. True: it had one, now in *previous; else that is NULL,
   as it is without memory. previous may be NULL. */
bool wane_map_swap(struct wane_map *m, const void *key, void *value,
                   void **previous);

/* Sets the key's value to new_value if it is the word old_value. False: it is
   not, or the key is not in the map. */
bool wane_map_compare_and_swap(struct wane_map *m, const void *key,
                               void *old_value, void *new_value);

/* Removes the key if its value is the word old_value. False: it is not, or the
   key is not in the map. */
bool wane_map_compare_and_delete(struct wane_map *m, const void *key,
                                 void *old_value);

/* Calls visit for one entry after the other, in no order, until it returns
   false. Not a snapshot: a key that is there all the time is shown once, one
   that comes or goes meanwhile once or not at all; the value is one it had
   meanwhile. visit may call anything, also on this map. Fatal: visit NULL. */
void wane_map_range(struct wane_map *m,
                    bool (*visit)(const void *key, void *value, void *ctx),
                    void *ctx);

/* Removes all entries, at one moment. No memory: ENOMEM, and none is. */
void wane_map_clear(struct wane_map *m);

/* How many entries there are; while others change the map, about as many. */
size_t wane_map_count(struct wane_map *m);

#ifdef __cplusplus
}
#endif

#endif
