/* The negative log-likelihood of labels by logits, and its gradient: called from kernel.py by ctypes.

       nats = log sum exp(logits) - logits[label]       gradient = by (softmax(logits) - [the label])

   Rows are shared out among threads. A row is read again while it is in the cache; the softmax is never stored.
*/

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "team.h"

#if defined(__x86_64__) && defined(__linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("default", "avx2,fma", "avx512f")))
#else
#define FOR_EACH_PROCESSOR
#endif

enum { LANES = 16 };

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

struct task {
    long rows, V;
    const float *logits; /* [rows,V] */
    const int32_t *labels;
    float *nats, *log_sums;  /* [rows] each */
    const float *by;         /* gradient by nats */
    float *gradient;         /* [rows,V] */
};

/* e^x within 2 units in the last place, for x up to 0: 2^n times a polynomial on half a unit of n (Cephes' expf). */
static inline __attribute__((always_inline)) vector exponential(vector x)
{
    const float magic = 12582912.f; /* 1.5 * 2^23: adding it rounds to a whole number */
    const vector least = (vector){0} - 87.f, all_magic = (vector){0} + magic;
    integers too_small = (integers)(x < least);
    x = (vector)((too_small & (integers)least) | (~too_small & (integers)x)); /* a NaN stays one */
    vector shifted = x * 1.44269504f + magic, n = shifted - magic;
    x -= n * 0.693359375f;
    x += n * 2.12194440e-4f;
    vector y = (vector){0} + 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.f;
    return (vector)((integers)y + (((integers)shifted - (integers)all_magic) << 23));
}

/* So many numbers, at most LANES, and else what adds nothing: e^rest is 0 beside the largest. */
static inline __attribute__((always_inline)) vector first_of(const float *values, long count, float rest)
{
    vector out = (vector){0} + rest;
    memcpy(&out, values, (size_t)(count < LANES ? count : LANES) * sizeof *values);
    return out;
}

FOR_EACH_PROCESSOR static float log_sum(const float *logits, long V)
{
    float largest = -INFINITY, sums[LANES];
    for (long v = 0; v < V; v++)
        largest = logits[v] > largest ? logits[v] : largest;
    vector sum = {0};
    for (long v = 0; v < V; v += LANES)
        sum += exponential(first_of(logits + v, V - v, largest - 1000.f) - largest);
    memcpy(sums, &sum, sizeof sums);
    double total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += sums[lane];
    return largest + (float)log(total);
}

FOR_EACH_PROCESSOR static void row_back(const float *logits, long V, float log_sum, float by, float *gradient)
{
    long v = 0;
    for (; v + LANES <= V; v += LANES)
        *(vector *)(gradient + v) = exponential(*(const vector *)(logits + v) - log_sum) * by;
    vector rest = exponential(first_of(logits + v, V - v, log_sum) - log_sum) * by;
    memcpy(gradient + v, &rest, (size_t)(V - v) * sizeof *gradient);
}

static void forward(void *given, struct member *me)
{
    const struct task *t = given;
    struct range rows = share(t->rows, me->index, me->team->size);
    for (long n = rows.first; n < rows.end; n++) {
        t->log_sums[n] = log_sum(t->logits + n * t->V, t->V);
        t->nats[n] = t->log_sums[n] - t->logits[n * t->V + t->labels[n]];
    }
}

static void backward(void *given, struct member *me)
{
    const struct task *t = given;
    struct range rows = share(t->rows, me->index, me->team->size);
    for (long n = rows.first; n < rows.end; n++) {
        float *gradient = t->gradient + n * t->V;
        row_back(t->logits + n * t->V, t->V, t->log_sums[n], t->by[n], gradient);
        gradient[t->labels[n]] -= t->by[n];
    }
}

/* shape: rows, V. Labels are from 0 to V - 1. */
void softmax_forward(int threads, const long *shape, const float *logits, const int32_t *labels, float *nats, float *sums)
{
    struct task t = {.rows = shape[0], .V = shape[1], .logits = logits, .labels = labels, .nats = nats, .log_sums = sums};
    in_team(&t, threads, forward);
}

/* in: logits, the sums of forward, the gradient by nats. */
void softmax_backward(int threads, const long *shape, const float **in, const int32_t *labels, float *gradient)
{
    struct task t = {.rows = shape[0], .V = shape[1], .logits = in[0], .labels = labels, .gradient = gradient};
    t.log_sums = (float *)in[1], t.by = in[2];
    in_team(&t, threads, backward);
}
