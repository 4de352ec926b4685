/*
 * Loaded modules: the program, its libraries, what it dlopened. Their
 * writable data are roots, and so are their thread-locals in every thread.
 *
 * The list is taken, and the stop made, while the dynamic linker's lock is
 * held (inside dl_iterate_phdr): a dlclose in another thread is either done
 * before or waits, so nothing that is scanned is unmapped meanwhile, and no
 * stopped thread can be half way through changing the list.
 */
#ifndef WANE_MUTATOR_MODULE_H
#define WANE_MUTATOR_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wane__addresses {
  uintptr_t start;
  uintptr_t end;
};

struct wane__module_tls {
  size_t id;
  size_t bytes;
};

/* Lists the modules, then calls body(arg) while none can come or go. False
   with ENOMEM, body not called, if there is no memory for the list. */
bool wane__modules_hold(void (*body)(void *arg), void *arg);

/* What the list holds; valid inside body. */
extern struct wane__addresses *wane__module_data;
extern size_t wane__module_data_count;
extern struct wane__module_tls *wane__module_tls;
extern size_t wane__module_tls_count;

#endif
