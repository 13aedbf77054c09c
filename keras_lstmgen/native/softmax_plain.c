/* The kind of the softmax that every processor can run. */

#include "softmax.h"

#define NAME(f) f##_plain
#include "softmax_rows.h"
