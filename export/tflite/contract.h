/* Random numbers and sampling for an exported model (docs/contract.md). V is the vocabulary size.

   Arithmetic is float32, so a seed selects the same tokens in every runtime.
*/

#ifndef CONTRACT_H
#define CONTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sampling options. */
struct options {
    double repetition_penalty, temperature, top_p, min_p;
    long long top_k;
};

extern const struct options NEUTRAL; /* all options off */

/* Return NULL, or a message that names an option out of range. */
const char *out_of_range(const struct options *options);

/* Return random number t of a 64-bit seed, in [0,1). */
float noise(uint64_t seed, uint32_t t);

/* Sample the next token from the logits [V] of a step; the logits are modified. `seen` [V] marks the ids of prompt and
   output, `unsampled` [V] marks the ids that are never generated, `sorted` [V] is temporary memory. */
int32_t choose(float *logits, size_t V, float noise, const bool *seen, const bool *unsampled,
               const struct options *options, float *sorted);

#endif
