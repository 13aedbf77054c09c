/* Compute a tile with BFMMLA, on 64-bit Arm processors. lstm_template.h includes this file for kinds with LANES = 4 and STEP = 2.

   One instruction multiplies two rows by two columns, with two words each, and adds the results to a vector with the sums of both
   rows and both columns. In a packed panel, a vector contains two words of two columns.
*/

/* Change the order of the words of a packed panel to the order in which the tile reads them. A vector with word k of four columns
   and the vector with word k + 1 become two vectors, each with both words of two columns. */
static void NAME(arrange)(word *panel, long K)
{
    for (long k = 0; k < 4 / WIDE * K; k += 2, panel += 2 * WIDE * LANES) {
        vector words[2 * WIDE];
        memcpy(words, panel, sizeof words);
        for (int v = 0; v < WIDE; v++) {
            float32x4_t even = (float32x4_t)words[v], odd = (float32x4_t)words[WIDE + v];
            ((vector *)panel)[2 * v] = (vector)vzip1q_f32(even, odd);
            ((vector *)panel)[2 * v + 1] = (vector)vzip2q_f32(even, odd);
        }
    }
}

/* Return two words of two rows. If `second` is NULL, the words of the second row are 0. */
static inline __attribute__((always_inline)) bfloat16x8_t NAME(two_rows)(const word *first, const word *second)
{
    float32x2_t low, high = {0};
    memcpy(&low, first, sizeof low);
    if (second)
        memcpy(&high, second, sizeof high);
    return vreinterpretq_bf16_f32(vcombine_f32(low, high));
}

/* Multiply the words of `rows` rows by one part of a packed panel, and store WIDE of the four vectors of each row of
   sums[rows][4]. `stride` is the number of words from one row to the next. */
static inline __attribute__((always_inline)) void
NAME(tile_of)(const int rows, long K, const word *a, long stride, const word *part, vector (*sums)[4])
{
    float32x4_t sum[ROWS / 2][2 * WIDE] = {{{0}}};
    for (long k = 0; k < K; k += 2, part += 2 * WIDE * LANES) {
        bfloat16x8_t factors[ROWS / 2];
        UNROLL(3)
        for (int r = 0; r < rows; r += 2)
            factors[r / 2] = NAME(two_rows)(a + r * stride + k, r + 1 < rows ? a + (r + 1) * stride + k : NULL);
        UNROLL(8)
        for (int v = 0; v < 2 * WIDE; v++) {
            bfloat16x8_t weights = vreinterpretq_bf16_f32((float32x4_t)((const vector *)part)[v]);
            UNROLL(3)
            for (int r = 0; r < rows; r += 2)
                sum[r / 2][v] = vbfmmlaq_f32(sum[r / 2][v], factors[r / 2], weights);
        }
    }
    UNROLL(3)
    for (int r = 0; r < rows; r += 2)
        UNROLL(4)
        for (int v = 0; v < WIDE; v++) {
            float32x4_t left = sum[r / 2][2 * v], right = sum[r / 2][2 * v + 1];
            sums[r][v] = (vector)vcombine_f32(vget_low_f32(left), vget_low_f32(right));
            if (r + 1 < rows)
                sums[r + 1][v] = (vector)vcombine_f32(vget_high_f32(left), vget_high_f32(right));
        }
}
