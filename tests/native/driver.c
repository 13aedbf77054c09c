/* Call every entry point of keras_lstmgen/native, and compare the results.

   Each kind of kernel that this processor can run computes the same windows with several numbers of threads. All results must be
   equal to those of one thread, and to those of the first kind of the same type. With any argument, the program leaves out the
   windows with hundreds of threads, which take minutes in an emulator. Exit status: 0, or 1 if a result differs; sanitizers have
   other statuses.
*/

#define _GNU_SOURCE /* for thread_team.h */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "thread_team.h"

_Static_assert(_Alignof(struct barrier) == 64, "a barrier begins a cache line");

int lstm_has_bfloat16(void);
int lstm_choose(const char *name);
int lstm_sizes(int bfloat16, long B, long T, long E, long H, long *bytes);
int lstm_forward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept);
int lstm_backward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept);
void softmax_forward(int threads, int bfloat16, const long *shape, void **in, float **out);
void softmax_backward(int threads, int bfloat16, const long *shape, void **in, void **out);

#define COUNT(array) (int)(sizeof(array) / sizeof *(array))

enum { KINDS = 5 };
static const char *const kinds[2][KINDS] = {
    {"plain", "avx2", "avx512", "neon", NULL},
    {"emulated", "avx512_bf16", "emulated amx", "amx", "neon_bf16"},
};
static const float order = 1e-4f;   /* largest relative difference between sums of the same numbers in another order */
static const float halves = 2e-2f;  /* the same, if a different order can change how a later operand is rounded to bfloat16 */
static const int few[] = {1, 2, 3, 7};
#ifdef __SANITIZE_THREAD__
static const int many[] = {257}; /* ThreadSanitizer takes a millisecond to start a thread */
#else
static const int many[] = {255, 256, 257, 1000};
#endif
static const long windows[][4] = {{1, 1, 3, 2}, {5, 4, 33, 17}, {40, 3, 9, 70}, {33, 35, 5, 8}}; /* B, T, E, H */
static const long wide_window[4] = {300, 1, 2, 3};                                               /* B > 256 */
static const long logits[][2] = {{1, 1}, {7, 65}, {3, 16}};                                      /* rows, V */
static const long many_logits[2] = {300, 5};
static int failures;

/* ---- arrays ------------------------------------------------------------------------------------------------------ */

/* `count` floats in memory of their own, so that a step beyond them is found. */
static float *room(long count)
{
    return aligned_alloc(64, ((size_t)count * sizeof(float) + 127) / 64 * 64);
}

/* Numbers from -1 to 1, the same for the same seed. */
static float *numbers(long count, uint32_t seed)
{
    float *out = malloc((size_t)count * sizeof *out);
    for (long n = 0; n < count; n++) {
        seed = seed * 1664525u + 1013904223u;
        out[n] = (float)(seed >> 8) / 8388608.f - 1.f;
    }
    return out;
}

static void release(int count, void **arrays)
{
    for (int n = 0; n < count; n++)
        free(arrays[n]);
}

/* Compare two results. The relative difference of two numbers may be `most`; two NaN are equal. */
static void compare(const char *what, int threads, const float *wanted, const float *found, long count, float most)
{
    for (long n = 0; n < count; n++)
        if (!(fabsf(wanted[n] - found[n]) <= most * (1.f + fabsf(wanted[n]))) && !(isnan(wanted[n]) && isnan(found[n]))) {
            printf("%s, %d threads: number %ld is %g instead of %g\n", what, threads, n, found[n], wanted[n]);
            __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
            return;
        }
}

/* ---- the LSTM ---------------------------------------------------------------------------------------------------- */

enum { OUTPUTS = 3, GRADIENTS = 6, RESULTS = OUTPUTS + GRADIENTS };

/* How many numbers each of y h c, dx dh0 dc0 dW dU db has. */
static void sizes_of(const long *shape, long *sizes)
{
    long B = shape[0], T = shape[1], E = shape[2], H = shape[3];
    const long of[RESULTS] = {B * T * H, B * H, B * H, B * T * E, B * H, B * H, E * 4 * H, H * 4 * H, 4 * H};
    memcpy(sizes, of, sizeof of);
}

/* Forward and backward over one window; the results are for the caller to free. */
static void window(int bfloat16, int threads, const long *shape, float scale, float **results)
{
    long sizes[RESULTS], bytes[3];
    sizes_of(shape, sizes);
    const int counts[2] = {threads, threads};
    float *in[6], *back[5];
    void *kept[3];
    for (int n = 0; n < 6; n++) /* x h0 c0 W U b have the sizes of their gradients */
        in[n] = numbers(sizes[OUTPUTS + n], (uint32_t)n);
    for (long n = 0; n < sizes[OUTPUTS]; n++)
        in[0][n] *= scale;
    for (int n = 0; n < RESULTS; n++)
        results[n] = malloc((size_t)sizes[n] * sizeof(float));
    int failed = lstm_sizes(bfloat16, shape[0], shape[1], shape[2], shape[3], bytes);
    for (int n = 0; n < 3; n++)
        kept[n] = room(bytes[n] / (long)sizeof(float));
    failed |= lstm_forward(bfloat16, counts, shape, in, results, kept);
    back[0] = in[3], back[1] = in[4];
    for (int n = 0; n < OUTPUTS; n++)
        back[2 + n] = numbers(sizes[n], (uint32_t)(10 + n));
    failed |= lstm_backward(bfloat16, counts, shape, back, results + OUTPUTS, kept);
    if (failed)
        printf("the LSTM failed with %d threads\n", threads);
    __atomic_add_fetch(&failures, failed != 0, __ATOMIC_RELAXED);
    release(6, (void **)in), release(3, (void **)(back + 2)), release(3, kept);
}

