/*
 * wane/heap.h: the collected heap: allocate, look up, pin, add roots, threads.
 *
 * Every function may be called from any thread, none from a signal handler.
 * A call that succeeds leaves errno alone. Out of memory is NULL with ENOMEM,
 * after a full collection has been tried. A caller's mistake (an interior
 * pointer to wane_realloc, an unpin too many) prints one line
 * "wane: FUNCTION: what is wrong" on stderr and aborts.
 *
 * An object lives while any root or live object holds a pointer to any byte
 * of it; a pointer one past its end does not count. Roots are registers,
 * stacks, thread-locals, the writable data of every loaded module, added
 * roots and pins. Memory from malloc or mmap is not a root.
 */
#ifndef WANE_HEAP_H
#define WANE_HEAP_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#  define WANE_PRIV_PRINTF(format_idx, args_idx)                               \
    __attribute__((format(printf, format_idx, args_idx)))
#else
#  define WANE_PRIV_PRINTF(format_idx, args_idx)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Where the pointers of a type are, for wane_alloc_typed. The struct and its
   offsets must stay valid as long as any object of the type lives; offsets
   are in bytes, multiples of sizeof(void *), and inside the size. */
struct wane_type {
  const char *name;
  size_t size; /* bytes of one element */
  size_t pointer_count;
  const size_t *pointer_offsets;
};

/* Allocates size bytes, zeroed and 16-aligned, in which any aligned word may
   be a pointer. Size 0 gives a valid, distinct object. NULL with ENOMEM when
   the request cannot be met even after a full collection. May collect. */
void *wane_alloc(size_t size);

/* The same for memory that holds no pointers: it is never scanned, so
   pointers put in it keep nothing alive. Strings, pixels, numbers. */
void *wane_alloc_leaf(size_t size);

/* As wane_alloc, with the address a multiple of alignment: a power of two
   from 1 byte to 2 MiB, else NULL with EINVAL. */
void *wane_alloc_aligned(size_t size, size_t alignment);

/* Allocates count elements of type, scanned by the type's layout only. A type
   that is NULL or inconsistent is a fatal mistake; an overflow of
   count * type->size is NULL with ENOMEM. */
void *wane_alloc_typed(const struct wane_type *type, size_t count);

/* Gives an object of at least size bytes that starts with ptr's contents and
   keeps its kind (and type: the size is rounded up to whole elements). New
   bytes are zero. May return ptr itself when its size class allows; the old
   object is otherwise left to the collector, unchanged. Alignment beyond 16
   and pins do not carry over. ptr NULL: as wane_alloc. ptr that is not the
   start of a live object: fatal. NULL with ENOMEM leaves ptr as it was. */
void *wane_realloc(void *ptr, size_t size);

/* Copies of strings, as leaf objects. wane_strndup copies at most n bytes. */
char *wane_strdup(const char *s);
char *wane_strndup(const char *s, size_t n);

/* A formatted string as a leaf object; NULL with errno as vsnprintf sets it
   when the format fails, or ENOMEM. */
char *wane_printf(const char *format, ...) WANE_PRIV_PRINTF(1, 2);

/* Start of the live object that ptr points into, else NULL. Any value may be
   asked about. */
void *wane_base(const void *ptr);

/* Usable bytes of that object (at least what was asked for), else 0. */
size_t wane_size(const void *ptr);

/* Keeps the object that ptr points into alive until unpinned as often as it
   was pinned; any pointers into one object count together. For pointers that
   only unmanaged memory holds. ptr that points into no live object, or one
   unpin too many: fatal. Out of memory for the record: fatal too, since the
   call has no way to say so and going on would lose the object. */
void wane_pin(const void *ptr);
void wane_unpin(const void *ptr);

/* Scans [start, start + size) of unmanaged memory as roots, conservatively,
   from the next cycle on; it must stay readable until removed with the same
   start. Overlap with an added root, NULL, wrap-around, or memory of the
   managed heap: fatal. Removing what is not there: fatal. */
void wane_add_root(const void *start, size_t size);
void wane_remove_root(const void *start);

/* Makes the calling thread known, so that its stack, registers and
   thread-locals are roots. Automatic for the main thread, for every
   pthread_create in a program that links wane, and at a foreign thread's
   first call. Attaching twice is harmless. Detaching, for a foreign thread
   that lives on, ends this: what only its stack holds may be collected. */
void wane_thread_attach(void);
void wane_thread_detach(void);

/* count * size, or SIZE_MAX (which no allocation meets) on overflow. */
static inline size_t wane_priv_array_bytes(size_t count, size_t size) {
  return size != 0 && count > SIZE_MAX / size ? SIZE_MAX : count * size;
}

/* Bytes of a struct of struct_bytes whose flexible array member starts at
   offset and has count elements of size bytes; SIZE_MAX on overflow. */
static inline size_t wane_priv_flex_bytes(size_t struct_bytes, size_t offset,
                                          size_t count, size_t size) {
  size_t array = wane_priv_array_bytes(count, size);
  size_t total;
  if (array > SIZE_MAX - offset) {
    return SIZE_MAX;
  }
  total = offset + array;
  return total < struct_bytes ? struct_bytes : total;
}

#ifdef __cplusplus
}
#endif

/* One zeroed T, or an array of n; NULL with ENOMEM, also when n * sizeof(T)
   overflows. The leaf forms are for types without pointers. */
#define wane_new(T) ((T *)wane_alloc(sizeof(T)))
#define wane_new_array(T, n)                                                   \
  ((T *)wane_alloc(wane_priv_array_bytes((n), sizeof(T))))
