/*
 * collect/pace: whole programs in figures. A program allocates at some rate and
 * has so much alive at each moment; a collector marks so many bytes in a
 * second; time goes in small steps, and what happens when is decided by the
 * functions of pace.h alone, put together as collect/cycle.c does it.
 *
 * What must hold: the heap stays below 1.1 times its goal; where nothing
 * changes, cycles are as few as the percentage allows and nobody waits; with a
 * memory limit that leaves no room, collecting takes at most half of the time.
 */
/* link: m */
#include "support/test.h"

#include <math.h>

#include "collect/pace.h"

#define MIB ((double)(1 << 20))
#define STEP_NS 50000.0
#define NO_LIMIT UINT64_MAX
/* From the trigger to the flip, and from the end of marking to that of the
   cycle. */
#define BEGIN_NS 200000.0
#define END_NS 500000.0

/* ---- Programs and collectors ---- */

struct program {
  double (*rate)(double seconds); /* MiB per second */
  double (*live)(double seconds); /* MiB */
  double replaces;  /* share of what is allocated that takes the place of what
                       lived, and dies late */
  double mark_rate; /* MiB per second, of one marker */
  unsigned cpus;
  unsigned threads; /* that allocate */
  double seconds;
  int percent;
  bool is_percent_set;
  uint64_t limit_bytes;
};

enum state { RUNNING, BEGINNING, MARKING, ENDING };

struct sim {
  const struct program *program;
  double now_ns;
  enum state state;
  double state_ns; /* since when */

  double live;        /* as the last cycle has it; all in bytes */
  double last_live;   /* and the one before */
  double growth;      /* to the goal */
  double trigger;     /* of since */
  double beside;      /* that are expected to be allocated meanwhile */
  double last_beside; /* that were, in the last cycle */
  double since;       /* allocated since the cycle ended, or since the flip */
  bool is_by_limit;
  bool is_tight;

  struct wane__pace_marking marking;
  double found;   /* what the cycle will find alive */
  double floated; /* and what died after it was marked */
  double marked;
  double flip_ns;
  double before; /* allocated before the flip */
  double end_ns; /* of the last cycle */
  double work_ns;
  double last_work_ns;

  /* What came of it. */
  unsigned cycles;
  double allocated;
  double waited_ns;
  double gc_ns;
  double peak;           /* bytes */
  double worst;          /* of used / goal, where the goal is not the limit's */
  double waited_late_ns; /* in the second half */
  unsigned cycles_late;
  double allocated_late;
  double growth_late; /* sum of the goals' growths */
};

static double seconds_of(const struct sim *sim) { return sim->now_ns / 1e9; }

static bool is_late(const struct sim *sim) {
  return seconds_of(sim) > sim->program->seconds / 2;
}

/* wane__pace_set_trigger */
static void set_trigger(struct sim *sim) {
  const struct program *program = sim->program;
  struct wane__pace_input in = {.live_bytes = (uint64_t)sim->live,
                                .last_live_bytes = (uint64_t)sim->last_live,
                                .beside_bytes = (uint64_t)sim->last_beside,
                                .threads = program->threads,
                                .is_percent_set = program->is_percent_set,
                                .percent = program->percent,
                                .limit_bytes = program->limit_bytes};
  struct wane__pace_output out = wane__pace(&in);
  sim->is_by_limit = out.by_limit;
  sim->is_tight = out.tight;
  sim->growth = (double)out.growth_bytes;
  sim->trigger =
      (double)wane__pace_trigger(out.growth_bytes, (uint64_t)sim->beside);
}

static double goal_of(const struct sim *sim) { return sim->live + sim->growth; }

/* In use, as the library counts it. */
static double used_of(const struct sim *sim) {
  return sim->state == MARKING || sim->state == ENDING
             ? (double)sim->marking.used_bytes + sim->since
             : sim->live + sim->since;
}

static double live_now(const struct sim *sim) {
  return fmin(sim->program->live(seconds_of(sim)) * MIB, used_of(sim));
}

