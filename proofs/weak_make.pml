/*
 * proofs/weak_make.pml: making weak pointers from several threads, beside the
 * sweeper that clears and gives back slots: equal pointers into one life give
 * equal handles, and no handle is ever given out for anything else.
 *
 * Two cells, each with its own stripe; three pointers, two into cell 0 (its
 * start and an inner one) and one into cell 1; two slots in a pool with a lock
 * of its own and a chain of free ones; two makers, the allocator, the
 * collector, the sweeper, and one who reads any handle at any time. A read is
 * one step here: proofs/weak_read.pml has its steps.
 */
// without: STRIPE      the table is searched and changed without the stripe
// without: POOL_LOCK   slots are taken and given back without the pool's lock
// without: BUMP        the sweeper leaves the generation as it is
// without: REMOVAL     a cleared slot stays in the table
// without: LATE_GIVE   a slot is given back before it is cleared
// without: RETIREMENT  a slot is used again after its last generation
// without: SEARCH      a maker takes a new slot without looking for one

#define CELLS 2
#define POINTERS 3
#define SLOTS 2
#define LIVES 3
#define CYCLES 2
#define MAKERS 2
#define LAST_GENERATION 2

#define CELL(p) ((p) / 2)
#define KEY(life, p) ((life) * POINTERS + (p))

mtype = { FREE, LIVE, DEAD }; /* DEAD: its mark byte has the old colour */

mtype state[CELLS] = FREE;
byte life_of[CELLS]; /* ghost: who is or was last in the cell */
byte lives = 0;      /* ghost */
bool dead[LIVES + 1]; /* ghost */
bool used[MAKERS * CELLS]; /* the cell is in that maker's registers */
bool unswept;
byte guarded = 0;

/* Slots are numbered from 1; 0 is none, in chains and in the table. */
byte generation[SLOTS + 1] = 1;
byte pointer[SLOTS + 1]; /* to pointer number p as p + 1, or 0 */
byte next[SLOTS + 1];
byte free_first;
bool pool_locked;
byte table[POINTERS];
bool stripe_locked[CELLS];

/* Ghost: the handle that was given out for a pointer into a life. */
byte handle_slot[(LIVES + 1) * POINTERS];
byte handle_generation[(LIVES + 1) * POINTERS];

#ifdef WITHOUT_STRIPE
#  define LOCK_STRIPE(cell) skip
#  define UNLOCK_STRIPE(cell) skip
#else
#  define LOCK_STRIPE(cell)                                                    \
    atomic { !stripe_locked[cell] -> stripe_locked[cell] = true }
#  define UNLOCK_STRIPE(cell) stripe_locked[cell] = false
#endif
#ifdef WITHOUT_POOL_LOCK
#  define LOCK_POOL skip
#  define UNLOCK_POOL skip
#else
#  define LOCK_POOL atomic { !pool_locked -> pool_locked = true }
#  define UNLOCK_POOL pool_locked = false
#endif

inline pool_take() {
  LOCK_POOL;
  slot = free_first;
  if
  :: slot -> free_first = next[slot]
  :: else
  fi;
  UNLOCK_POOL
}

inline pool_give(what) {
  LOCK_POOL;
  next[what] = free_first;
  free_first = what;
  UNLOCK_POOL
}

/* What was given out now against all that was given out before. */
inline check_handle() {
  d_step {
    key = KEY(life_of[CELL(p)], p);
    assert(pointer[slot] == p + 1);
    assert(generation[slot] != 0);
    assert(handle_slot[key] == 0 || (handle_slot[key] == slot &&
           handle_generation[key] == generation[slot]));
    handle_slot[key] = slot;
    handle_generation[key] = generation[slot];
    other = 0;
    do
    :: other < (LIVES + 1) * POINTERS ->
      assert(other == key || handle_slot[other] != slot ||
             handle_generation[other] != generation[slot]);
      other++
    :: else -> break
    od;
    key = 0;
    other = 0
  }
}

