/* wane.h: everything Wane offers. Link with -lwane and allocate; no init call.
 */
#ifndef WANE_H
#define WANE_H

#include "wane/collect.h"
#include "wane/heap.h"
#include "wane/lifetime.h"

#endif
