/* Waiting for a spin lock; see spin.h. */
#include "spin.h"

#include "os.h"

#define SPIN_TURNS 200
#define SPIN_SLEEP_NS 20000

void wane__spin_wait(struct wane__spin *spin) {
  for (unsigned turns = 0;; turns++) {
    uint32_t expected = 0;
    if (wane__load_relaxed(&spin->word) == 0 &&
        wane__cas_acquire(&spin->word, &expected, 1)) {
      return;
    }
    if (turns < SPIN_TURNS) {
      wane__cpu_relax();
    } else {
      wane__os_sleep_ns(SPIN_SLEEP_NS);
    }
  }
}
