/* Define the LSTM for one kind of processor. A file per kind includes this file, with these macros:

     KIND      name of the kind, for lstm_choose
     NAME(f)   the name f with the suffix of the kind
     LANES     number of floats in a vector
     ROWS      number of rows of a tile
     WIDE      number of vectors in a row of a tile, 4 or 2; ROWS x WIDE vectors of sums, WIDE vectors of weights and one
               factor must fit into the registers
     PAIR      number of operands in a word: 1 (float32) or 2 (bfloat16)
     STEP      number of words that one instruction multiplies: 1, 2 or 16; rows are padded to a multiple of it
     MATRIX    defined for processors with matrix registers (AMX), whose rows of words have another order (amx_tile.h)
     TILE      the file with the tile, if there is no MULTIPLY
     BLOCK     number of words that are multiplied for one partial sum of the gradient of the weights
     MULTIPLY  (sums, factor, weights): returns sums plus the products of the words, for each lane

   All matrix products consist of tiles. A tile multiplies ROWS rows of words by WIDE * LANES columns, and adds the products
   in float32.

   These terms describe the order of the numbers in memory:

     panel     LANES units with all four gates, [4][LANES]. After 4 / WIDE tiles, the sums of all gates of a panel are complete,
               and the cells are computed while the sums are in registers. The weights of a packed panel have one part per
               tile, each [K][WIDE][LANES]. The H units form P panels. If the last panel has more than the remaining units,
               the other units are padding, with weights 0 and values 0.
     quad      four panels; their units are the columns of one packed panel of U^T
     row       one text of the batch at one time step; rows are ordered [T][B]
*/

#include "simd_math.h"
#define PANEL (4 * LANES)

/* Read a vector at position `at` of an array of `count` floats. Lanes after the end of the array are 0. */
static inline vector NAME(read)(const float *values, long at, long count)
{
    if (at + LANES <= count)
        return *(const loose *)(values + at);
    vector out = {0};
    for (long lane = 0; at + lane < count; lane++)
        out[lane] = values[at + lane];
    return out;
}

