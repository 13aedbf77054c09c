/* A TFLite file that keras_lstmgen wrote, opened: its signature `step` and the two metadata buffers that it carries.

   V is the vocabulary size, S the state size. Functions that can fail return NULL, or a line that says what is wrong.
*/

#ifndef MODEL_H
#define MODEL_H

#include "litert.h"

enum { IDS, STATE, LOGITS, NEXT_STATE, TENSORS };

struct model {
    size_t V, S;
    float *logits;                /* [V], after a step */
    const char *json, *tokenizer; /* the metadata buffers, which go with the model */
    size_t json_size, tokenizer_size;
    /* What LiteRT needs to know. */
    void *file, *memory[TENSORS];
    size_t signature; /* its number */
    LiteRtEnvironment environment;
    LiteRtModel handle;
    LiteRtCompiledModel compiled;
    LiteRtTensorBuffer inputs[2], outputs[2];
};

/* Open a file; close the model in either case. */
const char *model_open(struct model *model, const char *path);
void model_close(struct model *model);

/* Read an id below V: its successor's logits, and the state after it. */
const char *model_step(struct model *model, int32_t id);

/* Forget what was read: a text begins. */
void model_begin(struct model *model);

#endif