/* The first cycle knows nothing of the program. */
static void note_used(struct sim *sim) {
  double used = used_of(sim);
  sim->peak = fmax(sim->peak, used);
  if (!sim->is_tight && sim->cycles != 0) {
    sim->worst = fmax(sim->worst, used / goal_of(sim));
  }
}

static void state_set(struct sim *sim, enum state state) {
  sim->state = state;
  sim->state_ns = sim->now_ns;
}

/* The first stop. */
static void cycle_begin(struct sim *sim) {
  sim->before = sim->since;
  sim->marking = (struct wane__pace_marking){
      .used_bytes = (uint64_t)used_of(sim),
      .goal_bytes = (uint64_t)fmin(goal_of(sim), 9e18),
      .expected_bytes = (uint64_t)sim->live};
  sim->found = live_now(sim);
  sim->marked = sim->floated = sim->since = sim->work_ns = 0;
  sim->flip_ns = sim->now_ns;
  state_set(sim, MARKING);
}

/* cycle_set_pace. */
static void cycle_end(struct sim *sim) {
  double used = used_of(sim);
  struct wane__pace_last last = {
      .guess_bytes = (uint64_t)sim->beside,
      .beside_bytes = (uint64_t)sim->since,
      .beside_ns = (uint64_t)(sim->now_ns - sim->flip_ns),
      .before_bytes = (uint64_t)sim->before,
      .before_ns =
          sim->cycles != 0 ? (uint64_t)(sim->flip_ns - sim->end_ns) : 0};
  sim->beside = (double)wane__pace_beside(&last);
  sim->last_beside = sim->since;
  sim->last_live = sim->live;
  sim->live = fmin(fmax(sim->found, live_now(sim)) + sim->floated, used);
  sim->since = 0;
  sim->end_ns = sim->now_ns;
  sim->last_work_ns = sim->work_ns;
  sim->cycles++;
  if (is_late(sim)) {
    sim->cycles_late++;
  }
  set_trigger(sim);
  sim->growth_late += is_late(sim) ? sim->growth : 0;
  state_set(sim, RUNNING);
}

/* cycle_limit_may_wait */
static bool limit_may_wait(const struct sim *sim) {
  return sim->is_tight && sim->now_ns - sim->end_ns < sim->last_work_ns;
}

/* Bytes that may be allocated more at this moment: wane__pace_may_allocate. */
static double may_allocate(struct sim *sim) {
  if (sim->state == MARKING || sim->state == ENDING) {
    sim->marking.marked_bytes = (uint64_t)sim->marked;
    sim->marking.is_ending = sim->state == ENDING;
    return (double)wane__pace_allowance(&sim->marking) - sim->since;
  }
  return sim->state == BEGINNING ? sim->growth + sim->growth / 64 - sim->since
                                 : INFINITY;
}

/* How much of the heap has been marked. */
static double marked_share(const struct sim *sim) {
  return sim->state == ENDING    ? 1
         : sim->state == MARKING ? sim->marked / fmax(sim->found, 1)
                                 : 0;
}

static bool step_allocate(struct sim *sim) {
  double wanted = sim->program->rate(seconds_of(sim)) * MIB * STEP_NS / 1e9;
  double may = fmax(may_allocate(sim), 0);
  double bytes = fmin(wanted, may);
  sim->since += bytes;
  sim->allocated += bytes;
  sim->allocated_late += is_late(sim) ? bytes : 0;
  sim->floated += sim->program->replaces * bytes * marked_share(sim);
  double waited = wanted > 0 ? (1 - bytes / wanted) * STEP_NS : 0;
  sim->waited_ns += waited;
  sim->waited_late_ns += is_late(sim) ? waited : 0;
  note_used(sim);
  return waited > 0;
}

