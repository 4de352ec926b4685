/*
 * proofs/ephemeron_wait.pml: how two markers make ephemerons wait for their
 * weak words, with marking by plain stores (mark/ephemeron.h).
 *
 * Two objects, K and V, that both markers come upon, or neither, and two
 * ephemerons that both come upon: A with weak K, which holds something, and B
 * with two weak words, K and V. Each load and each store of a mark byte is a
 * step of its own, and so are the push on a chain, the bit, and the taking of a
 * chain.
 *
 * Shown, when all is marked: whoever has a living key is marked, and an
 * ephemeron with an unmarked word is on the chain of that word's slot, once;
 * and between rounds nothing is found on the chain of a marked slot but where a
 * plain store ran over the bit. So a marker alone needs no look between rounds.
 */
// without: SETTLE   chains are not looked at between rounds
// without: FRESH    a group that got a chain is not noted
// without: ROUND    what was woken between rounds begins no other round
// without: CLAIM    an ephemeron goes on a chain whether it is on one or not
// without: UNCHAIN  what leaves its chain still says that it waits
// without: BIT_LATE the bit is set before the ephemeron is on the chain
// without: TAKE_LATE  the chain is taken before the byte is exchanged
// without: MARKED   who fails to set the bit does not look at why
// without: BIT      no bit is set at all
// without: WAKE     the marker of a slot with the bit leaves the chain alone

#define OLD 1
#define COLOUR 2
#define AWAITED 4

#define K 0
#define V 1
#define A 2
#define B 3
#define OBJECTS 4

#define BIT_OF(o) ((o) - A + 1) /* 1 or 2, in sets of ephemerons */

byte mark[OBJECTS] = OLD;
byte work[OBJECTS]; /* words on the stacks of the two, which share */
bool held;          /* what A holds has been marked */
byte chain[2];      /* what waits for K, and for V: sets */
bool fresh[2];
bool waits[OBJECTS]; /* the ephemeron's wait word is not 0 */
byte woken;          /* between rounds: to be looked at again. a set */
byte busy = 0;
bool settling;

bool overrun[OBJECTS]; /* ghost: a plain store ran over the bit */

#define IS_WORK (work[K] || work[V] || work[A] || work[B] || woken)

/* The chain of a slot goes to the marker's own list. */
inline take(o) { atomic { mine = mine | chain[o]; chain[o] = 0 } }

/* Under claim: nobody else has this ephemeron on a chain. */
inline chain_push() {
  d_step {
    assert(((chain[K] | chain[V]) & BIT_OF(e)) == 0);
    chain[slot] = chain[slot] | BIT_OF(e)
  }
}

inline set_bit() {
  atomic {
    is_marked = (mark[slot] == COLOUR);
    if
    :: mark[slot] == OLD -> mark[slot] = OLD + AWAITED
    :: else
    fi
  }
}

/* wane__ephemeron_wait: e waits for a slot that was not marked a moment ago. */
inline wait_for() {
#ifdef WITHOUT_CLAIM
  waits[e] = true;
#else
  atomic {
    if
    :: waits[e] -> goto scanned
    :: else -> waits[e] = true
    fi
  }
#endif
#ifndef WITHOUT_FRESH
  fresh[slot] = true;
#endif
#ifdef WITHOUT_BIT_LATE
  set_bit();
  chain_push();
#else
  chain_push();
#  ifndef WITHOUT_BIT
  set_bit();
#  endif
#endif
#ifndef WITHOUT_MARKED
  if
  :: is_marked -> take(slot)
  :: else
  fi
#endif
}

/* marker_scan_pair. */
inline scan_pair() {
  if
  :: mark[K] != COLOUR -> slot = K; wait_for()
  :: else ->
    if
    :: e == A -> held = true
    :: e == B && mark[V] != COLOUR -> slot = V; wait_for()
    :: e == B && mark[V] == COLOUR
    fi
  fi
}

/* mark_loop_visit and mark_loop_wake. */
inline visit() {
  seen = mark[o];
  if
  :: seen == OLD ->
    d_step {
      overrun[o] = overrun[o] || (mark[o] & AWAITED);
      mark[o] = COLOUR
    }
  :: seen & AWAITED ->
#ifdef WITHOUT_TAKE_LATE
    take(o);
#endif
    atomic { seen = mark[o]; mark[o] = COLOUR }
#if !defined(WITHOUT_TAKE_LATE) && !defined(WITHOUT_WAKE)
    if
    :: seen != COLOUR -> take(o)
    :: else
    fi
#endif
  :: else
  fi
}

proctype marker() {
  byte o, e, slot, seen, mine;
  bool is_marked;
end:
  do
  :: atomic {
       !settling && IS_WORK -> busy++;
       if
       :: work[K] -> work[K]--; o = K
       :: work[V] -> work[V]--; o = V
       :: work[A] -> work[A]--; o = A
       :: work[B] -> work[B]--; o = B
       :: woken -> mine = woken; woken = 0; o = OBJECTS
       fi
     }
     if
     :: o != OBJECTS -> visit()
     :: else
     fi;
     do
     :: atomic { o == A && seen != COLOUR || o == B && seen != COLOUR ->
                 e = o; o = OBJECTS }
        goto scan
     :: atomic { mine & BIT_OF(A) -> e = A; mine = mine & ~BIT_OF(A) }
        goto unchain
     :: atomic { mine & BIT_OF(B) -> e = B; mine = mine & ~BIT_OF(B) }
        goto unchain
     :: else -> break
unchain:
#ifndef WITHOUT_UNCHAIN
        waits[e] = false;
#endif
scan:
        scan_pair();
scanned:
        atomic { e = 0; slot = 0; is_marked = false }
     od;
     atomic { o = 0; seen = 0; busy-- }
  od
}

#ifdef WITHOUT_SETTLE
#  define IS_LOOKED_AT(slot) false
#else
#  define IS_LOOKED_AT(slot) (fresh[slot] && mark[slot] == COLOUR)
#endif

/* wane__ephemerons_settle_stw. */
inline settle(o) {
  if
  :: IS_LOOKED_AT(o) ->
    assert(chain[o] == 0 || overrun[o]);
    woken = woken | chain[o];
    chain[o] = 0
  :: else
  fi;
  fresh[o] = false
}

inline check_end() {
  d_step {
    assert(mark[A] == COLOUR && mark[B] == COLOUR);
    assert(held == (mark[K] == COLOUR));
    assert(chain[K] == (mark[K] == COLOUR -> 0 : BIT_OF(A) | BIT_OF(B)));
    assert(chain[V] ==
           (mark[K] == COLOUR && mark[V] != COLOUR -> BIT_OF(B) : 0))
  }
}

init {
  atomic {
    work[A] = 2;
    work[B] = 2;
    if
    :: work[K] = 2
    :: skip
    fi;
    if
    :: work[V] = 2
    :: skip
    fi;
    run marker();
    run marker()
  }
  do
  :: atomic {
       busy == 0 && !IS_WORK -> settling = true;
       settle(K);
       settle(V);
       if
#ifdef WITHOUT_ROUND
       :: true -> break
#else
       :: IS_WORK -> settling = false
       :: else -> break
#endif
       fi
     }
  od;
  check_end()
}
