/*
 * proofs/beside.pml: marking beside the program (collect/beside.h) with the
 * dirty tracker (mark/dirty.h): at the end of the last stop, all that the
 * program can reach is marked.
 *
 * Three objects of one word: A and N on page 0, B on page 1; beside B a root,
 * also tracked. A program with two registers, which loads, stores and erases:
 * two threads with one each can do no more, as their steps mix in any way. One
 * cycle: the first stop, arming, marking from the roots by one marker, up to
 * one round, the last stop. What program and collector both see is loaded and
 * stored in steps of its own. What else there is, a run has one of:
 *
 *   FINE   stores as processors make them: by a remembered translation (tlb),
 *          without a look at the page table, until it is flushed; else by the
 *          table: armed, a fault, which takes the mark away, and once more
 *   LOOK   the first stop has no room for what it finds, and marks it; and the
 *          round begins with one more stop for what registers hold
 *   LEFT   another cycle was left while it marked, as in a child of fork: what
 *          was to be scanned is forgotten, nothing is armed, and there is no
 *          first stop. In LOOK and LEFT alone is anything marked before the
 *          first fetch, so what that hands out is only looked at in these
 *   SOFT   the tracker is that of soft-dirty bits: armed once, never again; a
 *          round hands out what it has not yet handed out in this cycle
 *   FAIL   a fetch fails when it has armed the first page, and is made again
 *   WEAK   a weak pointer to B is read, and noted
 *   PIN    there is a pin, which comes and goes
 *   FINAL  a finalizer is set for A: what A points to is kept, not A
 *   NEW    N is no object at first: its slot becomes part of a run, and is
 *          handed out later; its page is disarmed before
 */
// without: ARM_FIRST   roots are marked from before pages are armed
// without: FIRST_SCAN  what the first fetch hands out is not looked at
// without: LEFT        nor if the cycle has marked nothing, but the one before
// without: ATOMIC      a fetch tests a page, then arms it, in two steps
// without: FLUSH       a fetch ends while a processor remembers a translation
// without: FETCH_FIRST pages are looked at before they are armed again
// without: RETRY       a fetch that failed is made again as if nothing had been
// without: SOFT_ONCE   soft-dirty bits are cleared again in a round
// without: ROUND_SCAN  what a round's fetch hands out is not looked at
// without: REGISTERS   the last stop does not look at registers
// without: LAST_FETCH  nor at what was written since the last round
// without: ROOT_LAST   nor at what of that is a root
// without: PINS        pins are not walked
// without: LOG         what is pinned while marking is not noted
// without: LOG_LAST    the log is emptied in rounds, not in the last stop
// without: FINAL       fields of objects with finalizers are not marked
// without: FINAL_LOG   a finalizer set while marking is not noted
// without: FINAL_AGAIN of written pages only marked objects are looked at
// without: RUN         the last stop leaves the rest of a run as it is
// without: GUARD       marking may end while a run is coloured
// although: SNAPSHOT   the first stop need not look at registers
// although: LOOK_AGAIN nor a round
// although: WEAK_NOTE  nor need what a weak read gives be noted

/* What is broken in one sort of run is looked for in these. */
#if defined(WITHOUT_SOFT_ONCE)
#  define FIRST_SORT SOFT
#elif defined(WITHOUT_LEFT)
#  define FIRST_SORT LEFT
#elif defined(WITHOUT_RETRY)
#  define FIRST_SORT FAIL
#elif defined(WITHOUT_WEAK_NOTE)
#  define FIRST_SORT WEAK
#elif defined(WITHOUT_PINS) || defined(WITHOUT_LOG) || defined(WITHOUT_LOG_LAST)
#  define FIRST_SORT PIN
#elif defined(WITHOUT_FINAL) || defined(WITHOUT_FINAL_LOG) ||                  \
    defined(WITHOUT_FINAL_AGAIN)
