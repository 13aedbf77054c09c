/* Random numbers and sampling for an exported model, as specified in docs/contract.md. V is the vocabulary size.

   All numbers are rounded to float32, and probabilities are added as integers. Therefore a seed selects the same tokens in
   every runtime.
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

extern const struct options NEUTRAL; /* turns all options off */

/* Return NULL if all options are in their ranges, or an error message that names an option that is not. */
const char *out_of_range(const struct options *options);

/* Return the random number at position t of the sequence of a 64-bit seed, uniformly distributed in [0, 1). */
float noise(uint64_t seed, uint32_t t);

/* Sample the next token, and return its id.

   logits     [V], output of `step`; the function changes them
   noise      random number in [0, 1)
   seen       [V], true for each id in the prompt or in the text so far
   unsampled  [V], true for each id that is never generated
   sorted     [V], temporary memory */
int32_t choose(float *logits, size_t V, float noise, const bool *seen, const bool *unsampled,
               const struct options *options, float *sorted);

#endif
