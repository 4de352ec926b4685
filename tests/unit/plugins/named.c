/* A module with a static function. Used by tests/unit/symbol.c. */
typedef int named_fn(int);

named_fn *named_get(void);

static int named_inside(int x) { return x * 7 + 1; }

named_fn *named_get(void) { return named_inside; }
