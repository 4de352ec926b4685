/*
 * proofs/rest.pml: threads that rest, and stops (mutator/stop.h,
 * wane__stop_rest): a stop takes a resting thread as stopped without a signal.
 *
 * Two threads, which work, rest and take the stop signal; a collector, which
 * stops the world three times. A rest: signals are blocked, the stack is noted,
 * the thread says that it rests, looks whether a stop is under way, and if not
 * sleeps until a word changes or the time is over; then it takes back what it
 * said, and opens its signals. Some rests have no end in time: so that a stop
 * which has to wait for the end of one is found as a deadlock. The word changes
 * between the stops only. Every load, store and exchange that two can see is a
 * step of its own; a futex waits as long as the word has the value seen.
 *
 * Shown: while the world is stopped no thread does anything, and each has noted
 * its stack since it last did; each is counted once for each stop; and nobody
 * waits for ever. INV-stop-3 is what the program does with that: a thread that
 * rests touches nothing.
 */
// without: LOOK      a thread that rests does not see that a stop is under way
// without: RETURN    a stop is released before claimed threads are given back
// without: END_CAS   a rest ends whether or not a stop has claimed the thread
// without: CLAIM_CAS the collector looks whether a thread rests, then claims it
// without: NOTE      a thread says that it rests, then notes its stack
// without: BLOCK     handlers of the program run on a thread that rests

#define THREADS 2
#define STOPS 3
#define RESTS 2 /* of each thread */

mtype = { NOT, RESTING, CLAIMED };
mtype rest[THREADS] = NOT;
byte wanted = 0;
byte released = 0;
byte unstopped = 0;
byte parked[THREADS];  /* number of the last stop it was counted for */
bool pending[THREADS]; /* the stop signal */
bool noted[THREADS];   /* its stack, since it last did something */
byte word = 0;         /* what resting threads sleep on */
bool stopped;
bool ended;

inline work() {
  d_step {
    assert(!stopped);
    noted[me] = false
  }
}

/* stop_handler, stop_park */
inline handle() {
  pending[me] = false;
  stop = wanted;
  seen = released;
  if
  :: stop == seen || parked[me] == stop
  :: else ->
    assert(stop == seen + 1);
    parked[me] = stop;
    noted[me] = true;
    unstopped--;
    released >= stop
  fi;
  d_step { stop = 0; seen = 0 }
}

inline say_and_note() {
#ifdef WITHOUT_NOTE
  rest[me] = RESTING;
  noted[me] = true
#else
  noted[me] = true;
  rest[me] = RESTING
#endif
}

inline sleep() {
  if
  :: has_limit /* at any moment */
  :: !has_limit && word != value
#ifdef WITHOUT_BLOCK
  :: !has_limit -> work(); word != value
#endif
  fi
}

/* stop_end_rest */
inline end_rest() {
  skip;
again:
  seen = released;
#ifdef WITHOUT_END_CAS
  rest[me] = NOT;
#else
  if
  :: atomic { rest[me] == RESTING -> rest[me] = NOT }
  :: rest[me] == CLAIMED -> released != seen; goto again
  fi;
#endif
  seen = 0
}

/* stop_rest; the signal is not taken in it */
inline take_rest() {
  say_and_note();
#ifndef WITHOUT_LOOK
  stop = wanted;
  if
  :: stop != released
  :: stop == released -> sleep()
  fi;
  stop = 0;
#else
  sleep();
#endif
  end_rest()
}

proctype thread(byte me) {
  byte stop, seen, value;
  byte rests = 0;
  bool has_limit;
  do
  :: pending[me] -> handle()
  :: !pending[me] && !ended -> work()
  :: atomic { rests < RESTS && !ended ->
      rests++;
      value = word;
      if
      :: has_limit = true
      :: has_limit = false
      fi
     }
     take_rest();
     d_step { value = 0; has_limit = false }
  :: ended && !pending[me] -> break
  od
}

/* stop_send_all, of one thread */
inline stop_one(t) {
#ifdef WITHOUT_CLAIM_CAS
  if
  :: rest[t] == RESTING ->
    rest[t] = CLAIMED;
#else
  if
  :: atomic { rest[t] == RESTING -> rest[t] = CLAIMED }
#endif
    d_step { assert(parked[t] != wanted); parked[t] = wanted };
    unstopped--
  :: rest[t] != RESTING -> pending[t] = true
  fi
}

inline give_back(t) {
  if
  :: rest[t] == CLAIMED -> rest[t] = RESTING
  :: else
  fi
}

proctype collector() {
  do
  :: wanted < STOPS ->
    unstopped = THREADS + 1;
    wanted++;
    stop_one(0);
    stop_one(1);
    unstopped--;
    unstopped == 0;
    d_step {
      stopped = true;
      assert(noted[0] && noted[1] && parked[0] == wanted && parked[1] == wanted)
    }
    stopped = false;
#ifndef WITHOUT_RETURN
    give_back(0);
    give_back(1);
#endif
    released = wanted;
#ifdef WITHOUT_RETURN
    give_back(0);
    give_back(1);
#endif
    word++ /* marking has got on */
  :: wanted == STOPS -> break
  od;
  skip;
  d_step { word++; ended = true }
}

init {
  atomic {
    run thread(0);
    run thread(1);
    run collector()
  }
}
