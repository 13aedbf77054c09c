/* How an exported model writes (docs/contract.md): noise and the choice of a token. V is the vocabulary size.

   Arithmetic is float32, so that the same seed chooses the same tokens in every runtime.
*/

#ifndef CONTRACT_H
#define CONTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a token is chosen. */
struct options {
    double repetition_penalty, temperature, top_p, min_p;
    long long top_k;
};

extern const struct options NEUTRAL; /* changes nothing */

/* NULL, or a line that names an option out of its range. */
const char *out_of_range(const struct options *options);

/* Number t of a 64-bit seed, in [0,1). */
float noise(uint64_t seed, uint32_t t);

/* Choose the next token from the logits [V] of a step, which are changed. `seen` [V] holds the ids of prompt and output,
   `unsampled` [V] those never written; `sorted` [V] is scratch. */
int32_t choose(float *logits, size_t V, float noise, const bool *seen, const bool *unsampled,
               const struct options *options, float *sorted);

#endif
