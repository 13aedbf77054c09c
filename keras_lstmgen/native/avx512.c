/* The kind of the LSTM for AVX-512. */

#include "lstm.h"

#define KIND "avx512"
#define NAME(f) f##_avx512
#define LANES 16
#define ROWS 6
#define WIDE 4
#define PAIR 1
#define STEP 1
#define BLOCK 512
#define MULTIPLY MULTIPLY_FLOATS
#include "lstm_template.h"
