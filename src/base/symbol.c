/* Names of code addresses from ELF files; see symbol.h. */
#define _GNU_SOURCE
#include "symbol.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "attr.h"
#include "os.h"

#define SYMBOL_PIECE_BYTES 4096
#define SYMBOL_NAME_BYTES 256
#define SYMBOL_PROGRAM "/proc/self/exe"

/* The module that an address lies in. */
struct symbol_module {
  uintptr_t address;
  bool is_after_first; /* the first module of all is the program */
  bool found;
  uintptr_t bias; /* address in memory less the one in the file */
  int fd;         /* of its file, -1: none that could be trusted */
  char name[64];
};

static bool symbol_read(int fd, void *to, size_t bytes, uint64_t from) {
  return wane__os_read_at(fd, to, bytes, from) == (ssize_t)bytes;
}

static bool symbol_is_in(const struct dl_phdr_info *info, uintptr_t start,
                         size_t bytes) {
  for (unsigned i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
    uintptr_t offset = start - (info->dlpi_addr + segment->p_vaddr);
    if (segment->p_type == PT_LOAD && offset < segment->p_memsz &&
        bytes <= segment->p_memsz - offset) {
      return true;
    }
  }
  return false;
}

/* Does the file have at its place what this note has in memory? */
static WANE_SCANS_MEMORY bool symbol_note_matches(int fd, uintptr_t bias,
                                                  const ElfW(Phdr) * note) {
  char piece[256];
  const char *memory = (const char *)(bias + note->p_vaddr);
  for (size_t done = 0; done < note->p_filesz;) {
    size_t bytes = note->p_filesz - done;
    bytes = bytes < sizeof piece ? bytes : sizeof piece;
    if (!symbol_read(fd, piece, bytes, note->p_offset + done)) {
      return false;
    }
    for (size_t i = 0; i < bytes; i++) {
      if (piece[i] != memory[done + i]) {
        return false;
      }
    }
    done += bytes;
  }
  return true;
}

/* Is the file the one that was loaded? */
static bool symbol_file_matches(int fd, const struct dl_phdr_info *info) {
  ElfW(Ehdr) header;
  if (!symbol_read(fd, &header, sizeof header, 0) ||
      memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_CLASS] != (sizeof(void *) == 8 ? 2 : 1) ||
      header.e_phnum != info->dlpi_phnum ||
      header.e_phentsize != sizeof(ElfW(Phdr))) {
    return false;
  }
  for (unsigned i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *loaded = &info->dlpi_phdr[i];
    ElfW(Phdr) stored;
    if (!symbol_read(fd, &stored, sizeof stored,
                     header.e_phoff + i * sizeof stored) ||
        memcmp(&stored, loaded, sizeof stored) != 0) {
      return false;
    }
    if (stored.p_type == PT_NOTE &&
        symbol_is_in(info, info->dlpi_addr + stored.p_vaddr, stored.p_filesz) &&
        !symbol_note_matches(fd, info->dlpi_addr, &stored)) {
      return false;
    }
  }
  return true;
}

/* The last part of a path, without what Linux says of a file that is gone. */
static void symbol_name_module(struct symbol_module *module, const char *path) {
  static const char gone[] = " (deleted)";
  const char *slash = strrchr(path, '/');
  const char *name = slash != NULL ? slash + 1 : path;
  size_t length = strlen(name);
  size_t tail = sizeof gone - 1;
  if (length > tail && memcmp(name + length - tail, gone, tail) == 0) {
    length -= tail;
  }
  length =
      length < sizeof module->name ? length : (size_t)sizeof module->name - 1;
  memcpy(module->name, name, length);
  module->name[length] = '\0';
}

/* For each module, with the linker's list locked, so that what is compared
   with the file stays mapped. */
