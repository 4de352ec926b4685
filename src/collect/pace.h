/*
 * Pacing: how much may be allocated until the next cycle, as a pure function
 * of numbers, all in bytes.
 *
 *   growth = max(live, minimum) * percent / 100,
 *   minimum = 4 MiB for each thread that allocates, up to the number of CPUs:
 *   they reach it together, and each cycle stops them all
 *   where a cycle marked beside the program, some of what it found live was
 *   dropped meanwhile, and shall not count in this formula: by how much more
 *   lives than after the cycle before; at most half of what was allocated
 *   beside it, and at least an eighth
 *   as long as no percentage was set: growth += min(growth / 4, 64 MiB)
 *   while the system is short of memory (PSI): half of that
 *   with a memory limit: at most limit - live - overhead, but at least
 *   live / 16 or 1 MiB, so that a live heap near the limit does not make every
 *   allocation a collection. (The CPU share of limit-driven cycles is bounded
 *   in cycle.c besides.)
 *
 * The extra growth is for programs that do not care: a small heap is cheap in
 * bytes and dear in cycles, since what a cycle costs is in proportion to the
 * live heap and what it brings is the growth. Best is a growth that rises with
 * the square root of the live size (Kirisame, Shenoy, Panchekha: Optimal heap
 * limits for reducing browser memory use, 2022); a quarter more below 256 MiB
 * of live heap, and a fixed amount above, is near enough to it.
 *
 * Where marking happens beside the program, the program allocates meanwhile, so
 * a cycle begins earlier (wane__pace_trigger), and what may be allocated while
 * it marks depends on how far it has come (wane__pace_allowance): a thread that
 * is ahead of that waits, for fractions of a millisecond, and one marker more
 * works in its place.
 */
#ifndef WANE_COLLECT_PACE_H
#define WANE_COLLECT_PACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wane__pace_input {
  uint64_t live_bytes;
  uint64_t last_live_bytes; /* of the cycle before */
  unsigned threads;         /* that can allocate at once */
  uint64_t overhead_bytes;  /* of the limit, taken by other than live objects */
  uint64_t beside_bytes;    /* allocated while the last cycle marked; 0: it did
                               so in one stop */
  bool is_percent_set;      /* by the program or an option */
  int percent;              /* negative: no cycles but limit-driven ones */
  uint64_t limit_bytes;     /* UINT64_MAX: none */
  bool is_pressed;          /* the system is short of memory */
};

struct wane__pace_output {
  uint64_t growth_bytes; /* UINT64_MAX: never */
  bool by_limit;         /* the limit made it smaller */
  bool tight;            /* the limit would have made it smaller still */
};

struct wane__pace_output wane__pace(const struct wane__pace_input *in);

/* At which of these bytes a cycle begins. beside_bytes: what will be allocated
   while it marks; 0: it marks in one stop. A quarter is added for what cannot
   be foreseen; the cycle begins at least a twentieth of the growth before its
   end, and not before half of it. */
uint64_t wane__pace_trigger(uint64_t growth_bytes, uint64_t beside_bytes);

/* What the last cycle that marked beside the program tells about the next. */
struct wane__pace_last {
  uint64_t guess_bytes;  /* what had been expected to be allocated meanwhile */
  uint64_t beside_bytes; /* what was; less than would have been, if threads had
                            to wait */
  uint64_t beside_ns;    /* how long it marked */
  uint64_t before_bytes; /* what was allocated since the cycle before... */
  uint64_t before_ns;    /* ...and in which time */
  uint64_t last_live_bytes; /* what the cycle before had found */
};
/* What will be allocated while the next one marks: what was, or would have been
   at the pace of the time before. Less than was expected counts only by a
   quarter of the difference. */
uint64_t wane__pace_beside(const struct wane__pace_last *last);

