/* base/symbol: names of code addresses, here in a program that may be loaded
   anywhere; unit/symbol_fixed.c is the same in one that may not. */
/* link: dl */
/* plugin: named.c */
#include "unit/symbol_cases.h"
