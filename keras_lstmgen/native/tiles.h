/* The LSTM for one kind of processor: included by lstm.c once for each, with

     NAME(f)   f with the kind's suffix
     LANES     floats in a vector
     ROWS      rows of a tile, and
     WIDE      vectors of a tile, 4 or 2: ROWS x WIDE of sums, WIDE of weights and one factor fit the registers
     PAIR      operands in a word: 1 float, or 2 bfloat16
     MULTIPLY  (sums, factor, weights): sums plus the products of the words, lane by lane

   Everything is made of one tile: ROWS rows of words times WIDE * LANES columns, summed in float32.

   Layouts: a *panel* of units is LANES of them with all four gates, [4][LANES], so that 4 / WIDE tiles end with what the
   gates of LANES units need and the cell is computed while it is at hand. Packed, a panel is one part a tile, each
   [K][WIDE][LANES]. P panels hold H units; the units that fill up the last panel have weights 0 and stay 0. A *row* is a
   text of the batch at a time step; rows are [T][B].
*/

typedef float NAME(vector) __attribute__((vector_size(4 * LANES)));
typedef float NAME(loose) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(integers) __attribute__((vector_size(4 * LANES)));
#define vector NAME(vector)
#define loose NAME(loose)
#define PANEL (4 * LANES)

static inline vector NAME(all)(float value) { return value - (vector){0}; }

/* ---- the tile --------------------------------------------------------------------------------------------------- */