/* A cycle that marks beside the program, all in bytes. */
struct wane__pace_marking {
  uint64_t used_bytes;     /* when it began */
  uint64_t goal_bytes;     /* which the heap should not exceed */
  uint64_t expected_bytes; /* that will live, as it seems: the last result */
  uint64_t marked_bytes;   /* so far */
  bool is_ending;          /* all that was expected to be marked is */
};
/* How much may be allocated from the beginning of such a cycle until the moment
   that the numbers are of. Half of the room below the goal at once, as a
   program that keeps its pace is ahead of marking while the tracker is armed;
   the rest as what is expected is marked; then, as more is found, and towards
   the end, a sixteenth of the goal more: so the heap stays below 1.1 times the
   goal. The room counts as a sixty-fourth of the goal at least, so that a cycle
   that begins late does not stop the program. */
uint64_t wane__pace_allowance(const struct wane__pace_marking *in);

/* The same for what is not memory of the heap: how many files may be mapped,
   how many blocks of addresses be taken, how many bytes adopted, until a cycle
   is due.

     count  = max(live, 1024 + 1 for each 64 KiB of live heap) * percent / 100,
              the more, the dearer a cycle is; but at most half of what is left
              of half of the system's limit on mappings: the other half is for
              the gaps between them and for the program, and what one cycle
              finds dead waits for its cleanup while the next ones come
     blocks = a quarter of those that are left
     bytes  = max(adopted + heap live, 64 MiB) * percent / 100; under a memory
              limit at most half of the room that is left

   A program near a limit gets a sixteenth of what is live all the same, and
   256 at least. Mapped files do not count against the memory limit: the kernel
   takes their pages back when it wants to. */
struct wane__pace_outside_input {
  uint64_t live; /* files; found by the last cycle, as are the next two */
  uint64_t adopted_bytes;
  uint64_t heap_bytes;
  uint64_t blocks_left;
  uint64_t maps_max;
  int percent;
  uint64_t limit_bytes; /* UINT64_MAX: none */
};
struct wane__pace_outside_output {
  uint64_t count;
  uint64_t blocks;
  uint64_t adopted_bytes;
};
struct wane__pace_outside_output
wane__pace_outside(const struct wane__pace_outside_input *in);

/* The settings. Reads relaxed; set by the public calls. */
int wane__pace_percent(void);
uint64_t wane__pace_limit(void);
/* Asks the cgroup for its limit, once, by reading files. Not in a stop. */
void wane__pace_prepare(void);
/* How many threads there are, for the minimum. lock: cycle. */
void wane__pace_set_threads(unsigned threads);
/* The system is short of memory, or not any more. Guarded, or on a thread of
   the library's. */
void wane__pace_set_pressed(bool is_pressed);
/* What a marking found of them. STW. */
void wane__pace_note_outside_stw(uint64_t files, uint64_t adopted_bytes);
/* Sets the triggers from the last cycle's result and the settings. */
void wane__pace_set_trigger(void);
/* A cycle marked beside the program. lock: cycle. */
void wane__pace_note_beside(const struct wane__pace_last *last);
/* A cycle begins to mark beside the program: until its end the trigger is what
   may be allocated. STW. */
void wane__pace_begin_marking_stw(uint64_t used_bytes);
/* A cycle that could not be run is due again after so many bytes. */
void wane__pace_put_off(uint64_t bytes);
/* Whether so many bytes more may be allocated while a cycle marks, or one is
   due; if so, says when to ask again. Guarded. */
bool wane__pace_may_allocate(size_t more_bytes, bool is_marking);
/* How much may still be allocated until the end of the cycle that runs, or of
   the next: more free memory than that the heap does not need. UINT64_MAX:
   there will be no cycle. */
uint64_t wane__pace_room(void);
/* What was allocated while the last cycle marked beside the program: as much
   may have died then and count as live. 0: it marked in one stop. */
uint64_t wane__pace_last_beside(void);
/* Marking is in its last rounds, or not. lock: cycle. */
void wane__pace_set_ending(bool is_ending);
bool wane__pace_is_by_limit(void);
bool wane__pace_is_tight(void);
void wane__pace_init(void);
/* Cycles will mark beside the program; how long they take is not known. At
   start. */
void wane__pace_guess_beside(void);
/* A cycle marked in one stop. STW. */
void wane__pace_note_stop(void);

#endif
