/* Records around fork; see fork.h. */
#include "fork.h"

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

void wane__specials_fork_settle(void) {
  wane__group_recount();
  wane__runners_fork_settle();
}
