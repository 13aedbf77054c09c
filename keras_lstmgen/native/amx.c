/* The kind of the LSTM for matrix registers (AMX) with bfloat16 products. */

#include "lstm.h"

#include <immintrin.h>

#define KIND "amx"
#define NAME(f) f##_amx
#define LANES 16
#define ROWS 32
#define WIDE 2
#define PAIR 2
#define STEP 16
#define BLOCK 1024
#define MATRIX
#include "lstm_template.h"
