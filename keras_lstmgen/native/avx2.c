/* The kind of the LSTM for AVX2 and FMA. */

#include "lstm.h"

#define KIND "avx2"
#define NAME(f) f##_avx2
#define LANES 8
#define ROWS 6
#define WIDE 2
#define PAIR 1
#define STEP 1
#define BLOCK 512
#define MULTIPLY MULTIPLY_FLOATS
#include "lstm_template.h"
