/* Lists loaded modules; see module.h. */
#define _GNU_SOURCE
#include "module.h"

#include <errno.h>
#include <link.h>

#include "../base/os.h"
#include "../base/vector.h"

/* All of the thread that holds the cycle lock. */
struct wane__addresses *wane__module_data;
size_t wane__module_data_count;
struct wane__module_tls *wane__module_tls;
size_t wane__module_tls_count;
static size_t module_data_capacity;
static size_t module_tls_capacity;

static bool module_add_data(uintptr_t start, uintptr_t end) {
  start = (start + 7) & ~(uintptr_t)7;
  end &= ~(uintptr_t)7;
  if (start >= end) {
    return true;
  }
  if (!wane__vector_reserve((void **)&wane__module_data, &module_data_capacity,
                            wane__module_data_count,
                            wane__module_data_count + 1,
                            sizeof *wane__module_data)) {
    return false;
  }
  wane__module_data[wane__module_data_count++] =
      (struct wane__addresses){start, end};
  return true;
}

static bool module_add_tls(size_t id, size_t bytes) {
  if (id == 0 || bytes == 0) {
    return true;
  }
  if (!wane__vector_reserve((void **)&wane__module_tls, &module_tls_capacity,
                            wane__module_tls_count, wane__module_tls_count + 1,
                            sizeof *wane__module_tls)) {
    return false;
  }
  wane__module_tls[wane__module_tls_count++] =
      (struct wane__module_tls){id, bytes};
  return true;
}

/* The part of a writable segment that stays writable: what the linker made
   read-only after relocation holds no managed pointers. */
static bool module_add_segment(const struct dl_phdr_info *info,
                               const ElfW(Phdr) * segment) {
  uintptr_t start = info->dlpi_addr + segment->p_vaddr;
  uintptr_t end = start + segment->p_memsz;
  for (unsigned i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *relro = &info->dlpi_phdr[i];
    if (relro->p_type != PT_GNU_RELRO) {
      continue;
    }
    uintptr_t low = info->dlpi_addr + relro->p_vaddr;
    uintptr_t high = (low + relro->p_memsz) & ~(WANE__PAGE_BYTES_MIN - 1ul);
    if (low <= start && high > start) {
      start = high < end ? high : end;
    }
  }
  return module_add_data(start, end);
}

/* For each module; nonzero ends the iteration and means: no memory. */
static int module_visit(struct dl_phdr_info *info, size_t size, void *arg) {
  (void)arg;
  for (unsigned i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
    if (segment->p_type == PT_LOAD && (segment->p_flags & PF_W) != 0 &&
        !module_add_segment(info, segment)) {
      return 1;
    }
    if (segment->p_type == PT_TLS &&
        size >= offsetof(struct dl_phdr_info, dlpi_tls_modid) +
                    sizeof info->dlpi_tls_modid &&
        !module_add_tls(info->dlpi_tls_modid, segment->p_memsz)) {
      return 1;
    }
  }
  return 0;
}

struct module_hold {
  void (*body)(void *arg);
  void *arg;
  bool ran;
};

/* Called for the first module, with the linker's (recursive) lock held. */
static int module_hold_locked(struct dl_phdr_info *info, size_t size,
                              void *arg) {
  (void)info;
  (void)size;
  struct module_hold *hold = arg;
  wane__module_data_count = wane__module_tls_count = 0;
  if (dl_iterate_phdr(module_visit, NULL) == 0) {
    hold->ran = true;
    hold->body(hold->arg);
  }
  return 1;
}

bool wane__modules_hold(void (*body)(void *arg), void *arg) {
  struct module_hold hold = {.body = body, .arg = arg};
  dl_iterate_phdr(module_hold_locked, &hold);
  if (!hold.ran) {
    errno = ENOMEM;
  }
  return hold.ran;
}
