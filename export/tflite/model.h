/* An opened TFLite file of keras_lstmgen: its signature `step` and its two metadata buffers.

   V is the vocabulary size, S the state size. Functions that can fail return NULL or an error message.
*/

#ifndef MODEL_H
#define MODEL_H

#include "litert.h"

enum { IDS, STATE, LOGITS, NEXT_STATE, TENSORS };

struct model {
    size_t V, S;
    float *logits;                /* [V], after a step */
    const char *json, *tokenizer; /* metadata buffers, owned by the model */
    size_t json_size, tokenizer_size;
    /* Objects of LiteRT. */
    void *file, *memory[TENSORS];
    size_t signature; /* number of the signature */
    LiteRtEnvironment environment;
    LiteRtModel handle;
    LiteRtCompiledModel compiled;
    LiteRtTensorBuffer inputs[2], outputs[2];
};

/* Open a file; close the model in both cases. */
const char *model_open(struct model *model, const char *path);
void model_close(struct model *model);

/* Read an id below V; compute the logits of the next token and the next state. */
const char *model_step(struct model *model, int32_t id);

/* Reset the state for a new text. */
void model_begin(struct model *model);

#endif
