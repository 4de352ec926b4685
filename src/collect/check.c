/* The search for callbacks that can never run; see check.h. */
#include "check.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/options.h"
#include "../base/os.h"
#include "../base/poison.h"
#include "../base/symbol.h"
#include "../heap/block.h"
#include "../heap/foreign.h"
#include "../special/cleanup.h"
#include "../special/group.h"
#include "../special/net.h"
#include "../special/pool.h"
#include "../special/site.h"

#define CHECK_WORDS_MAX (64ull << 20)
#define CHECK_FINDINGS_MAX 50u
/* Steps of a path that are kept: its two ends. */
#define CHECK_STEPS_MAX 16u
#define CHECK_STEPS_IN_LINE 4u
#define CHECK_COMMIT_BYTES (1ull << 20)
#define CHECK_NO_PARENT UINT32_MAX
#define CHECK_TYPE_BYTES 40

/* An object that a search has seen. */
struct check_seen {
  uintptr_t base;
  uint32_t parent; /* its place in the queue; CHECK_NO_PARENT: the first */
  uint32_t at;     /* word of the parent that leads here */
};

/* One object of a path, copied for the report. */
struct check_step {
  uintptr_t base;
  size_t bytes;
  size_t at; /* bytes from its start to the pointer to the next */
  char type[CHECK_TYPE_BYTES]; /* "": not typed */
};

struct check_finding {
  enum wane__sort sort;
  enum wane__record_call call;
  void (*fn)(void *arg);
  const void *site;
  uintptr_t base;
  size_t bytes;
  size_t steps; /* in all; those in the middle are not kept */
  struct check_step path[CHECK_STEPS_MAX];
};

enum check_answer { CHECK_RUNS, CHECK_NEVER_RUNS, CHECK_CUT };

/* Of the thread that holds the cycle lock. What holds addresses of objects
   beyond a stop lies in reserved memory: this here is scanned as a root. */
static struct {
  uint8_t *bits; /* one for each granule, set: seen. Clean between searches */
  size_t bits_ready;
  struct check_seen *queue;
  size_t queue_ready; /* bytes of it that can be used */
  size_t queue_bytes; /* reserved */
  struct check_finding *findings;
  bool gave_up;

  /* the search */
  size_t depth;           /* objects in the queue */
  uintptr_t target;       /* the object looked for */
  uintptr_t closure;      /* what the queue is the full closure of, or 0 */
  struct check_seen last; /* how the target was reached: parent and word */

  /* the cycle */
  uint64_t words_left;
  uint64_t position; /* of the record to go on with in the next */
  size_t found;
  size_t looked_at;
  size_t skipped; /* left to the next cycle */
  bool told_cut;
} check;

/* ---- Memory ---- */

static bool check_reserve(void) {
  size_t arena = wane__arena.reserved;
  size_t most = CHECK_WORDS_MAX * sizeof *check.queue;
  check.queue_bytes = arena < most ? arena : most;
  check.bits = wane__os_reserve(arena / 128, 65536);
  check.queue = wane__os_reserve(check.queue_bytes, 65536);
  size_t bytes = CHECK_FINDINGS_MAX * sizeof *check.findings;
  bytes = (bytes + 65535) & ~(size_t)65535;
  check.findings = wane__os_reserve(bytes, 65536);
  return check.bits != NULL && check.queue != NULL && check.findings != NULL &&
         wane__os_commit(check.findings, bytes);
}

/* Memory for the arena as it is now; false: there is none, and it is said. */
static bool check_prepare(void) {
  if (check.gave_up) {
    return false;
  }
  size_t bits = (wane__arena.committed / 128 + 65535) & ~(size_t)65535;
  if ((check.findings != NULL || check_reserve()) &&
      (bits <= check.bits_ready || wane__os_commit(check.bits, bits))) {
    check.bits_ready = bits > check.bits_ready ? bits : check.bits_ready;
    return true;
  }
  wane__log("check: no memory for it; it is skipped");
  check.gave_up = true;
  return false;
}

