/*
 * proofs/pair_read.pml: reading a pair (special/ephemeron.h) beside cycles,
 * sweeping, reuse of memory, and others who change its mutable word.
 *
 * One pair with a weak and a held word; three cells of memory: 0 and 1, which
 * the weak word may point to, and H, of the held word. A reader; a swapper,
 * which reads the pair and then puts another object in, as a map with weak
 * values does; the program, which allocates, forgets and runs finalizers; the
 * collector; a sweeper, which takes the cells in any order. Every load and
 * store of what two of them can see is a step of its own. As in weak_read.pml,
 * marking is beside the program, between two stops, and a life is a ghost. How
 * the pair comes to be on the right chain is in ephemeron_change.pml.
 *
 * In half of the runs the held word is weak, too.
 *
 * Shown: what a read gives are the two objects that were in the pair at one
 * moment of the read, no finished cycle has found either dead, and they are not
 * freed while they are held; and it gives nothing only if one of them was found
 * dead.
 */
// without: MARK_CHECK    step 2: the reader does not look at the mark byte
// without: HELD_CHECK    nor at that of a held word that is weak
// without: SECOND_CHECK  step 4: it does not look at the words again
// without: READ_FENCE    step 4 may come before step 2
// without: GUARD         the world may stop inside a read: marking may end
// without: MARKING       while marking, what is not marked counts as dead
// without: SWAP_GUARD    a word is changed in another guard than it was read in
// without: REGISTER_ROOT what a read returned is hidden from the marker
// without: CLEAR         the sweeper leaves the words as they are
// without: SWEEP_ORDER   the sweeper frees the memory, then clears the pair
// without: SWEEP_FENCE   these stores may be seen in any order
// without: LATE_CLEAR    what has a finalizer is brought back, then cleared
// without: SWEEP_FINISH  a cycle begins before the sweep of the last is over
// although: CLEAR_ORDER  the two words may be cleared in any order
// although: HELD_SECOND  if both are weak, step 4 looks at one only

#define CYCLES 2
#define LIVES 4
#define CELLS 3
#define H 2
#define NONE 3 /* as a word: WANE__GONE */

#define OTHER(c) (3 - (c))

byte mark[CELLS];      /* 0 free, else a colour */
byte occupant[CELLS];  /* ghost: the life in it, 0: none */
bool final[CELLS];     /* it has a finalizer */
bool root[CELLS];      /* the program holds it */
byte hold;             /* cells in the reader's registers: bits */
bool unswept[CELLS];
bool waits[CELLS];     /* the pair is on that slot's chain */
byte colour = 1;
bool marking;
byte guarded = 0;

/* The pair. */
bool both;             /* is_both_weak */
byte weak = 0;
byte held = H;

/* Ghosts. */
byte lives = 0;
bool dead[LIVES + 1];
byte weak_life;        /* of what the weak word was set to */
byte held_life;
bool gone;             /* one of them was found dead, as they were */

#define BIT(cell) (1 << (cell))
#define IS_HELD(cell) (hold & BIT(cell))
#define IS_UNSWEPT (unswept[0] || unswept[1] || unswept[H])

/* Step 2: not dead is what has another colour than the old, and anything while
   marking is under way. What is free may be anything by now: then any byte can
   be read. */
#ifdef WITHOUT_MARKING
#  define IS_OLD(cell) (mark[cell] == OTHER(colour))
#else
#  define IS_OLD(cell) (mark[cell] == OTHER(colour) && !marking)
#endif
inline load_mark(cell) {
  if
  :: seen = IS_OLD(cell)
  :: mark[cell] == 0 -> seen = false
  :: mark[cell] == 0 -> seen = true
  fi
}

/* From step 2 on; w has been read. */
inline check_marks() {
#ifndef WITHOUT_MARK_CHECK
  load_mark(w);
  if
  :: seen -> goto is_null
  :: else
  fi;
#endif
  atomic { /* 3 */
    h_life = held_life;
    if
    :: held == NONE -> goto is_null
    :: else
    fi
  }
#ifndef WITHOUT_HELD_CHECK
  if
  :: both ->
    load_mark(H);
    if
    :: seen -> goto is_null
    :: else
    fi
  :: else
  fi
#endif
}

