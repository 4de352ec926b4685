/* base/symbol in a program that is loaded where its file says. */
/* link: -no-pie dl */
/* plugin: named.c */
#include "unit/symbol_cases.h"