/* Write a vector at position `at` of an array of `count` floats, without the lanes after the end of the array. */
static inline void NAME(write)(float *values, long at, long count, vector v)
{
    if (at + LANES <= count)
        *(loose *)(values + at) = v;
    else
        for (long lane = 0; at + lane < count; lane++)
            values[at + lane] = v[lane];
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

/* Return the number of words for `count` operands. */
static inline long NAME(words)(long count) { return words_of(PAIR, STEP, count); }

/* Combine the operands of PAIR rows to one word per lane. */
static inline vector NAME(joined)(const vector *rows)
{
#if PAIR == 1
    return rows[0];
#else
    return (vector)(NAME(rounded)(rows[0]) | NAME(rounded)(rows[1]) << 16);
#endif
}

/* Convert `count` floats to words. If a pair at the end is incomplete, its second half is 0. */
static inline void NAME(put_words)(word *out, const float *values, long count)
{
#if PAIR == 1
    memcpy(out, values, (size_t)count * sizeof *values);
#else
    half *halves = (half *)out;
    long n = 0;
    for (; n + LANES <= count; n += LANES)
        *(NAME(halves) *)(halves + n) = __builtin_convertvector(NAME(rounded)(*(const loose *)(values + n)), NAME(halves));
    for (; n < count; n++)
        halves[n] = rounded(values[n]);
    if (count % 2)
        halves[count] = 0;
#endif
}

/* Return the position of word k of column n in a packed panel with K words per column. */
static inline long NAME(place)(long K, long k, long n)
{
    const long width = WIDE * LANES;
    return (n / width * K + k) * width + n % width;
}

/* ---- the tile --------------------------------------------------------------------------------------------------- */

#ifdef MATRIX
#include "amx_tile.h"
#else
#ifdef TILE
#include TILE
#else
/* Change the order of the words of a packed panel to the order in which the tile reads them: the same order. */
static inline void NAME(arrange)(word *panel, long K) { (void)panel, (void)K; }

/* Multiply the words of `rows` rows by one part of a packed panel, and store WIDE of the four vectors of each row of
   sums[rows][4]. `stride` is the number of words from one row to the next. */
static inline __attribute__((always_inline)) void
NAME(tile_of)(const int rows, long K, const word *a, long stride, const word *part, vector (*sums)[4])
{
    vector sum[ROWS][WIDE] = {{{0}}};
    for (long k = 0; k < K; k++, part += WIDE * LANES) {
        vector weights[WIDE];
UNROLL(4)
        for (int v = 0; v < WIDE; v++)
            weights[v] = ((const vector *)part)[v];
UNROLL(8)
        for (int r = 0; r < rows; r++) {
            float factor;
            memcpy(&factor, a + r * stride + k, sizeof factor);
            vector f = NAME(all)(factor);
UNROLL(4)
            for (int v = 0; v < WIDE; v++)
                sum[r][v] = MULTIPLY(sum[r][v], f, weights[v]);
        }
    }
UNROLL(8)
    for (int r = 0; r < rows; r++)
UNROLL(4)
        for (int v = 0; v < WIDE; v++)
            sums[r][v] = sum[r][v];
}
#endif

/* Multiply the words of `rows` rows by a whole packed panel, and store the result in sums[rows][4]. */
static void NAME(tile)(int rows, long K, const word *a, long stride, const word *panel, vector (*sums)[4])
{
    for (int v = 0; v < 4; v += WIDE, panel += K * WIDE * LANES) {
        vector(*out)[4] = (vector(*)[4])(*sums + v);
        switch (rows) {
        case 1: NAME(tile_of)(1, K, a, stride, panel, out); break;
        case 2: NAME(tile_of)(2, K, a, stride, panel, out); break;
        case 3: NAME(tile_of)(3, K, a, stride, panel, out); break;
#if ROWS > 3
        case 4: NAME(tile_of)(4, K, a, stride, panel, out); break;
        case 5: NAME(tile_of)(5, K, a, stride, panel, out); break;
        case 6: NAME(tile_of)(6, K, a, stride, panel, out); break;
#endif
        }
    }
}
#endif

/* Return the number of rows of the next tile if `left` rows are left. Without matrix registers, all tiles have nearly the same
   number of rows: for 8 rows, 4 + 4 and not 6 + 2. */
static inline int NAME(next)(long left)
{
#ifdef MATRIX
    return left < ROWS ? (int)left : ROWS;
#endif
    long tiles = (left + ROWS - 1) / ROWS;
    return (int)((left + tiles - 1) / tiles);
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* Pack the columns of panel p of a matrix M [rows][4H] as `words` words per column, starting at `out`. The packed panel has K
   words per column. */
static void
NAME(pack_rows_of)(const struct lstm *l, const float *M, long rows, long words, long p, long K, word *out)
{
    for (long k = 0; k < words; k++)
        for (long gate = 0; gate < 4; gate++) {
            vector pair[PAIR] = {{0}};
            for (long n = 0; n < PAIR && PAIR * k + n < rows; n++)
                pair[n] = NAME(read)(M + ((PAIR * k + n) * 4 + gate) * l->H, p * LANES, l->H);
            *(vector *)(out + NAME(place)(K, k, gate * LANES)) = NAME(joined)(pair);
        }
}

/* Pack the biases of panel p. */
static void NAME(pack_bias)(struct lstm *l, long p)
{
    for (long gate = 0; gate < 4; gate++)
        *(vector *)(l->bias + p * PANEL + gate * LANES) = NAME(read)(l->b + gate * l->H, p * LANES, l->H);
}

#ifndef MATRIX
/* Pack PANEL of the N rows of a matrix M [N][4H] as one panel of its transpose M^T, for the product dz M^T. The packed panel
   has 4 P LANES / PAIR words per column. */
static void NAME(pack_backward)(const struct lstm *l, const float *M, long N, long panel, word *out)
{
    long words = l->P * (PANEL / PAIR);
    for (long k = 0; k < words; k += LANES / PAIR)
        for (long column = 0; column < PANEL; column++) { /* reads row by row, because the numbers of a row are contiguous */
            long n = panel * PANEL + column, vectors = k / (LANES / PAIR), unit = vectors / 4 * LANES;
            const float *from = M + (n * 4 + vectors % 4) * l->H + unit;
            for (long lane = 0; lane < LANES; lane += PAIR) {
                word *to = out + NAME(place)(words, k + lane / PAIR, column);
                long count = n < N ? l->H - unit - lane : 0; /* number of existing units */
                *to = 0;
                if (count > 0)
                    NAME(put_words)(to, from + lane, count < PAIR ? 1 : PAIR);
            }
        }
    NAME(arrange)(out, words);
}
#endif

/* ---- gates ------------------------------------------------------------------------------------------------------ */

static inline vector NAME(sigmoid)(vector x) { return 1.f / (1.f + NAME(exp)(-x)); }

/* Compute tanh from e^2x - 1. The formula 1 - 2 / (1 + e^2x) would lose all digits for small x. */
static inline vector NAME(tanh)(vector x)
{
    vector e = NAME(expm1)(2.f * x);
    return e / (e + 2.f);
}

/* Return the address of the gates of text b and panel p at step t. The texts of a panel are contiguous. */
static inline float *NAME(gates_at)(const struct lstm *l, long t, long b, long p)
{
    return l->gates + ((t * l->P + p) * l->B + b) * PANEL;
}

/* Return the address of c of text b and panel p before step t; for t = 0, this is c0. */
static inline float *NAME(c_at)(const struct lstm *l, long t, long b, long p)
{
    return l->c + ((t * l->P + p) * l->B + b) * LANES;
}

/* Copy c0 of the texts from first to before end and of the panels from p to before p_end. Set the padding of the last panel to
   0. */
static void NAME(begin)(struct lstm *l, long first, long end, long p, long p_end)
{
    for (; p < p_end; p++)
        for (long b = first; b < end; b++)
            *(vector *)NAME(c_at)(l, 0, b, p) = NAME(read)(l->c0 + b * l->H, p * LANES, l->H);
}

/* Copy h and c after the window, of the texts from first to before end and of the panels from p to before p_end. */
static void NAME(finish)(struct lstm *l, long first, long end, long p, long p_end)
{
    for (; p < p_end; p++)
        for (long b = first; b < end; b++) {
            const float *y = l->y + ((b + 1) * l->T - 1) * l->H;
            NAME(write)(l->h_last + b * l->H, p * LANES, l->H, NAME(read)(y, p * LANES, l->H));
            NAME(write)(l->c_last + b * l->H, p * LANES, l->H, *(const vector *)NAME(c_at)(l, l->T, b, p));
        }
}

/* Compute the gates, c and h of one row and one panel from z, the sums of the gates without the bias. */
static inline __attribute__((always_inline)) void
NAME(cell)(const vector *z, const vector *bias, const vector *c_before, vector *gates, vector *c, vector *h)
{
    vector i = NAME(sigmoid)(z[0] + bias[0]), f = NAME(sigmoid)(z[1] + bias[1]);
    vector g = NAME(tanh)(z[2] + bias[2]), o = NAME(sigmoid)(z[3] + bias[3]);
    *c = f * *c_before + i * g;
    *h = o * NAME(tanh)(*c);
    gates[0] = i, gates[1] = f, gates[2] = g, gates[3] = o;
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Compute dz, the gradient with respect to z, of one row and one panel from dh, the gradient with respect to h. Replace dc by
   the gradient with respect to c of the previous step. */
static inline __attribute__((always_inline)) void
NAME(cell_back)(const loose *gates, vector c_before, vector c, vector dh, vector *dc, vector *dz)
{
    vector i = gates[0], f = gates[1], g = gates[2], o = gates[3], tanh_c = NAME(tanh)(c);
    vector d = *dc + dh * o * (1.f - tanh_c * tanh_c);
    dz[0] = d * g * i * (1.f - i);
    dz[1] = d * c_before * f * (1.f - f);
    dz[2] = d * i * (1.f - g * g);
    dz[3] = dh * tanh_c * o * (1.f - o);
    *dc = d * f;
}

/* Compute dz of text b and panel p at step t from dh, store it as words, and add it to db, the gradient of the bias. */
static inline void NAME(panel_back)(struct lstm *l, long t, long b, long p, vector dh, float *dc, float *db)
{
    vector dz[4], *carried = (vector *)(dc + p * LANES), *sums = (vector *)(db + p * PANEL);
    const loose *gates = (const loose *)NAME(gates_at)(l, t, b, p); /* unaligned, because TensorFlow may copy the kept arrays */
    const loose *before = (const loose *)NAME(c_at)(l, t, b, p), *c = (const loose *)NAME(c_at)(l, t + 1, b, p);
    NAME(cell_back)(gates, *before, *c, dh, carried, dz);
#ifdef MATRIX
    word *words = NAME(text_at)(l, l->dz, l->N, t, b) + NAME(word_at)(p * (PANEL / PAIR));
    NAME(put_words)(words, (const float *)dz, PANEL / 2);
    NAME(put_words)(words + STEP * STEP, (const float *)(dz + 2), PANEL / 2);
#else
    NAME(put_words)(l->dz + (t * l->B + b) * l->N + p * (PANEL / PAIR), (const float *)dz, PANEL);
#endif
    for (int gate = 0; gate < 4; gate++)
        sums[gate] += dz[gate];
}

/* Compute step t of the backward pass for one text and the units of quad q. `after` is the gradient with respect to h that comes
   from step t + 1; it is NULL at the last step. For t = -1, `after` is the gradient with respect to h0. */
static inline void
NAME(text_back)(struct lstm *l, long t, long text, long q, const vector *after, float *dc, float *db)
{
    for (long p = 4 * q; p < l->P && p < 4 * q + 4; p++) {
        long at = p * LANES;
        vector dh = after ? after[p % 4] : NAME(read)(l->dh_last + text * l->H, at, l->H);
        if (t < 0) {
            NAME(write)(l->dh0 + text * l->H, at, l->H, dh);
            continue;
        }
        dh += NAME(read)(l->dy + (text * l->T + t) * l->H, at, l->H);
        NAME(panel_back)(l, t, text, p, dh, dc + text * l->P * LANES, db);
    }
}

/* ---- the gradient of the weights -------------------------------------------------------------------------------- */

#ifndef MATRIX
/* Return the address of the words of row number `row`, or NULL if there are only `row` rows or fewer. */
static inline const word *NAME(row_of)(const struct lstm *l, const word *base, long words, long row)
{
    return row < l->T * l->B ? base + row * words : NULL;
}

/* Transpose the words from first to before end of the operands to [columns of x and h][words]. Each transposed word contains
   PAIR rows. */
static void NAME(turn)(struct lstm *l, long first, long end)
{
    for (long k = first; k < end; k++) {
        const word *one = NAME(row_of)(l, l->operands, l->K, PAIR * k), *two = NAME(row_of)(l, l->operands, l->K, PAIR * k + 1);
        for (long m = 0; m < l->K; m++) {
#if PAIR == 1
            (void)two;
            l->turned[m * l->stride + k] = one[m];
#else
            word low = one ? one[m] : 0, high = two ? two[m] : 0;
            l->turned[2 * m * l->stride + k] = (low & 0xffff) | high << 16;
            l->turned[(2 * m + 1) * l->stride + k] = low >> 16 | (high & 0xffff0000);
#endif
        }
    }
}

/* Pack a block of rows of one panel of dz. Each packed word contains PAIR rows. */
static void NAME(pack_rows)(const struct lstm *l, long p, long first, long end, word *out)
{
    long at = p * (PANEL / PAIR);
    for (long k = first; k < end; k++) {
        const word *one = NAME(row_of)(l, l->dz, l->N, PAIR * k), *two = NAME(row_of)(l, l->dz, l->N, PAIR * k + 1);
#if PAIR == 1
        (void)two;
        for (long n = 0; n < PANEL; n += WIDE * LANES)
            memcpy(out + NAME(place)(end - first, k - first, n), one + at + n, WIDE * LANES * sizeof *out);
#else
        for (long n = 0; n < PANEL / 2; n++) {
            word low = one ? one[at + n] : 0, high = two ? two[at + n] : 0;
            word *pair = out + NAME(place)(end - first, k - first, 2 * n);
            pair[0] = (low & 0xffff) | high << 16;
            pair[1] = low >> 16 | (high & 0xffff0000);
        }
#endif
    }
    NAME(arrange)(out, end - first);
}
#endif

/* Add a tile of panel p to the rows of dW and dU from row m on. For the first block, store the tile instead. */
static void NAME(add_gradient)(struct lstm *l, long m, long rows, long p, int first, const vector (*sums)[4])
{
    for (long r = 0; r < rows; r++) {
        float *out = gradient_row(l, m + r, NAME(words)(l->E) * PAIR);
        for (int gate = 0; out && gate < 4; gate++) {
            float *row = out + gate * l->H;
            vector before = first ? (vector){0} : NAME(read)(row, p * LANES, l->H);
            NAME(write)(row, p * LANES, l->H, before + sums[r][gate]);
        }
    }
}

#ifdef MATRIX
/* Return the number of words that a thread needs for blocks of GROUP panels of dz, and for the partial sums of the gradients of
   these panels. */
static inline long NAME(room)(const struct lstm *l) { return GROUP * PANEL * (BLOCK + l->K * PAIR); }

/* Multiply `count` words of the transposed operands, from word k on, by a block of panel p of a group, and add the product to
   the gradients of the rows from m on. */
static void NAME(add_block)(struct lstm *l, long m, long rows, long group, long p, long k, long count, word *blocks)
{
    int last = k + count == NAME(words)(l->T * l->B);
    vector sums[ROWS][4];
    vector(*so_far)[4] = (vector(*)[4])(blocks + (GROUP * BLOCK + p * l->K * PAIR + m) * PANEL);
    const word *a = NAME(row_at)(l->turned, l->stride, m) + NAME(word_at)(k), *block = blocks + p * BLOCK * PANEL;
    const vector(*start)[4] = k ? (const vector(*)[4])so_far : NULL;
    NAME(tile_onto)((int)rows, count, a, l->stride, block, start, last ? sums : so_far);
    if (last)
        NAME(add_gradient)(l, m, rows, group + p, 1, (const vector(*)[4])sums);
}
#else
static inline long NAME(room)(const struct lstm *l) { return (void)l, GROUP * PANEL * BLOCK; }

static void NAME(add_block)(struct lstm *l, long m, long rows, long group, long p, long k, long count, word *blocks)
{
    vector sums[ROWS][4];
    NAME(tile)((int)rows, count, l->turned + m * l->stride + k, l->stride, blocks + p * BLOCK * PANEL, sums);
    NAME(add_gradient)(l, m, rows, group + p, k == 0, (const vector(*)[4])sums);
}
#endif

/* Compute the gradients of W and U, [x, h]^T dz, for the panels from first to before end. `blocks` is memory for BLOCK words of
   GROUP panels of dz. */
static void NAME(backward_weights)(struct lstm *l, long first, long end, word *blocks)
{
    long M = l->K * PAIR, K = NAME(words)(l->T * l->B);
    for (long group = first, panels; group < end; group += panels) {
        panels = end - group < GROUP ? end - group : GROUP;
        for (long k = 0; k < K; k += BLOCK) {
            long count = K - k < BLOCK ? K - k : BLOCK;
            for (long p = 0; p < panels; p++)
                NAME(pack_rows)(l, group + p, k, k + count, blocks + p * BLOCK * PANEL);
            for (long m = 0, rows; m < M; m += rows) {
                rows = NAME(next)(M - m);
                for (long p = 0; p < panels; p++) /* the inner loop, because the rows then stay in the first-level cache */
                    NAME(add_block)(l, m, rows, group, p, k, count, blocks);
            }
        }
    }
}

/* ---- parts of a thread ------------------------------------------------------------------------------------------ */

/* Pack the panels of U^T and W^T that belong to this thread. */
static void NAME(pack_transposed)(struct lstm *l, const struct member *me)
{
    long of_h = quads_of(l->H, LANES), size = l->P * (PANEL / PAIR) * PANEL;
    struct range panels = share(of_h + quads_of(l->E, LANES), me->index, me->team->size);
    for (long q = panels.first; q < panels.end; q++)
        if (q < of_h)
            NAME(pack_backward)(l, l->U, l->H, q, l->packed + q * size);
        else
            NAME(pack_backward)(l, l->W, l->E, q - of_h, l->packed_x + (q - of_h) * size);
}

static void NAME(turn_share)(struct lstm *l, const struct member *me)
{
    struct range steps = share(NAME(words)(l->T * l->B) / STEP, me->index, me->team->size);
    NAME(turn)(l, steps.first * STEP, steps.end * STEP);
}

static void NAME(weights_share)(struct lstm *l, const struct member *me)
{
    struct range panels = share(l->P, me->index, me->team->size);
    word *blocks = l->packed; /* U^T is no longer needed; lstm_backward makes this memory large enough for all threads */
    NAME(backward_weights)(l, panels.first, panels.end, blocks + me->index * NAME(room)(l));
}

#ifdef MATRIX
#include "shared_weights.h"
#else
#include "per_thread_batch.h"
#endif

#ifdef MATRIX
const struct kind NAME(kind) = {KIND, LANES, PAIR, STEP, 1, NAME(room), NAME(forward), NAME(backward)};
#else
const struct kind NAME(kind) = {KIND, LANES, PAIR, STEP, 0, NAME(room), NAME(forward), NAME(backward)};
#endif

#undef vector
#undef loose
#undef PANEL
#undef KIND
#undef NAME
#undef LANES
#undef ROWS
#undef WIDE
#undef PAIR
#undef STEP
#undef BLOCK
#undef MULTIPLY
#undef MATRIX
#undef TILE
