/* Records around fork; see fork.h. */
#include "fork.h"

#include "../heap/outside.h"
#include "cleanup.h"
#include "group.h"
#include "net.h"
#include "queue.h"
#include "runner.h"

void wane__specials_fork_prepare(void) {
  for (unsigned i = 0; i <= WANE__STRIPES; i++) {
    wane__spin_acquire_peer(&wane__stripes[i].lock);
  }
  wane__nets_fork_prepare();
  wane__queues_fork_prepare();
  for (int sort = 0; sort < WANE__SORT_COUNT; sort++) {
    wane__spin_acquire_peer(&wane__pools[sort].lock);
  }
}

void wane__specials_fork_parent(void) {
  for (int sort = 0; sort < WANE__SORT_COUNT; sort++) {
    wane__spin_release(&wane__pools[sort].lock);
  }
  wane__queues_fork_parent();
  wane__nets_fork_parent();
  for (unsigned i = 0; i <= WANE__STRIPES; i++) {
    wane__spin_release(&wane__stripes[i].lock);
  }
}

void wane__specials_fork_child(void) {
  for (int sort = 0; sort < WANE__SORT_COUNT; sort++) {
    wane__spin_release(&wane__pools[sort].lock);
  }
  wane__queues_fork_child();
  wane__runners_fork_child();
  wane__nets_fork_child();
  for (unsigned i = 0; i <= WANE__STRIPES; i++) {
    wane__spin_release(&wane__stripes[i].lock);
  }
}

/* Of an object outside the heap: the library's own is registered. */
static bool fork_has_cleanup(const struct wane__block *group) {
  uint32_t ref;
  for (uint32_t at = 0;
       group->specials != NULL &&
       (ref = wane__group_next_locked(group->specials, &at)) != 0;
       at++) {
    if (wane__ref_sort(ref) == WANE__SORT_CLEANUP) {
      uint8_t call =
          wane__record_at(WANE__SORT_CLEANUP, wane__ref_index(ref))->call;
      if (call == WANE__CALL_MAP || call == WANE__CALL_ADOPT) {
        return true;
      }
    }
  }
  return false;
}

void wane__specials_fork_settle(void) {
  wane__group_recount();
  wane__runners_fork_settle();
  wane__outside_settle(fork_has_cleanup);
}