/* One marker, and more where threads wait. */
static void step_mark(struct sim *sim, bool has_waited) {
  double markers = has_waited ? fmin(2, sim->program->cpus) : 1;
  sim->marked += markers * sim->program->mark_rate * MIB * STEP_NS / 1e9;
  sim->work_ns += markers * STEP_NS;
  sim->gc_ns += markers * STEP_NS;
  /* what comes to live meanwhile has to be marked, too */
  sim->found = fmax(sim->found, live_now(sim));
  if (sim->marked >= sim->found + sim->floated) {
    state_set(sim, ENDING);
  }
}

static void step(struct sim *sim) {
  bool has_waited = step_allocate(sim);
  sim->now_ns += STEP_NS;
  double in_state_ns = sim->now_ns - sim->state_ns;
  switch (sim->state) {
  case RUNNING:
    if (sim->since >= sim->trigger && !limit_may_wait(sim)) {
      state_set(sim, BEGINNING);
    }
    break;
  case BEGINNING:
    if (in_state_ns >= BEGIN_NS) {
      cycle_begin(sim);
    }
    break;
  case MARKING:
    step_mark(sim, has_waited);
    break;
  case ENDING:
    sim->gc_ns += STEP_NS;
    sim->work_ns += STEP_NS;
    if (in_state_ns >= END_NS) {
      cycle_end(sim);
    }
  }
}

static struct sim simulate(const struct program *program) {
  struct sim sim = {.program = program};
  set_trigger(&sim);
  if (program->percent >= 0) { /* wane__pace_guess_beside */
    sim.beside = sim.growth / 4;
    set_trigger(&sim);
  }
  while (seconds_of(&sim) < program->seconds) {
    step(&sim);
  }
  return sim;
}

/* Steps are coarse: what one brings is not counted. */
static double step_slack(const struct program *program) {
  double most = 0;
  for (double t = 0; t < program->seconds; t += 0.01) {
    most = fmax(most, program->rate(t));
  }
  return most * MIB * STEP_NS / 1e9;
}

static void require_below_goal(const struct sim *sim) {
  double slack = step_slack(sim->program) / (10 * MIB);
  if (sim->worst > 1.1 + slack) {
    fail_msg("%.3f times the goal in %u cycles", sim->worst, sim->cycles);
  }
}

/* ---- Rates and sizes ---- */

static double rate_100(double t) { return t >= 0 ? 100 : 0; }
static double rate_500(double t) { return t >= 0 ? 500 : 0; }
static double rate_1000(double t) { return t >= 0 ? 1000 : 0; }
static double rate_burst(double t) { return t > 1 && t < 1.5 ? 4000 : 200; }
static double rate_rests(double t) { return fmod(t, 1) < 0.3 ? 1000 : 1; }

static double live_2(double t) { return t >= 0 ? 2 : 0; }
static double live_20(double t) { return t >= 0 ? 20 : 0; }
static double live_100(double t) { return t >= 0 ? 100 : 0; }
static double live_500(double t) { return t >= 0 ? 500 : 0; }
static double live_doubles(double t) { return t < 1.5 ? 100 : 200; }
static double live_grows_fast(double t) {
  return t < 1 ? 50 : t < 2 ? 50 + (t - 1) * 150 : 200;
}
static double live_halves(double t) { return t < 1.5 ? 200 : 100; }
static double live_leaks(double t) { return 20 + 60 * t; }
static double live_waves(double t) { return 100 + 80 * sin(t * 6); }

static const struct program usual = {.rate = rate_100,
                                     .live = live_100,
                                     .mark_rate = 2000,
                                     .cpus = 2,
                                     .threads = 1,
                                     .seconds = 20,
                                     .percent = 100,
                                     .is_percent_set = true,
                                     .limit_bytes = NO_LIMIT};

/* ---- Where nothing changes ---- */

/* What is allocated while a cycle marks; if it is more than half of what may be
   between two, there is no way but to wait. */
static bool can_keep_up(const struct program *program) {
  double ns = BEGIN_NS + END_NS + program->live(0) / program->mark_rate * 1e9;
  double growth = fmax(program->live(0), 4) * program->percent / 100;
  return 1.25 * program->rate(0) * ns / 1e9 < growth / 2;
}

