/* Data that the kinds of the softmax share. softmax.c selects a kind; softmax_rows.h defines one. */

#include <stdint.h>

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

/* Functions for one kind of processor. */
struct softmax_rows {
    float (*log_sum)(const struct task *, long n);
    void (*row_back)(const struct task *, long n, float *by_bias);
};

__attribute__((visibility("hidden"))) extern const struct softmax_rows softmax_plain, softmax_avx2, softmax_avx512;
