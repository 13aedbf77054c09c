/* Noise and sampling as specified in docs/contract.md. */

#include "contract.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct options NEUTRAL = {.repetition_penalty = 1, .temperature = 1, .top_p = 1};

/* All conditions are written so that NaN is out of range. */
const char *out_of_range(const struct options *options)
{
    double penalty = options->repetition_penalty, heat = options->temperature;
    if (!(penalty >= 1e-6 && penalty <= 1e6))
        return "repetition_penalty is out of range: it must be 0.000001 to 1000000 (1: off)";
    if (!(heat == 0 || (heat >= 1e-6 && heat <= 1e6)))
        return "temperature is out of range: it must be 0 (greedy), or 0.000001 to 1000000";
    if (!(options->top_k >= 0 && options->top_k <= INT32_MAX))
        return "top_k is out of range: it must be 0 (off) to 2147483647";
    if (!(options->top_p > 0 && options->top_p <= 1))
        return "top_p is out of range: it must be above 0, up to 1 (off)";
    if (!(options->min_p >= 0 && options->min_p <= 1))
        return "min_p is out of range: it must be 0 (off) to 1";
    return NULL;
}

/* Apply the hash "lowbias32" (Wellons, 2018). */
static uint32_t mix(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352d;
    x ^= x >> 15;
    x *= 0x846ca68b;
    return x ^ (x >> 16);
}

float noise(uint64_t seed, uint32_t t)
{
    uint32_t key = mix(mix((uint32_t)seed + 0x9e3779b9) ^ (uint32_t)(seed >> 32));
    return (float)(mix(key ^ mix(t + 0x9e3779b9)) >> 8) / 16777216;
}

/* Return the index of the largest number, or the first index if several numbers are largest. */
static size_t largest(const float *numbers, size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (numbers[i] > numbers[best])
            best = i;
    return best;
}

/* UNIT is the integer that represents the probability 1. Noise and top_p are multiples of 1 / STEPS. A sum of probabilities
   times STEPS is below 2^62, so it does not overflow. */
#define UNIT 68719476736.0f
#define STEPS 16777216

/* Return the denominator of the softmax, which is the sum of e^(x - top) over all x. */
static float sum_of_powers(const float *x, size_t count, float top)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += expf(x[i] - top);
    return (float)sum;
}

/* Return a probability as an integer, because sums of integers do not depend on the order. */
static int64_t part(float x, float top, float total)
{
    return (int64_t)(expf(x - top) / total * UNIT);
}

static int64_t sum_of_parts(const float *x, size_t count, float top, float total)
{
    int64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += part(x[i], top, total);
    return sum;
}

static int falling(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a < b) - (a > b);
}

/* Return the first position at which the probabilities of the logits [V], sorted in descending order, add up to p or more. */
static size_t nucleus_end(const float *sorted, size_t V, float p)
{
    float top = sorted[0], total = sum_of_powers(sorted, V, top);
    int64_t wanted = (int64_t)ceilf(p * STEPS) * sum_of_parts(sorted, V, top, total), sum = 0;
    for (size_t i = 0; i < V; i++) {
        sum += part(sorted[i], top, total);
        if (sum * STEPS >= wanted)
            return i;
    }
    return V - 1; /* not reached with finite logits */
}

/* Return the lowest scaled logit that top_k, top_p and min_p allow. */
static float threshold(const float *scaled, size_t V, const struct options *options, float *sorted)
{
    bool best = options->top_k > 0 && (unsigned long long)options->top_k <= V, nucleus = (float)options->top_p < 1;
    float highest = -INFINITY;
    if (best || nucleus) {
        memcpy(sorted, scaled, V * sizeof *sorted);
        qsort(sorted, V, sizeof *sorted, falling);
    }
    if (best)
        highest = sorted[options->top_k - 1];
    if (nucleus)
        highest = fmaxf(highest, sorted[nucleus_end(sorted, V, (float)options->top_p)]);
    if (options->min_p > 0)
        highest = fmaxf(highest, scaled[largest(scaled, V)] + logf((float)options->min_p));
    return highest;
}

/* Return the first id at which the sum of the probabilities exceeds the noise. */
static size_t draw(const float *kept, size_t V, float noise)
{
    float top = kept[largest(kept, V)], total = sum_of_powers(kept, V, top);
    int64_t step = noise < 1 ? (int64_t)(noise * STEPS) : STEPS - 1, sum = 0;
    int64_t passed = step * sum_of_parts(kept, V, top, total);
    for (size_t i = 0; i < V; i++) {
        sum += part(kept[i], top, total);
        if (sum * STEPS > passed)
            return i;
    }
    return V - 1; /* not reached with finite logits */
}

int32_t choose(float *logits, size_t V, float noise, const bool *seen, const bool *unsampled,
               const struct options *options, float *sorted)
{
    float penalty = (float)options->repetition_penalty, heat = (float)options->temperature;
    for (size_t i = 0; i < V; i++) {
        if (unsampled[i])
            logits[i] = -INFINITY;
        else if (seen[i])
            logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
    }
    if (heat == 0)
        return (int32_t)largest(logits, V);
    for (size_t i = 0; i < V; i++)
        logits[i] /= heat;
    float lowest = threshold(logits, V, options, sorted);
    for (size_t i = 0; i < V; i++)
        if (!(logits[i] >= lowest))
            logits[i] = -INFINITY;
    return (int32_t)draw(logits, V, noise);
}
