/* Compute the forward and backward pass of an LSTM layer over a window of a batch; native_ops.py calls it by ctypes.

   Inputs and outputs are float32. The operands of the matrix products are float32, or bfloat16 on processors that can
   multiply bfloat16. Sums, gates and states are always float32. The threads start once per pass. shared_weights.h contains
   their work for processors with matrix registers (AMX), and per_thread_batch.h for all other processors. Source of the
   equations: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; Gers, Schmidhuber and Cummins, "Learning to
   Forget", 2000.

       i, f, g, o = split(x W + h U + b)
       c' = sigmoid(f) c + sigmoid(i) tanh(g)          h' = sigmoid(o) tanh(c')
*/

#define _GNU_SOURCE /* for thread_team.h */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "thread_team.h"

/* A word is one float32 or a pair of bfloat16 numbers. A half is one bfloat16 number. The attribute may_alias is required
   because some functions read them as vectors of floats. */
typedef uint32_t __attribute__((may_alias)) word;
typedef uint16_t __attribute__((may_alias)) half;

enum { NO_MEMORY = -1, NO_INSTRUCTIONS = -2 }; /* error codes, which native_ops.py knows too */
enum { GROUP = 4 };          /* number of panels of which one block each fits into the second-level cache */
enum { RESIDENT = 1 << 20 }; /* bytes of weights that stay in the second-level cache */

struct lstm {
    long B, T, E, H, P, K, N; /* P: number of panels of H units; K: words in a row of [x, h]; N: words in a row of dz */
    const float *x, *h0, *c0, *W, *U, *b; /* [B,T,E] [B,H] [B,H] [E,4H] [H,4H] [4H] */
    float *y, *h_last, *c_last;           /* [B,T,H] [B,H] [B,H] */
    float *gates, *c;                     /* kept for the backward pass: [T,P,B,4,lanes] [T+1,P,B,lanes]; c[0] is c0 */
    word *operands;                       /* kept for the backward pass: [rows,K], the words of [x, h] */
    const float *dy, *dh_last, *dc_last;  /* [B,T,H] [B,H] [B,H] */
    float *dx, *dh0, *dc0, *dW, *dU, *db; /* have the shapes of x, h0, c0, W, U, b */
    word *packed, *packed_x, *dz, *turned; /* packed weights, packed weights of x, [rows,N], transposed operands */
    float *bias, *dc, *partial;            /* [P,4,lanes] [B,P lanes] [threads,P,4,lanes]; `partial` is db of each thread */
    long stride;                           /* number of words in a row of `turned` */
    long rows;                             /* rows of operands and dz: T B, or more if each step begins with a new register */
    int by_text;                           /* number of threads among which the texts are divided */
};

/* Parameters and functions for one kind of processor. */
struct kind {
    int lanes, pair, step;             /* the macros LANES, PAIR and STEP of lstm_template.h */
    long (*room)(const struct lstm *); /* returns the number of words that a thread needs for the gradient of the weights */
    void (*forward)(void *, struct member *);
    void (*backward)(void *, struct member *);
};

/* ---- work of a thread ------------------------------------------------------------------------------------------- */

/* Work of one thread in shared_weights.h. The thread computes the units of `quads`, which are also the units of `panels`, for
   some texts, and some columns of dx. All threads that work on the same texts form a group of `size` threads. */
struct region {
    struct range texts, quads, panels, columns;
    struct barrier *group;
    int size;
};

static long quads_of(long count, int lanes) { return (count + 4 * lanes - 1) / (4 * lanes); }

/* Return the texts of a thread, for a pass in which a thread computes all units of its texts. */
static inline struct range texts_of(const struct lstm *l, const struct member *me)
{
    return share(l->B, me->index, l->by_text < me->team->size ? l->by_text : me->team->size);
}

/* Return the number of parts into which the units are divided. This is the smallest number with which the recurrent weights
   of each thread fit into its cache, and each thread has enough texts to fill a tile. */
static inline int parts_of(const struct lstm *l, int threads, int lanes)
{
    long weights = 4 * l->H * l->H * (long)sizeof(half), most = quads_of(l->H, lanes);
    long parts = (weights + RESIDENT - 1) / RESIDENT, by_rows = (threads * 2 * lanes + l->B - 1) / l->B;
    parts = parts > by_rows ? parts : by_rows;
    parts = parts < most ? parts : most;
    return (int)(parts < threads ? parts : threads);
}