static bool check_queue_has_room(void) {
  size_t needed = (check.depth + 1) * sizeof *check.queue;
  if (needed > check.queue_ready) {
    if (check.queue_ready + CHECK_COMMIT_BYTES > check.queue_bytes ||
        !wane__os_commit((char *)check.queue + check.queue_ready,
                         CHECK_COMMIT_BYTES)) {
      return false;
    }
    check.queue_ready += CHECK_COMMIT_BYTES;
  }
  return true;
}

/* ---- One search ---- */

static uint8_t *check_byte_of(uintptr_t base) {
  return &check.bits[(base - wane__arena.start) / WANE__GRANULE_BYTES / 8];
}

static uint8_t check_bit_of(uintptr_t base) {
  size_t granule = (base - wane__arena.start) / WANE__GRANULE_BYTES;
  return (uint8_t)(1u << granule % 8);
}

static bool check_has_seen(uintptr_t base) {
  return (*check_byte_of(base) & check_bit_of(base)) != 0;
}

static void check_forget(void) {
  for (size_t i = 0; i < check.depth; i++) {
    *check_byte_of(check.queue[i].base) = 0; /* all its bits are ours */
  }
  check.depth = 0;
  check.closure = 0;
}

static bool check_find(uintptr_t word, struct wane__found *out) {
  word = wane__foreign_translate(word);
  return word - wane__arena.start < wane__arena.committed &&
         wane__block_resolve(word, wane__arena.start, wane__block_map, out) &&
         *out->mark != 0 && word - out->base < wane__found_limit(out);
}

/* A word of the object at parent, `at` bytes from its start. */
static enum check_answer check_word(uintptr_t word, uint32_t parent,
                                    size_t at) {
  struct wane__found found;
  struct check_seen seen = {.parent = parent,
                            .at = (uint32_t)(at / sizeof word)};
  if (!check_find(word, &found)) {
    return CHECK_RUNS;
  }
  seen.base = found.base;
  if (found.base == check.target) {
    if (parent != CHECK_NO_PARENT && check.queue[parent].base == check.target) {
      return CHECK_RUNS; /* of a finalizer's object to itself */
    }
    check.last = seen;
    return CHECK_NEVER_RUNS;
  }
  if (check_has_seen(found.base)) {
    return CHECK_RUNS;
  }
  if (!check_queue_has_room()) {
    return CHECK_CUT;
  }
  *check_byte_of(found.base) |= check_bit_of(found.base);
  check.queue[check.depth++] = seen;
  return CHECK_RUNS;
}

static bool check_spend(uint64_t words) {
  bool enough = words < check.words_left;
  check.words_left -= enough ? words + 1 : 0;
  return enough;
}

static WANE_SCANS_MEMORY enum check_answer
check_words(const struct wane__found *object, uint32_t place) {
  size_t bytes = wane__found_bytes(object);
  enum check_answer answer =
      check_spend(bytes / sizeof(uintptr_t)) ? CHECK_RUNS : CHECK_CUT;
  for (size_t at = 0; at < bytes && answer == CHECK_RUNS;
       at += sizeof(uintptr_t)) {
    answer = check_word(*(const uintptr_t *)(object->base + at), place, at);
  }
  return answer;
}

static WANE_SCANS_MEMORY enum check_answer
check_elements(const struct wane__found *object, uint32_t place) {
  const struct wane_type *type = wane__found_type(object);
  if (type == NULL || type->size == 0) {
    return CHECK_RUNS; /* its allocation is not complete */
  }
  size_t count = wane__found_bytes(object) / type->size;
  if (!check_spend(count * type->pointer_count)) {
    return CHECK_CUT;
  }
  for (size_t i = 0; i < count; i++) {
    for (size_t j = 0; j < type->pointer_count; j++) {
      size_t at = i * type->size + type->pointer_offsets[j];
      enum check_answer answer =
          check_word(*(const uintptr_t *)(object->base + at), place, at);
      if (answer != CHECK_RUNS) {
        return answer;
      }
    }
  }
  return CHECK_RUNS;
}

