/*
 * proofs/weak_target.pml: how a read of a weak pointer finds the mark byte of
 * its target while the target's group is swept, dissolved, and its block made
 * part of another group: step 3 of Note [weak read] in src/special/weak.h.
 *
 * A block's entry in the block map is {head, marks}: the head tells the class,
 * and so which mark byte it is; marks is the array of mark bytes, and arrays
 * of dissolved groups serve other groups of their size. What must never
 * happen is that the number for one class is used in the array of another,
 * which may be smaller: the read could leave the array.
 */
// without: SECOND_HEAD the head is loaded once
// without: FIRST_HEAD  the head is loaded only after the marks
// without: ZERO_HEAD   a dissolved group leaves its head in the map
// without: MARKS_ORDER storing the marks may overtake clearing the head
// without: ONCE        a block may change groups twice between two flips
// without: GUARD       there may be a flip inside the read
// without: GENERATION  the generation is not loaded again after all that

#define CLASSES 2
#define ARRAYS 4
#define FLIPS 2

/* The map entry: class, or 0; number of an array. */
byte head = 1;
byte marks = 1;
#define CLASS_OF(array) (((array) - 1) % CLASSES + 1)

/* What stands in the target's byte is told apart only for the group that it
   lived in; of others' arrays anything may be read. */
bool group_gone;
bool byte_lives = true; /* has the current colour */

bool cleared; /* the generation in the weak slot was raised */
bool dead;    /* ghost */
byte guarded = 0;
bool unswept;
bool changed; /* the block has changed groups since the last flip */

#ifdef WITHOUT_GUARD
#  define READER_ENTER skip
#  define READER_LEAVE skip
#else
#  define READER_ENTER guarded++
#  define READER_LEAVE guarded--
#endif

proctype reader() {
  byte seen_head, seen_marks;
end:
  do
  :: READER_ENTER;
     if
     :: cleared -> goto is_null
     :: else
     fi;
#ifdef WITHOUT_FIRST_HEAD
     seen_marks = marks;
     seen_head = head;
#else
     seen_head = head;
     seen_marks = marks;
#endif
     if
     :: seen_head == 0 -> goto is_null
#ifndef WITHOUT_SECOND_HEAD
     :: seen_head != 0 && head != seen_head -> goto is_null
     :: seen_head != 0 && head == seen_head
#else
     :: else
#endif
     fi;
     assert(CLASS_OF(seen_marks) == seen_head);
     if
     :: seen_marks == 1 && !group_gone && !byte_lives -> goto is_null
     :: seen_marks == 1 && !group_gone && byte_lives
     :: seen_marks != 1 || group_gone -> goto is_null /* not the colour */
     :: seen_marks != 1 || group_gone                 /* the colour */
     fi;
#ifndef WITHOUT_GENERATION
     if
     :: cleared -> goto is_null
     :: else
     fi;
#endif
     atomic {
       assert(!dead);
       seen_head = 0;
       seen_marks = 0;
       READER_LEAVE
     }
     goto end;
is_null:
     atomic {
       assert(dead);
       seen_head = 0;
       seen_marks = 0;
       READER_LEAVE
     }
  od
}

/* The collector: a flip finds the target dead, or not; its group is swept. */
proctype collector() {
  byte flips = 0;
  do
  :: flips < FLIPS ->
     atomic {
       guarded == 0 && !unswept -> flips++;
       changed = false;
       if
       :: !dead -> dead = true; byte_lives = false; unswept = true
       :: true
       fi
     }
     if
     :: unswept ->
       cleared = true; /* release fence */
       unswept = false
     :: else
     fi
  :: flips == FLIPS -> break
  od
}

/* The allocator: takes the empty group's block for others, again and again. */
proctype allocator() {
  byte array;
  bool to_zero, to_marks;
end:
  do
  :: atomic {
#ifdef WITHOUT_ONCE
       cleared && !unswept ->
#else
       cleared && !unswept && !changed ->
#endif
       changed = true;
       guarded++; /* whoever does this holds off the flip */
       group_gone = true;
       if
       :: array = 1
       :: array = 2
       :: array = 3
       :: array = 4
       fi;
       to_zero = true;
       to_marks = true
     }
     do
     :: to_zero ->
#ifndef WITHOUT_ZERO_HEAD
       head = 0;
#endif
       to_zero = false
#ifdef WITHOUT_MARKS_ORDER
     :: to_marks -> marks = array; to_marks = false
#else
     :: !to_zero && to_marks -> marks = array; to_marks = false
#endif
     :: !to_zero && !to_marks -> break
     od;
     head = CLASS_OF(array);
     atomic { array = 0; guarded-- }
  od
}

init {
  atomic {
    run reader();
    run collector();
    run allocator()
  }
}
