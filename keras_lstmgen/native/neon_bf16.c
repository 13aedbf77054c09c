/* The kind of the LSTM for NEON with matrix products of bfloat16 (BFMMLA). */

#include "lstm.h"

#include <arm_neon.h>

#define KIND "neon_bf16"
#define NAME(f) f##_neon_bf16
#define LANES 4
#define ROWS 6
#define WIDE 4
#define PAIR 2
#define STEP 2
#define BLOCK 512
#define TILE "bfmmla_tile.h"
#include "lstm_template.h"
