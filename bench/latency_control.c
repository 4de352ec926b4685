/*
 * bench/latency_control.c: what the machine alone does to a program's latency.
 * It sleeps until the next period begins and notes by how much it is woken
 * late, again and again, and does nothing else; no collector is linked.
 *
 *   latency_control [--period-us P]
 *
 * bench/run starts it beside each run of latency, with SIGTERM as its end. It
 * then prints when it began, by the clock that latency reports its measured
 * time in, and every lateness in ns, one for each period, so that bench/run can
 * choose those of the measured time. Who sleeps past several periods was late
 * for each of them.
 *
 * A period is 4 ms and not less, since on a virtual machine each waking costs
 * the thread that runs on that CPU 25 us: a thousand a second would be one in a
 * thousand of the gaps that it is there to explain.
 *
 * It asks for the lowest real-time priority. With that, others that want the
 * CPUs do not delay it: what is left is the kernel and the machine below it.
 * Without the right to, it competes as any thread does: real_time is 0.
 */
/* peers: none */
#include "shim.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include "report.h"

enum { SAMPLES_MAX = 1 << 18 }; /* seventeen minutes */

static long period_us = 4000;
static volatile sig_atomic_t is_over;

static uint32_t late_ns[SAMPLES_MAX]; /* 4 s at most */

static void on_term(int number) {
  (void)number;
  is_over = 1;
}

static struct timespec timespec_of(uint64_t ns) {
  return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                           .tv_nsec = (long)(ns % 1000000000u)};
}

/* Gives the number of samples. */
static size_t watch(uint64_t start_ns, uint64_t period_ns) {
  size_t count = 0;
  while (count < SAMPLES_MAX) {
    uint64_t due_ns = start_ns + count * period_ns;
    struct timespec due = timespec_of(due_ns);
    uint64_t late;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) ==
           EINTR) {
      if (is_over) {
        return count;
      }
    }
    if (is_over) {
      return count;
    }
    late = now_ns() - due_ns;
    late_ns[count++] = late < UINT32_MAX ? (uint32_t)late : UINT32_MAX;
  }
  return count;
}

int main(int argc, char **argv) {
  const struct option options[] = {{.name = "period-us", .value = &period_us},
                                   {0}};
  const struct sched_param lowest = {.sched_priority =
                                         sched_get_priority_min(SCHED_FIFO)};
  struct sigaction term = {.sa_handler = on_term};
  uint64_t start_ns;
  size_t count;
  bool is_real_time;
  read_options(argc, argv, options);
  if (period_us < 1) {
    options_fail(argv[0], options);
  }
  sigaction(SIGTERM, &term, NULL);
  prctl(PR_SET_PDEATHSIG, SIGTERM); /* it never outlives bench/run */
  prctl(PR_SET_TIMERSLACK, 1);      /* or the kernel is late to save power */
  is_real_time = sched_setscheduler(0, SCHED_FIFO, &lowest) == 0;
  memset(late_ns, 1, sizeof late_ns); /* so that noting does not fault */
  report_start("latency_control", options);
  start_ns = now_ns() + 1000000;
  count = watch(start_ns, (uint64_t)period_us * 1000);
  report_stop();
  report_count("real_time", is_real_time);
  report_count("start_ns", start_ns);
  printf(", \"late_ns\": [");
  for (size_t i = 0; i < count; i++) {
    printf("%s%" PRIu32, i != 0 ? ", " : "", late_ns[i]);
  }
  printf("]");
  report_end();
  return 0;
}