#define wane_new_leaf(T) ((T *)wane_alloc_leaf(sizeof(T)))
#define wane_new_leaf_array(T, n)                                              \
  ((T *)wane_alloc_leaf(wane_priv_array_bytes((n), sizeof(T))))

/* A T whose last member is a flexible array, with n elements in it. */
#define wane_new_flex(T, member, n)                                            \
  ((T *)wane_alloc(wane_priv_flex_bytes(sizeof(T), offsetof(T, member), (n),   \
                                        sizeof(((T *)0)->member[0]))))

/* WANE_TYPE(node_type, struct node, left, right);
   defines   static const struct wane_type node_type
   from the names of the fields that hold pointers: 1 to 24 of them. The
   elements of an array field are named one by one: slot[0], slot[1]. */
#define WANE_TYPE(ident, T, ...)                                               \
  static const size_t ident##_offsets[] = {WANE_PRIV_OFFSETS(T, __VA_ARGS__)}; \
  static const struct wane_type ident = {                                      \
      #T, sizeof(T), sizeof ident##_offsets / sizeof ident##_offsets[0],       \
      ident##_offsets}

#define WANE_PRIV_OFFSETS(T, ...)                                              \
  WANE_PRIV_PICK(__VA_ARGS__, WANE_PRIV_O24, WANE_PRIV_O23, WANE_PRIV_O22,     \
                 WANE_PRIV_O21, WANE_PRIV_O20, WANE_PRIV_O19, WANE_PRIV_O18,   \
                 WANE_PRIV_O17, WANE_PRIV_O16, WANE_PRIV_O15, WANE_PRIV_O14,   \
                 WANE_PRIV_O13, WANE_PRIV_O12, WANE_PRIV_O11, WANE_PRIV_O10,   \
                 WANE_PRIV_O9, WANE_PRIV_O8, WANE_PRIV_O7, WANE_PRIV_O6,       \
                 WANE_PRIV_O5, WANE_PRIV_O4, WANE_PRIV_O3, WANE_PRIV_O2,       \
                 WANE_PRIV_O1, 0)                                              \
  (T, __VA_ARGS__)
#define WANE_PRIV_PICK(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, \
                       a14, a15, a16, a17, a18, a19, a20, a21, a22, a23, a24,  \
                       name, ...)                                              \
  name
#define WANE_PRIV_O1(T, f) offsetof(T, f)
#define WANE_PRIV_O2(T, f, ...) offsetof(T, f), WANE_PRIV_O1(T, __VA_ARGS__)
#define WANE_PRIV_O3(T, f, ...) offsetof(T, f), WANE_PRIV_O2(T, __VA_ARGS__)
#define WANE_PRIV_O4(T, f, ...) offsetof(T, f), WANE_PRIV_O3(T, __VA_ARGS__)
#define WANE_PRIV_O5(T, f, ...) offsetof(T, f), WANE_PRIV_O4(T, __VA_ARGS__)
#define WANE_PRIV_O6(T, f, ...) offsetof(T, f), WANE_PRIV_O5(T, __VA_ARGS__)
#define WANE_PRIV_O7(T, f, ...) offsetof(T, f), WANE_PRIV_O6(T, __VA_ARGS__)
#define WANE_PRIV_O8(T, f, ...) offsetof(T, f), WANE_PRIV_O7(T, __VA_ARGS__)
#define WANE_PRIV_O9(T, f, ...) offsetof(T, f), WANE_PRIV_O8(T, __VA_ARGS__)
#define WANE_PRIV_O10(T, f, ...) offsetof(T, f), WANE_PRIV_O9(T, __VA_ARGS__)
#define WANE_PRIV_O11(T, f, ...) offsetof(T, f), WANE_PRIV_O10(T, __VA_ARGS__)
#define WANE_PRIV_O12(T, f, ...) offsetof(T, f), WANE_PRIV_O11(T, __VA_ARGS__)
#define WANE_PRIV_O13(T, f, ...) offsetof(T, f), WANE_PRIV_O12(T, __VA_ARGS__)
#define WANE_PRIV_O14(T, f, ...) offsetof(T, f), WANE_PRIV_O13(T, __VA_ARGS__)
#define WANE_PRIV_O15(T, f, ...) offsetof(T, f), WANE_PRIV_O14(T, __VA_ARGS__)
#define WANE_PRIV_O16(T, f, ...) offsetof(T, f), WANE_PRIV_O15(T, __VA_ARGS__)
#define WANE_PRIV_O17(T, f, ...) offsetof(T, f), WANE_PRIV_O16(T, __VA_ARGS__)
#define WANE_PRIV_O18(T, f, ...) offsetof(T, f), WANE_PRIV_O17(T, __VA_ARGS__)
#define WANE_PRIV_O19(T, f, ...) offsetof(T, f), WANE_PRIV_O18(T, __VA_ARGS__)
#define WANE_PRIV_O20(T, f, ...) offsetof(T, f), WANE_PRIV_O19(T, __VA_ARGS__)
#define WANE_PRIV_O21(T, f, ...) offsetof(T, f), WANE_PRIV_O20(T, __VA_ARGS__)
#define WANE_PRIV_O22(T, f, ...) offsetof(T, f), WANE_PRIV_O21(T, __VA_ARGS__)
#define WANE_PRIV_O23(T, f, ...) offsetof(T, f), WANE_PRIV_O22(T, __VA_ARGS__)
#define WANE_PRIV_O24(T, f, ...) offsetof(T, f), WANE_PRIV_O23(T, __VA_ARGS__)

#endif
