/*
 * Cleanups and finalizers: registering, stopping, and what they keep alive.
 *
 *   FREE --register--> REGISTERED --death--> QUEUED --taken--> RUNNING --> FREE
 *                          '------stop, clear------------------------------^
 *
 * A record is REGISTERED while its object's group leads to it, and what is in
 * it changes only under the stripe's lock. wane__death_sweep takes
 * it out of the table and puts it on a queue (special/queue.h), of which it is
 * taken to run. Stopping a cleanup whose object was found dead, but not swept
 * yet, is too late, too (SEMANTICS D5): unless the object has a finalizer,
 * which comes first.
 *
 * What is kept alive. A record's argument is a word in its pool's chunk, and
 * those are roots (pool.h). A cleanup's is there from registration until the
 * callback has returned. A finalizer's is the object, and is there only from
 * the object's death on; until then what the object's fields point to is
 * marked, but not the object: after all else is marked, the fields of every
 * object that has a finalizer and is not marked are, less pointers into the
 * object itself. So of a chain of such objects only the first dies in a cycle,
 * and a ring of them never does (F3, F4). The order in which they are visited
 * does not matter: what is reached from them is the same.
 *
 * Copied arguments are a managed object that holds the bytes.
 *
 * INV-record-1: a record is REGISTERED if and only if its group's table, or its
 *   array of finalizers, leads to it.
 * INV-record-2: the argument of a FREE record is 0.
 */
#ifndef WANE_SPECIAL_CLEANUP_H
#define WANE_SPECIAL_CLEANUP_H

#include <stdbool.h>
#include <stdint.h>

#include "../../include/wane/lifetime.h"
#include "group.h"
#include "pool.h"

enum wane__record_state {
  WANE__RECORD_FREE,
  WANE__RECORD_REGISTERED,
  WANE__RECORD_QUEUED,
  WANE__RECORD_RUNNING,
};

/* The public call that registered it, for messages. */
enum wane__record_call {
  WANE__CALL_ADD_CLEANUP,
  WANE__CALL_ADD_CLEANUP_COPY,
  WANE__CALL_ADD_CLEANUP_ON,
  WANE__CALL_ADD_SAFETY_NET,
  WANE__CALL_ADOPT, /* its own cleanup of an adopted range, or a mapped file */
  WANE__CALL_MAP,
  WANE__CALL_SET_FINALIZER,
  WANE__CALL_SET_FINALIZER_ON,
};

struct wane__record {
  struct wane__pool_head head;
  uintptr_t base; /* of the object. lock: stripe; read relaxed */
  void (*fn)(void *arg);
  const void *site;  /* the code address after the call that registered it;
                        of a safety net its struct wane__net */
  uint16_t queue;    /* special/queue.h; 0: none of the user's */
  uint8_t state;     /* enum wane__record_state. relaxed */
  uint8_t call;      /* enum wane__record_call */
  uint32_t reported; /* the generation that collect/check.h told of. STW */
};

static inline struct wane__record *wane__record_at(enum wane__sort sort,
                                                   uint32_t index) {
  return wane__pool_at(&wane__pools[sort], index);
}

/* wane_add_cleanup on behalf of another call of the library's; ptr is managed.
 */
wane_cleanup wane__cleanup_add(enum wane__record_call call, const void *ptr,
                               void (*fn)(void *arg), void *arg);

/* The name of the public call that registered it. */
const char *wane__record_call_name(const struct wane__record *record);

/* Takes a record that has run, was stopped or is dropped out of use. The
   chain goes back to the sort's pool. */
void wane__record_retire(enum wane__sort sort, uint32_t index,
                         struct wane__pool_chain *chain);

/* All arguments, as roots. STW, or while marking: what is registered meanwhile
   is in the grey log (heap/grey.h). */
void wane__records_visit_roots(void (*visit)(void *ctx, uintptr_t start,
                                             uintptr_t end, bool is_copy),
                               void *ctx);
/* Makes the next visits shorter, if they can be, and looks at so many chunks of
   arguments of each sort for that. STW. */
void wane__records_tidy_stw(uint32_t chunks);

/* Hands what unmarked objects with finalizers point to to the markers. If all
   is marked in one stop, once, after everything else; beside the program, once
   at the beginning, and what is written to later again. False: there was no
   such object. */
bool wane__finalizers_mark(void);
/* The same for those that lie in memory of the heap that was written while
   marking. */
void wane__finalizers_mark_again(uintptr_t start, uintptr_t end);

#endif
