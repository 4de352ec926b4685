/*
 * The index: words in 64 hash tables, each under its own mutex.
 *
 * A file is first counted into a table of its own, without locks, and then
 * merged word by word. Both kinds of table, their words and their arrays lie
 * in the managed heap; a table that grows forgets its old array.
 */
#include "wordindex.h"

#include <string.h>
#include <wane.h>

enum { TABLE_FIRST_SLOTS = 64 };

static void table_grow(struct table *table) {
  size_t grown = table->slots ? table->slot_count * 2 : TABLE_FIRST_SLOTS;
  struct word **slots = must(wane_new_array(struct word *, grown));
  for (size_t i = 0; i < table->slot_count; i++) {
    struct word *next;
    for (struct word *w = table->slots[i]; w; w = next) {
      struct word **slot = &slots[w->hash & (grown - 1)];
      next = w->next;
      w->next = *slot;
      *slot = w;
    }
  }
  table->slots = slots;
  table->slot_count = grown;
}

static struct word *table_find(const struct table *table, uint64_t hash,
                               const char *text, size_t length) {
  struct word *w = NULL;
  if (table->slots) {
    w = table->slots[hash & (table->slot_count - 1)];
  }
  while (w && (w->hash != hash || w->length != length ||
               memcmp(w->text, text, length) != 0)) {
    w = w->next;
  }
  return w;
}

static void table_add(struct table *table, struct word *w) {
  struct word **slot;
  if (table->used >= table->slot_count) {
    table_grow(table);
  }
  slot = &table->slots[w->hash & (table->slot_count - 1)];
  w->next = *slot;
  *slot = w;
  table->used++;
}

static void table_count_word(struct table *table, const char *text,
                             size_t length, uint64_t hash) {
  struct word *w = table_find(table, hash, text, length);
  if (!w) {
    w = must(wane_new(struct word));
    w->hash = hash;
    w->text = text;
    w->length = (uint32_t)length;
    table_add(table, w);
  }
  w->count++;
}

/* The byte in lower case when it belongs in a word, else 0. */
static unsigned char word_byte(char byte) {
  unsigned char c = (unsigned char)byte;
  unsigned char lower = c | 0x20;
  return c >= 0x80 ? c : lower >= 'a' && lower <= 'z' ? lower : 0;
}

uint64_t table_count_words(struct table *table, char *text, size_t size) {
  uint64_t words = 0;
  for (size_t i = 0; i < size; i++) {
    size_t start = i;
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    unsigned char c;
    while (i < size && (c = word_byte(text[i])) != 0) {
      text[i++] = (char)c;
      hash = (hash ^ c) * 0x100000001b3;
    }
    if (i - start >= WORD_MIN && i - start <= WORD_MAX) {
      table_count_word(table, text + start, i - start, hash ^ (hash >> 32));
      words++;
    }
  }
  return words;
}

struct index *index_new(void) {
  struct index *index = must(wane_new(struct index));
  for (size_t i = 0; i < SHARDS; i++) {
    pthread_mutex_init(&index->shards[i].lock, NULL);
  }
  return index;
}

static void word_add_posting(struct word *w, const char *path, uint64_t count) {
  uint32_t n = w->files;
  if ((n & (n - 1)) == 0) { /* 0 or a power of two: no room left */
    size_t room = n ? (size_t)n * 2 : 1;
    w->postings = must(wane_realloc(w->postings, room * sizeof *w->postings));
  }
  w->postings[n] = (struct posting){.path = path, .count = count};
  w->files = n + 1;
}

/* Merges the word w of one file; true when it was new and is now here. */
static bool shard_merge_locked(struct shard *shard, struct word *w,
                               const char *path) {
  struct word *known = table_find(&shard->words, w->hash, w->text, w->length);
  if (known) {
    known->count += w->count;
    word_add_posting(known, path, w->count);
    return false;
  }
  w->text = must(wane_strndup(w->text, w->length)); /* lets the file go */
  word_add_posting(w, path, w->count);
  table_add(&shard->words, w);
  return true;
}

size_t index_merge(struct index *index, struct table *file, const char *path) {
  size_t new_words = 0;
  for (size_t i = 0; i < file->slot_count; i++) {
    struct word *next;
    for (struct word *w = file->slots[i]; w; w = next) {
      struct shard *shard = &index->shards[w->hash >> SHARD_SHIFT];
      next = w->next;
      pthread_mutex_lock(&shard->lock);
      new_words += shard_merge_locked(shard, w, path);
      pthread_mutex_unlock(&shard->lock);
    }
  }
  return new_words;
}

static bool word_is_before(const struct word *a, const struct word *b) {
  return a->count != b->count ? a->count > b->count
                              : strcmp(a->text, b->text) < 0;
}

size_t index_top(struct index *index, struct word **top, size_t max) {
  size_t count = 0;
  for (size_t i = 0; i < SHARDS; i++) {
    struct table *words = &index->shards[i].words;
    for (size_t slot = 0; slot < words->slot_count; slot++) {
      for (struct word *w = words->slots[slot]; w; w = w->next) {
        size_t at = count;
        for (; at > 0 && word_is_before(w, top[at - 1]); at--) {
          if (at < max) {
            top[at] = top[at - 1];
          }
        }
        if (at < max) {
          top[at] = w;
          count += count < max;
        }
      }
    }
  }
  return count;
}
