/*
 * proofs/table_list.pml: the split-ordered list of tables (tables/table.h):
 * adding in front of equals, taking out, unlinking, and a sentinel that is
 * made and retired.
 *
 * Links: the root, a sentinel between two orders, an entry of the lower and
 * two of the higher order (LOW, FIRST, STAYS), one that a sweep has taken out
 * and left in the list (DEAD), and two to be added. Threads add key 1 or 2,
 * which have the higher order, too, or take them out, or LOW. A reader looks
 * for one key that was there when it began, or a walker goes over all. An
 * indexer makes the table fine, so that whoever comes along puts the sentinel
 * in and begins there, and then coarse, and retires the sentinel. Every load
 * and compare-and-swap of a link, of a value, and of the sentinel's state is a
 * step of its own. No link is used again while somebody holds it: that is the
 * heap's affair.
 *
 * Shown: no two entries with one key are in at once; a reader finds what is
 * there all the time, and a walk shows it, and no key twice; in the end the
 * list is sorted, has every entry that is not out, and none that was taken out,
 * and not the sentinel, which has been retired.
 */
// without: FREEZE      an entry is unlinked without its link being frozen
// without: IN_FRONT    an entry comes behind those of its order
// without: PASSED      a walk does not look at orders when it is led back
// without: SEARCH      who adds has looked before it has the place, not after
// without: VALUE_CAS   who takes an entry out does not compare
// without: LINK_CAS    who adds does not compare
// without: RESTART     who fails to unlink goes on as if it had been done
// without: READY       one begins at a sentinel that is not in yet
// without: LATE_LOOK   who has put the sentinel in does not look at the index
// without: BACK_EARLY  the sentinel leads back before it is unlinked
// although: UNLINK     who takes an entry out leaves it to others to unlink it

#define ROOT 1
#define LOW 2
#define SENTINEL 3
#define STAYS 4
#define DEAD 5
#define FIRST 6 /* key 1 */
#define FRESH 7 /* of those to be added */
#define LINKS 9

/* Words: a link, and REMOVED. 0 ends the list. */
#define REMOVED 16
#define LINK(word) ((word) & 15)

/* Orders: low entry 1, sentinel 2, the others 3. */
#define LOW_ORDER 1
#define HIGH 3
byte order[LINKS];
byte key[LINKS];
byte next[LINKS];
bool in[LINKS]; /* the value is not WANE__GONE */

mtype = { UNUSED, CLAIMED, READY };
mtype state = UNUSED; /* of the sentinel's order word */
bool fine;            /* the index has the sentinel */

byte used = FRESH;    /* links allocated */
byte working = 3;

#define IS_STARTABLE (state == READY && !(next[SENTINEL] & REMOVED))

/* wane__table_start. */
inline table_start() {
  atomic {
    start = ROOT;
    if
    :: !fine || o != HIGH -> is_maker = false
#ifdef WITHOUT_READY
    :: fine && o == HIGH && state != UNUSED && !(next[SENTINEL] & REMOVED) ->
      start = SENTINEL; is_maker = false
#endif
    :: fine && o == HIGH && IS_STARTABLE -> start = SENTINEL; is_maker = false
    :: fine && o == HIGH && state == UNUSED -> state = CLAIMED; is_maker = true
    :: else -> is_maker = false
    fi
  }
}

/* list_seek. What only the own process sees goes with the load before it. */
inline list_seek(from, last) {
  atomic { before = from; at = next[before] }
  do
  :: atomic { (at & REMOVED) || at == 0 -> break } /* the start is removed */
  :: atomic {
       else ->
       word = next[at];
       if
       :: word & REMOVED
       :: !(word & REMOVED) && order[at] > last -> word = 0; break
       :: else -> before = at; at = word; word = 0
       fi
     }
     atomic {
       if
       :: word == 0
       :: word && next[before] == at ->
         assert(word == REMOVED || order[LINK(word)] >= order[before]);
         next[before] = LINK(word);
         at = LINK(word)
       :: else ->
#ifdef WITHOUT_RESTART
         at = LINK(word)
#else
         before = from;
         at = next[before]
#endif
       fi;
       word = 0
     }
  od
}

