/* Open a TFLite file of keras_lstmgen, run its signature `step`, and get its two metadata buffers.

   V is the vocabulary size, and S is the state size. Functions that can fail return NULL on success, or an error message.
*/

#ifndef MODEL_H
#define MODEL_H

#include "litert.h"

enum { IDS, STATE, LOGITS, NEXT_STATE, TENSORS };

struct model {
    size_t V, S;
    float *logits;                /* [V], result of the last step */
    const char *json, *tokenizer; /* metadata buffers, owned by the model */
    size_t json_size, tokenizer_size;
    /* Objects of LiteRT. */
    void *file, *memory[TENSORS];
    size_t signature; /* number of the signature `step` */
    LiteRtEnvironment environment;
    LiteRtModel handle;
    LiteRtCompiledModel compiled;
    LiteRtTensorBuffer inputs[2], outputs[2];
};

/* Open a file. The caller must close the model even if this function fails. */
const char *model_open(struct model *model, const char *path);
void model_close(struct model *model);

/* Run the model for one id, which must be below V. Compute the logits of the next token, and update the state. */
const char *model_step(struct model *model, int32_t id);

/* Reset the state for a new text. */
void model_begin(struct model *model);

#endif