/* Return the work of a thread. If there are more threads than needed, the other threads have no texts and no group. */
static inline struct region region_of(const struct lstm *l, struct member *me, int lanes)
{
    int parts = parts_of(l, me->team->size, lanes), groups = me->team->size / parts;
    groups = groups < l->B ? groups : (int)l->B;
    int group = me->index / parts, part = me->index % parts;
    struct region mine = {.texts = share((l->B + lanes - 1) / lanes, group, groups), .size = group < groups ? parts : 1};
    mine.texts.first *= lanes; /* whole registers of `lanes` rows */
    mine.texts.end = mine.texts.end * lanes < l->B ? mine.texts.end * lanes : l->B;
    mine.quads = share(quads_of(l->H, lanes), part, parts);
    mine.columns = share(quads_of(l->E, lanes), part, parts);
    mine.panels.first = 4 * mine.quads.first;
    mine.panels.end = 4 * mine.quads.end < l->P ? 4 * mine.quads.end : l->P;
    mine.group = me->team->of_group + group;
    return mine;
}

/* ---- words and weights ------------------------------------------------------------------------------------------ */

/* Round to the nearest bfloat16 (ties to even). The function sets the quiet bit of a NaN, which could otherwise become
   infinity. */
static inline uint16_t rounded(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t nan = (bits & 0x7fffffff) > 0x7f800000 ? 0x400000 : 0;
    return (uint16_t)((nan ? bits | nan : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Return the number of words for `count` operands, rounded up to a multiple of `step`. */
static inline long words_of(int pair, int step, long count)
{
    long words = (count + pair - 1) / pair;
    return (words + step - 1) / step * step;
}

/* Return the row of dW or dU that belongs to column m of [x, h], or NULL if the column is padding. */
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
#define STEP 1
#define BLOCK 512
#define MULTIPLY MULTIPLY_FLOATS
#include "lstm_template.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAME(f) f##_avx2
#define LANES 8
#define ROWS 6
#define WIDE 2
#define PAIR 1
#define STEP 1
#define BLOCK 512
#define MULTIPLY MULTIPLY_FLOATS
#include "lstm_template.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define NAME(f) f##_avx512
#define LANES 16
#define ROWS 6
#define WIDE 4
#define PAIR 1
#define STEP 1
#define BLOCK 512
#define MULTIPLY MULTIPLY_FLOATS
#include "lstm_template.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#define NAME(f) f##_bfloat16
#define LANES 16
#define ROWS 6
#define WIDE 4
#define PAIR 2
#define STEP 1
#define BLOCK 512
#define MULTIPLY(sum, factor, weights) ((vector)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(factor), (__m512bh)(weights)))
#include "lstm_template.h"
#pragma GCC pop_options

#ifdef HAS_AMX
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prfchw,amx-tile,amx-bf16")
#define NAME(f) f##_amx
#define LANES 16
#define ROWS 32
#define WIDE 2
#define PAIR 2
#define STEP 16
#define BLOCK 1024
#include "lstm_template.h"
#pragma GCC pop_options
#endif

/* Kernels for tests on processors without bfloat16 products. They have the same words and round in the same way, but are not
   faster than float32. */
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
#define STEP 1
#define BLOCK 512
#define MULTIPLY(sum, factor, weights) ((vector)multiply_pairs((__m256)(sum), (__m256)(factor), (__m256)(weights)))
#include "lstm_template.h"

#define EMULATED
#define NAME(f) f##_emulated_amx
#define LANES 16
#define ROWS 32
#define WIDE 2
#define PAIR 2
#define STEP 16
#define BLOCK 1024
#include "lstm_template.h"
#undef EMULATED
#pragma GCC pop_options
#endif

/* ---- selection of the kind -------------------------------------------------------------------------------------- */

/* The kinds for float32 and for bfloat16 that lstm_choose selected, or NULL for the fastest kind. Several threads may read
   and write these variables, so access them only by `choice_of` and `choose`. */
static const struct kind *chosen, *chosen_pairs;

static const struct kind *choice_of(const struct kind **choice) { return __atomic_load_n(choice, __ATOMIC_ACQUIRE); }

static void choose(const struct kind **choice, const struct kind *kind)
{
    __atomic_store_n(choice, kind, __ATOMIC_RELEASE);
}

/* Return the float32 kind with the given name, or for "best" the fastest float32 kind of this processor. Return NULL if this
   processor cannot run the kind, or if the name is unknown. */
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

#ifdef HAS_AMX
static int amx_granted;

/* Ask Linux for permission to use the matrix registers. Linux enables them only for processes that ask for them. */
static void ask_for_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    amx_granted = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

static int may_use_amx(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ask_for_amx);
    return amx_granted;
}
#endif

/* Return the bfloat16 kind with the given name, or for "best" the fastest bfloat16 kind of this processor, which is never an
   emulated one. Return NULL if this processor cannot run the kind, or if the name is unknown. */
static const struct kind *supported_pairs(const char *name)
{
#if defined(__x86_64__)
    int any = !strcmp(name, "best");
#ifdef HAS_AMX
    if ((any || !strcmp(name, "amx")) && may_use_amx())
        return &kind_amx;
#endif
    if ((any || !strcmp(name, "avx512_bf16")) && __builtin_cpu_supports("avx512bf16") &&
        __builtin_cpu_supports("avx512vl"))
        return &kind_bfloat16;
    if (!strcmp(name, "emulated") && supported("avx2"))
        return &kind_emulated;
    if (!strcmp(name, "emulated amx") && supported("avx2"))
        return &kind_emulated_amx;
#endif
    return NULL;
}

static const struct kind *kind_of(int bfloat16)
{
    const struct kind *choice = choice_of(bfloat16 ? &chosen_pairs : &chosen);
    if (choice)
        return choice;
    return bfloat16 ? supported_pairs("best") : supported("best");
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void *taken(size_t bytes, int *lacking)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    *lacking |= !memory;
    return memory;
}

/* Allocate memory, and set it to 0. */
static void *cleared(size_t bytes, int *lacking)
{
    void *memory = taken(bytes, lacking);
    return memory ? memset(memory, 0, bytes) : NULL;
}

/* Add up the gradients of the bias that the threads have computed. */
static void add_up_bias(struct lstm *l, const struct kind *kind, int threads)
{
    for (long n = 0; n < 4 * l->H; n++) {
        long gate = n / l->H, unit = n % l->H, p = unit / kind->lanes, lane = unit % kind->lanes;
        l->db[n] = 0;
        for (int thread = 0; thread < threads; thread++)
            l->db[n] += l->partial[((thread * l->P + p) * 4 + gate) * kind->lanes + lane];
    }
}

/* ---- interface of native_ops.py --------------------------------------------------------------------------------- */

/* Return 0 if this processor cannot multiply bfloat16, 1 if it can, and 2 if it multiplies bfloat16 faster than float32. */
int lstm_has_bfloat16(void)
{
    const struct kind *kind = kind_of(1);
#if defined(__x86_64__)
    if (kind == &kind_bfloat16 && __builtin_cpu_is("intel"))
        return 1; /* on Intel processors, this instruction has a quarter of the throughput of a float32 product */
#endif
    return kind ? 2 : 0;
}

/* Select a kind. The names for float32 are "plain", "avx2" and "avx512". The names for bfloat16 are "avx512_bf16", "amx",
   "emulated" and "emulated amx". "best" selects the fastest kind for both types. Return 0, or -1 if this processor cannot
   run the kind. */
int lstm_choose(const char *name)
{
    const struct kind *kind = supported(name), *pairs = supported_pairs(name);
    int best = !strcmp(name, "best");
    if (best || kind)
        choose(&chosen, best ? NULL : kind);
    if (best || pairs)
        choose(&chosen_pairs, best ? NULL : pairs);
    return best || kind || pairs ? 0 : -1;
}

/* Compute the sizes that follow from B, T, E and H. */
static void set_sizes(struct lstm *l, const struct kind *kind)
{
    l->P = (l->H + kind->lanes - 1) / kind->lanes;
    l->K = words_of(kind->pair, kind->step, l->E) + words_of(kind->pair, kind->step, l->H);
    l->N = l->P * 4 * kind->lanes / kind->pair;
    l->rows = l->T * words_of(1, kind->step, l->B);
}

/* Compute the sizes in bytes of the arrays gates, c and operands. The caller allocates these arrays, and keeps them from the
   forward to the backward pass. Return 0 or NO_INSTRUCTIONS. */
int lstm_sizes(int bfloat16, long B, long T, long E, long H, long *bytes)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.B = B, .T = T, .E = E, .H = H};
    set_sizes(&l, kind);
    bytes[0] = T * B * l.P * 4 * kind->lanes * 4;
    bytes[1] = (T + 1) * B * l.P * kind->lanes * 4;
    bytes[2] = l.rows * l.K * 4;
    return 0;
}

