/* Compute the cross entropy of labels and its gradient; native_ops.py calls this code by ctypes.

       logits = products + bias
       nats = log sum exp(logits) - logits[label]       gradient = by (softmax(logits) - one_hot(label))

   Here, `by` is the gradient with respect to nats, and `gradient` the gradient with respect to the logits. The rows are
   divided among the threads. The products and their gradient are float32 or bfloat16, and all other arrays of numbers are
   float32. The logits and the softmax are not stored. Each row is read twice, the second time from the cache.
*/

#define _GNU_SOURCE /* for thread_team.h */
#include <stdint.h>
#include <string.h>

#include "softmax.h"
#include "thread_team.h"

/* Return the fastest kind of this processor. */
static const struct softmax_rows *rows_of(void)
{
#ifdef HAS_SOFTMAX_AVX512
    if (__builtin_cpu_supports("avx512f"))
        return &softmax_avx512;
#endif
#ifdef HAS_SOFTMAX_AVX2
    if (__builtin_cpu_supports("avx2"))
        return &softmax_avx2;
#endif
    return &softmax_plain;
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

static void forward(void *given, struct member *me)
{
    const struct task *t = given;
    const struct softmax_rows *kind = rows_of();
    struct range rows = share(t->rows, me->index, me->team->size);
    for (long n = rows.first; n < rows.end; n++) {
        t->log_sums[n] = kind->log_sum(t, n);
        t->nats[n] = t->log_sums[n] - logit(t, n, t->labels[n]);
    }
}

static void backward(void *given, struct member *me)
{
    const struct task *t = given;
    const struct softmax_rows *kind = rows_of();
    struct range rows = share(t->rows, me->index, me->team->size);
    float *by_bias = t->partial + me->index * t->V;
    memset(by_bias, 0, (size_t)t->V * sizeof *by_bias);
    for (long n = rows.first; n < rows.end; n++)
        kind->row_back(t, n, by_bias);
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