static void compare_windows(const char *kind, int bfloat16, const long *shape, const int *threads, int count)
{
    long sizes[RESULTS];
    float *wanted[RESULTS], *found[RESULTS];
    sizes_of(shape, sizes);
    window(bfloat16, 1, shape, 1.f, wanted);
    for (int n = 0; n < count; n++) {
        window(bfloat16, threads[n], shape, 1.f, found);
        for (int result = 0; result < RESULTS; result++)
            compare(kind, threads[n], wanted[result], found[result], sizes[result], order);
        release(RESULTS, (void **)found);
    }
    release(RESULTS, (void **)wanted);
}

/* Compare a kind with the first kind of its type. */
static void compare_kinds(int bfloat16, const char *name, const long *shape)
{
    long sizes[RESULTS];
    float *wanted[RESULTS], *found[RESULTS];
    sizes_of(shape, sizes);
    window(bfloat16, 1, shape, 1.f, found);
    lstm_choose(kinds[bfloat16][0]);
    window(bfloat16, 1, shape, 1.f, wanted);
    lstm_choose(name);
    for (int result = 0; result < RESULTS; result++)
        compare(name, 1, wanted[result], found[result], sizes[result], bfloat16 ? halves : order);
    release(RESULTS, (void **)wanted), release(RESULTS, (void **)found);
}

static void test_windows(int quick)
{
    static const float extreme[] = {1e30f, -1e30f, INFINITY, NAN};
    float *results[RESULTS];
    for (int bfloat16 = 0; bfloat16 < 2; bfloat16++)
        for (int kind = 0; kind < KINDS; kind++) {
            const char *name = kinds[bfloat16][kind];
            if (!name || lstm_choose(name))
                continue;
            printf("%s\n", name);
            for (int n = 0; n < COUNT(windows); n++)
                compare_windows(name, bfloat16, windows[n], few, COUNT(few)), compare_kinds(bfloat16, name, windows[n]);
            if (!quick && (!strcmp(name, "plain") || !strcmp(name, "emulated amx"))) /* per_thread_batch.h and shared_weights.h */
                compare_windows(name, bfloat16, wide_window, many, COUNT(many));
            for (int n = 0; n < COUNT(extreme); n++) {
                window(bfloat16, 2, windows[1], extreme[n], results);
                release(RESULTS, (void **)results);
            }
        }
    lstm_choose("best");
}

/* ---- the softmax ------------------------------------------------------------------------------------------------- */

/* nats, log sums, the gradients by products and by the bias; the results are for the caller to free. */
static void softmax(int bfloat16, int threads, const long *shape, float **results)
{
    long rows = shape[0], V = shape[1];
    float *products = numbers(rows * V, 1), *bias = numbers(V, 2), *by = numbers(rows, 3);
    int32_t *labels = malloc((size_t)rows * sizeof *labels);
    for (long n = 0; n < rows; n++)
        labels[n] = (int32_t)(n * 7 % V);
    for (long n = 0; bfloat16 && n < rows * V; n++) /* the upper half of a float */
        ((uint16_t *)products)[n] = (uint16_t)(0x3f80 + n % 64);
    const long sizes[4] = {rows, rows, rows * V, threads * V};
    for (int n = 0; n < 4; n++)
        results[n] = calloc((size_t)sizes[n], sizeof(float));
    softmax_forward(threads, bfloat16, shape, (void *[]){products, bias, labels}, results);
    void *in[] = {products, bias, labels, results[1], by};
    softmax_backward(threads, bfloat16, shape, in, (void **)(results + 2));
    release(5, (void *[]){products, bias, by, labels, NULL});
}

static void compare_softmax(int bfloat16, const long *shape, const int *threads, int count)
{
    const char *name = bfloat16 ? "softmax of bfloat16" : "softmax";
    const long rows = shape[0], V = shape[1], of_products = bfloat16 ? rows * V / 2 : rows * V;
    const long sizes[4] = {rows, rows, of_products, V};
    float *wanted[4], *found[4];
    softmax(bfloat16, 1, shape, wanted);
    for (int n = 0; n < count; n++) {
        softmax(bfloat16, threads[n], shape, found);
        for (int result = 0; result < 4; result++)
            compare(name, threads[n], wanted[result], found[result], sizes[result], order);
        release(4, (void **)found);
    }
    release(4, (void **)wanted);
}

static void test_softmax(int quick)
{
    for (int bfloat16 = 0; bfloat16 < 2; bfloat16++) {
        for (int n = 0; n < COUNT(logits); n++)
            compare_softmax(bfloat16, logits[n], few, COUNT(few));
        if (!quick)
            compare_softmax(bfloat16, many_logits, many, COUNT(many));
    }
    printf("softmax\n");
}

/* ---- several callers at once ------------------------------------------------------------------------------------- */

static void *caller(void *nothing)
{
    float *results[RESULTS];
    lstm_choose("best");
    int bfloat16 = lstm_has_bfloat16() > 0;
    window(bfloat16, 2, windows[1], 1.f, results);
    release(RESULTS, (void **)results);
    compare_softmax(0, logits[1], few, 2);
    return nothing;
}

/* Before all else: what is found out once about the processor, several find out at the same time. */
static void test_callers(void)
{
    pthread_t ids[3];
    for (int n = 0; n < COUNT(ids); n++)
        pthread_create(&ids[n], NULL, caller, NULL);
    for (int n = 0; n < COUNT(ids); n++)
        pthread_join(ids[n], NULL);
}

int main(int count, char **words)
{
    test_callers();
    (void)words;
    test_windows(count > 1);
    test_softmax(count > 1);
    return failures != 0;
}
