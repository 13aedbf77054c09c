/* The kind of the LSTM for AVX-512 with bfloat16 products. */

#include "lstm.h"

#include <immintrin.h>

#define KIND "avx512_bf16"
#define NAME(f) f##_avx512_bf16
#define LANES 16
#define ROWS 6
#define WIDE 4
#define PAIR 2
#define STEP 1
#define BLOCK 512
#define MULTIPLY(sum, factor, weights) ((vector)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(factor), (__m512bh)(weights)))
#include "lstm_template.h"
