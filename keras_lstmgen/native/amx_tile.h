/* Compute a tile, and transpose words, on processors with matrix registers (AMX). lstm_template.h includes this file for
   kinds with MATRIX, LANES = 16 and STEP = 16.

   A matrix register has 16 rows of 64 bytes. One instruction multiplies 16 rows of operands by 16 columns of weights, with 16
   words each, and adds the result to 16 rows of 16 floats. It computes 8,192 multiplications in about the time in which a
   register is read from memory. Therefore a tile uses each register of operands twice: it has 32 rows and 32 columns, whose
   sums are in four registers.

   Rows of words are stored in the order in which registers read them: [rows / 16][words / 16][16][16]. The `stride` is the
   number of words in a row. A group of 16 rows begins 16 strides after the previous group.
*/

#define REGISTER 16 /* number of rows of a register, and of words or floats in a row */

/* Return the address of row r of an array with `words` words per row. */
static inline word *NAME(row_at)(word *base, long words, long r)
{
    return base + r / REGISTER * REGISTER * words + r % REGISTER * REGISTER;
}

/* Return the distance from the start of a row to its word k, a multiple of 8. */
static inline long NAME(word_at)(long k) { return k / REGISTER * REGISTER * REGISTER + k % REGISTER; }

#ifdef EMULATED
/* Multiply rows by a whole panel, add `start` (or 0 if NULL), and store the result in sums[rows][4]. */
static void NAME(tile_onto)(int rows, long K, const word *a, long stride, const word *panel, const vector (*start)[4],
                            vector (*sums)[4])
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++) {
            vector sum = start ? start[r][v] : (vector){0};
            const vector *weights = (const vector *)(panel + v / WIDE * K * WIDE * LANES) + v % WIDE;
            for (long k = 0; k < K; k++) {
                const word *row = a + r / REGISTER * REGISTER * stride + r % REGISTER * REGISTER;
                NAME(bits) factor = row[NAME(word_at)(k)] - (NAME(bits)){0}, pair = (NAME(bits))weights[k * WIDE];
                sum += (vector)(factor << 16) * (vector)(pair << 16);
                sum += (vector)(factor & 0xffff0000) * (vector)(pair & 0xffff0000);
            }
            sums[r][v] = sum;
        }
}

static inline void NAME(release)(void) {}
#else
enum { LOW = 4 * REGISTER * sizeof(float) };  /* bytes from one row of sums to the next */
enum { HERE = 2 * REGISTER * sizeof(float) }; /* bytes from one row of weights to the next */

static __thread int configured; /* number of rows for which the registers of this thread are configured; 0 if they are not */

/* Configure registers 0 to 3 for sums, 4 and 5 for operands, and 6 and 7 for weights. A tile with at most 16 rows uses
   register 5 for weights. */
static void NAME(configure)(int rows)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    int low = rows < REGISTER ? rows : REGISTER, high = rows - low;
    const int of[8] = {low, low, high ? high : low, high ? high : low, low, high ? high : REGISTER, REGISTER, REGISTER};
    for (int n = 0; n < 8; n++)
        shape.rows[n] = (uint8_t)of[n], shape.bytes[n] = 64;
    _tile_loadconfig(&shape);
    configured = rows;
}

/* Release the registers at the end of a thread. Context switches are faster without them. */
static inline void NAME(release)(void)
{
    _tile_release();
    configured = 0;
}

