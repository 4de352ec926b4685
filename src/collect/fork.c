/* Handlers around fork; see fork.h. */
#include "fork.h"

#include <pthread.h>
#include <stddef.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/lock.h"
#include "../base/meta.h"
#include "../base/options.h"
#include "../heap/class_list.h"
#include "../heap/extent.h"
#include "../heap/foreign.h"
#include "../heap/grey.h"
#include "../heap/hooks.h"
#include "../mark/dirty.h"
#include "../mark/mark.h"
#include "../mutator/root.h"
#include "../mutator/thread.h"
#include "../special/fork.h"
#include "../special/group.h"
#include "background.h"
#include "collector.h"
#include "cycle.h"

static void fork_prepare(void) {
  wane__stage_acquire();
  wane__lock_acquire(&wane__threads_lock);
  wane__roots_fork_prepare();
  wane__extent_fork_prepare();
  wane__specials_fork_prepare();
  wane__foreign_fork_prepare();
  wane__meta_fork_prepare();
}

static void fork_parent(void) {
  wane__meta_fork_parent();
  wane__foreign_fork_parent();
  wane__specials_fork_parent();
  wane__extent_fork_parent();
  wane__roots_fork_parent();
  wane__lock_release(&wane__threads_lock);
  wane__stage_release();
}

/* The caches of the forking thread keep their runs, but not the groups they
   came from, which the rebuilt lists will hold. */
static void fork_drop_groups(struct wane__context *self) {
  for (unsigned k = 0; k < WANE__KIND_COUNT; k++) {
    for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
      struct wane__cache *cache = &self->caches[k][c];
      if (cache->block != NULL) {
        cache->block->clean = false;
        cache->block = NULL;
      }
    }
  }
}

/* Its context while the child has not settled; NULL: it was not attached. */
static struct wane__context *fork_self;
static bool fork_pending;

uint32_t wane__fork_count;

static void fork_child(void) {
  wane__fork_count++;
  wane__meta_fork_child();
  wane__foreign_fork_parent();
  wane__specials_fork_child();
  wane__extent_fork_child();
  wane__roots_fork_child();
  if (wane__self->attached) { /* else an earlier fork is still pending */
    fork_self = wane__self;
    wane__self = &wane__no_context; /* the next slow path will settle */
  }
  wane__threads_fork_child(fork_self);
  wane__lock_reset(&wane__threads_lock);
  wane__cycle_fork_child();
  wane__mark_fork_child();
  wane__background_fork_child();
  wane__collector_fork_child();
  wane__grey_fork_child();
  fork_pending = wane__arena.start != 0;
  wane__hooks.forked();
}

bool wane__fork_settle(void) {
  if (WANE_LIKELY(!fork_pending)) {
    return false;
  }
  fork_pending = false;
  if (fork_self != NULL) {
    wane__self = fork_self;
    fork_drop_groups(fork_self);
    fork_self = NULL;
  }
  wane__dirty_fork_child();
  wane__extent_rebuild();
  wane__foreign_rebuild();
  wane__class_rebuild();
  wane__specials_fork_settle();
  return wane__load(&wane__groups_with_records) != 0 || wane__options.fork != 0;
}

bool wane__fork_init(void) {
  return pthread_atfork(fork_prepare, fork_parent, fork_child) == 0;
}
