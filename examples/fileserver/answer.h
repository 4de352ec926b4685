/*
 * Answers to requests: files out of shared mappings, listings of directories,
 * errors. Called on the threads of libmicrohttpd.
 */
#ifndef ANSWER_H
#define ANSWER_H

#include <microhttpd.h>
#include <stddef.h>
#include <stdint.h>

/* For MHD_start_daemon. */
enum MHD_Result answer_request(void *cls, struct MHD_Connection *connection,
                               const char *url, const char *method,
                               const char *version, const char *upload,
                               size_t *upload_size, void **request_cls);

/* Leaves the path as it is: tree_path decodes it. */
size_t answer_unescape(void *cls, struct MHD_Connection *connection,
                       char *text);

/* How many requests have been answered. */
uint64_t answer_count(void);

#endif
