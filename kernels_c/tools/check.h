/* check.h: what the check driver finds its kernel sets by. */
#ifndef CHECK_H
#define CHECK_H
#include "kernel_table.h"

typedef struct {
    const char *name;
    const kernel_table *table;
} check_backend;

extern const check_backend check_backends[];   /* ended by a NULL name */
#endif