/* Step 4. */
inline check_weak() {
#ifndef WITHOUT_SECOND_CHECK
  if
  :: weak != w -> goto again
  :: else
  fi
#else
  skip
#endif
}
inline check_held() {
#if !defined(WITHOUT_SECOND_CHECK) && !defined(WITHOUT_HELD_SECOND)
  if
  :: both && held == NONE -> goto again
  :: else
  fi
#else
  skip
#endif
}

#ifdef WITHOUT_GUARD
#  define ENTER skip
#  define LEAVE skip
#else
#  define ENTER guarded++
#  define LEAVE guarded--
#endif

proctype reader() {
  byte w, w_life, h_life;
  bool seen;
end:
  ENTER;
again:
  atomic { /* 1 */
    w = weak;
    w_life = weak_life;
    if
    :: w == NONE -> goto is_null
    :: else
    fi
  }
#ifdef WITHOUT_READ_FENCE
  if
  :: check_weak(); check_marks()
  :: check_marks(); check_weak()
  fi;
#else
  check_marks();
  check_held();
#endif
  atomic { /* 4, and what it gives */
#ifndef WITHOUT_READ_FENCE
    check_weak();
#endif
    seen = false;
    assert(occupant[w] == w_life && !dead[w_life]);
    assert(occupant[H] == h_life && !dead[h_life]);
#ifndef WITHOUT_REGISTER_ROOT
    hold = BIT(w) | BIT(H);
#endif
    LEAVE
  }
  atomic {
    assert(occupant[w] == w_life && occupant[H] == h_life);
    hold = 0; w = 0; w_life = 0; h_life = 0
  }
  goto end;
is_null:
  atomic {
    assert(gone);
    w = 0; w_life = 0; h_life = 0; seen = false;
    LEAVE
  }
  goto end
}

#define IS_LIVE(cell) (mark[cell] == colour || marking && mark[cell] != 0)

/* Puts the object of the other cell in, which it holds. Its read is one step
   here: the reader has the single ones. */
proctype swapper() {
  byte w;
end:
  do
  :: atomic {
       weak != NONE && IS_LIVE(weak) && (!both || IS_LIVE(H)) ->
       w = weak;
       guarded++
     }
#ifdef WITHOUT_SWAP_GUARD
     guarded--;
     guarded++;
#endif
     atomic {
       if
       :: weak == w && root[1 - w] ->
         weak = 1 - w;
         weak_life = occupant[1 - w]
       :: else
       fi;
       guarded--;
       w = 0
     }
  od
}

#define MAY_ALLOCATE(c) (lives < LIVES && mark[c] == 0 && !unswept[c])

proctype program() {
  byte cell;
end:
  do
  :: atomic {
       if
       :: MAY_ALLOCATE(0) -> cell = 0; final[0] = true
       :: MAY_ALLOCATE(0) -> cell = 0
       :: MAY_ALLOCATE(1) -> cell = 1
       :: MAY_ALLOCATE(H) -> cell = H
       fi;
       lives++;
       mark[cell] = colour;
       occupant[cell] = lives;
       root[cell] = true;
       cell = 0
     }
  :: atomic { root[0] -> root[0] = false }
  :: atomic { root[1] -> root[1] = false }
  :: atomic { root[H] -> root[H] = false }
  od
}

inline mark_cell(cell) {
  if
  :: occupant[cell] && (root[cell] || IS_HELD(cell)) -> mark[cell] = colour
  :: else
  fi
}
/* Beside the program, when a marker comes by. */
inline may_mark_cell(cell) {
  if
  :: d_step { marking; mark_cell(cell) }
  :: true
  fi
}
inline find_dead(cell) {
  if
  :: occupant[cell] && mark[cell] != colour -> dead[occupant[cell]] = true
  :: else
  fi;
  unswept[cell] = true;
  waits[cell] = false
}

