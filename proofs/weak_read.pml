/*
 * proofs/weak_read.pml: reading a weak pointer beside cycles, sweeping, and
 * reuse of the object's memory and of the weak slot.
 *
 * One memory cell, one weak slot, two readers, the program (which allocates,
 * makes weak pointers, forgets, and runs finalizers), the collector, and one
 * sweeper. Every single load and store that two of them can see is a step of
 * its own. What is assumed and what is left out: README.md here.
 *
 * A life is what the ghost variables count: an object from its allocation to
 * its death, or, if it has a finalizer, from its revival to its next death.
 * The library knows nothing of lives; the assertions do.
 *
 * `// without: NAME` declares a variant that must be found wrong, and
 * `// although: NAME` one that must not: tools/check-proofs runs them all.
 */
// without: MARK_CHECK     the reader does not look at the mark byte
// without: SECOND_CHECK   the reader loads the generation once
// without: READ_FENCE     its last load may come before that of the mark byte
// without: GUARD          the world may stop inside a read: marking may end
// without: MARKING        while marking, what is not marked counts as dead
// without: LAST_STOP      only the first stop looks at readers' registers
// without: REGISTER_ROOT  what a read returned is hidden from the marker
// without: BUMP           the sweeper leaves the generation as it is
// without: SWEEP_ORDER    the sweeper frees the memory, then clears the slot
// without: SWEEP_FENCE    these stores may be seen in any order
// without: LATE_CALLBACK  a finalizer is queued before its slot is locked
// without: RETIREMENT     a slot is used again after its last generation
// without: SWEPT_GROUP    memory is taken from a group before its sweep
// without: SWEEP_FINISH   a cycle begins before the sweep of the last is over
// although: FIRST_CHECK   the second check of the generation is enough

#define LIVES 3
#define CYCLES 3
#define READERS 2
#define LAST_GENERATION 2

#define OTHER(c) (3 - (c))

/* The cell and what keeps its occupant alive. */
byte mark = 0;     /* its mark byte: 0 free, else a colour */
byte occupant = 0; /* ghost: the life in it, 0: none */
bool final;        /* the occupant has a finalizer */
bool root;         /* a global variable holds its address */
bool callback;     /* it waits in the queue of finalizers, or in a call */
bool loaded[READERS]; /* its address is in a reader's registers */

/* The cycle. */
byte colour = 1;
byte dead_colour = OTHER(1); /* of what was found dead; 0 while marking */
bool unswept;
byte guarded = 0; /* how many are in a guard */

/* The weak slot. */
byte generation = 1;
bool pointer;          /* to the cell, or 0 */
bool slot_free = true; /* on the free list */
bool locked;           /* the stripe lock */

/* Ghosts. A handle is its generation: there is only one slot. */
byte lives = 0;
byte handle[LIVES + 1]; /* given out for each life, 0: none yet */
bool dead[LIVES + 1];   /* found dead by a finished cycle */
byte held[READERS];     /* life that a reader holds, 0: none */

/* Without guard the reads are not counted, so the world stops inside them. */
#ifdef WITHOUT_GUARD
#  define READER_ENTER skip
#  define READER_LEAVE skip
#else
#  define READER_ENTER guarded++
#  define READER_LEAVE guarded--
#endif

#define LOCK atomic { !locked -> locked = true }
#define UNLOCK locked = false

/* Not dead is what is not free, and has not the colour of what was found dead.
   Two loads, in either order. Once the cell is free its mark byte may serve
   another group: then anything can be read there. */
#ifdef WITHOUT_MARKING
#  define DEAD_COLOUR OTHER(colour)
#else
#  define DEAD_COLOUR dead_colour
#endif
inline load_mark() {
  if
  :: seen_mark = mark
  :: mark == 0 -> seen_mark = colour
  fi
}
inline check_mark() {
  if
  :: load_mark(); seen_dead = DEAD_COLOUR
  :: seen_dead = DEAD_COLOUR; load_mark()
  fi;
  if
  :: seen_mark == 0 || seen_mark == seen_dead -> goto is_null
  :: else -> d_step { seen_mark = 0; seen_dead = 0 }
  fi
}

inline check_generation() {
  if
  :: generation != handle[life] -> goto is_null
  :: else
  fi
}

proctype reader(byte me) {
  byte life, seen_mark, seen_dead;
end:
  do
  :: handle[1] -> life = 1; goto read
  :: handle[2] -> life = 2; goto read
  :: handle[3] -> life = 3; goto read
  od;

read:
  READER_ENTER;
#ifndef WITHOUT_FIRST_CHECK
  check_generation();
#endif
  atomic {
    if
    :: pointer -> loaded[me] = true
    :: else -> goto is_null
    fi
  }
#ifdef WITHOUT_READ_FENCE
  if
  :: check_generation(); check_mark()
  :: check_mark(); check_generation()
  fi;
#else
#  ifndef WITHOUT_MARK_CHECK
  check_mark();
#  endif
#  ifndef WITHOUT_SECOND_CHECK
  check_generation();
#  endif
#endif

  d_step {
    /* It is the object the handle was made for, and was not found dead. */
    assert(occupant == life);
    assert(!dead[life]);
    held[me] = life;
#ifdef WITHOUT_REGISTER_ROOT
    loaded[me] = false;
#endif
    READER_LEAVE;
  }
  if
  :: skip
  :: d_step { assert(occupant == life); root = true } /* stores it */
  fi;
  d_step { held[me] = 0; loaded[me] = false }
  goto end;

is_null:
  atomic {
    assert(dead[life]); /* NULL is never a mistake either */
    loaded[me] = false;
    seen_mark = 0;
    seen_dead = 0;
    READER_LEAVE
  }
  goto end
}

