/* What the rest of the library must tell caches; see cache.c. */
#ifndef WANE_TABLES_CACHE_H
#define WANE_TABLES_CACHE_H

/* In the child of a fork: the creations of the calling thread go on here,
   those of all others have stayed in the parent. */
void wane__cache_forked(void);

#endif
