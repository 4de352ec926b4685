/*
 * The whole library as one file: cc -c src/wane_all.c builds it, with no
 * include path and no flags. Link with -pthread.
 */
#define _GNU_SOURCE

#include "base/check.c"
#include "base/lock.c"
#include "base/meta.c"
#include "base/options.c"
#include "base/os.c"
#include "base/poison.c"
#include "base/spin.c"
#include "base/symbol.c"

#include "heap/alloc.c"
#include "heap/block.c"
#include "heap/cache.c"
#include "heap/class_list.c"
#include "heap/extent.c"
#include "heap/object.c"
#include "heap/size_class.c"
#include "heap/string.c"
#include "heap/typed.c"

#include "mutator/interpose.c"
#include "mutator/interpose_mask.c"
#include "mutator/module.c"
#include "mutator/root.c"
#include "mutator/stop.c"
#include "mutator/thread.c"

#include "mark/mark.c"
#include "mark/range.c"

#include "special/cleanup.c"
#include "special/death.c"
#include "special/fork.c"
#include "special/group.c"
#include "special/net.c"
#include "special/pool.c"
#include "special/queue.c"
#include "special/runner.c"
#include "special/site.c"
#include "special/static.c"
#include "special/weak.c"

#include "collect/background.c"
#include "collect/check.c"
#include "collect/cycle.c"
#include "collect/fork.c"
#include "collect/pace.c"
#include "collect/pauses.c"
#include "collect/shutdown.c"
#include "collect/sweep.c"
#include "collect/trace.c"
#include "collect/verify.c"

#include "look/start.c"
#include "look/stats.c"