static int at_most(long most, int threads) { return threads < most ? threads : (int)most; }

static void set_shape(struct lstm *l, const struct kind *kind, const int *threads, const long *shape)
{
    l->B = shape[0], l->T = shape[1], l->E = shape[2], l->H = shape[3];
    l->by_text = at_most(l->B, threads[1]);
    set_sizes(l, kind);
}

/* Compute the forward pass.

   bfloat16  whether the operands of the products are rounded to bfloat16
   threads   the maximum number of threads, and the number of threads among which the texts are divided
   shape     B, T, E, H
   in        x, h0, c0, W, U, b
   out       y, and h and c after the window
   kept      gates, c and operands, with the sizes of lstm_sizes

   Return 0, NO_MEMORY or NO_INSTRUCTIONS. */
int lstm_forward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.x = in[0], .h0 = in[1], .c0 = in[2], .W = in[3], .U = in[4], .b = in[5]};
    int lacking = 0;
    set_shape(&l, kind, threads, shape);
    l.y = out[0], l.h_last = out[1], l.c_last = out[2];
    l.gates = kept[0], l.c = kept[1], l.operands = kept[2];
    size_t columns = (size_t)(l.P * 4 * kind->lanes), of_x = columns * (size_t)words_of(kind->pair, kind->step, l.E);
    l.packed = taken(columns * (size_t)l.K * 4 - of_x * 4 * (kind->step > 1), &lacking);
    l.packed_x = taken(of_x * 4 * (kind->step > 1), &lacking); /* used only if `packed` does not contain the weights of x */
    l.bias = taken(columns * 4, &lacking);
    if (!lacking)
        in_team(&l, at_most(l.P > l.by_text ? l.P : l.by_text, threads[0]), kind->forward);
    free(l.packed), free(l.packed_x), free(l.bias);
    return lacking ? NO_MEMORY : 0;
}

