/* Compute the cross entropy of labels and its gradient; native_ops.py calls this code by ctypes.

       logits = products + bias
       nats = log sum exp(logits) - logits[label]       gradient = by (softmax(logits) - one_hot(label))

   Here, `by` is the gradient with respect to nats, and `gradient` the gradient with respect to the logits. The rows are
   divided among the threads. The products and their gradient are float32 or bfloat16, and all other arrays of numbers are
   float32. The logits and the softmax are not stored. Each row is read twice, the second time from the cache.
*/

#define _GNU_SOURCE /* for thread_team.h */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "thread_team.h"

/* The compiler creates a version of a function for each of these processors. glibc selects the version while it loads the
   library. ThreadSanitizer is not initialized at that time, so there is only one version with ThreadSanitizer. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("default", "avx2,fma", "avx512f")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define NAME(f) f##_row
#define LANES 16
#include "simd_math.h"

struct task {
    long rows, V;
    const void *products; /* [rows,V], float32, or bfloat16 if `bfloat16` is set */
    const float *bias;    /* [V] */
    const int32_t *labels;
    float *nats, *log_sums;  /* [rows] each */
    const float *by;         /* [rows], gradient with respect to nats */
    void *gradient;          /* [rows,V], gradient with respect to the products, which has their type */
    float *partial;          /* [threads,V], gradient with respect to the bias, summed by each thread over its rows */
    int bfloat16;            /* whether the products are bfloat16 */
};

/* Return the size in bytes of the elements v to v + LANES - 1 of a row that exist; an element has `each` bytes. */
INLINED size_t bytes_from(const struct task *t, long v, size_t each)
{
    long left = t->V - v;
    return (size_t)(left < LANES ? left : LANES) * each;
}

/* Return the logits v to v + LANES - 1 of row n. Logits after the end of the row are minus infinity. */
INLINED vector logits(const struct task *t, long n, long v)
{
    vector x = {0}, bias = NAME(all)(-INFINITY);
    memcpy(&bias, t->bias + v, v + LANES <= t->V ? sizeof bias : bytes_from(t, v, sizeof(float)));
    if (t->bfloat16) {
        NAME(halves) words = {0};
        const uint16_t *from = (const uint16_t *)t->products + n * t->V + v;
        memcpy(&words, from, v + LANES <= t->V ? sizeof words : bytes_from(t, v, sizeof *from));
        x = (vector)(__builtin_convertvector(words, NAME(bits)) << 16);
    } else {
        const float *from = (const float *)t->products + n * t->V + v;
        memcpy(&x, from, v + LANES <= t->V ? sizeof x : bytes_from(t, v, sizeof *from));
    }
    return x + bias;
}

static inline float logit(const struct task *t, long n, long v)
{
    float product;
    if (t->bfloat16) {
        uint32_t word = (uint32_t)((const uint16_t *)t->products)[n * t->V + v] << 16;
        memcpy(&product, &word, sizeof product);
    } else
        product = ((const float *)t->products)[n * t->V + v];
    return product + t->bias[v];
}

INLINED void put(const struct task *t, long n, long v, vector x)
{
    if (t->bfloat16) {
        NAME(halves) words = __builtin_convertvector(NAME(rounded)(x), NAME(halves));
        uint16_t *to = (uint16_t *)t->gradient + n * t->V + v;
        memcpy(to, &words, v + LANES <= t->V ? sizeof words : bytes_from(t, v, sizeof *to));
    } else {
        float *to = (float *)t->gradient + n * t->V + v;
        memcpy(to, &x, v + LANES <= t->V ? sizeof x : bytes_from(t, v, sizeof *to));
    }
}

/* Compute log sum exp of the logits of row n. */
FOR_EACH_PROCESSOR static float log_sum(const struct task *t, long n)
{
    vector most = NAME(all)(-INFINITY), sum = {0};
    for (long v = 0; v < t->V; v += LANES) {
        vector x = logits(t, n, v);
        most = NAME(chosen)(x > most, x, most);
    }
    float largest = most[0];
    for (int lane = 1; lane < LANES; lane++)
        largest = most[lane] > largest ? most[lane] : largest;
    for (long v = 0; v < t->V; v += LANES)
        sum += NAME(exp)(logits(t, n, v) - largest);
    double total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += sum[lane];
    return largest + (float)log(total);
}

/* Compute the gradient of row n, and add it to the gradient of the bias. The function subtracts the 1 of the label before it
   rounds the result to bfloat16. If the softmax is near 1, subtracting after rounding would be inaccurate. */
FOR_EACH_PROCESSOR static void row_back(const struct task *t, long n, float *by_bias)
{
    const float log_sum = t->log_sums[n], by = t->by[n];
    for (long v = 0; v < t->V; v += LANES) {
        vector x = NAME(exp)(logits(t, n, v) - log_sum), sum = {0};
        long label = t->labels[n] - v;
        if (label >= 0 && label < LANES)
            x[label] -= 1.f;
        x *= by;
        size_t bytes = v + LANES <= t->V ? sizeof sum : bytes_from(t, v, sizeof(float));
        memcpy(&sum, by_bias + v, bytes);
        sum += x;
        memcpy(by_bias + v, &sum, bytes);
        put(t, n, v, x);
    }
}

static void forward(void *given, struct member *me)
{
    const struct task *t = given;
    struct range rows = share(t->rows, me->index, me->team->size);
    for (long n = rows.first; n < rows.end; n++) {
        t->log_sums[n] = log_sum(t, n);
        t->nats[n] = t->log_sums[n] - logit(t, n, t->labels[n]);
    }
}

static void backward(void *given, struct member *me)
{
    const struct task *t = given;
    struct range rows = share(t->rows, me->index, me->team->size);
    float *by_bias = t->partial + me->index * t->V;
    memset(by_bias, 0, (size_t)t->V * sizeof *by_bias);
    for (long n = rows.first; n < rows.end; n++)
        row_back(t, n, by_bias);
    meet(&me->team->all, me->team->size);
    struct range columns = share(t->V, me->index, me->team->size);
    for (int thread = 1; thread < me->team->size; thread++)
        for (long v = columns.first; v < columns.end; v++)
            t->partial[v] += t->partial[thread * t->V + v];
}

/* Compute the forward pass.

   bfloat16  whether the products are bfloat16
   shape     rows, V
   in        products, bias, labels (from 0 to V - 1)
   out       nats, and log sum exp of the logits, which the backward pass needs */
void softmax_forward(int threads, int bfloat16, const long *shape, void **in, float **out)
{
    struct task t = {.rows = shape[0], .V = shape[1], .bfloat16 = bfloat16, .products = in[0]};
    t.bias = in[1], t.labels = in[2], t.nats = out[0], t.log_sums = out[1];
    in_team(&t, threads, forward);
}

/* Compute the backward pass. The other arguments are the same as for softmax_forward.

   in        products, bias, labels, log sum exp of the logits, gradient with respect to nats
   out       gradient with respect to the products, and an array [threads,V], whose first row becomes the gradient with respect
             to the bias */
void softmax_backward(int threads, int bfloat16, const long *shape, void **in, void **out)
{
    struct task t = {.rows = shape[0], .V = shape[1], .bfloat16 = bfloat16, .products = in[0]};
    t.bias = in[1], t.labels = in[2], t.log_sums = in[3], t.by = in[4], t.gradient = out[0], t.partial = out[1];
    in_team(&t, threads, backward);
}