proctype maker(byte me) {
  byte p, slot, key, other;
end:
  do
  :: atomic {
       if
       :: state[0] == LIVE -> p = 0
       :: state[0] == LIVE -> p = 1
       :: state[1] == LIVE -> p = 2
       fi;
       used[me * CELLS + CELL(p)] = true;
       guarded++
     }
     LOCK_STRIPE(CELL(p));
#ifdef WITHOUT_SEARCH
     slot = 0;
#else
     slot = table[p];
#endif
     if
     :: slot == 0 ->
       pool_take();
       if
       :: slot ->
         pointer[slot] = p + 1;
         table[p] = slot
       :: else
       fi
     :: else
     fi;
     if
     :: slot -> check_handle()
     :: else /* no slots left */
     fi;
     d_step {
       UNLOCK_STRIPE(CELL(p));
       guarded--;
       used[me * CELLS + CELL(p)] = false;
       p = 0;
       slot = 0
     }
  od
}

/* Reads every handle, at any time. */
proctype reader() {
  byte key, slot;
end:
  do
  :: true ->
     d_step {
       do
       :: key == (LIVES + 1) * POINTERS -> break
       :: key < (LIVES + 1) * POINTERS && handle_slot[key] == 0 -> key++
       :: key < (LIVES + 1) * POINTERS && handle_slot[key] != 0 ->
         slot = handle_slot[key];
         if
         :: generation[slot] == handle_generation[key] && pointer[slot] &&
            state[CELL(pointer[slot] - 1)] == LIVE ->
           assert(pointer[slot] - 1 == key % POINTERS);
           assert(life_of[CELL(pointer[slot] - 1)] == key / POINTERS)
         :: else -> assert(dead[key / POINTERS])
         fi;
         key++
       od;
       key = 0;
       slot = 0
     }
  od
}

proctype allocator() {
end:
  do
  :: atomic { lives < LIVES && !unswept && state[0] == FREE ->
       lives++; life_of[0] = lives; state[0] = LIVE }
  :: atomic { lives < LIVES && !unswept && state[1] == FREE ->
       lives++; life_of[1] = lives; state[1] = LIVE }
  od
}

/* What no maker has in its registers may die or live on. */
inline flip_cell(cell) {
  if
  :: state[cell] == LIVE && !used[cell] && !used[CELLS + cell] ->
    state[cell] = DEAD;
    dead[life_of[cell]] = true
  :: true
  fi
}

proctype collector() {
  byte cycles = 0;
  do
  :: cycles < CYCLES ->
    atomic {
      guarded == 0 && !unswept ->
      flip_cell(0);
      flip_cell(1);
      unswept = true;
      cycles++
    }
  :: cycles == CYCLES -> break
  od
}

inline clear_slot(slot) {
#ifdef WITHOUT_LATE_GIVE
  pool_give(slot);
#endif
#ifndef WITHOUT_BUMP
  generation[slot] = (generation[slot] + 1) % (LAST_GENERATION + 1);
#endif
#ifdef WITHOUT_RETIREMENT
  if
  :: generation[slot] == 0 -> generation[slot] = 1
  :: else
  fi;
#endif
  pointer[slot] = 0
}

inline sweep_pointer(p) {
  slot = table[p];
  if
  :: slot ->
    clear_slot(slot);
#ifndef WITHOUT_REMOVAL
    table[p] = 0;
#endif
    if
    :: generation[slot] -> next[slot] = chain; chain = slot
    :: else
    fi
  :: else
  fi
}

proctype sweeper() {
  byte cell, slot, chain;
end:
  do
  :: unswept ->
    cell = 0;
    do
    :: cell < CELLS && state[cell] == DEAD ->
      LOCK_STRIPE(cell);
      sweep_pointer(cell * 2);
      if
      :: cell == 0 -> sweep_pointer(1)
      :: else
      fi;
      state[cell] = FREE;
      UNLOCK_STRIPE(cell);
#ifndef WITHOUT_LATE_GIVE
      do
      :: chain ->
        slot = chain;
        chain = next[chain];
        pool_give(slot)
      :: else -> break
      od;
#endif
      atomic { slot = 0; chain = 0 }
    :: d_step { cell < CELLS && state[cell] != DEAD -> cell++ }
    :: atomic { cell == CELLS -> cell = 0; unswept = false }
       break
    od
  od
}

init {
  atomic {
    next[1] = 2;
    free_first = 1;
    run maker(0);
    run maker(1);
    run reader();
    run allocator();
    run collector();
    run sweeper()
  }
}