static enum check_answer check_object(uint32_t place) {
  struct wane__found object = wane__block_slot_of(check.queue[place].base);
  switch (wane__head_kind(object.head)) {
  case WANE__KIND_SCAN:
    return check_words(&object, place);
  case WANE__KIND_TYPED:
    return check_elements(&object, place);
  default:
    return check_spend(0) ? CHECK_RUNS : CHECK_CUT;
  }
}

/* Searches what is in the queue and all it leads to. */
static enum check_answer check_run(void) {
  enum check_answer answer = CHECK_RUNS;
  for (size_t i = 0; i < check.depth && answer == CHECK_RUNS; i++) {
    answer = check_object((uint32_t)i);
  }
  return answer;
}

static enum check_answer check_cleanup(uint32_t index) {
  uintptr_t arg = wane__pool_arg(&wane__pools[WANE__SORT_CLEANUP], index);
  struct wane__found start;
  if (!check_find(arg, &start)) {
    return CHECK_RUNS;
  }
  if (start.base == check.closure && !check_has_seen(check.target)) {
    return CHECK_RUNS;
  }
  check_forget();
  enum check_answer answer = check_word(arg, CHECK_NO_PARENT, 0);
  if (answer == CHECK_RUNS) {
    answer = check_run();
  }
  check.closure = answer == CHECK_RUNS ? start.base : 0;
  return answer;
}

static enum check_answer check_finalizer(void) {
  check_forget();
  if (!check_queue_has_room()) {
    return CHECK_CUT;
  }
  check.queue[check.depth++] =
      (struct check_seen){.base = check.target, .parent = CHECK_NO_PARENT};
  return check_run();
}

/* ---- What is found ---- */

static void check_copy_step(struct check_step *step,
                            const struct check_seen *seen, size_t at) {
  struct wane__found object = wane__block_slot_of(seen->base);
  const struct wane_type *type =
      wane__head_kind(object.head) == WANE__KIND_TYPED
          ? wane__found_type(&object)
          : NULL;
  *step = (struct check_step){
      .base = seen->base, .bytes = wane__found_limit(&object), .at = at};
  if (type != NULL) {
    snprintf(step->type, sizeof step->type, "%s",
             type->name != NULL && type->name[0] != '\0' ? type->name
                                                         : "without a name");
  }
}

/* Copies the path from its end back to its beginning. */
static void check_copy_path(struct check_finding *finding) {
  const struct check_seen *queue = check.queue;
  size_t half = CHECK_STEPS_MAX / 2;
  size_t steps = 0;
  for (uint32_t i = check.last.parent; i != CHECK_NO_PARENT;
       i = queue[i].parent) {
    steps++;
  }
  finding->steps = steps;
  size_t place = steps;
  uint32_t at = check.last.at;
  for (uint32_t i = check.last.parent; i != CHECK_NO_PARENT;
       i = queue[i].parent) {
    place--;
    size_t kept = steps <= CHECK_STEPS_MAX || place < half
                      ? place
                      : place + CHECK_STEPS_MAX - steps;
    if (steps <= CHECK_STEPS_MAX || place < half || place >= steps - half) {
      check_copy_step(&finding->path[kept], &queue[i],
                      (size_t)at * sizeof(uintptr_t));
    }
    at = queue[i].at;
  }
}

static void check_note(enum wane__sort sort, struct wane__record *record) {
  struct wane__found object = wane__block_slot_of(record->base);
  struct check_finding *finding = &check.findings[check.found++];
  *finding = (struct check_finding){
      .sort = sort,
      .call = (enum wane__record_call)record->call,
      .fn = record->fn,
      .site = record->site,
      .base = wane__found_object(&object),
      .bytes = wane__found_limit(&object),
  };
  check_copy_path(finding);
  record->reported = record->head.generation;
}

