/* Define vectors of LANES floats, and functions that are applied to each lane (element) of a vector.

   lstm_template.h includes this file once for each kind of processor, and softmax.c includes it once. Both define the
   macros NAME(f) and LANES before. All functions are inlined, so the compiler uses the instructions of the calling function.
*/

typedef float NAME(vector) __attribute__((vector_size(4 * LANES)));
typedef float NAME(loose) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(integers) __attribute__((vector_size(4 * LANES)));
typedef uint32_t NAME(bits) __attribute__((vector_size(4 * LANES)));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
#define vector NAME(vector)
#define loose NAME(loose)
#define INLINED static inline __attribute__((always_inline))

INLINED vector NAME(all)(float value) { return value - (vector){0}; }

INLINED vector NAME(chosen)(NAME(integers) which, vector yes, vector no)
{
    return (vector)((which & (NAME(integers))yes) | (~which & (NAME(integers))no));
}

/* Round each lane to the nearest bfloat16 (ties to even), and return it in the lower half of the lane. NaN stays NaN. */
INLINED NAME(bits) NAME(rounded)(vector values)
{
    NAME(bits) bits = (NAME(bits))values, even = bits + 0x7fff + (bits >> 16 & 1);
    NAME(integers) nan = (NAME(integers))(bits & 0x7fffffff) > 0x7f800000;
    return (NAME(bits))NAME(chosen)(nan, (vector)(bits | 0x400000), (vector)even) >> 16;
}

/* Compute p and n with e^x = 2^n (1 + p), by the method of expf in the Cephes library. The function returns p, and stores n
   in the exponent bits of `n_as_exponent`. */
INLINED vector NAME(exp_parts)(vector x, NAME(bits) *n_as_exponent)
{
    const float magic = 12582912.f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = NAME(chosen)(x < -87.f, NAME(all)(-87.f), NAME(chosen)(x > 87.f, NAME(all)(87.f), x)); /* NaN stays NaN */
    vector shifted = x * 1.44269504f + magic, n = shifted - magic;
    x -= n * 0.693359375f;
    x += n * 2.12194440e-4f;
    vector y = NAME(all)(1.9875691500e-4f);
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    *n_as_exponent = ((NAME(bits))shifted - (NAME(bits))NAME(all)(magic)) << 23;
    return y * x * x + x;
}

/* Compute e^x with an error of at most 2 units in the last place. */
INLINED vector NAME(exp)(vector x)
{
    NAME(bits) exponent;
    vector y = NAME(exp_parts)(x, &exponent) + 1.f;
    return (vector)((NAME(bits))y + exponent);
}

/* Compute e^x - 1 with an error of a few units in the last place; near 0, n is 0 and the result is p. */
INLINED vector NAME(expm1)(vector x)
{
    NAME(bits) exponent;
    vector p = NAME(exp_parts)(x, &exponent), power = (vector)((NAME(bits))NAME(all)(1.f) + exponent);
    return p * power + (power - 1.f);
}
