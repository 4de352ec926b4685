/* Places that register safety nets; see net.h. */
#include "net.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "../../include/wane/lifetime.h"
#include "../base/atomic.h"
#include "../base/attr.h"
#include "../base/check.h"
#include "../base/lock.h"
#include "../base/meta.h"
#include "../heap/context.h"
#include "../heap/hooks.h"

#define NET_BUCKETS 256u

static struct wane__lock net_lock = WANE__LOCK_INIT(WANE__RANK_QUEUES);
/* Chains; only grow at their heads. lock: net_lock; acquire */
static struct wane__net *net_buckets[NET_BUCKETS];
static uint64_t net_needed; /* relaxed */

static unsigned net_bucket(const char *file, int line) {
  uint64_t hash = (uint64_t)(unsigned)line;
  for (const char *c = file; *c != '\0'; c++) {
    hash = (hash ^ (unsigned char)*c) * 0x100000001b3ull;
  }
  return (unsigned)(hash * 0x9e3779b97f4a7c15ull >> 56) % NET_BUCKETS;
}

static struct wane__net *net_find(struct wane__net *net, const char *file,
                                  int line) {
  while (net != NULL && (net->line != line || strcmp(net->file, file) != 0)) {
    net = net->next;
  }
  return net;
}

static struct wane__net *net_new_locked(unsigned bucket, const char *file,
                                        int line) {
  size_t length = strlen(file) + 1;
  struct wane__net *net = wane__meta_alloc(sizeof *net + length);
  if (net == NULL) {
    return NULL;
  }
  net->next = net_buckets[bucket];
  net->file = memcpy(net + 1, file, length);
  net->line = line;
  /* pairs with the acquires of readers */
  wane__store_release(&net_buckets[bucket], net);
  return net;
}

struct wane__net *wane__net_at(const char *file, int line) {
  unsigned bucket = net_bucket(file, line);
  struct wane__net *net =
      net_find(wane__load_acquire(&net_buckets[bucket]), file, line);
  if (net != NULL) {
    return net;
  }
  wane__lock_acquire(&net_lock);
  net = net_find(net_buckets[bucket], file, line);
  if (net == NULL) {
    net = net_new_locked(bucket, file, line);
  }
  wane__lock_release(&net_lock);
  return net;
}

void wane__net_needed(struct wane__net *net) {
  wane__add_relaxed(&net->needed, 1);
  wane__add_relaxed(&net_needed, 1);
}

uint64_t wane__nets_needed(void) { return wane__load_relaxed(&net_needed); }

void wane__nets_trace(void) {
  for (unsigned i = 0; i < NET_BUCKETS; i++) {
    for (struct wane__net *n = wane__load_acquire(&net_buckets[i]); n != NULL;
         n = n->next) {
      uint64_t needed = wane__load_relaxed(&n->needed);
      if (needed != n->traced) {
        n->traced = needed;
        wane__log("safety net of %s:%d was needed %llu times of %llu", n->file,
                  n->line, (unsigned long long)needed,
                  (unsigned long long)wane__load_relaxed(&n->registered));
      }
    }
  }
}

/* Puts an entry in its place among the first max, by needed. */
static void net_list_insert(struct wane_net *nets, size_t count, size_t max,
                            struct wane_net entry) {
  size_t at = count < max ? count : max;
  for (; at > 0 && nets[at - 1].needed < entry.needed; at--) {
    if (at < max) {
      nets[at] = nets[at - 1];
    }
  }
  if (at < max) {
    nets[at] = entry;
  }
}

WANE_PUBLIC size_t wane_read_nets(struct wane_net *nets, size_t max) {
  size_t count = 0;
  if (nets == NULL && max != 0) {
    wane__fatal("wane_read_nets", "nets is NULL");
  }
  for (unsigned i = 0; i < NET_BUCKETS; i++) {
    for (const struct wane__net *n = wane__load_acquire(&net_buckets[i]);
         n != NULL; n = n->next) {
      struct wane_net entry = {.file = n->file,
                               .line = n->line,
                               .registered = wane__load_relaxed(&n->registered),
                               .needed = wane__load_relaxed(&n->needed)};
      net_list_insert(nets, count, max, entry);
      count++;
    }
  }
  return count;
}

void wane__nets_fork_prepare(void) { wane__lock_acquire_peer(&net_lock); }
void wane__nets_fork_parent(void) { wane__lock_release(&net_lock); }
void wane__nets_fork_child(void) { wane__lock_reset(&net_lock); }