/* sentinel_make, what follows the claim. */
inline sentinel_link() {
  do
  :: list_seek(ROOT, 1);
    next[SENTINEL] = at;
    atomic {
      if
      :: next[before] == at -> next[before] = SENTINEL; break
      :: else
      fi
    }
  od;
  state = READY;
#ifndef WITHOUT_LATE_LOOK
  if
  :: !fine -> sentinel_remove()
  :: else
  fi
#endif
}

inline sentinel_remove() {
  atomic { next[SENTINEL] = next[SENTINEL] | REMOVED }
#ifdef WITHOUT_BACK_EARLY
  next[SENTINEL] = ROOT | REMOVED;
#endif
  list_seek(ROOT, 2);
  next[SENTINEL] = ROOT | REMOVED
}

/* Where to begin, after an attempt to put the sentinel in. */
inline begin() {
  table_start();
  if
  :: is_maker -> sentinel_link()
  :: else
  fi;
  is_maker = false
}

/* A walk over the entries of the key from `at` on: found, or 0. */
inline find_from() {
  found = 0;
  do
  :: atomic { at == 0 || order[at] != o -> break }
  :: atomic { else ->
       if
       :: key[at] == k && in[at] -> found = at; break
       :: else
       fi
     }
     at = LINK(next[at])
  od
}

/* A reader's walk to the first link of an order. */
inline table_first() {
  at = LINK(next[start]);
  do
  :: atomic { at == 0 || order[at] >= o -> break }
  :: atomic { else -> at = LINK(next[at]) }
  od
}

/* Where an entry is put in; the broken one is behind its equals. */
#ifdef WITHOUT_IN_FRONT
#  define PLACE_LAST HIGH
#else
#  define PLACE_LAST (HIGH - 1)
#endif

/* One attempt: searches the entries of the order, then adds in front of them if
   the one link that leads there is as it was. */
inline add() {
#ifdef WITHOUT_SEARCH
  table_first();
  find_from();
  if
  :: found -> goto done
  :: else
  fi;
  list_seek(start, PLACE_LAST);
  place = at;
#else
  list_seek(start, PLACE_LAST);
  place = at;
  at = LINK(at);
#  ifdef WITHOUT_IN_FRONT
  table_first();
#  endif
  find_from();
  if
  :: found -> goto done
  :: else
  fi;
#endif
  atomic {
    if
#ifdef WITHOUT_LINK_CAS
    :: !(next[before] & REMOVED) && !(place & REMOVED) ->
#else
    :: next[before] == place && !(place & REMOVED) ->
#endif
      order[used] = HIGH;
      key[used] = k;
      next[used] = place;
      in[used] = true;
      next[before] = used;
      used++;
      /* INV-table-1 */
      assert(key[FRESH] != 1 || !in[FIRST] || !in[FRESH]);
      assert(key[FRESH + 1] != 1 || !in[FIRST] || !in[FRESH + 1]);
      assert(key[FRESH] != key[FRESH + 1] || !in[FRESH] || !in[FRESH + 1]);
      goto done
    :: else -> goto again
    fi
  }
}

inline take_out() {
  table_first();
  find_from();
  atomic {
    if
#ifdef WITHOUT_VALUE_CAS
    :: found -> assert(in[found]); in[found] = false
#else
    :: found && in[found] -> in[found] = false
#endif
    :: else -> goto done
    fi
  }
#ifdef WITHOUT_FREEZE
  list_seek(start, o - 1);
  word = next[found];
  atomic {
    if
    :: next[before] == found -> next[before] = word
    :: else
    fi;
    word = 0;
    goto done
  }
#else
  atomic { next[found] = next[found] | REMOVED };
#endif
#if defined(WITHOUT_UNLINK) || defined(WITHOUT_FREEZE)
  goto done
#else
  doing = UNLINKING;
  goto again
#endif
}

