/*
 * proofs/cleanup_stop.pml: stopping a cleanup while its object dies, its group
 * is dissolved, its record runs and is used again: cleanup_stop_guarded in
 * src/special/cleanup.c. A record may be looked at closely only under the
 * stripe of its object's group; which that is follows from the record. So:
 * read, lock, read again.
 *
 * One record; two blocks, each of which holds one object at a time and belongs
 * to a group of either stripe; two threads that stop any handle at any time,
 * the program, the collector, the sweeper, a runner of callbacks. A life is an
 * object from its allocation to its death.
 */
// without: SECOND_CHECK the generation is not read again under the lock
// without: STATE_CHECK  nor whether the cleanup is still registered
// without: STATE_FIRST  the generation is checked, then the state
// without: DEATH_CHECK  nor whether the object was found dead
// without: GENERATION   a record given back keeps its generation
// without: LOCK         the stripe is not taken
// without: LATE_GIVE    a record is given back before its generation is raised
// without: SWEEP_ORDER  a group is dissolved before its deaths are dealt with
// without: GUARD        there may be a flip inside a stop

#define BLOCKS 2
#define LIVES 2
#define CYCLES 1

mtype = { FREE, REGISTERED, QUEUED };

/* The record. */
mtype state = FREE;
byte generation = 1;
byte base; /* a block */
bool in_pool = true; /* it may be taken */
byte life;           /* ghost: whose cleanup it is */

/* The blocks: the stripe of the group as the block map tells, 0: no group;
   the life in it; what its mark byte says. */
byte stripe_of[BLOCKS];
byte life_in[BLOCKS];
bool is_dead[BLOCKS];
bool is_root[BLOCKS];

bool locked[3]; /* stripes 1 and 2 */
bool unswept;
byte guarded = 0;

/* Ghosts. */
byte lives = 0;
byte handle[LIVES + 1]; /* generation of its cleanup's handle, 0: none */
bool found_dead[LIVES + 1];
bool stopped[LIVES + 1];
bool called[LIVES + 1];

#ifdef WITHOUT_LOCK
#  define LOCK(stripe) skip
#  define UNLOCK(stripe) skip
#else
#  define LOCK(stripe) atomic { !locked[stripe] -> locked[stripe] = true }
#  define UNLOCK(stripe) locked[stripe] = false
#endif
#ifdef WITHOUT_GENERATION
#  define NEXT_GENERATION generation
#else
#  define NEXT_GENERATION (generation + 1)
#endif
#ifdef WITHOUT_GUARD
#  define STOP_ENTER skip
#  define STOP_LEAVE skip
#else
#  define STOP_ENTER guarded++
#  define STOP_LEAVE guarded--
#endif

inline check_state() {
  if
  :: state != REGISTERED -> goto unlock
  :: else
  fi
}
inline check_generation() {
  if
  :: generation != handle[mine] -> goto unlock
  :: else
  fi
}

proctype stopper() {
  byte mine, block, stripe;
end:
  do
  :: atomic {
       if
       :: handle[1] -> mine = 1
       :: handle[2] -> mine = 2
       fi;
       STOP_ENTER
     }
     if
     :: generation != handle[mine] -> goto too_late
     :: else
     fi;
     block = base;
     stripe = stripe_of[block];
     if
     :: stripe == 0 -> goto too_late
     :: else
     fi;
     LOCK(stripe);
#ifdef WITHOUT_STATE_FIRST
     check_generation();
     check_state();
#else
#  ifndef WITHOUT_STATE_CHECK
     check_state();
#  endif
#  ifndef WITHOUT_SECOND_CHECK
     check_generation();
#  endif
#endif
#ifndef WITHOUT_DEATH_CHECK
     if
     :: is_dead[block] -> goto unlock
     :: else
     fi;
#endif
     atomic {
       assert(life == mine);            /* it is the cleanup meant, */
       assert(state == REGISTERED);
       assert(base == block && stripe_of[block] == stripe);
       assert(!found_dead[mine]);       /* in time, */
       assert(!stopped[mine] && !called[mine]); /* and it will not run */
       stopped[mine] = true;
       state = FREE;
       life = 0
     }
#ifdef WITHOUT_LATE_GIVE
     in_pool = true;
#endif
     generation = NEXT_GENERATION;
     UNLOCK(stripe);
#ifndef WITHOUT_LATE_GIVE
     in_pool = true;
#endif
     goto done;

unlock:
     UNLOCK(stripe);
too_late:
     assert(found_dead[mine] || stopped[mine]); /* it is not lost */
done:
     atomic {
       mine = 0;
       block = 0;
       stripe = 0;
       STOP_LEAVE
     }
  od
}

/* Free memory becomes part of a group, of one stripe or the other. */
inline allocate(block) {
  atomic {
    lives < LIVES && !unswept && life_in[block] == 0 ->
    lives++;
    life_in[block] = lives;
    is_root[block] = true;
    if
    :: stripe_of[block] != 0
    :: stripe_of[block] == 0 -> stripe_of[block] = 1
    :: stripe_of[block] == 0 -> stripe_of[block] = 2
    fi;
  }
}

/* Registers, if the record is free. A register holds the object. */
inline register(block) {
  atomic { is_root[block] && handle[life_in[block]] == 0 -> guarded++ }
  LOCK(stripe_of[block]);
  if
  :: atomic { in_pool -> in_pool = false; life = life_in[block] }
    base = block;
    state = REGISTERED;
    handle[life] = generation
  :: else
  fi;
  atomic { UNLOCK(stripe_of[block]); guarded-- }
}

proctype program() {
end:
  do
  :: allocate(0)
  :: allocate(1)
  :: register(0)
  :: register(1)
  :: is_root[0] = false
  :: is_root[1] = false
  od
}

inline flip(block) {
  if
  :: life_in[block] && !is_root[block] ->
    is_dead[block] = true;
    found_dead[life_in[block]] = true
  :: else
  fi
}

proctype collector() {
  byte cycles = 0;
  do
  :: cycles < CYCLES ->
    atomic {
      guarded == 0 && !unswept ->
      cycles++;
      flip(0);
      flip(1);
      unswept = true
    }
  :: cycles == CYCLES -> break
  od
}

inline dissolve(block) {
  atomic { life_in[block] = 0; is_dead[block] = false }
  if
  :: stripe_of[block] = 0
  :: skip /* others in the group live */
  fi
}

inline sweep(block) {
  if
  :: is_dead[block] ->
    stripe = stripe_of[block];
#ifdef WITHOUT_SWEEP_ORDER
    dissolve(block);
#endif
    LOCK(stripe);
    if
    :: state == REGISTERED && base == block -> state = QUEUED
    :: else
    fi;
    UNLOCK(stripe);
#ifndef WITHOUT_SWEEP_ORDER
    dissolve(block);
#endif
    stripe = 0
  :: else
  fi
}

proctype sweeper() {
  byte stripe;
end:
  do
  :: unswept ->
    sweep(0);
    sweep(1);
    unswept = false
  od
}

proctype runner() {
end:
  do
  :: state == QUEUED ->
    atomic {
      assert(found_dead[life]);
      assert(!stopped[life] && !called[life]);
      called[life] = true;
      life = 0
    }
    state = FREE;
    generation = NEXT_GENERATION;
    in_pool = true
  od
}

init {
  atomic {
    run stopper();
    run stopper();
    run program();
    run collector();
    run sweeper();
    run runner()
  }
}
