/*
 * One request, one response. Nothing is kept from one request to the next: that
 * a file stays mapped while it is asked for, and is mapped once however many
 * connections send it, is the library's work. A file that nobody has asked for
 * since the last cycle of the collector is unmapped, and so is, once it has
 * been sent to the end, one that was replaced or removed.
 */
#define _GNU_SOURCE
#include "answer.h"

#include "tree.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <wane.h>

/* A response under construction; NULL: none could be made. */
struct answer {
  struct MHD_Response *response;
  unsigned status;
};

/* The part of a file that is sent. */
struct part {
  size_t from, size;
};

static atomic_uint_fast64_t answered;

uint64_t answer_count(void) { return answered; }

size_t answer_unescape(void *cls, struct MHD_Connection *connection,
                       char *text) {
  (void)cls;
  (void)connection;
  return strlen(text);
}

/* ---- Responses ---- */

static void answer_unpin(void *file) { wane_unpin(file); }

/* A response with a part of a mapped file. libmicrohttpd sends the bytes from
   where they are, and its own memory, which alone holds a pointer then, is
   malloc's and not scanned. So the mapping is pinned until the response is
   destroyed: when it has been sent, and just as well when the client went away
   or the server is stopped. A managed root would do, too, but needs a table of
   responses and a lock; pins are counted, and that is all that is needed.

   If the file is cut shorter while it is sent, sending fails with EFAULT, which
   ends the connection: the SIGBUS of mapped.h is for those who read the bytes,
   and here nobody but the system does. */
static struct answer answer_bytes(unsigned status, struct wane_mapped *file,
                                  const struct part *part) {
  struct answer answer = {.status = status};
  char *bytes = (char *)file->data + part->from;
  wane_pin(file);
  answer.response = MHD_create_response_from_buffer_with_free_callback_cls(
      part->size, bytes, answer_unpin, file);
  if (!answer.response) {
    wane_unpin(file);
  }
  return answer;
}

/* Gives up the answer if the header cannot be added. */
static void answer_add(struct answer *answer, const char *name,
                       const char *value) {
  if (answer->response &&
      (!value ||
       MHD_add_response_header(answer->response, name, value) != MHD_YES)) {
    MHD_destroy_response(answer->response);
    answer->response = NULL;
  }
}