/* All that is removed up to the entry. */
inline unlink() {
  list_seek(start, o);
  if
  :: at & REMOVED -> goto again
  :: else -> goto done
  fi
}

mtype = { ADDING, TAKING, UNLINKING };

proctype changer() {
  byte start, before, at, word, found, place, k, o;
  mtype doing;
  bool is_maker;
  atomic {
    o = HIGH;
    if
    :: k = 1; doing = ADDING
    :: k = 2; doing = ADDING
    :: k = 1; doing = TAKING
    :: k = 4; o = LOW_ORDER; doing = TAKING
    fi
  }
again:
  begin();
  if
  :: doing == ADDING -> add()
  :: doing == TAKING -> take_out()
#if !defined(WITHOUT_UNLINK) && !defined(WITHOUT_FREEZE)
  :: doing == UNLINKING -> unlink()
#endif
  fi;
done:
  working--
}

proctype reader() {
  byte start, at, k, o, found, before, word;
  byte there; /* ghost: the key's entry when it began */
  bool is_maker;
  atomic {
    o = HIGH;
    if
    :: k = 3; there = STAYS
    :: in[FIRST] -> k = 1; there = FIRST
    :: in[FRESH] -> k = key[FRESH]; there = FRESH
    fi
  }
  begin();
  table_first();
  find_from();
  atomic {
    assert(found || !in[there]);
    working--
  }
}

/* wane__table_next_entry. */
proctype walker() {
  byte at, passed;
  bool seen[5];
  at = LINK(next[ROOT]);
  do
  :: atomic { at == 0 -> break }
  :: atomic { else ->
       if
#ifndef WITHOUT_PASSED
       :: order[at] < passed
#endif
       :: order[at] >= passed && at == SENTINEL -> passed = order[at]
       :: else ->
         if
         :: in[at] -> assert(!seen[key[at]]); seen[key[at]] = true
         :: else
         fi
       fi
     }
     at = LINK(next[at])
  od;
  atomic {
    assert(seen[3]);
    working--
  }
}

proctype indexer() {
  byte start, before, at, word, o;
  fine = true;
  fine = false;
  /* nobody begins to put it in any more; whoever has begun removes it */
  atomic {
    if
    :: state == UNUSED -> state = CLAIMED
    :: state == CLAIMED
    :: state == READY -> start = 1
    fi
  }
  if
  :: start -> sentinel_remove()
  :: else
  fi;
  working--
}

inline check_end() {
  d_step {
    at = ROOT;
    do
    :: next[at] == 0 -> break
    :: else ->
      assert(order[LINK(next[at])] >= order[at]);
      assert(LINK(next[at]) != SENTINEL);
      at = LINK(next[at]);
      if
      :: in[at] -> count++
#ifndef WITHOUT_UNLINK
      :: !in[at] && at != DEAD -> assert(false)
#endif
      :: else
      fi
    od;
    assert(count == in[LOW] + in[STAYS] + in[FIRST] + in[FRESH] + in[FRESH + 1])
  }
}

init {
  byte at, count;
  atomic {
    order[LOW] = LOW_ORDER;
    key[LOW] = 4;
    order[SENTINEL] = 2;
    order[STAYS] = HIGH;
    key[STAYS] = 3;
    next[ROOT] = LOW;
    order[DEAD] = HIGH;
    next[LOW] = DEAD;
    next[DEAD] = FIRST | REMOVED;
    order[FIRST] = HIGH;
    key[FIRST] = 1;
    in[FIRST] = true;
    next[FIRST] = STAYS;
    in[LOW] = true;
    in[STAYS] = true;
    working = 3;
    if
    :: run changer(); run changer(); run walker() /* entries alone */
    :: run changer(); run changer(); run reader()
    :: run changer(); run indexer(); run walker() /* the sentinel, too */
    :: run changer(); run indexer(); run reader()
    :: run changer(); run indexer(); run changer()
    fi
  }
  working == 0;
  check_end()
}