#  define FIRST_SORT FINAL
#elif defined(WITHOUT_RUN) || defined(WITHOUT_GUARD)
#  define FIRST_SORT NEW
#elif defined(WITHOUT_FIRST_SCAN) || defined(WITHOUT_SNAPSHOT) ||              \
    defined(WITHOUT_LOOK_AGAIN)
#  define FIRST_SORT LOOK
#else
#  define FIRST_SORT FINE
#  define ALL_SORTS
#endif

mtype = { FINE, LOOK, LEFT, SOFT, FAIL, WEAK, PIN, FINAL, NEW };
mtype sort;

#define A 0
#define B 1
#define N 2
#define NONE 3

#define STORES 3 /* of the program, and the like */

#define PAGE(o) ((o) == B)
#define ROOT_PAGE 1
#define OTHER(c) (3 - (c))
#define BIT(o) ((1 << (o)) & 7) /* of a word that points nowhere: 0 */

byte mark[3]; /* 0 free, else a colour */
byte field[3] = NONE;
byte root = A;
byte pin = NONE;
byte a = NONE; /* the registers */
byte b = NONE;
bool in_run;   /* N is in a run, not handed out yet */
bool final;    /* A has a finalizer */
byte colour = 1;
byte fresh = 1; /* the colour of new objects: while marking, the old one */
bool marking;
bool ended;
byte stores = 0;
byte guarded = 0;

bool armed[2];  /* in the page table */
bool tlb[2];    /* what a processor remembers: not armed */
bool handed[2]; /* by the last fetch */
bool seen[2];   /* SOFT: handed out in this cycle */

/* Sets of objects: addresses on the marker's stack; noted in the log. */
byte grey = 0;
byte noted = 0;
bool noted_fields;

#define MAY_STORE (!ended && stores < STORES)

#define STORE(p, what)                                                         \
  if                                                                           \
  :: sort != FINE -> atomic { armed[p] = false; what }                         \
  :: sort == FINE ->                                                           \
    do                                                                         \
    :: atomic { tlb[p] -> what; break }                                        \
    :: atomic { !tlb[p] && armed[p] -> armed[p] = false }                      \
    :: atomic { !tlb[p] && !armed[p] -> tlb[p] = true }                        \
    od                                                                         \
  fi

#ifdef WITHOUT_GUARD
#  define ENTER skip
#  define LEAVE skip
#else
#  define ENTER guarded++
#  define LEAVE guarded--
#endif

proctype program() {
  byte seen_colour;
end:
  do
  :: ended -> break
  :: !ended && a != root -> a = root
  :: !ended && a != b -> b = a
  :: !ended && a != NONE -> a = field[a]
  :: d_step { !ended && (a != NONE || b != NONE) -> a = NONE; b = NONE }
  :: atomic { MAY_STORE && root != b -> stores++ }
     STORE(ROOT_PAGE, root = b)
  :: atomic { MAY_STORE && a != NONE && field[a] != b -> stores++ }
     STORE(PAGE(a), field[a] = b)
  :: atomic { MAY_STORE && a != NONE && field[a] != NONE -> stores++ }
     STORE(PAGE(a), field[a] = NONE)
  :: d_step { !ended && sort == WEAK ->
       a = B;
#ifndef WITHOUT_WEAK_NOTE
       if
       :: marking -> noted = noted | BIT(B)
       :: else
       fi
#endif
     }
  :: d_step { MAY_STORE && sort == PIN && pin != b ->
       stores++;
       pin = b;
#ifndef WITHOUT_LOG
       if
       :: marking -> noted = noted | BIT(b)
       :: else
       fi
#endif
     }
  :: d_step { MAY_STORE && sort == FINAL && a == A && !final ->
       stores++;
       final = true;
#ifndef WITHOUT_FINAL_LOG
       noted_fields = marking
#endif
     }
  :: atomic { MAY_STORE && sort == NEW && mark[N] == 0 -> stores++; ENTER }
     seen_colour = fresh;
     d_step {
       armed[0] = false;
       mark[N] = seen_colour;
       in_run = true;
       assert(!ended || mark[N] == colour);
       seen_colour = 0;
       LEAVE
     }
  :: d_step { !ended && in_run -> in_run = false; a = N }
  od
}

