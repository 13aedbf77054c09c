/* The LSTM over a window of a batch on a CPU, forward and backward: called from kernel.py by ctypes.

   float32 in and out. The products' operands are float32 or, where the processor multiplies pairs of bfloat16,
   bfloat16; sums, gates and states are float32. Each thread takes texts of its own through all time steps, so no thread
   waits for another within a window.

       i, f, g, o = split(x W + h U + b)
       c' = sigmoid(f) c + sigmoid(i) tanh(g)          h' = sigmoid(o) tanh(c')
*/

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* One float32, or a pair of bfloat16, and one of them. Both are read as vectors of floats too: hence may_alias. */
typedef uint32_t __attribute__((may_alias)) word;
typedef uint16_t __attribute__((may_alias)) half;

enum { NO_MEMORY = -1, NO_INSTRUCTIONS = -2 }; /* what went wrong, as kernel.py knows it */
enum { BLOCK = 512, GROUP = 4, MOST_THREADS = 256 }; /* a group of blocks of panels fits the second cache */

struct lstm {
    long B, T, E, H, P, K; /* P panels hold H units; K words hold a row of [x, h] */
    const float *x, *h0, *c0, *W, *U, *b; /* [B,T,E] [B,H] [B,H] [E,4H] [H,4H] [4H] */
    float *y, *h_last, *c_last;           /* [B,T,H] [B,H] [B,H] */
    float *gates, *c;                     /* for the backward pass: [T,B,P,4,lanes] [T+1,B,P lanes], c from c0 on */
    word *operands;                       /* also for it: [T,B,K], [x, h] as they were multiplied */
    const float *dy, *dh_last, *dc_last;  /* [B,T,H] [B,H] [B,H] */
    float *dx, *dh0, *dc0, *dW, *dU, *db; /* of the shapes of x, h0, c0, W, U, b */
    word *packed, *packed_x, *dz, *turned; /* weights, W^T, [T,B,P,4,lanes] as words, operands with rows as columns */
    float *bias, *dc, *partial;            /* [P,4,lanes] [B,P lanes] [threads,P,4,lanes], db of each thread */
    long stride;                           /* of `turned`, in words */
};

/* What differs from one kind of processor to another. */
struct kind {
    int lanes, pair;
    void (*pack_forward)(const struct lstm *, long, word *);
    void (*pack_backward)(const struct lstm *, const float *, long, long, word *);
    void (*forward)(struct lstm *, long, long);
    void (*backward)(struct lstm *, long, long, float *, float *);
    void (*backward_x)(struct lstm *, long, long);
    void (*turn)(struct lstm *, long, long);
    void (*backward_weights)(struct lstm *, long, long, word *);
};

