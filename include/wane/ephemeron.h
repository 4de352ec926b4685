/*
 * wane/ephemeron.h: a pair of a key and a value that lives with the key.
 *
 * An ephemeron points to its key weakly, and to its value only as long as the
 * key is alive for some other reason. "Other" is the point: if the value, or
 * what it reaches, points to the key, that does not keep the key alive, be it
 * by way of other ephemerons. So data can be hung on objects without changing
 * them, and goes with them. A map with WANE_WEAK_KEYS is made of these. (What
 * an object with a finalizer reaches is not dead, as ever: if the value has one
 * and reaches the key, neither ever dies.)
 *
 * Marking all ephemerons takes time in proportion to their number, however
 * they are chained. (Hayes: Ephemerons, a new finalization mechanism, 1997.)
 */
#ifndef WANE_EPHEMERON_H
#define WANE_EPHEMERON_H

#ifdef __cplusplus
extern "C" {
#endif

struct wane_ephemeron;

/* An ephemeron: a managed object. key may point anywhere into its object. With
   key NULL or not in the managed heap it holds the value as long as it lives
   itself. NULL with ENOMEM. (wane_realloc of an ephemeron is fatal.) */
struct wane_ephemeron *wane_ephemeron_new(const void *key, void *value);

/* Key and value as they were given; both NULL from the moment the key's object
   has been found dead, for ever, even if a finalizer brings it back; and from
   wane_shutdown(WANE_RUN_CLEANUPS) on, if it can die. They take no lock, and
   what they return is alive as long as it is held. Fatal: e NULL. */
void *wane_ephemeron_key(struct wane_ephemeron *e);
void *wane_ephemeron_value(struct wane_ephemeron *e);

#ifdef __cplusplus
}
#endif

#endif
