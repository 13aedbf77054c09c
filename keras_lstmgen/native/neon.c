/* The kind of the LSTM for NEON. 24 vectors of sums, 4 of weights and one factor fit into its 32 registers. */

#include "lstm.h"

#include <arm_neon.h>

#define KIND "neon"
#define NAME(f) f##_neon
#define LANES 4
#define ROWS 6
#define WIDE 4
#define PAIR 1
#define STEP 1
#define BLOCK 512
#define MULTIPLY(sum, factor, weights) ((vector)vfmaq_f32((float32x4_t)(sum), (float32x4_t)(factor), (float32x4_t)(weights)))
#include "lstm_template.h"