static struct answer answer_text(unsigned status, const char *text) {
  struct answer answer = {.status = status};
  answer.response = MHD_create_response_from_buffer(strlen(text), (void *)text,
                                                    MHD_RESPMEM_PERSISTENT);
  answer_add(&answer, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain");
  return answer;
}

static struct answer answer_error(int error) {
  switch (error) {
  case EINVAL:
    return answer_text(MHD_HTTP_BAD_REQUEST, "400 bad request\n");
  case ENOENT:
  case ENOTDIR:
  case ENAMETOOLONG:
    return answer_text(MHD_HTTP_NOT_FOUND, "404 not found\n");
  case EXDEV: /* leads out of the directory */
  case EACCES:
  case EPERM:
  case ELOOP:
  case ENODEV: /* neither a file nor a directory */
    return answer_text(MHD_HTTP_FORBIDDEN, "403 forbidden\n");
  default: /* EMFILE, ENFILE, ENOMEM, ... */
    return answer_text(MHD_HTTP_SERVICE_UNAVAILABLE, "503 try again\n");
  }
}

/* ---- Files ---- */

static const char *type_of(const char *path) {
  static const struct {
    const char *extension, *type;
  } types[] = {
      {"css", "text/css"},        {"gif", "image/gif"},
      {"htm", "text/html"},       {"html", "text/html"},
      {"jpeg", "image/jpeg"},     {"jpg", "image/jpeg"},
      {"js", "text/javascript"},  {"json", "application/json"},
      {"md", "text/markdown"},    {"pdf", "application/pdf"},
      {"png", "image/png"},       {"svg", "image/svg+xml"},
      {"txt", "text/plain"},      {"wasm", "application/wasm"},
      {"xml", "application/xml"},
  };
  const char *dot = strrchr(path, '.');
  for (size_t i = 0; dot && i < sizeof types / sizeof types[0]; i++) {
    if (strcasecmp(dot + 1, types[i].extension) == 0) {
      return types[i].type;
    }
  }
  return "application/octet-stream";
}

/* What tells one mapping from another, for a client to repeat. */
static char *tag_of(const struct stat *st) {
  return wane_printf("\"%jx-%jx-%jx-%jx.%lx\"", (uintmax_t)st->st_dev,
                     (uintmax_t)st->st_ino, (uintmax_t)st->st_size,
                     (uintmax_t)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
}

static const char *request_header(struct MHD_Connection *connection,
                                  const char *name) {
  return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

/* True if If-None-Match lists the tag. The seconds of If-Modified-Since are too
   coarse for files that are replaced, so it is not looked at. */
static bool has_client(struct MHD_Connection *connection, const char *tag) {
  const char *tags = request_header(connection, MHD_HTTP_HEADER_IF_NONE_MATCH);
  return tags && (strstr(tags, tag) || strcmp(tags, "*") == 0);
}

/* A decimal number, SIZE_MAX if it is larger. False: there is none. */
static bool number_parse(const char **text, size_t *value) {
  const char *start = *text;
  for (*value = 0; **text >= '0' && **text <= '9'; ++*text) {
    size_t digit = (size_t)(**text - '0');
    *value = *value > (SIZE_MAX - digit) / 10 ? SIZE_MAX : *value * 10 + digit;
  }
  return *text > start;
}

/* Which part of size bytes Range asks for: 206; 200, the whole, if it asks for
   none or for several, or cannot be read, or is for another file than that of
   the tag; 416 if there is no such part. */
static unsigned part_find(struct MHD_Connection *connection, const char *tag,
                          size_t size, struct part *part) {
  const char *text = request_header(connection, MHD_HTTP_HEADER_RANGE);
  const char *only = request_header(connection, MHD_HTTP_HEADER_IF_RANGE);
  size_t last = SIZE_MAX;
  *part = (struct part){0, size};
  if (!text || size == 0 || (only && strcmp(only, tag) != 0) ||
      strncasecmp(text, "bytes=", 6) != 0) {
    return MHD_HTTP_OK;
  }
  text += 6;
  if (*text == '-') { /* so many at the end */
    text++;
    if (!number_parse(&text, &last) || *text) {
      return MHD_HTTP_OK;
    }
    part->size = last < size ? last : size;
    part->from = size - part->size;
    return last > 0 ? MHD_HTTP_PARTIAL_CONTENT : MHD_HTTP_RANGE_NOT_SATISFIABLE;
  }
  size_t from;
  if (!number_parse(&text, &from) || *text++ != '-' ||
      (*text && !number_parse(&text, &last)) || *text || last < from) {
    return MHD_HTTP_OK;
  }
  if (from >= size) {
    return MHD_HTTP_RANGE_NOT_SATISFIABLE;
  }
  part->from = from;
  part->size = (last < size ? last + 1 : size) - from;
  return MHD_HTTP_PARTIAL_CONTENT;
}

/* The file of place: all of it, a part, or that the client has it already (for
   which libmicrohttpd sends the size, but no bytes, as it does for HEAD). */
static struct answer answer_file(struct MHD_Connection *connection,
                                 const struct tree_place *place,
                                 const char *path, bool is_get) {
  if (!S_ISREG(place->st.st_mode)) {
    return answer_error(ENODEV);
  }
  const char *tag = tag_of(&place->st);
  struct wane_mapped *file = tag ? tree_map(place) : NULL;
  if (!file) {
    return answer_error(errno);
  }
  struct part part = {0, file->size};
  unsigned status = has_client(connection, tag) ? MHD_HTTP_NOT_MODIFIED
                    : is_get ? part_find(connection, tag, file->size, &part)
                             : MHD_HTTP_OK;
  struct answer answer;
  if (status == MHD_HTTP_RANGE_NOT_SATISFIABLE) {
    answer = answer_text(status, "416 no such range\n");
    answer_add(&answer, MHD_HTTP_HEADER_CONTENT_RANGE,
               wane_printf("bytes */%zu", file->size));
    return answer;
  }
  answer = answer_bytes(status, file, &part);
  if (status == MHD_HTTP_PARTIAL_CONTENT) {
    answer_add(&answer, MHD_HTTP_HEADER_CONTENT_RANGE,
               wane_printf("bytes %zu-%zu/%zu", part.from,
                           part.from + part.size - 1, file->size));
  }
  char date[64];
  struct tm tm;
  strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT",
           gmtime_r(&place->st.st_mtim.tv_sec, &tm));
  answer_add(&answer, MHD_HTTP_HEADER_LAST_MODIFIED, date);
  answer_add(&answer, MHD_HTTP_HEADER_ETAG, tag);
  answer_add(&answer, MHD_HTTP_HEADER_ACCEPT_RANGES, "bytes");
  answer_add(&answer, MHD_HTTP_HEADER_CONTENT_TYPE, type_of(path));
  return answer;
}

/* ---- Directories ---- */

/* Writes name so that nothing in it has a meaning in HTML, or in a URL. */
static void listing_name(FILE *out, const char *name, bool is_url) {
  for (; *name; name++) {
    unsigned char c = (unsigned char)*name;
    if (isalnum(c) || strchr("._-", c) || (!is_url && c >= 128)) {
      putc(c, out);
    } else {
      fprintf(out, is_url ? "%%%02X" : "&#%d;", c);
    }
  }
}

static void listing_write(FILE *out, struct dirent **names, int count) {
  fputs("<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<ul>\n", out);
  for (int i = 0; i < count; i++) {
    const char *name = names[i]->d_name;
    const char *slash = names[i]->d_type == DT_DIR ? "/" : "";
    if (name[0] != '.') {
      fputs("<li><a href=\"./", out);
      listing_name(out, name, true);
      fprintf(out, "%s\">", slash);
      listing_name(out, name, false);
      fprintf(out, "%s</a>\n", slash);
    }
  }
}

/* Names that begin with a dot are left out, though served. scandirat and
   open_memstream give malloc's memory, which has to be freed. */
static struct answer answer_listing(const struct tree_place *place) {
  struct answer answer = {NULL, MHD_HTTP_OK};
  struct dirent **names;
  char *text = NULL;
  size_t size = 0;
  int count = scandirat(place->fd, ".", &names, NULL, alphasort);
  if (count < 0) {
    return answer_error(errno);
  }
  FILE *out = open_memstream(&text, &size);
  if (out) {
    listing_write(out, names, count);
  }
  while (count > 0) {
    free(names[--count]);
  }
  free(names);
  if (out && fclose(out) == 0) {
    answer.response =
        MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
  }
  if (!answer.response) {
    free(text);
    return answer_error(ENOMEM);
  }
  answer_add(&answer, MHD_HTTP_HEADER_CONTENT_TYPE, "text/html");
  return answer;
}

/* The path of a directory without a slash behind it: links in the page would
   lead to its neighbours, so the client is sent to the path with a slash. */
static struct answer answer_slash(const char *url) {
  struct answer answer =
      answer_text(MHD_HTTP_MOVED_PERMANENTLY, "301 with a slash behind it\n");
  const char *name = strrchr(url, '/');
  answer_add(&answer, MHD_HTTP_HEADER_LOCATION,
             wane_printf("./%s/", name ? name + 1 : url));
  return answer;
}

static void close_deferred(void *place) { tree_close(place); }

static struct answer answer_directory(struct MHD_Connection *connection,
                                      const struct tree_place *place,
                                      const char *path, bool is_get) {
  char *index_path = wane_printf("%s/index.html", path);
  struct tree_place index;
  if (!index_path || !tree_open(index_path, &index)) {
    return errno == ENOENT ? answer_listing(place) : answer_error(errno);
  }
  WANE_DEFER(close_deferred, &index);
  return answer_file(connection, &index, index_path, is_get);
}

/* ---- Requests ---- */

static struct answer answer_url(struct MHD_Connection *connection,
                                const char *url, bool is_get) {
  char *path = tree_path(url);
  struct tree_place place;
  if (!path || !tree_open(path, &place)) {
    return answer_error(errno);
  }
  WANE_DEFER(close_deferred, &place);
  if (!S_ISDIR(place.st.st_mode)) {
    return answer_file(connection, &place, path, is_get);
  }
  if (!*url || url[strlen(url) - 1] != '/') {
    return answer_slash(url);
  }
  return answer_directory(connection, &place, path, is_get);
}

/* Called at least twice for a request: once for its headers, where only an
   answer that refuses what follows may be given, then for what follows (thrown
   away) and at the end. */
enum MHD_Result answer_request(void *cls, struct MHD_Connection *connection,
                               const char *url, const char *method,
                               const char *version, const char *upload,
                               size_t *upload_size, void **request_cls) {
  static char headers_seen;
  bool is_get = strcmp(method, MHD_HTTP_METHOD_GET) == 0;
  struct answer answer;
  (void)cls;
  (void)version;
  (void)upload;
  if (!is_get && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
    answer = answer_text(MHD_HTTP_METHOD_NOT_ALLOWED, "405 GET or HEAD\n");
    answer_add(&answer, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
  } else if (!*request_cls) {
    *request_cls = &headers_seen;
    return MHD_YES;
  } else if (*upload_size > 0) {
    *upload_size = 0;
    return MHD_YES;
  } else {
    answer = answer_url(connection, url, is_get);
  }
  atomic_fetch_add(&answered, 1);
  if (!answer.response) {
    return MHD_NO; /* closes the connection */
  }
  enum MHD_Result result =
      MHD_queue_response(connection, answer.status, answer.response);
  MHD_destroy_response(answer.response); /* the connection holds it now */
  return result;
}
