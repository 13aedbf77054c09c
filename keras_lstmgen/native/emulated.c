/* Kinds of the LSTM for tests on processors without bfloat16 products. They have the same words and round in the same way as the
   kinds for AVX512-BF16 and AMX, but are not faster than float32. */

#include "lstm.h"

/* Add the products of the lower halves and then of the upper halves of the words. */
#define LOW(pair) ((vector)((NAME(bits))(pair) << 16))
#define HIGH(pair) ((vector)((NAME(bits))(pair) & 0xffff0000))
#define MULTIPLY_PAIRS(sum, factor, weights) \
    (HIGH(factor) * HIGH(weights) + (LOW(factor) * LOW(weights) + (sum)))

#define KIND "emulated"
#define NAME(f) f##_emulated
#define LANES 8
#define ROWS 6
#define WIDE 2
#define PAIR 2
#define STEP 1
#define BLOCK 512
#define MULTIPLY MULTIPLY_PAIRS
#include "lstm_template.h"

#define EMULATED
#define KIND "emulated amx"
#define NAME(f) f##_emulated_amx
#define LANES 16
#define ROWS 32
#define WIDE 2
#define PAIR 2
#define STEP 16
#define BLOCK 1024
#define MATRIX
#include "lstm_template.h"
