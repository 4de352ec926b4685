/*
 * fileserver: serves the files of a directory by HTTP, on libmicrohttpd, out of
 * shared mappings (wane/mapped.h). A request maps the file, or finds it mapped,
 * and hands its bytes to libmicrohttpd; nobody unmaps one. At the end, which is
 * SIGINT or SIGTERM, the program proves that all are gone: it exits with 1 if a
 * file of the directory is mapped still or a descriptor is open.
 *
 * Requests are served on libmicrohttpd's own threads. As this program is linked
 * with Wane, its pthread_create is the one libmicrohttpd calls, and so their
 * stacks are roots like any other's.
 */
#define _GNU_SOURCE
#include "answer.h"
#include "proof.h"
#include "tree.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 64, THREADS = 4, IDLE_SECONDS = 60 };

static struct {
  unsigned port, threads;
  const char *dir;
} options = {.threads = THREADS};

static sigset_t end_signals;

static struct MHD_Daemon *daemon_start(void) {
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)options.port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  return MHD_start_daemon(
      MHD_USE_AUTO_INTERNAL_THREAD, 0, NULL, NULL, answer_request, NULL,
      MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_UNESCAPE_CALLBACK,
      answer_unescape, NULL, MHD_OPTION_CONNECTION_TIMEOUT,
      (unsigned)IDLE_SECONDS, MHD_OPTION_THREAD_POOL_SIZE,
      options.threads > 1 ? options.threads : 0, MHD_OPTION_END);
}

/* Serves until a signal comes: NULL, or what went wrong. On a thread of its
   own, so that nothing in a frame can be taken for a pointer to a file when the
   mappings are counted. */
static void *serve(void *unused) {
  struct MHD_Daemon *daemon = daemon_start();
  int signal;
  (void)unused;
  if (!daemon) {
    return errno != 0 ? strerror(errno) : "no server";
  }
  printf("http://127.0.0.1:%d/ serves %s\n",
         MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port,
         options.dir);
  fflush(stdout);
  sigwait(&end_signals, &signal);
  MHD_stop_daemon(daemon); /* closes all connections, drops all responses */
  return NULL;
}

/* Serves; false if that was not possible. */
static bool run(void) {
  pthread_t thread;
  void *wrong = NULL;
  int error;
  if (!tree_begin(options.dir)) {
    fprintf(stderr, "fileserver: %s: %s\n", options.dir, strerror(errno));
    return false;
  }
  error = pthread_create(&thread, NULL, serve, NULL);
  if (error == 0) {
    pthread_join(thread, &wrong);
  } else {
    wrong = strerror(error);
  }
  tree_end();
  if (wrong) {
    fprintf(stderr, "fileserver: port %u: %s\n", options.port, (char *)wrong);
  }
  return !wrong;
}

static bool parse_number(const char *text, unsigned long least,
                         unsigned long most, unsigned *value) {
  char *end;
  errno = 0;
  unsigned long number = strtoul(text, &end, 10);
  *value = (unsigned)number;
  return *text >= '0' && *text <= '9' && !*end && !errno && number >= least &&
         number <= most;
}

static bool parse_options(int argc, char **argv) {
  static const struct option known[] = {
      {"port", required_argument, NULL, 'p'},
      {"threads", required_argument, NULL, 't'},
      {0},
  };
  int option;
  while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
    bool ok = option == 'p'
                  ? parse_number(optarg, 0, UINT16_MAX, &options.port)
                  : option == 't' &&
                        parse_number(optarg, 1, THREADS_MAX, &options.threads);
    if (!ok) {
      return false;
    }
  }
  options.dir = argv[optind];
  return argc == optind + 1;
}

int main(int argc, char **argv) {
  struct wane_stats stats = {.size = sizeof stats};
  char *dir;
  if (!parse_options(argc, argv)) {
    fprintf(stderr, "usage: fileserver [--port N] [--threads N] DIR\n"
                    "port 0, the default: any; threads: 1 to 64, or else 4\n");
    return 2;
  }
  dir = realpath(options.dir, NULL);
  if (!dir || !proof_begin(dir)) {
    fprintf(stderr, "fileserver: %s: %s\n", options.dir, strerror(errno));
    return 2;
  }
  free(dir);
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&end_signals);
  sigaddset(&end_signals, SIGINT);
  sigaddset(&end_signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &end_signals, NULL); /* the threads', too */
  if (!run()) {
    return 2;
  }
  wane_collect();
  wane_drain(-1);
  wane_read_stats(&stats);
  printf("requests %" PRIu64 ", mappings made %" PRIu64 ", live %" PRIu64
         ", unmapped %" PRIu64 "\n",
         answer_count(), stats.files_mapped, stats.foreign_live,
         stats.files_unmapped);
  if (fflush(stdout) != 0) {
    fprintf(stderr, "fileserver: cannot write: %s\n", strerror(errno));
    return 2;
  }
  return proof_end() ? 0 : 1;
}