static void require_steady(const struct program *steady) {
  struct program program = *steady;
  if (!can_keep_up(&program)) {
    return;
  }
  double growth = fmax(program.live(0), 4) * program.percent / 100;
  program.seconds = fmax(3, 16 * growth / program.rate(0));
  struct sim sim = simulate(&program);
  require_below_goal(&sim);
  assert_true(sim.cycles_late >= 3);
  double ideal = sim.allocated_late / (sim.growth_late / sim.cycles_late);
  if (fabs(sim.cycles_late - ideal) > 0.15 * ideal + 1 ||
      sim.waited_late_ns > 0) {
    fail_msg("%u cycles, ideal %.1f, waited %.3f ms", sim.cycles_late, ideal,
             sim.waited_late_ns / 1e6);
  }
}

static void steady_programs_have_few_cycles_and_never_wait(void **state) {
  (void)state;
  static double (*const lives[])(double) = {live_20, live_100, live_500};
  static double (*const rates[])(double) = {rate_100, rate_1000};
  static const int percents[] = {50, 100, 300};
  for (size_t l = 0; l < TEST_COUNT(lives); l++) {
    for (size_t r = 0; r < TEST_COUNT(rates); r++) {
      for (size_t p = 0; p < TEST_COUNT(percents); p++) {
        struct program program = usual;
        program.live = lives[l];
        program.rate = rates[r];
        program.percent = percents[p];
        require_steady(&program);
      }
    }
  }
}

/* A heap below the minimum; and the extra growth of those that set nothing. */
static void small_heaps_have_few_cycles_too(void **state) {
  (void)state;
  struct program program = usual;
  program.live = live_2;
  require_steady(&program);
  program.is_percent_set = false;
  program.threads = 4;
  require_steady(&program);
}

/* What dies while a cycle marks is found alive, and still the heap does not
   grow by more than that from cycle to cycle, nor are there many more. */
static void what_floats_does_not_pile_up(void **state) {
  (void)state;
  static const double shares[] = {0.2, 0.5, 1};
  for (size_t i = 0; i < TEST_COUNT(shares); i++) {
    struct program program = usual;
    program.rate = rate_500;
    program.replaces = shares[i];
    struct sim sim = simulate(&program);
    require_below_goal(&sim);
    assert_true(sim.waited_late_ns == 0);
    assert_true(goal_of(&sim) >= 190 * MIB);
    assert_true(goal_of(&sim) <= 200 * MIB + 1.25 * sim.last_beside);
    double ideal = sim.allocated_late / (100 * MIB);
    assert_true(sim.cycles_late <= 1.3 * ideal);
  }
}

/* Marking is too slow for what is allocated meanwhile: then there is no way but
   to wait. Cycles follow one another, and the heap keeps its size all the same.
 */
static void a_program_that_is_too_fast_waits(void **state) {
  (void)state;
  struct program program = usual;
  program.rate = rate_1000;
  program.mark_rate = 100;
  struct sim sim = simulate(&program);
  require_below_goal(&sim);
  assert_true(sim.waited_ns > 0);
  assert_true(sim.allocated > 0.1 * 1000 * MIB * program.seconds);
}

/* ---- Where something does ---- */

static void require_changes_are_survived(double (*rate)(double),
                                         double (*live)(double)) {
  static const int percents[] = {30, 100, 200};
  for (size_t p = 0; p < TEST_COUNT(percents); p++) {
    struct program program = usual;
    program.rate = rate;
    program.live = live;
    program.percent = percents[p];
    program.seconds = 4;
    struct sim sim = simulate(&program);
    require_below_goal(&sim);
    /* whatever happens, it gets on */
    assert_true(sim.waited_ns < 0.5 * sim.now_ns);
  }
}

static void what_lives_may_change(void **state) {
  (void)state;
  require_changes_are_survived(rate_1000, live_doubles);
  require_changes_are_survived(rate_1000, live_grows_fast);
  require_changes_are_survived(rate_1000, live_halves);
  require_changes_are_survived(rate_1000, live_waves);
}

