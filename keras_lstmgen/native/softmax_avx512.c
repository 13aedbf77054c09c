/* The kind of the softmax for AVX-512. */

#include "softmax.h"

#define NAME(f) f##_avx512
#include "softmax_rows.h"