/* Compute a tile with more than 16 rows, two vectors of columns at a time. */
static inline void NAME(tile_high)(long K, const word *a, long stride, const word *panel, const vector (*start)[4],
                                   vector (*sums)[4])
{
    const word *below = a + REGISTER * stride;
    for (int v = 0; v < 4; v += WIDE) {
        if (start) {
            _tile_loadd(0, start[0] + v, LOW);
            _tile_loadd(1, start[0] + v + 1, LOW);
            _tile_loadd(2, start[REGISTER] + v, LOW);
            _tile_loadd(3, start[REGISTER] + v + 1, LOW);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (long k = 0; k < K; k += REGISTER, panel += REGISTER * WIDE * LANES) {
            _tile_loadd(4, a + k * REGISTER, 64);
            _tile_loadd(6, panel, HERE);
            _tile_loadd(7, panel + LANES, HERE);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, below + k * REGISTER, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, sums[0] + v, LOW);
        _tile_stored(1, sums[0] + v + 1, LOW);
        _tile_stored(2, sums[REGISTER] + v, LOW);
        _tile_stored(3, sums[REGISTER] + v + 1, LOW);
    }
}

/* Compute a tile with at most 16 rows, with all four vectors of columns at once. Consecutive products of the same sum would
   have to wait for each other, so the products of four sums alternate. */
static inline void NAME(tile_low)(long K, const word *a, const word *panel, const vector (*start)[4], vector (*sums)[4])
{
    const word *right = panel + K * WIDE * LANES;
    if (start) {
        _tile_loadd(0, start[0], LOW);
        _tile_loadd(1, start[0] + 1, LOW);
        _tile_loadd(2, start[0] + 2, LOW);
        _tile_loadd(3, start[0] + 3, LOW);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long k = 0; k < K; k += REGISTER, panel += REGISTER * WIDE * LANES, right += REGISTER * WIDE * LANES) {
        _tile_loadd(4, a + k * REGISTER, 64);
        _tile_loadd(5, panel, HERE);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, panel + LANES, HERE);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(7, right, HERE);
        _tile_dpbf16ps(2, 4, 7);
        _tile_loadd(5, right + LANES, HERE);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, sums[0], LOW);
    _tile_stored(1, sums[0] + 1, LOW);
    _tile_stored(2, sums[0] + 2, LOW);
    _tile_stored(3, sums[0] + 3, LOW);
}

/* Multiply rows by a whole panel, add `start` (or 0 if NULL), and store the result in sums[rows][4]. */
static void NAME(tile_onto)(int rows, long K, const word *a, long stride, const word *panel, const vector (*start)[4],
                            vector (*sums)[4])
{
    if (configured != rows)
        NAME(configure)(rows);
    /* Make the compiler finish all writes before the registers read memory. It does not know that the load intrinsics read
       memory. */
    __asm__ volatile("" ::: "memory");
    if (rows > REGISTER)
        NAME(tile_high)(K, a, stride, panel, start, sums);
    else
        NAME(tile_low)(K, a, panel, start, sums);
}
#endif

static inline void NAME(tile)(int rows, long K, const word *a, long stride, const word *panel, vector (*sums)[4])
{
    NAME(tile_onto)(rows, K, a, stride, panel, NULL, sums);
}

/* Return a vector whose lane n is lane `from[n]` of the first vector, or lane `from[n]` - 16 of the second. */
static inline __attribute__((always_inline)) NAME(bits) NAME(shuffled)(NAME(bits) one, NAME(bits) two, NAME(integers) from)
{
#if !defined(__clang__)
    return __builtin_shuffle(one, two, from);
#elif defined(EMULATED)
    NAME(bits) out;
    for (int lane = 0; lane < LANES; lane++)
        out[lane] = from[lane] < LANES ? one[from[lane]] : two[from[lane] - LANES];
    return out;
#else
    return (NAME(bits))_mm512_permutex2var_epi32((__m512i)one, (__m512i)from, (__m512i)two);
#endif
}

/* Transpose a block in four steps, by exchanging squares of 1, 2, 4 and 8 words. */
static inline __attribute__((always_inline)) void NAME(transpose)(NAME(bits) *block)
{
    const NAME(integers) lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
UNROLL(4)
    for (int size = 1; size < REGISTER; size *= 2) {
        NAME(integers) right = (lane & size) != 0; /* in the shuffles, indices from REGISTER on select from the second vector */
        NAME(integers) upper = lane + (right & (REGISTER - size)), lower = lane + (~right & size) + (right & REGISTER);
UNROLL(16)
        for (int n = 0; n < REGISTER; n++)
            if (!(n & size)) {
                NAME(bits) one = block[n], two = block[n + size];
                block[n] = NAME(shuffled)(one, two, upper);
                block[n + size] = NAME(shuffled)(one, two, lower);
            }
    }
}

/* Pack PANEL of the N rows of M [N][4H] as a panel of M^T with 4 P LANES / PAIR words, for dz M^T. */
static void NAME(pack_backward)(const struct lstm *l, const float *M, long N, long panel, word *out)
{
    long words = l->P * (PANEL / PAIR);
    for (long column = 0; column < PANEL; column += REGISTER)
        for (long k = 0; k < words; k += REGISTER) { /* REGISTER words of a row of M contain two gates of LANES units */
            NAME(bits) block[REGISTER] = {{0}};
            long gate = k / (LANES / PAIR) % 4, unit = k / (LANES / PAIR) / 4 * LANES;
            for (long n = 0; n < REGISTER && panel * PANEL + column + n < N; n++) {
                const float *row = M + (panel * PANEL + column + n) * 4 * l->H;
                vector both[2];
                for (long v = 0; v < 2; v++)
                    both[v] = NAME(read)(row + (gate + v) * l->H, unit, l->H);
                NAME(put_words)((word *)&block[n], (const float *)both, 2 * LANES);
            }
            NAME(transpose)(block);
            for (long n = 0; n < REGISTER; n++)
                *(NAME(bits) *)(out + NAME(place)(words, k + n, column)) = block[n];
        }
}

