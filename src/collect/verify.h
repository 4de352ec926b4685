/*
 * verify=1: after marking, with the world still stopped, everything is marked
 * once more by code that is as simple as can be, with one thread, a bitmap of
 * its own and no prefetching, and compared: an object that is reached here
 * and has not the current colour is an internal error, which names the
 * parent, the child and the page between them. It is slow, and that is all
 * it costs.
 */
#ifndef WANE_COLLECT_VERIFY_H
#define WANE_COLLECT_VERIFY_H

/* STW, inside wane__modules_hold. */
void wane__verify_stw(void);

#endif
