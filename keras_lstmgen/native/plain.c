/* The kind of the LSTM that every processor can run. */

#include "lstm.h"

#define KIND "plain"
#define NAME(f) f##_plain
#define LANES 4
#define ROWS 6
#define WIDE 2
#define PAIR 1
#define STEP 1
#define BLOCK 512
#define MULTIPLY MULTIPLY_FLOATS
#include "lstm_template.h"
