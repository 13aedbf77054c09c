/* Data and functions that all kinds of the LSTM share. lstm.c selects a kind; each kind is in a file of its own, which is compiled
   for its instructions (instruction_sets.toml). */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for thread_team.h */
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "thread_team.h"

#define HIDDEN __attribute__((visibility("hidden"))) /* for names that only the files of this library use */

/* Unroll the next loop completely; `times` is the largest number of its iterations. */
#define PRAGMA(words) _Pragma(#words)
#if defined(__clang__)
#define UNROLL(times) PRAGMA(clang loop unroll(full))
#else
#define UNROLL(times) PRAGMA(GCC unroll times)
#endif

/* A word is one float32 or a pair of bfloat16 numbers. A half is one bfloat16 number. The attribute may_alias is required
   because some functions read them as vectors of floats. */
typedef uint32_t __attribute__((may_alias)) word;
typedef uint16_t __attribute__((may_alias)) half;

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
    const char *name;
    int lanes, pair, step, matrix;     /* the macros LANES, PAIR and STEP of lstm_template.h; whether MATRIX is defined */
    long (*room)(const struct lstm *); /* returns the number of words that a thread needs for the gradient of the weights */
    void (*forward)(void *, struct member *);
    void (*backward)(void *, struct member *);
};

/* One constant per file; a file that the compiler cannot compile is left out of the library. */
HIDDEN extern const struct kind kind_plain, kind_avx2, kind_avx512, kind_avx512_bf16, kind_amx, kind_emulated,
    kind_emulated_amx, kind_neon, kind_neon_bf16;

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