proctype collector() {
  byte cycles = 0;
  do
  :: cycles < CYCLES ->
    d_step { /* the first stop */
#ifdef WITHOUT_SWEEP_FINISH
      guarded == 0 ->
#else
      guarded == 0 && !IS_UNSWEPT ->
#endif
      cycles++;
      colour = OTHER(colour);
      marking = true
    }
    may_mark_cell(0);
    may_mark_cell(H);
    skip;
    d_step { /* the last one */
      guarded == 0 ->
      mark_cell(0);
      mark_cell(1);
      mark_cell(H);
      if
      :: weak != NONE && !both && mark[weak] == colour -> mark[H] = colour
      :: else
      fi;
      find_dead(0);
      find_dead(1);
      find_dead(H);
      if
      :: weak == NONE
      :: weak != NONE && mark[weak] != colour ->
        waits[weak] = true;
        gone = true
      :: weak != NONE && mark[weak] == colour && mark[H] != colour ->
        waits[H] = true;
        gone = true
      :: else
      fi;
      marking = false
    }
  :: cycles == CYCLES -> break
  od
}

inline clear_weak() { to_weak = false; weak = NONE }
inline clear_held() { to_held = false; held = NONE }

inline free_cell() {
  atomic {
    if
    :: revive && lives < LIVES -> /* ghost: what comes back is a new life */
      lives++;
      occupant[cell] = lives;
      final[cell] = false;
      root[cell] = true; /* in its finalizer */
      mark[cell] = colour
    :: else ->
      assert(!IS_HELD(cell));
      mark[cell] = 0;
      occupant[cell] = 0
    fi;
    to_free = false
  }
}

#if defined(WITHOUT_SWEEP_FENCE)
#  define MAY_CLEAR true
#  define MAY_FREE true
#elif defined(WITHOUT_SWEEP_ORDER)
#  define MAY_CLEAR !to_free
#  define MAY_FREE true
#elif defined(WITHOUT_LATE_CLEAR)
#  define MAY_CLEAR (!to_free || !revive)
#  define MAY_FREE (revive || !to_weak && !to_held)
#else
#  define MAY_CLEAR true
#  define MAY_FREE (!to_weak && !to_held)
#endif
#ifdef WITHOUT_CLEAR_ORDER
#  define MAY_CLEAR_HELD MAY_CLEAR
#else
#  define MAY_CLEAR_HELD (MAY_CLEAR && !to_weak)
#endif

proctype sweeper() {
  byte cell;
  bool revive, to_weak, to_held, to_free;
end:
  do
  :: atomic {
       if
       :: unswept[0] -> cell = 0
       :: unswept[1] -> cell = 1
       :: unswept[H] -> cell = H
       fi;
       to_free = (mark[cell] == OTHER(colour));
#ifndef WITHOUT_CLEAR
       to_weak = waits[cell];
       to_held = waits[cell];
#endif
       revive = false;
       if
       :: to_free && final[cell] && lives < LIVES ->
         revive = true
       :: else
       fi
     }
     do
     :: to_weak && MAY_CLEAR -> clear_weak()
     :: to_held && MAY_CLEAR_HELD -> clear_held()
     :: to_free && MAY_FREE -> free_cell()
     :: !to_weak && !to_held && !to_free -> break
     od;
     atomic {
       unswept[cell] = false;
       waits[cell] = false;
       cell = 0;
       revive = false
     }
  od
}

init {
  atomic {
    if
    :: both = true
    :: both = false
    fi;
    lives = 2;
    mark[0] = colour;
    occupant[0] = 1;
    weak_life = 1;
    root[0] = true;
    mark[H] = colour;
    occupant[H] = 2;
    held_life = 2;
    root[H] = true;
    if
    :: final[0] = true
    :: skip
    fi;
    run reader();
    run swapper();
    run program();
    run collector();
    run sweeper()
  }
}