/* ---- All records ---- */

/* A registered record whose object lives, and that was not reported. */
static struct wane__record *check_record(enum wane__sort sort, uint32_t index) {
  if (index == 0) {
    return NULL;
  }
  struct wane__record *record = wane__record_at(sort, index);
  if (record->state != WANE__RECORD_REGISTERED ||
      record->reported == record->head.generation) {
    return NULL;
  }
  struct wane__found object = wane__block_slot_of(record->base);
  return *object.mark == wane__arena.colour ? record : NULL;
}

/* False: this cycle's limits are reached, the record is for the next. */
static bool check_look_at(enum wane__sort sort, uint32_t index,
                          struct wane__record *record) {
  if (check.found == CHECK_FINDINGS_MAX || check.words_left == 0) {
    return false;
  }
  bool is_first = check.words_left == CHECK_WORDS_MAX;
  check.target = record->base;
  enum check_answer answer =
      sort == WANE__SORT_CLEANUP ? check_cleanup(index) : check_finalizer();
  if (answer == CHECK_NEVER_RUNS) {
    check_note(sort, record);
  }
  if (answer == CHECK_CUT) {
    check.words_left = 0;
    check.skipped += is_first;
    return is_first; /* more words than these it will never have */
  }
  check.looked_at++;
  return true;
}

static void check_all(void) {
  uint64_t cleanups = wane__pool_limit(&wane__pools[WANE__SORT_CLEANUP]);
  uint64_t all =
      cleanups + wane__pool_limit(&wane__pools[WANE__SORT_FINALIZER]);
  uint64_t begin = check.position < all ? check.position : 0;
  bool is_cut = false;
  for (uint64_t i = 0; i < all; i++) {
    uint64_t position = begin + i < all ? begin + i : begin + i - all;
    bool is_cleanup = position < cleanups;
    enum wane__sort sort =
        is_cleanup ? WANE__SORT_CLEANUP : WANE__SORT_FINALIZER;
    uint32_t index = (uint32_t)(is_cleanup ? position : position - cleanups);
    struct wane__record *record = check_record(sort, index);
    if (record == NULL) {
      continue;
    }
    if (!is_cut && !check_look_at(sort, index, record)) {
      is_cut = true;
      check.position = position;
    }
    check.skipped += is_cut;
  }
  if (!is_cut) {
    check.position = 0;
  }
}

void wane__check_stw(void) {
  check.found = check.looked_at = check.skipped = 0;
  check.words_left = CHECK_WORDS_MAX;
  if (!check_prepare()) {
    return;
  }
  wane__poison_quiet_begin();
  check_all();
  check_forget();
  wane__poison_quiet_end();
  check.target = 0;
  check.last = (struct check_seen){0};
}

/* ---- The report ---- */

struct check_text {
  char line[900];
  size_t used;
};

static void check_add(struct check_text *text, const char *format, ...)
    WANE_PRINTF(2, 3);
static void check_add(struct check_text *text, const char *format, ...) {
  size_t left = sizeof text->line - text->used;
  char *end = text->line + text->used;
  va_list args;
  va_start(args, format);
  int n = vsnprintf(end, left, format, args);
  va_end(args);
  if (n > 0) {
    text->used += (size_t)n < left ? (size_t)n : left - 1;
  }
}

static void check_end_line(struct check_text *text) {
  wane__log("check: %s", text->line);
  text->used = 0;
}

