/*
 * proofs/ephemeron_change.pml: a map changes a word that counts as weak while
 * markers mark beside it (mark/ephemeron.h, WANE__WAIT_CHANGED).
 *
 * One ephemeron, an entry of a map with weak values: the word that changes
 * leads to X or Y, the other to K. Or both words count as weak. The program,
 * which stores X or Y if it holds it, deletes, and lets go; two markers, which
 * both come upon the ephemeron, and look at it again when its page was handed
 * out as written; any number of rounds; the last stop; and what the sweep makes
 * of it. Words are read, and the ephemeron is claimed, chained, and its slot's
 * bit set, in steps of their own. ephemeron_wait.pml has the race of bit and
 * mark byte: here who marks sees the bit.
 *
 * Shown, when marking is complete: who lives by way of the ephemeron is marked;
 * and the sweep clears it if and only if, as it is now, one of the words that
 * count as weak has a dead object.
 */
// without: CHANGED  a change is not noted beside the ephemeron's link
// without: STALE    who finds it waiting, and changed, leaves it at that
// without: AGAIN    the words are not read again after the claim
// without: DIRTY    what was written is not looked at again
// without: LOOK     the sweep clears all that is on a chain
// without: WAKE     whoever marks a slot leaves its chain alone
// although: CLAIM_CLEARS the note of a change from before the claim may stay

#define X 0
#define Y 1
#define K 2
#define NONE 3 /* WANE__GONE */

bool both;         /* words that count as weak, else the first alone */
byte word = X;     /* that changes */
bool marked[3];
bool held[2];      /* by the program: X, Y */
bool waits;        /* the link is not 0 */
bool changed;      /* the bit beside it */
byte chain = NONE; /* the slot on whose chain it is */
bool dirty;
bool guarded;
bool stopped;
bool ended;

byte work[3];      /* words on the stacks: of X, Y, K */
byte looks = 2;    /* of the ephemeron, due */
byte busy = 0;
byte changes = 0;

#define CHANGES 3
#define IS_WORK (looks || work[X] || work[Y] || work[K])

proctype program() {
  byte old, new;
end:
  do
  :: atomic { !stopped && word != NONE && changes < CHANGES ->
       changes++;
       guarded = true;
       old = word;
       if
       :: held[X] && word != X -> new = X
       :: held[Y] && word != Y -> new = Y
       :: new = NONE
       fi
     }
     d_step {
       assert(word == old); /* nobody else changes it */
       word = new;
       dirty = true
     }
     d_step {
#ifndef WITHOUT_CHANGED
       changed = true;
#endif
       dirty = true;
       guarded = false;
       old = 0;
       new = 0
     }
  :: d_step { !stopped && held[X] -> held[X] = false }
  :: d_step { !stopped && held[Y] -> held[Y] = false }
  :: ended -> break
  od
}

inline unchain() {
  waits = false;
  changed = false;
  chain = NONE
}

/* wane__ephemeron_wait for slot, because of the word seen. */
inline wait_for() {
  d_step {
    is_claimed = !waits;
    if
    :: !waits ->
      waits = true;
#ifndef WITHOUT_CLAIM_CLEARS
      changed = false
#endif
    :: waits && changed ->
#ifndef WITHOUT_STALE
      if
      :: word != NONE -> work[word]++
      :: else
      fi;
      work[K]++
#endif
    :: else
    fi
  }
  if
  :: is_claimed ->
#ifndef WITHOUT_AGAIN
    if
    :: atomic { word != seen -> unchain() } goto again
    :: else
    fi;
#endif
    chain = slot;
    if /* the bit, and why it cannot be set */
    :: atomic { marked[slot] && chain == slot -> unchain() } goto again
    :: else
    fi
  :: else
  fi
}

/* marker_scan_pair. What is found unmarked may be marked a moment later. */
inline look() {
  skip;
again:
  atomic { seen = word; slot = NONE }
  d_step {
    if
    :: seen != NONE ->
      if
      :: both && !marked[K] -> slot = K
      :: (!both || marked[K]) && !marked[seen] -> slot = seen
      :: else
      fi
    :: else
    fi
  }
  if
  :: slot != NONE -> wait_for()
  :: slot == NONE && seen != NONE && !both -> work[K]++
  :: else
  fi
}

proctype marker() {
  byte slot, seen;
  bool is_claimed;
end:
  do
  :: atomic { looks -> looks--; busy++ }
     look();
     d_step { seen = 0; slot = 0; is_claimed = false; busy-- }
  :: d_step { work[X] -> work[X]--; slot = X; busy++ } goto visit
  :: d_step { work[Y] -> work[Y]--; slot = Y; busy++ } goto visit
  :: d_step { work[K] -> work[K]--; slot = K; busy++ } goto visit
  :: ended && !IS_WORK -> break
visit:
     marked[slot] = true;
     d_step { /* takes its chain */
#ifndef WITHOUT_WAKE
       if
       :: chain == slot && waits -> unchain(); looks++
       :: else
       fi;
#endif
       slot = 0;
       busy--
     }
  od
}

#define LIVES(w) ((w) == NONE || marked[w])

/* Has the last marking found the pair dead, as it is now? And what does the
   sweep of a dead slot do, if it is on its chain? */
inline check_end() {
  d_step {
    is_dead = word != NONE && (!marked[word] || both && !marked[K]);
    is_cleared = chain != NONE && !marked[chain];
#ifndef WITHOUT_LOOK
    is_cleared = is_cleared && is_dead;
#endif
    assert(is_dead == is_cleared);
    assert(word == NONE || both || !marked[word] || marked[K])
  }
}

init {
  bool is_dead, is_cleared;
  atomic {
    if
    :: both = true
    :: both = false
    fi;
    if
    :: held[X] = true
    :: skip
    fi;
    if
    :: held[Y] = true
    :: skip
    fi;
    if
    :: work[X] = 1 /* something else leads to it */
    :: work[K] = 1
    :: skip
    fi;
    run program();
    run marker();
    run marker()
  }
  do
  :: atomic { busy == 0 && !IS_WORK && dirty && !stopped ->
       dirty = false; /* a round's fetch */
#ifndef WITHOUT_DIRTY
       looks++
#endif
     }
  :: atomic { busy == 0 && !IS_WORK && !guarded && !stopped ->
       stopped = true;
       work[X] = work[X] + held[X];
       work[Y] = work[Y] + held[Y];
#ifndef WITHOUT_DIRTY
       looks = looks + dirty;
#endif
       dirty = false
     }
  :: busy == 0 && !IS_WORK && stopped -> break
  od;
  check_end();
  ended = true
}