/* The nearest bfloat16, ties to even. A NaN may lose its mark only if its low half holds all of it: kept quiet. */
static inline uint16_t rounded(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t nan = (bits & 0x7fffffff) > 0x7f800000 ? 0x400000 : 0;
    return (uint16_t)((nan ? bits | nan : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Where the gradient of column m of [x, h] goes: a row of dW or of dU, or nowhere for what only fills up a word. */
static inline float *gradient_row(const struct lstm *l, long m, long columns_of_x)
{
    if (m < columns_of_x)
        return m < l->E ? l->dW + m * 4 * l->H : NULL;
    m -= columns_of_x;
    return m < l->H ? l->dU + m * 4 * l->H : NULL;
}

#define MULTIPLY_FLOATS(sum, factor, weights) ((sum) + (factor) * (weights))

#define NAME(f) f##_plain
#define LANES 4
#define ROWS 6
#define WIDE 2
#define PAIR 1
#define MULTIPLY MULTIPLY_FLOATS
#include "tiles.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAME(f) f##_avx2
#define LANES 8
#define ROWS 6
#define WIDE 2
#define PAIR 1
#define MULTIPLY MULTIPLY_FLOATS
#include "tiles.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define NAME(f) f##_avx512
#define LANES 16
#define ROWS 6
#define WIDE 4
#define PAIR 1
#define MULTIPLY MULTIPLY_FLOATS
#include "tiles.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#define NAME(f) f##_bfloat16
#define LANES 16
#define ROWS 6
#define WIDE 4
#define PAIR 2
#define MULTIPLY(sum, factor, weights) ((vector)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(factor), (__m512bh)(weights)))
#include "tiles.h"
#pragma GCC pop_options

/* For tests on processors that do not multiply bfloat16: the same words and roundings, and no gain. */
#pragma GCC push_options
#pragma GCC target("avx2,fma")
static inline __m256 multiply_pairs(__m256 sum, __m256 factor, __m256 weights)
{
    const __m256 high = _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000));
#define LOW(pair) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pair), 16))
    sum = _mm256_fmadd_ps(LOW(factor), LOW(weights), sum);
    return _mm256_fmadd_ps(_mm256_and_ps(factor, high), _mm256_and_ps(weights, high), sum);
}
#define NAME(f) f##_emulated
#define LANES 8
#define ROWS 6
#define WIDE 2
#define PAIR 2
#define MULTIPLY(sum, factor, weights) ((vector)multiply_pairs((__m256)(sum), (__m256)(factor), (__m256)(weights)))
#include "tiles.h"
#pragma GCC pop_options
#endif

/* The kinds from best to plainest, and what each needs. */
static const struct kind *chosen, *chosen_pairs; /* by lstm_choose, instead of the best, for float32 and for bfloat16 */

static const struct kind *supported(const char *name)
{
    int any = !strcmp(name, "best");
#if defined(__x86_64__)
    if ((any || !strcmp(name, "avx512")) && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &kind_avx512;
    if ((any || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &kind_avx2;
#endif
    return any || !strcmp(name, "plain") ? &kind_plain : NULL;
}

static const struct kind *kind_of(int bfloat16)
{
    if (!bfloat16)
        return chosen ? chosen : supported("best");
#if defined(__x86_64__)
    if (!chosen_pairs && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl"))
        return &kind_bfloat16;
#endif
    return chosen_pairs;
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

struct share {
    void (*work)(struct lstm *, const struct kind *, long first, long end, int thread);
    struct lstm *l;
    const struct kind *kind;
    long first, end;
    int thread;
};

static void *run_share(void *argument)
{
    struct share *s = argument;
    s->work(s->l, s->kind, s->first, s->end, s->thread);
    return NULL;
}

/* Cut 0 to count into even shares, one a thread, and wait for all; a thread that cannot be had is done without. */
static void in_parallel(struct lstm *l, const struct kind *kind, int threads, long count,
                        void (*work)(struct lstm *, const struct kind *, long, long, int))
{
    pthread_t ids[MOST_THREADS];
    struct share shares[MOST_THREADS];
    char started[MOST_THREADS] = {0};
    for (int n = 0; n < threads; n++)
        shares[n] = (struct share){work, l, kind, count * n / threads, count * (n + 1) / threads, n};
    for (int n = 1; n < threads; n++)
        started[n] = shares[n].first < shares[n].end && !pthread_create(&ids[n], NULL, run_share, &shares[n]);
    run_share(&shares[0]);
    for (int n = 1; n < threads; n++)
        if (started[n])
            pthread_join(ids[n], NULL);
        else
            run_share(&shares[n]);
}

static void pack_units(struct lstm *l, const struct kind *kind, long first, long end, int thread)
{
    (void)thread;
    for (long p = first; p < end; p++) {
        kind->pack_forward(l, p, l->packed + p * l->K * 4 * kind->lanes);
        for (long n = 0; n < 4 * kind->lanes; n++) {
            long gate = n / kind->lanes, unit = p * kind->lanes + n % kind->lanes;
            l->bias[p * 4 * kind->lanes + n] = unit < l->H ? l->b[gate * l->H + unit] : 0;
        }
    }
}

static long panels_of(const struct kind *kind, long columns)
{
    return (columns + 4 * kind->lanes - 1) / (4 * kind->lanes);
}

static long panel_words(const struct lstm *l, const struct kind *kind)
{
    return l->P * 4 * kind->lanes / kind->pair * 4 * kind->lanes;
}

static void pack_transposed(struct lstm *l, const struct kind *kind, long first, long end, int thread)
{
    long of_h = panels_of(kind, l->H), size = panel_words(l, kind);
    (void)thread;
    for (long p = first; p < end; p++)
        if (p < of_h)
            kind->pack_backward(l, l->U, l->H, p, l->packed + p * size);
        else
            kind->pack_backward(l, l->W, l->E, p - of_h, l->packed_x + (p - of_h) * size);
}

static void forward(struct lstm *l, const struct kind *kind, long first, long end, int thread)
{
    (void)thread;
    kind->forward(l, first, end);
}

static void backward(struct lstm *l, const struct kind *kind, long first, long end, int thread)
{
    kind->backward(l, first, end, l->dc, l->partial + thread * l->P * 4 * kind->lanes);
}

static void backward_x(struct lstm *l, const struct kind *kind, long first, long end, int thread)
{
    (void)thread;
    kind->backward_x(l, first, end);
}

static void turn(struct lstm *l, const struct kind *kind, long first, long end, int thread)
{
    (void)thread;
    kind->turn(l, first, end);
}

static void *taken(size_t bytes, int *lacking)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    *lacking |= !memory;
    return memory;
}

/* For what is added to, or not written to the last number. */
static void *cleared(size_t bytes, int *lacking)
{
    void *memory = taken(bytes, lacking);
    return memory ? memset(memory, 0, bytes) : NULL;
}

static void backward_weights(struct lstm *l, const struct kind *kind, long first, long end, int thread)
{
    word *blocks = l->packed; /* no longer needed, and larger than a block a thread: see lstm_backward */
    kind->backward_weights(l, first, end, blocks + (size_t)thread * GROUP * BLOCK * 4 * kind->lanes);
}

/* db of what each of so many threads has added up. */
static void add_up_bias(struct lstm *l, const struct kind *kind, int threads)
{
    for (long n = 0; n < 4 * l->H; n++) {
        long gate = n / l->H, unit = n % l->H, p = unit / kind->lanes, lane = unit % kind->lanes;
        l->db[n] = 0;
        for (int thread = 0; thread < threads; thread++)
            l->db[n] += l->partial[((thread * l->P + p) * 4 + gate) * kind->lanes + lane];
    }
}

/* ---- what kernel.py calls ---------------------------------------------------------------------------------------- */

/* Whether this processor multiplies bfloat16. */
int lstm_has_bfloat16(void) { return kind_of(1) != NULL; }

/* Take another kind from now on: for float32 "plain", "avx2" or "avx512", for bfloat16 "emulated"; or "best" for both.
   0, or -1 if it cannot run here. */
int lstm_choose(const char *name)
{
    const struct kind *kind = supported(name);
#if defined(__x86_64__)
    if (!strcmp(name, "emulated")) {
        kind = supported("avx2") ? &kind_emulated : NULL;
        chosen_pairs = kind ? kind : chosen_pairs;
        return kind ? 0 : -1;
    }
#endif
    chosen = kind ? kind : chosen;
    chosen_pairs = strcmp(name, "best") ? chosen_pairs : NULL;
    return kind ? 0 : -1;
}

/* Bytes of gates, c and operands, for the caller to keep between forward and backward. 0, or NO_INSTRUCTIONS. */
int lstm_sizes(int bfloat16, long B, long T, long E, long H, long *bytes)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    long wide = (H + kind->lanes - 1) / kind->lanes * kind->lanes;
    long K = (E + kind->pair - 1) / kind->pair + (H + kind->pair - 1) / kind->pair;
    bytes[0] = T * B * 4 * wide * 4;
    bytes[1] = (T + 1) * B * wide * 4;
    bytes[2] = T * B * K * 4;
    return 0;
}

static void set_shape(struct lstm *l, const struct kind *kind, const long *shape)
{
    l->B = shape[0], l->T = shape[1], l->E = shape[2], l->H = shape[3];
    l->P = (l->H + kind->lanes - 1) / kind->lanes;
    l->K = (l->E + kind->pair - 1) / kind->pair + (l->H + kind->pair - 1) / kind->pair;
}

static int between(int threads, long most)
{
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    return (int)(threads < most ? threads : most);
}

/* threads: at most so many, and so many of them for steps, whose texts they share out. shape: B, T, E, H.
   in: x h0 c0 W U b. out: y h c. kept: gates c operands. 0, NO_MEMORY or NO_INSTRUCTIONS. */
int lstm_forward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.x = in[0], .h0 = in[1], .c0 = in[2], .W = in[3], .U = in[4], .b = in[5]};
    int lacking = 0;
    set_shape(&l, kind, shape);
    l.y = out[0], l.h_last = out[1], l.c_last = out[2];
    l.gates = kept[0], l.c = kept[1], l.operands = kept[2];
    l.packed = taken((size_t)(l.P * l.K * 4 * kind->lanes) * 4, &lacking);
    l.bias = taken((size_t)(l.P * 4 * kind->lanes) * 4, &lacking);
    if (!lacking) {
        in_parallel(&l, kind, between(threads[0], l.P), l.P, pack_units);
        in_parallel(&l, kind, between(threads[1], l.B), l.B, forward);
    }
    free(l.packed), free(l.bias);
    return lacking ? NO_MEMORY : 0;
}

/* in: W U dy dh dc. out: dx dh0 dc0 dW dU db. kept: as forward left it. */
int lstm_backward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.W = in[0], .U = in[1], .dy = in[2], .dh_last = in[3], .dc_last = in[4]};
    int lacking = 0;
    set_shape(&l, kind, shape);
    l.dx = out[0], l.dh0 = out[1], l.dc0 = out[2], l.dW = out[3], l.dU = out[4], l.db = out[5];
    l.gates = kept[0], l.c = kept[1], l.operands = kept[2];
    long wide = l.P * kind->lanes, rows = (l.T * l.B + kind->pair - 1) / kind->pair;
    long of_h = panels_of(kind, l.H), of_x = panels_of(kind, l.E), size = panel_words(&l, kind);
    int by_text = between(threads[1], l.B), by_panel = between(threads[0], l.P);
    size_t blocks = (size_t)by_panel * GROUP * BLOCK * 4 * (size_t)kind->lanes, weights = (size_t)(of_h * size);
    l.stride = rows + 16; /* no power of two, whose rows would fight for the same lines of the cache */
    l.packed = taken((blocks > weights ? blocks : weights) * 4, &lacking);
    l.packed_x = taken((size_t)(of_x * size) * 4, &lacking);
    l.dz = taken((size_t)(l.T * l.B * 4 * wide / kind->pair) * 4, &lacking);
    l.turned = taken((size_t)(l.K * kind->pair * l.stride) * 4, &lacking);
    l.dc = cleared((size_t)(l.B * wide) * 4, &lacking);
    l.partial = cleared((size_t)(by_text * 4 * wide) * 4, &lacking);
    if (!lacking) {
        in_parallel(&l, kind, between(threads[0], of_h + of_x), of_h + of_x, pack_transposed);
        in_parallel(&l, kind, by_text, l.B, backward);
        in_parallel(&l, kind, by_text, l.B, backward_x);
        in_parallel(&l, kind, between(threads[0], rows), rows, turn);
        in_parallel(&l, kind, by_panel, l.P, backward_weights);
        add_up_bias(&l, kind, by_text);
    }
    free(l.packed), free(l.packed_x), free(l.dz), free(l.turned), free(l.dc), free(l.partial);
    return lacking ? NO_MEMORY : 0;
}