/* After a phase with much alive the goal comes down again. */
static void what_died_is_given_up(void **state) {
  (void)state;
  struct program program = usual;
  program.live = live_halves;
  program.rate = rate_1000;
  struct sim sim = simulate(&program);
  assert_true(goal_of(&sim) < 230 * MIB);
}

static void bursts_are_survived(void **state) {
  (void)state;
  require_changes_are_survived(rate_burst, live_20);
  require_changes_are_survived(rate_burst, live_100);
  require_changes_are_survived(rate_rests, live_100);
}

static void leaks_are_survived(void **state) {
  (void)state;
  require_changes_are_survived(rate_1000, live_leaks);
}

/* ---- Limits ---- */

static struct sim simulate_limit(double limit, int percent,
                                 double (*rate)(double)) {
  struct program program = usual;
  program.limit_bytes = (uint64_t)(limit * MIB);
  program.percent = percent;
  program.rate = rate;
  return simulate(&program);
}

static void require_half_of_the_time(const struct sim *sim) {
  double share = sim->gc_ns / (sim->now_ns * sim->program->cpus);
  if (share > 0.5) {
    fail_msg("%.2f of the time", share);
  }
}

/* 100 MiB live. */
static void a_limit_with_room_is_kept(void **state) {
  (void)state;
  static const double limits[] = {130, 150, 180};
  for (size_t i = 0; i < TEST_COUNT(limits); i++) {
    struct sim sim = simulate_limit(limits[i], 100, rate_1000);
    assert_true(sim.peak <= 1.1 * limits[i] * MIB);
    assert_true(sim.is_by_limit && !sim.is_tight);
    require_below_goal(&sim);
  }
  struct sim sim = simulate_limit(1000, 100, rate_1000);
  assert_false(sim.is_by_limit);
  require_below_goal(&sim);
}

/* The heap outgrows it, and the program gets on. */
static void a_limit_without_room_takes_half_of_the_time(void **state) {
  (void)state;
  static const double limits[] = {20, 90, 99, 101, 104};
  for (size_t i = 0; i < TEST_COUNT(limits); i++) {
    struct sim sim = simulate_limit(limits[i], 100, rate_1000);
    assert_true(sim.is_tight);
    require_half_of_the_time(&sim);
    assert_true(sim.peak < 250 * MIB);
    assert_true(sim.allocated > 0.3 * 1000 * MIB * sim.program->seconds);
  }
}

static void without_a_percentage_there_are_no_cycles(void **state) {
  (void)state;
  struct program program = usual;
  program.percent = -1;
  struct sim sim = simulate(&program);
  assert_int_equal(sim.cycles, 0);
  assert_true(sim.waited_ns == 0);
}

static void without_a_percentage_the_limit_brings_them(void **state) {
  (void)state;
  struct sim sim = simulate_limit(400, -1, rate_1000);
  double ideal = sim.allocated / (300 * MIB);
  assert_true(sim.cycles >= 0.9 * ideal && sim.cycles <= 1.2 * ideal + 1);
  assert_true(sim.peak <= 1.1 * 400 * MIB);
  require_below_goal(&sim);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(steady_programs_have_few_cycles_and_never_wait),
      cmocka_unit_test(small_heaps_have_few_cycles_too),
      cmocka_unit_test(what_floats_does_not_pile_up),
      cmocka_unit_test(a_program_that_is_too_fast_waits),
      cmocka_unit_test(what_lives_may_change),
      cmocka_unit_test(what_died_is_given_up),
      cmocka_unit_test(bursts_are_survived),
      cmocka_unit_test(leaks_are_survived),
      cmocka_unit_test(a_limit_with_room_is_kept),
      cmocka_unit_test(a_limit_without_room_takes_half_of_the_time),
      cmocka_unit_test(without_a_percentage_there_are_no_cycles),
      cmocka_unit_test(without_a_percentage_the_limit_brings_them),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