/* Compute the backward pass. The arguments and the result are the same as for lstm_forward, with these exceptions:

   in        W, U, and the gradients of y, and of h and c after the window
   out       the gradients of x, h0, c0, W, U, b
   kept      the arrays that the forward pass has filled */
int lstm_backward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.W = in[0], .U = in[1], .dy = in[2], .dh_last = in[3], .dc_last = in[4]};
    int lacking = 0;
    set_shape(&l, kind, threads, shape);
    l.dx = out[0], l.dh0 = out[1], l.dc0 = out[2], l.dW = out[3], l.dU = out[4], l.db = out[5];
    l.gates = kept[0], l.c = kept[1], l.operands = kept[2];
    long wide = l.P * kind->lanes, panel = 4 * wide / kind->pair * 4 * kind->lanes; /* words in the packed panel of a quad */
    int size = at_most(l.P > l.by_text ? l.P : l.by_text, threads[0]);
    size_t blocks = (size_t)(size * kind->room(&l));
    size_t weights = (size_t)(quads_of(l.H, kind->lanes) * panel);
    l.stride = words_of(kind->pair, kind->step, l.T * l.B);
    l.stride += kind->step > 1 ? 0 : 16; /* avoids a power of two, with which all rows would compete for the same cache sets */
    l.packed = taken((blocks > weights ? blocks : weights) * 4, &lacking);
    l.packed_x = taken((size_t)(quads_of(l.E, kind->lanes) * panel) * 4, &lacking);
    l.dz = taken((size_t)(l.rows * l.N) * 4, &lacking);
    l.turned = taken((size_t)(l.K * kind->pair * l.stride) * 4, &lacking);
    l.dc = cleared((size_t)(l.B * wide) * 4, &lacking);
    l.partial = cleared((size_t)(size * 4 * wide) * 4, &lacking);
    if (!lacking) {
        in_team(&l, size, kind->backward);
        add_up_bias(&l, kind, size);
    }
    free(l.packed), free(l.packed_x), free(l.dz), free(l.turned), free(l.dc), free(l.partial);
    return lacking ? NO_MEMORY : 0;
}