#define PUSH(word) grey = grey | BIT(word)

/* One word off the stack; o: an object to be scanned, or NONE. */
inline drain_step() {
  if
  :: grey & BIT(A) -> o = A
  :: !(grey & BIT(A)) && (grey & BIT(B)) -> o = B
  :: else -> o = N
  fi;
  grey = grey & ~BIT(o);
  if
  :: mark[o] == OTHER(colour) -> mark[o] = colour
  :: else -> o = NONE
  fi
}

inline drain() {
  do
  :: grey != 0 ->
    d_step { drain_step() }
    if
    :: o != NONE -> d_step { PUSH(field[o]); o = NONE }
    :: else
    fi
  :: grey == 0 -> break
  od
}

/* A marked object in memory that was written. */
inline look_at(x) {
  if
  :: mark[x] == colour -> PUSH(field[x])
  :: else
  fi
}
/* And an unmarked one, if it has a finalizer. */
inline look_at_final() {
  if
#ifndef WITHOUT_FINAL_AGAIN
  :: final && mark[A] != colour -> PUSH(field[A])
#endif
  :: else
  fi
}

inline look() {
  if
  :: handed[0] ->
    d_step { look_at(A); look_at_final() }
    d_step { look_at(N); handed[0] = false }
  :: else
  fi;
  if
  :: handed[1] ->
    d_step { look_at(B) }
    d_step { PUSH(root); handed[1] = false }
  :: else
  fi
}

inline flush(p) {
#ifndef WITHOUT_FLUSH
  tlb[p] = false
#else
  skip
#endif
}

/* uffd, of one page. */
inline fetch_page(p) {
#ifdef WITHOUT_FETCH_FIRST
  handed[p] = handed[p] || !armed[p];
  look();
  d_step { armed[p] = true; flush(p) }
#else
#  ifdef WITHOUT_ATOMIC
  handed[p] = !armed[p] || hand_out_all;
  armed[p] = true;
#  else
  d_step { handed[p] = !armed[p] || hand_out_all; armed[p] = true }
#  endif
  flush(p)
#endif
}

inline fetch() {
  if
  :: d_step { sort == FAIL && !hand_out_all ->
       armed[0] = true;
#ifndef WITHOUT_RETRY
       hand_out_all = true
#endif
     }
  :: true
  fi;
  fetch_page(0);
  fetch_page(1);
  hand_out_all = false
}

/* Soft-dirty. */
inline clear() {
  armed[0] = true;
  armed[1] = true
}
inline read_page(p) {
  d_step {
    handed[p] = !armed[p] && !seen[p];
    seen[p] = seen[p] || !armed[p]
  }
}

inline forget_handed() { d_step { handed[0] = false; handed[1] = false } }

inline mark_from_roots() {
  PUSH(root);
#ifndef WITHOUT_PINS
  PUSH(pin);
#endif
#ifndef WITHOUT_FINAL
  d_step {
    if
    :: final && mark[A] != colour -> PUSH(field[A])
    :: else
    fi
  }
#endif
  drain()
}

inline take_log() {
  grey = grey | noted;
  noted = 0;
  if
  :: noted_fields -> PUSH(field[A]); noted_fields = false
  :: else
  fi
}

inline round() {
#ifndef WITHOUT_LOOK_AGAIN
  d_step {
    if
    :: sort == LOOK -> PUSH(a); PUSH(b)
    :: else
    fi
  }
#endif
  if
  :: sort == SOFT ->
    read_page(0);
    read_page(1);
#ifdef WITHOUT_SOFT_ONCE
    clear()
#endif
  :: sort != SOFT -> fetch()
  fi;
#ifdef WITHOUT_ROUND_SCAN
  forget_handed();
#else
  look();
#endif
  d_step { take_log() };
  drain()
}