/* Under the lock: finds the slot of the address, or takes a free one. */
inline make_weak() {
  LOCK;
  if
  :: pointer -> made = true
  :: !pointer && slot_free -> slot_free = false; pointer = true; made = true
  :: !pointer && !slot_free -> made = false /* out of slots */
  fi;
  d_step {
    if
    :: made ->
      /* One life, one handle; and never that of another life. */
      assert(generation != 0);
      assert(handle[occupant] == 0 || handle[occupant] == generation);
      assert(occupant == 1 || handle[1] != generation);
      assert(occupant == 2 || handle[2] != generation);
      assert(occupant == 3 || handle[3] != generation);
      handle[occupant] = generation
    :: else
    fi;
    made = false
  }
  UNLOCK
}

#ifdef WITHOUT_SWEPT_GROUP
#  define MAY_ALLOCATE (mark != colour)
#else
#  define MAY_ALLOCATE (mark == 0 && !unswept)
#endif

proctype program() {
  bool made;
end:
  do
  :: atomic { lives < LIVES && MAY_ALLOCATE -> guarded++ }
    if
    :: MAY_ALLOCATE ->
      mark = colour;
      atomic {
        lives++;
        occupant = lives;
        root = true;
        if
        :: final = true
        :: final = false
        fi
      }
    :: else
    fi;
    guarded--
  :: atomic { root || callback -> guarded++ }
    make_weak();
    guarded--
  :: root = false
  :: atomic { callback -> callback = false } /* the finalizer returned, */
  :: atomic { callback -> callback = false; root = true } /* or kept it */
  od
}

#define IS_HELD (loaded[0] || loaded[1])
#ifdef WITHOUT_LAST_STOP
#  define IS_HELD_LAST false
#else
#  define IS_HELD_LAST IS_HELD
#endif

/* Marks beside the program, between two stops. What of that comes upon the
   object depends on when it looks: here it may or may not. */
proctype collector() {
  byte cycles = 0;
  do
  :: cycles < CYCLES ->
    d_step { /* the first stop */
#ifdef WITHOUT_SWEEP_FINISH
      guarded == 0 ->
#else
      guarded == 0 && !unswept ->
#endif
      cycles++;
      colour = OTHER(colour);
      dead_colour = 0;
      if
      :: occupant && IS_HELD -> mark = colour
      :: else
      fi
    }
    if
    :: d_step { occupant && (root || callback) -> mark = colour }
    :: true
    fi;
    skip;
    d_step { /* the last one */
      guarded == 0 ->
      if
      :: occupant && (root || callback || IS_HELD_LAST) -> mark = colour
      :: else
      fi;
      if
      :: occupant && mark != colour -> dead[occupant] = true
      :: else
      fi;
      dead_colour = OTHER(colour);
      unswept = true
    }
  :: cycles == CYCLES -> break
  od
}

inline free_or_revive() {
  if
  :: revive -> mark = colour
  :: else ->
    d_step {
      assert(held[0] != occupant && held[1] != occupant);
      occupant = 0;
      mark = 0
    }
  fi
}

#ifdef WITHOUT_BUMP
#  define NEXT_GENERATION generation
#else
#  define NEXT_GENERATION ((generation + 1) % (LAST_GENERATION + 1))
#endif

#if defined(WITHOUT_SWEEP_FENCE)
#  define MAY_CLEAR true
#  define MAY_FREE true
#elif defined(WITHOUT_SWEEP_ORDER)
#  define MAY_CLEAR !to_free
#  define MAY_FREE true
#else
#  define MAY_CLEAR true
#  define MAY_FREE (!to_bump && !to_clear)
#endif

/* The two stores to the slot in any order, then that of the mark byte. */
inline sweep_stores() {
  to_bump = pointer;
  to_clear = pointer;
  to_free = true;
  do
  :: to_bump && MAY_CLEAR ->
    atomic { generation = NEXT_GENERATION; to_bump = false }
  :: to_clear && MAY_CLEAR ->
    pointer = false;
    to_clear = false
  :: to_free && MAY_FREE ->
    free_or_revive();
    to_free = false
  :: !to_bump && !to_clear && !to_free -> break
  od
}

proctype sweeper() {
  bool revive, had_slot, to_bump, to_clear, to_free;
end:
  do
  :: unswept ->
    if
    :: mark == OTHER(colour) ->
      d_step {
        revive = final && lives < LIVES;
        if
        :: revive -> /* ghost: what comes back is a new life */
          lives++;
          occupant = lives;
          final = false
        :: else
        fi
      }
#ifdef WITHOUT_LATE_CALLBACK
      callback = revive;
#endif
      LOCK;
      had_slot = pointer;
      sweep_stores();
      if
#ifdef WITHOUT_RETIREMENT
      :: had_slot ->
        if
        :: generation == 0 -> generation = 1
        :: else
        fi;
#else
      :: had_slot && generation != 0 ->
#endif
        slot_free = true
      :: else
      fi;
      UNLOCK;
#ifndef WITHOUT_LATE_CALLBACK
      callback = revive
#endif
    :: else
    fi;
    d_step { revive = false; had_slot = false; unswept = false }
  od
}

init {
  atomic {
    run reader(0);
    run reader(1);
    run program();
    run collector();
    run sweeper()
  }
}