/* Combine the words of two rows. `first` receives the first halves of both words, `second` the second halves. If `two` is
   NULL, the second row is 0. */
static inline void
NAME(pair_up)(const word *one, const word *two, long at, NAME(bits) *first, NAME(bits) *second)
{
    NAME(bits) low = (NAME(bits))*(const loose *)(one + at), high = {0};
    if (two)
        high = (NAME(bits))*(const loose *)(two + at);
    *first = (low & 0xffff) | high << 16;
    *second = low >> 16 | (high & 0xffff0000);
}

/* Return the address of the words of text b at step t, in the operands or in dz. */
static inline word *NAME(text_at)(const struct lstm *l, word *base, long words, long t, long b)
{
    return NAME(row_at)(base, words, t * words_of(1, REGISTER, l->B) + b);
}

/* Return the address of the words of row number `row`, or NULL if there are only `row` rows or fewer. */
static inline const word *NAME(row_of)(const struct lstm *l, word *base, long words, long row)
{
    return row < l->T * l->B ? NAME(text_at)(l, base, words, row / l->B, row % l->B) : NULL;
}

/* Transpose the words first to end of the operands to [columns of x and h][words]. Each transposed word contains a pair of
   rows. */
static void NAME(turn)(struct lstm *l, long first, long end)
{
    for (long k = first; k < end; k += REGISTER) {
        const word *rows[2 * REGISTER];
        for (long n = 0; n < 2 * REGISTER; n++)
            rows[n] = NAME(row_of)(l, l->operands, l->K, 2 * k + n);
        for (long m = 0; m < l->K; m += REGISTER) {
            NAME(bits) blocks[2][REGISTER] = {{{0}}};
            long at = NAME(word_at)(m);
            for (long n = 0; n < REGISTER && rows[2 * n]; n++)
                NAME(pair_up)(rows[2 * n], rows[2 * n + 1], at, &blocks[0][n], &blocks[1][n]);
            for (long odd = 0; odd < 2; odd++) {
                NAME(transpose)(blocks[odd]);
                for (long n = 0; n < REGISTER; n++) {
                    word *to = NAME(row_at)(l->turned, l->stride, 2 * (m + n) + odd) + NAME(word_at)(k);
                    *(NAME(bits) *)to = blocks[odd][n];
                }
            }
        }
    }
}

/* Pack a block of rows of one panel of dz. Each packed word contains a pair of rows. */
static void NAME(pack_rows)(const struct lstm *l, long p, long first, long end, word *out)
{
    const NAME(integers) zip = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    for (long k = first; k < end; k++) {
        const word *one = NAME(row_of)(l, l->dz, l->N, 2 * k);
        const word *two = NAME(row_of)(l, l->dz, l->N, 2 * k + 1);
        for (long n = 0; n < PANEL; n += 2 * REGISTER) {
            NAME(bits) firsts = {0}, seconds = {0};
            NAME(bits) *to = (NAME(bits) *)(out + NAME(place)(end - first, k - first, n));
            long at = NAME(word_at)(p * (PANEL / PAIR) + n / 2);
            if (one)
                NAME(pair_up)(one, two, at, &firsts, &seconds);
            to[0] = NAME(shuffled)(firsts, seconds, zip);
            to[1] = NAME(shuffled)(firsts, seconds, zip + 8);
        }
    }
}

/* Prefetch memory that will be read after the next product. */
static inline void NAME(will_read)(const void *from, long bytes)
{
    for (long at = 0; at < bytes; at += 64)
        __builtin_prefetch((const char *)from + at, 0, 2);
}

/* Prefetch memory that will be written after the next product. */
static inline void NAME(will_write)(const void *from, long bytes)
{
    for (long at = 0; at < bytes; at += 64)
        __builtin_prefetch((const char *)from + at, 1, 2);
}