static int symbol_visit(struct dl_phdr_info *info, size_t size, void *arg) {
  (void)size;
  struct symbol_module *module = arg;
  bool is_program = !module->is_after_first;
  module->is_after_first = true;
  if (!symbol_is_in(info, module->address, 1)) {
    return 0;
  }
  module->found = true;
  module->bias = info->dlpi_addr;
  const char *path = info->dlpi_name != NULL ? info->dlpi_name : "";
  char program[1024];
  if (is_program) {
    ssize_t n = wane__os_read_link(SYMBOL_PROGRAM, program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    symbol_name_module(module, n > 0 ? program : path);
    path = SYMBOL_PROGRAM;
  } else {
    symbol_name_module(module, path[0] != '\0' ? path : "?");
  }
  module->fd = wane__os_open(path);
  if (module->fd >= 0 && !symbol_file_matches(module->fd, info)) {
    wane__os_close(module->fd);
    module->fd = -1;
  }
  return 1;
}

/* The search through one table of symbols. */
struct symbol_search {
  int fd;
  ElfW(Ehdr) header;
  unsigned sections;
  ElfW(Shdr) strings;
  uintptr_t address; /* as in the file */
  uintptr_t passed;  /* the last function with a size that ends before it */
  bool found;
  ElfW(Sym) best;
};

static bool symbol_read_section(const struct symbol_search *search,
                                unsigned idx, ElfW(Shdr) * out) {
  return idx < search->sections &&
         symbol_read(search->fd, out, sizeof *out,
                     search->header.e_shoff + (uint64_t)idx * sizeof *out);
}

static bool symbol_read_name(const struct symbol_search *search,
                             const ElfW(Sym) * symbol, char *name,
                             size_t bytes) {
  if (symbol->st_name >= search->strings.sh_size) {
    return false;
  }
  size_t left = search->strings.sh_size - symbol->st_name;
  ssize_t n =
      wane__os_read_at(search->fd, name, left < bytes - 1 ? left : bytes - 1,
                       search->strings.sh_offset + symbol->st_name);
  name[n > 0 ? n : 0] = '\0';
  return name[0] != '\0';
}

/* May the address lie in this function? */
static bool symbol_holds(struct symbol_search *search,
                         const ElfW(Sym) * symbol) {
  unsigned type = ELF64_ST_TYPE(symbol->st_info);
  uintptr_t offset = search->address - symbol->st_value;
  if ((type != STT_FUNC && type != STT_GNU_IFUNC) ||
      symbol->st_value > search->address) {
    return false;
  }
  if (symbol->st_shndx == SHN_UNDEF) {
    /* the program's entry for a library's function whose address it takes */
    return symbol->st_value != 0 && offset == 0;
  }
  if (symbol->st_size != 0) {
    if (offset >= symbol->st_size && symbol->st_value > search->passed) {
      search->passed = symbol->st_value;
    }
    return offset < symbol->st_size;
  }
  if (search->found &&
      (search->best.st_size != 0 || search->best.st_value > symbol->st_value)) {
    return false;
  }
  ElfW(Shdr) section;
  return symbol_read_section(search, symbol->st_shndx, &section) &&
         search->address - section.sh_addr < section.sh_size;
}

static size_t symbol_underscores(const struct symbol_search *search,
                                 const ElfW(Sym) * symbol) {
  char name[8];
  return symbol_read_name(search, symbol, name, sizeof name) ? strspn(name, "_")
                                                             : sizeof name;
}

/* Of two functions that may hold the address, the one to name. */
static bool symbol_is_better(const struct symbol_search *search,
                             const ElfW(Sym) * symbol) {
  const ElfW(Sym) *best = &search->best;
  if (!search->found) {
    return true;
  }
  if ((symbol->st_size != 0) != (best->st_size != 0)) {
    return symbol->st_size != 0;
  }
  if (symbol->st_value != best->st_value) {
    return symbol->st_value > best->st_value;
  }
  bool is_local = ELF64_ST_BIND(symbol->st_info) == STB_LOCAL;
  if (is_local != (ELF64_ST_BIND(best->st_info) == STB_LOCAL)) {
    return !is_local;
  }
  return symbol_underscores(search, symbol) < symbol_underscores(search, best);
}

static void symbol_search_table(struct symbol_search *search,
                                const ElfW(Shdr) * table) {
  ElfW(Sym) piece[SYMBOL_PIECE_BYTES / sizeof(ElfW(Sym))];
  uint64_t count = table->sh_size / sizeof piece[0];
  for (uint64_t done = 0; done < count;) {
    uint64_t n = count - done;
    n = n < sizeof piece / sizeof piece[0] ? n : sizeof piece / sizeof piece[0];
    if (!symbol_read(search->fd, piece, n * sizeof piece[0],
                     table->sh_offset + done * sizeof piece[0])) {
      return;
    }
    for (uint64_t i = 0; i < n; i++) {
      if (symbol_holds(search, &piece[i]) &&
          symbol_is_better(search, &piece[i])) {
        search->best = piece[i];
        search->found = true;
      }
    }
    done += n;
  }
}

/* Searches the first section of the type. */
static bool symbol_search_section(struct symbol_search *search, unsigned type,
                                  char *name, size_t bytes) {
  ElfW(Shdr) table;
  for (unsigned i = 1; symbol_read_section(search, i, &table); i++) {
    if (table.sh_type != type || table.sh_entsize != sizeof(ElfW(Sym)) ||
        !symbol_read_section(search, table.sh_link, &search->strings)) {
      continue;
    }
    search->found = false;
    search->passed = 0;
    symbol_search_table(search, &table);
    bool is_behind = search->found && search->best.st_size == 0 &&
                     search->best.st_value < search->passed;
    return search->found && !is_behind &&
           symbol_read_name(search, &search->best, name, bytes);
  }
  return false;
}

/* The name and start, as in the file, of the function that holds address. */
static bool symbol_find(int fd, uintptr_t address, char *name, size_t bytes,
                        uintptr_t *start) {
  struct symbol_search search = {.fd = fd, .address = address};
  ElfW(Shdr) first;
  if (!symbol_read(fd, &search.header, sizeof search.header, 0) ||
      search.header.e_shentsize != sizeof first) {
    return false;
  }
  search.sections = search.header.e_shnum;
  if (search.sections == 0) { /* too many for the header */
    search.sections = 1;
    bool ok = symbol_read_section(&search, 0, &first);
    search.sections = ok ? (unsigned)first.sh_size : 0;
  }
  if (!symbol_search_section(&search, SHT_SYMTAB, name, bytes) &&
      !symbol_search_section(&search, SHT_DYNSYM, name, bytes)) {
    return false;
  }
  *start = search.best.st_value;
  return true;
}

void wane__symbol_describe(const void *address, char *out, size_t bytes) {
  int saved = errno;
  struct symbol_module module = {.address = (uintptr_t)address, .fd = -1};
  dl_iterate_phdr(symbol_visit, &module);
  uintptr_t offset = module.address - module.bias;
  uintptr_t start = 0;
  char name[SYMBOL_NAME_BYTES];
  if (!module.found) {
    snprintf(out, bytes, "0x%lx", (unsigned long)module.address);
  } else if (module.fd < 0 ||
             !symbol_find(module.fd, offset, name, sizeof name, &start)) {
    snprintf(out, bytes, "0x%lx (%s+0x%lx)", (unsigned long)module.address,
             module.name, (unsigned long)offset);
  } else if (offset == start) {
    snprintf(out, bytes, "%s", name);
  } else {
    snprintf(out, bytes, "%s+0x%lx (%s)", name, (unsigned long)(offset - start),
             module.name);
  }
  if (module.fd >= 0) {
    wane__os_close(module.fd);
  }
  errno = saved;
}