static void check_print_path(const struct check_finding *f) {
  struct check_text text = {.used = 0};
  size_t kept = f->steps < CHECK_STEPS_MAX ? f->steps : CHECK_STEPS_MAX;
  check_add(&text, "  %s",
            f->sort == WANE__SORT_FINALIZER          ? "object"
            : f->call == WANE__CALL_ADD_CLEANUP_COPY ? "copied arguments"
                                                     : "argument");
  for (size_t i = 0; i < kept; i++) {
    const struct check_step *step = &f->path[i];
    if (i != 0 && i % CHECK_STEPS_IN_LINE == 0) {
      check_end_line(&text);
      check_add(&text, "   ");
    }
    if (i == CHECK_STEPS_MAX / 2 && f->steps > kept) {
      check_add(&text, " ... %zu more objects ... ->", f->steps - kept);
    }
    check_add(&text, " 0x%lx (", (unsigned long)step->base);
    if (step->type[0] != '\0') {
      check_add(&text, "typed %s, ", step->type);
    }
    check_add(&text, "%zu bytes) +%zu ->", step->bytes, step->at);
  }
  check_add(&text, " the object 0x%lx", (unsigned long)f->base);
  check_end_line(&text);
}

/* Where it was registered, as far as one line tells. */
static void check_describe_site(const struct check_finding *f, char *out,
                                size_t bytes) {
  const struct wane__site *site = wane__site_find(f->site);
  if (f->call == WANE__CALL_ADD_SAFETY_NET) {
    const struct wane__net *net = f->site;
    snprintf(out, bytes, "%s:%d", net->file, net->line);
  } else {
    wane__symbol_describe(site != NULL ? site->frames[0] : f->site, out, bytes);
  }
}

static void check_print_backtrace(const struct check_finding *f) {
  const struct wane__site *site = wane__site_find(f->site);
  char place[WANE__SYMBOL_BYTES];
  for (size_t i = 1; site != NULL && i < site->count; i++) {
    wane__symbol_describe(site->frames[i], place, sizeof place);
    wane__log("check:   called from %s", place);
  }
}

static void check_print(const struct check_finding *f) {
  char name[WANE__SYMBOL_BYTES];
  char place[WANE__SYMBOL_BYTES];
  const void *code;
  memcpy(&code, &f->fn, sizeof code);
  wane__symbol_describe(code, name, sizeof name);
  check_describe_site(f, place, sizeof place);
  bool is_finalizer = f->sort == WANE__SORT_FINALIZER;
  wane__log("check: the %s %s of object 0x%lx (%zu bytes), registered at %s, "
            "will never run: %s",
            is_finalizer                           ? "finalizer"
            : f->call == WANE__CALL_ADD_SAFETY_NET ? "safety net"
                                                   : "cleanup",
            name, (unsigned long)f->base, f->bytes, place,
            is_finalizer ? "the object reaches itself through others"
                         : "its argument reaches the object");
  check_print_backtrace(f);
  check_print_path(f);
}

static const char *check_plural(size_t count) { return count == 1 ? "" : "s"; }

/* "2 cleanups and 1 finalizer will never run" */
static void check_add_summary(struct check_text *text) {
  size_t finalizers = 0;
  for (size_t i = 0; i < check.found; i++) {
    finalizers += check.findings[i].sort == WANE__SORT_FINALIZER;
  }
  size_t cleanups = check.found - finalizers;
  if (cleanups != 0) {
    check_add(text, "%zu cleanup%s", cleanups, check_plural(cleanups));
  }
  if (finalizers != 0) {
    check_add(text, "%s%zu finalizer%s", cleanups != 0 ? " and " : "",
              finalizers, check_plural(finalizers));
  }
  check_add(text, " will never run");
}

void wane__check_report(void) {
  for (size_t i = 0; i < check.found; i++) {
    check_print(&check.findings[i]);
  }
  if (check.skipped != 0 && (check.found != 0 || !check.told_cut)) {
    check.told_cut = true;
    wane__log("check: in this cycle only %zu of %zu callbacks were looked at; "
              "the next one goes on from there",
              check.looked_at, check.looked_at + check.skipped);
  }
  if (check.found == 0) {
    return;
  }
  struct check_text summary = {.used = 0};
  check_add_summary(&summary);
  if (wane__options.check == 2) {
    wane__fatal("check", "%s", summary.line);
  }
  check_end_line(&summary);
}
