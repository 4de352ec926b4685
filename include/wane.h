/* wane.h: everything Wane offers. Link with -lwane and allocate; no init call.
 */
#ifndef WANE_H
#define WANE_H

#include "wane/cache.h"
#include "wane/collect.h"
#include "wane/ephemeron.h"
#include "wane/heap.h"
#include "wane/lifetime.h"
#include "wane/map.h"
#include "wane/mapped.h"
#include "wane/unique.h"

#endif