inline look_last() {
  skip;
#ifndef WITHOUT_LAST_FETCH
  if
  :: !armed[0] -> look_at(A); look_at_final(); look_at(N)
  :: else
  fi;
  if
  :: !armed[1] ->
    look_at(B);
#  ifndef WITHOUT_ROOT_LAST
    PUSH(root)
#  endif
  :: else
  fi
#endif
}

inline drain_last() {
  do
  :: grey != 0 ->
    drain_step();
    if
    :: o != NONE -> PUSH(field[o]); o = NONE
    :: else
    fi
  :: else -> break
  od
}

/* What can be reached from these words, as it is. */
inline check_end() {
  reached = BIT(a) | BIT(b) | BIT(root) | BIT(pin);
  if
  :: final -> reached = reached | BIT(field[A])
  :: else
  fi;
  o = 0;
  do
  :: o < 6 ->
    if
    :: reached & BIT(o % 3) -> reached = reached | BIT(field[o % 3])
    :: else
    fi;
    o++
  :: else -> break
  od;
  assert(!(reached & BIT(A)) || mark[A] == colour);
  assert(!(reached & BIT(B)) || mark[B] == colour);
  assert(!(reached & BIT(N)) || mark[N] == colour);
  assert(!in_run || mark[N] == colour)
}

proctype collector() {
  byte o = NONE;
  byte reached;
  bool hand_out_all;
  bool is_any_marked;
  if
  :: d_step { sort != LEFT && guarded == 0 -> /* the first stop */
       colour = OTHER(colour);
       marking = true;
#ifndef WITHOUT_SNAPSHOT
       grey = BIT(a) | BIT(b);
       if
       :: sort == LOOK && grey != 0 -> drain_last(); is_any_marked = true
       :: else
       fi
#endif
     }
  :: d_step { sort == LEFT ->
#ifndef WITHOUT_LEFT
       is_any_marked = true
#endif
     }
  fi;
#ifdef WITHOUT_ARM_FIRST
  mark_from_roots();
#endif
  if
  :: sort == SOFT -> clear(); d_step { handed[0] = true; handed[1] = true }
  :: sort != SOFT -> fetch()
  fi;
#if defined(WITHOUT_FIRST_SCAN) || defined(WITHOUT_ARM_FIRST)
  forget_handed();
#else
  if
  :: is_any_marked -> look()
  :: !is_any_marked -> forget_handed()
  fi;
  is_any_marked = false;
#endif
#ifndef WITHOUT_ARM_FIRST
  mark_from_roots();
#endif
  if
  :: true -> round()
  :: true
  fi;
  skip;
  d_step { /* the last stop */
    guarded == 0 ->
#ifndef WITHOUT_REGISTERS
    PUSH(a);
    PUSH(b);
#endif
#ifndef WITHOUT_RUN
    if
    :: in_run -> mark[N] = colour
    :: else
    fi;
#endif
    look_last();
#ifndef WITHOUT_LOG_LAST
    take_log();
#endif
    drain_last();
    check_end();
    fresh = colour;
    ended = true
  }
}

init {
  atomic {
    mark[A] = 1;
    mark[B] = 1;
    field[A] = B;
    if
    :: sort = FIRST_SORT
#ifdef ALL_SORTS
    :: sort = LOOK
    :: sort = LEFT
    :: sort = SOFT
    :: sort = FAIL
    :: sort = WEAK
    :: sort = PIN
    :: sort = FINAL
    :: sort = NEW
#endif
    fi;
    if /* pages are armed since another cycle, or were written since */
    :: sort != SOFT && sort != LEFT -> armed[0] = true; armed[1] = true
    :: sort == FINE || sort == SOFT || sort == LEFT
    fi;
    if
    :: sort == LEFT ->
      colour = 2;
      marking = true;
      mark[A] = 2;
      if
      :: mark[B] = 2; field[B] = A
      :: skip
      fi
    :: else
    fi;
    if
    :: sort == NEW -> stores = 1 /* its space is larger */
    :: else
    fi;
    run program();
    run collector()
  }
}