/* The WIDE columns of sums[rows][4] that are a part's = words of `rows` rows, `stride` apart, times that part. */
static inline __attribute__((always_inline)) void
NAME(tile_of)(const int rows, long K, const word *a, long stride, const word *part, vector (*sums)[4])
{
    vector sum[ROWS][WIDE] = {{{0}}};
    for (long k = 0; k < K; k++, part += WIDE * LANES) {
        vector weights[WIDE];
#pragma GCC unroll 4
        for (int v = 0; v < WIDE; v++)
            weights[v] = ((const vector *)part)[v];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float factor;
            memcpy(&factor, a + r * stride + k, sizeof factor);
            vector f = NAME(all)(factor);
#pragma GCC unroll 4
            for (int v = 0; v < WIDE; v++)
                sum[r][v] = MULTIPLY(sum[r][v], f, weights[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < WIDE; v++)
            sums[r][v] = sum[r][v];
}

/* sums[rows][4] = the rows times a whole panel. */
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

/* How many of `left` rows the next tile takes: as even as can be, 8 rows as 4 + 4 and not as 6 + 2. */
static inline int NAME(next)(long left)
{
    long tiles = (left + ROWS - 1) / ROWS;
    return (int)((left + tiles - 1) / tiles);
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

static inline long NAME(words)(long count) { return (count + PAIR - 1) / PAIR; }

static inline word NAME(joined)(float first, float second)
{
#if PAIR == 1
    (void)second;
    word bits;
    memcpy(&bits, &first, sizeof bits);
    return bits;
#else
    return (word)rounded(first) | (word)rounded(second) << 16;
#endif
}

/* `count` floats as words; an odd last one is joined with 0. */
static inline void NAME(put_words)(word *out, const float *values, long count)
{
#if PAIR == 1
    memcpy(out, values, (size_t)count * sizeof *values);
#else
    half *halves = (half *)out;
    for (long n = 0; n < count; n++)
        halves[n] = rounded(values[n]);
    if (count % 2)
        halves[count] = 0;
#endif
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* Where word k of column n of a panel is, that holds K words of PANEL columns. */
static inline long NAME(place)(long K, long k, long n)
{
    const long width = WIDE * LANES;
    return (n / width * K + k) * width + n % width;
}

/* Rows of [W; U] as a panel of units, the words of E, then of H: what a step multiplies [x, h] with. */
static void NAME(pack_forward)(const struct lstm *l, long p, word *out)
{
    for (long part = 0, at = 0; part < 2; part++) {
        const float *M = part ? l->U : l->W;
        long rows = part ? l->H : l->E;
        for (long k = 0; k < rows; k += PAIR, at++)
            for (long gate = 0; gate < 4; gate++) {
                const float *from = M + (k * 4 + gate) * l->H + p * LANES;
                const float *second = PAIR == 2 && k + 1 < rows ? from + 4 * l->H : NULL;
                word *to = out + NAME(place)(l->K, at, gate * LANES);
                for (long lane = 0; lane < LANES; lane++)
                    to[lane] = p * LANES + lane < l->H ? NAME(joined)(from[lane], second ? second[lane] : 0) : 0;
            }
    }
}

/* M^T, of M [N][4H], as a panel of PANEL of its N rows, of 4 P LANES / PAIR words: for dz M^T. */
static void NAME(pack_backward)(const struct lstm *l, const float *M, long N, long panel, word *out)
{
    long words = l->P * (PANEL / PAIR);
    for (long k = 0; k < words; k += LANES / PAIR)
        for (long column = 0; column < PANEL; column++) { /* a row at a time: its numbers lie side by side */
            long n = panel * PANEL + column, vectors = k / (LANES / PAIR), unit = vectors / 4 * LANES;
            const float *from = M + (n * 4 + vectors % 4) * l->H + unit;
            for (long lane = 0; lane < LANES; lane += PAIR) {
                float first = n < N && unit + lane < l->H ? from[lane] : 0, second = 0;
                if (PAIR == 2 && n < N && unit + lane + 1 < l->H)
                    second = from[lane + 1];
                out[NAME(place)(words, k + lane / PAIR, column)] = NAME(joined)(first, second);
            }
        }
}

/* ---- gates ------------------------------------------------------------------------------------------------------ */

static inline vector NAME(chosen)(NAME(integers) which, vector yes, vector no)
{
    return (vector)((which & (NAME(integers))yes) | (~which & (NAME(integers))no));
}

/* e^x within 2 units in the last place: 2^n times a polynomial on half a unit of n (Cephes' expf). */
static inline vector NAME(exp)(vector x)
{
    const float magic = 12582912.f; /* 1.5 * 2^23: adding it rounds to a whole number */
    x = NAME(chosen)(x < -87.f, NAME(all)(-87.f), NAME(chosen)(x > 87.f, NAME(all)(87.f), x)); /* a NaN stays one */
    vector shifted = x * 1.44269504f + magic, n = shifted - magic;
    x -= n * 0.693359375f;
    x += n * 2.12194440e-4f;
    vector y = NAME(all)(1.9875691500e-4f);
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.f;
    NAME(integers) power = ((NAME(integers))shifted - (NAME(integers))NAME(all)(magic)) << 23;
    return (vector)((NAME(integers))y + power);
}

static inline vector NAME(sigmoid)(vector x) { return 1.f / (1.f + NAME(exp)(-x)); }
static inline vector NAME(tanh)(vector x) { return 1.f - 2.f / (1.f + NAME(exp)(2.f * x)); }

/* A vector at `at` of `count` floats; what lies behind them is 0, and is not written. */
static inline vector NAME(read)(const float *values, long at, long count)
{
    if (at + LANES <= count)
        return *(const loose *)(values + at);
    vector out = {0};
    for (long lane = 0; at + lane < count; lane++)
        out[lane] = values[at + lane];
    return out;
}

static inline void NAME(write)(float *values, long at, long count, vector v)
{
    if (at + LANES <= count)
        *(loose *)(values + at) = v;
    else
        for (long lane = 0; at + lane < count; lane++)
            values[at + lane] = v[lane];
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* The cell of one row and panel: z, without its bias, becomes gates, c and h. */
static inline __attribute__((always_inline)) void
NAME(cell)(const vector *z, const vector *bias, const loose *c_before, loose *gates, loose *c, vector *h)
{
    vector i = NAME(sigmoid)(z[0] + bias[0]), f = NAME(sigmoid)(z[1] + bias[1]);
    vector g = NAME(tanh)(z[2] + bias[2]), o = NAME(sigmoid)(z[3] + bias[3]);
    *c = f * *c_before + i * g;
    *h = o * NAME(tanh)(*c);
    gates[0] = i, gates[1] = f, gates[2] = g, gates[3] = o;
}

/* One time step of the texts first to end: [x, h] are in the operands of the row, c in the row before. */
static void NAME(step)(struct lstm *l, long t, long first, long end)
{
    vector sums[ROWS][4];
    long wide = l->P * LANES;
    for (long p = 0; p < l->P; p++) {
        const word *panel = l->packed + p * l->K * PANEL;
        const vector *bias = (const vector *)(l->bias + p * PANEL);
        for (long b = first, rows; b < end; b += rows) {
            rows = NAME(next)(end - b);
            NAME(tile)((int)rows, l->K, l->operands + (t * l->B + b) * l->K, l->K, panel, sums);
            for (long r = 0; r < rows; r++) {
                float *c = l->c + ((t + 1) * l->B + b + r) * wide + p * LANES;
                float *gates = l->gates + ((t * l->B + b + r) * l->P + p) * PANEL;
                vector h;
                NAME(cell)(sums[r], bias, (loose *)(c - l->B * wide), (loose *)gates, (loose *)c, &h);
                NAME(write)(l->y + ((b + r) * l->T + t) * l->H, p * LANES, l->H, h);
            }
        }
    }
}

/* All steps of the texts first to end. */
static void NAME(forward)(struct lstm *l, long first, long end)
{
    long E = NAME(words)(l->E), wide = l->P * LANES;
    for (long b = first; b < end; b++)
        for (long unit = 0; unit < wide; unit++)
            l->c[b * wide + unit] = unit < l->H ? l->c0[b * l->H + unit] : 0;
    for (long t = 0; t < l->T; t++) {
        for (long b = first; b < end; b++) {
            word *operands = l->operands + (t * l->B + b) * l->K;
            const float *h = t ? l->y + (b * l->T + t - 1) * l->H : l->h0 + b * l->H;
            NAME(put_words)(operands, l->x + (b * l->T + t) * l->E, l->E);
            NAME(put_words)(operands + E, h, l->H);
        }
        NAME(step)(l, t, first, end);
    }
    for (long b = first; b < end; b++) {
        memcpy(l->h_last + b * l->H, l->y + ((b + 1) * l->T - 1) * l->H, (size_t)l->H * sizeof(float));
        memcpy(l->c_last + b * l->H, l->c + (l->T * l->B + b) * wide, (size_t)l->H * sizeof(float));
    }
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* The gradient by z of one row and panel, given that by h; that by c is carried on to the step before. */
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

/* All that a row's panel p of step t does with its gradient by h: dz as words, the sums of dz for the bias. */
static inline void NAME(panel_back)(struct lstm *l, long t, long b, long p, vector dh, float *dc, float *db)
{
    long row = t * l->B + b, wide = l->P * LANES;
    vector dz[4];
    const float *c = l->c + (row + l->B) * wide + p * LANES;
    const loose *gates = (const loose *)(l->gates + (row * l->P + p) * PANEL);
    vector *carried = (vector *)(dc + p * LANES), *sums = (vector *)(db + p * PANEL);
    NAME(cell_back)(gates, *(const loose *)(c - l->B * wide), *(const loose *)c, dh, carried, dz);
    NAME(put_words)(l->dz + (row * l->P + p) * (PANEL / PAIR), (const float *)dz, PANEL);
    for (int gate = 0; gate < 4; gate++)
        sums[gate] += dz[gate];
}

/* Four panels, from 4 q on, of one text at step t, whose h the steps after it give the gradient `after`, or of the last
   step none; at t = -1, before the first step, that is the gradient by h0. */
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

/* The texts first to end, all steps, last first; dc [texts][P LANES] is carried, db [P][PANEL] summed up. */
static void NAME(backward)(struct lstm *l, long first, long end, float *dc, float *db)
{
    long N = l->P * (PANEL / PAIR), wide = l->P * LANES, panels = (l->H + PANEL - 1) / PANEL;
    vector sums[ROWS][4];
    for (long b = first; b < end; b++)
        memcpy(dc + b * wide, l->dc_last + b * l->H, (size_t)l->H * sizeof(float));
    for (long t = l->T - 1; t >= -1; t--)
        for (long q = 0; q < panels; q++)
            for (long b = first, rows; b < end; b += rows) {
                int last = t == l->T - 1;
                rows = NAME(next)(end - b);
                if (!last)
                    NAME(tile)((int)rows, N, l->dz + ((t + 1) * l->B + b) * N, N, l->packed + q * N * PANEL, sums);
                for (long r = 0; r < rows; r++)
                    NAME(text_back)(l, t, b + r, q, last ? NULL : sums[r], dc, db);
            }
    for (long b = first; b < end; b++)
        memcpy(l->dc0 + b * l->H, dc + b * wide, (size_t)l->H * sizeof(float));
}

/* dx = dz W^T of the texts first to end, by panels of E. */
static void NAME(backward_x)(struct lstm *l, long first, long end)
{
    long N = l->P * (PANEL / PAIR);
    vector sums[ROWS][4];
    for (long q = 0; q * PANEL < l->E; q++)
        for (long b = first; b < end; b++)
            for (long t = 0, rows; t < l->T; t += rows) {
                rows = NAME(next)(l->T - t);
                const word *panel = l->packed_x + q * N * PANEL;
                NAME(tile)((int)rows, N, l->dz + (t * l->B + b) * N, l->B * N, panel, sums);
                for (long r = 0; r < rows; r++)
                    for (int v = 0; v < 4; v++)
                        NAME(write)(l->dx + (b * l->T + t + r) * l->E, q * PANEL + v * LANES, l->E, sums[r][v]);
            }
}

/* The operands turned, [columns of x and h][words of rows]: pairs are now of rows. Of the words first to end. */
static void NAME(turn)(struct lstm *l, long first, long end)
{
    long rows = l->T * l->B;
    for (long k = first; k < end; k++) {
        const word *one = l->operands + PAIR * k * l->K, *two = PAIR * k + 1 < rows ? one + l->K : NULL;
        for (long m = 0; m < l->K; m++) {
#if PAIR == 1
            (void)two;
            l->turned[m * l->stride + k] = one[m];
#else
            word low = one[m], high = two ? two[m] : 0;
            l->turned[2 * m * l->stride + k] = (low & 0xffff) | high << 16;
            l->turned[(2 * m + 1) * l->stride + k] = low >> 16 | (high & 0xffff0000);
#endif
        }
    }
}

/* A block of rows of one panel of dz, pairs of rows as words. */
static void NAME(pack_rows)(const struct lstm *l, long p, long first, long end, word *out)
{
    long N = l->P * (PANEL / PAIR), rows = l->T * l->B;
    for (long k = first; k < end; k++) {
        const word *one = l->dz + PAIR * k * N + p * (PANEL / PAIR), *two = PAIR * k + 1 < rows ? one + N : NULL;
#if PAIR == 1
        (void)two;
        for (long n = 0; n < PANEL; n += WIDE * LANES)
            memcpy(out + NAME(place)(end - first, k - first, n), one + n, WIDE * LANES * sizeof *out);
#else
        for (long n = 0; n < PANEL / 2; n++) {
            word low = one[n], high = two ? two[n] : 0;
            word *pair = out + NAME(place)(end - first, k - first, 2 * n);
            pair[0] = (low & 0xffff) | high << 16;
            pair[1] = low >> 16 | (high & 0xffff0000);
        }
#endif
    }
}

/* To the rows of dW and dU from m on, what a tile of panel p says, or for the first block what it is. */
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

/* The gradients of W and U, [x, h]^T dz, for panels first to end; `blocks` holds BLOCK words of GROUP panels of dz. */
static void NAME(backward_weights)(struct lstm *l, long first, long end, word *blocks)
{
    long M = l->K * PAIR, K = NAME(words)(l->T * l->B);
    vector sums[ROWS][4];
    for (long group = first, panels; group < end; group += panels) {
        panels = end - group < GROUP ? end - group : GROUP;
        for (long k = 0; k < K; k += BLOCK) {
            long count = K - k < BLOCK ? K - k : BLOCK;
            for (long p = 0; p < panels; p++)
                NAME(pack_rows)(l, group + p, k, k + count, blocks + p * BLOCK * PANEL);
            for (long m = 0, rows; m < M; m += rows) {
                rows = NAME(next)(M - m);
                for (long p = 0; p < panels; p++) { /* while the rows are in the nearest cache */
                    const word *a = l->turned + m * l->stride + k;
                    NAME(tile)((int)rows, count, a, l->stride, blocks + p * BLOCK * PANEL, sums);
                    NAME(add_gradient)(l, m, rows, group + p, k == 0, (const vector(*)[4])sums);
                }
            }
        }
    }
}

static const struct kind NAME(kind) = {
    LANES, PAIR, NAME(pack_forward), NAME(pack_backward), NAME(forward), NAME(backward), NAME(backward_x), NAME(turn),
    NAME(backward_weights),
};

#undef vector

#undef loose
#undef PANEL
#undef NAME
#undef LANES
#undef ROWS
#undef WIDE
#undef PAIR
#undef MULTIPLY
