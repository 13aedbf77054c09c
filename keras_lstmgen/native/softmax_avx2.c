/* The kind of the softmax for AVX2. */

#include "softmax.h"

#define NAME(f) f##_avx2
#include "softmax_rows.h"
