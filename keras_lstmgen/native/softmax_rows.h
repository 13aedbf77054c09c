/* Define the softmax of a row for one kind of processor. A file per kind includes this file, with the macro NAME(f). */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#include "simd_math.h"

/* Return the size in bytes of the elements v to v + LANES - 1 of a row that exist; an element has `each` bytes. */
INLINED size_t NAME(bytes_from)(const struct task *t, long v, size_t each)
{
    long left = t->V - v;
    return (size_t)(left < LANES ? left : LANES) * each;
}

/* Return the logits v to v + LANES - 1 of row n. Logits after the end of the row are minus infinity. */
INLINED vector NAME(logits)(const struct task *t, long n, long v)
{
    vector x = {0}, bias = NAME(all)(-INFINITY);
    memcpy(&bias, t->bias + v, v + LANES <= t->V ? sizeof bias : NAME(bytes_from)(t, v, sizeof(float)));
    if (t->bfloat16) {
        NAME(halves) words = {0};
        const uint16_t *from = (const uint16_t *)t->products + n * t->V + v;
        memcpy(&words, from, v + LANES <= t->V ? sizeof words : NAME(bytes_from)(t, v, sizeof *from));
        x = (vector)(__builtin_convertvector(words, NAME(bits)) << 16);
    } else {
        const float *from = (const float *)t->products + n * t->V + v;
        memcpy(&x, from, v + LANES <= t->V ? sizeof x : NAME(bytes_from)(t, v, sizeof *from));
    }
    return x + bias;
}

INLINED void NAME(put)(const struct task *t, long n, long v, vector x)
{
    if (t->bfloat16) {
        NAME(halves) words = __builtin_convertvector(NAME(rounded)(x), NAME(halves));
        uint16_t *to = (uint16_t *)t->gradient + n * t->V + v;
        memcpy(to, &words, v + LANES <= t->V ? sizeof words : NAME(bytes_from)(t, v, sizeof *to));
    } else {
        float *to = (float *)t->gradient + n * t->V + v;
        memcpy(to, &x, v + LANES <= t->V ? sizeof x : NAME(bytes_from)(t, v, sizeof *to));
    }
}

/* Compute log sum exp of the logits of row n. */
static float NAME(log_sum)(const struct task *t, long n)
{
    vector most = NAME(all)(-INFINITY), sum = {0};
    for (long v = 0; v < t->V; v += LANES) {
        vector x = NAME(logits)(t, n, v);
        most = NAME(chosen)(x > most, x, most);
    }
    float largest = most[0];
    for (int lane = 1; lane < LANES; lane++)
        largest = most[lane] > largest ? most[lane] : largest;
    for (long v = 0; v < t->V; v += LANES)
        sum += NAME(exp)(NAME(logits)(t, n, v) - largest);
    double total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += sum[lane];
    return largest + (float)log(total);
}

/* Compute the gradient of row n, and add it to the gradient of the bias. The function subtracts the 1 of the label before it
   rounds the result to bfloat16. If the softmax is near 1, subtracting after rounding would be inaccurate. */
static void NAME(row_back)(const struct task *t, long n, float *by_bias)
{
    const float log_sum = t->log_sums[n], by = t->by[n];
    for (long v = 0; v < t->V; v += LANES) {
        vector x = NAME(exp)(NAME(logits)(t, n, v) - log_sum), sum = {0};
        long label = t->labels[n] - v;
        if (label >= 0 && label < LANES)
            x[label] -= 1.f;
        x *= by;
        size_t bytes = v + LANES <= t->V ? sizeof sum : NAME(bytes_from)(t, v, sizeof(float));
        memcpy(&sum, by_bias + v, bytes);
        sum += x;
        memcpy(by_bias + v, &sum, bytes);
        NAME(put)(t, n, v, x);
    }
}

const struct softmax_rows NAME(softmax) = {NAME(log_sum), NAME(row_back)};

#undef vector
#undef loose
#undef NAME
#undef LANES
