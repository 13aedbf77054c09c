/* Open a TFLite file with LiteRT, and run its signature `step`. */

#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_THREADS = 4 }; /* a step spends most of its time reading weights, so more threads do not make it faster */

#define TRY(call)               \
    do {                        \
        const char *why = call; \
        if (why != NULL)        \
            return why;         \
    } while (0)

/* Allocate aligned memory for a tensor or a file, and set it to 0. Return NULL if there is not enough memory. */
static void *aligned(size_t size)
{
    size_t whole = (size / LITERT_ALIGNMENT + 1) * LITERT_ALIGNMENT;
    void *memory = aligned_alloc(LITERT_ALIGNMENT, whole);
    if (memory != NULL)
        memset(memory, 0, whole);
    return memory;
}

static const char *read_file(struct model *model, const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return strerror(errno);
    long end = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    rewind(file);
    model->file = end > 0 && end < LONG_MAX ? aligned((size_t)end) : NULL;
    *size = model->file != NULL ? fread(model->file, 1, (size_t)end, file) : 0;
    fclose(file);
    return *size > 0 && *size == (size_t)end ? NULL : "it is empty, or it cannot be read";
}

/* Read the file, let LiteRT verify the flatbuffer, and get its metadata buffers. */
static const char *read_model(struct model *model, const char *path)
{
    size_t size = 0;
    TRY(read_file(model, path, &size));
    if (LiteRtCreateEnvironment(0, NULL, &model->environment) != 0)
        return "LiteRT cannot be started";
    if (LiteRtCreateModelFromBuffer(model->environment, model->file, size, &model->handle) != 0)
        return "it is not a TFLite file, or it is damaged or truncated";
    const void *json, *tokenizer;
    if (LiteRtGetModelMetadata(model->handle, "keras_lstmgen", &json, &model->json_size) != 0
        || LiteRtGetModelMetadata(model->handle, "tokenizer", &tokenizer, &model->tokenizer_size) != 0)
        return "it does not contain the metadata 'keras_lstmgen' and 'tokenizer'";
    if (json == NULL || tokenizer == NULL)
        return "it stores its metadata outside the flatbuffer, like all files above 2 GB; this is not supported";
    model->json = json;
    model->tokenizer = tokenizer;
    return NULL;
}

static bool find_step(struct model *model, LiteRtSignature *signature)
{
    size_t count;
    const char *name;
    if (LiteRtGetNumModelSignatures(model->handle, &count) != 0)
        return false;
    for (size_t i = 0; i < count; i++)
        if (LiteRtGetModelSignature(model->handle, i, signature) == 0 && LiteRtGetSignatureKey(*signature, &name) == 0
            && strcmp(name, "step") == 0) {
            model->signature = i;
            return true;
        }
    return false;
}

/* Return the number of the input or output with a name, 0 or 1. Return 2 if it does not exist. */
static size_t place_of(LiteRtSignature signature, bool input, const char *name)
{
    const char *found;
    for (size_t place = 0; place < 2; place++)
        if ((input ? LiteRtGetSignatureInputName : LiteRtGetSignatureOutputName)(signature, place, &found) == 0
            && strcmp(found, name) == 0)
            return place;
    return 2;
}

/* Create a buffer for an input or output with one row. If `width` is NULL, the tensor must be int32 [1]. Otherwise it must be
   float32 [1, N], and N is stored in `width`. */
static bool make_tensor(struct model *model, LiteRtSignature signature, int which, const char *name, size_t *width)
{
    bool input = which == IDS || which == STATE;
    size_t place = place_of(signature, input, name);
    LiteRtTensor tensor;
    LiteRtRankedTensorType type;
    if (place == 2
        || (input ? LiteRtGetSignatureInputTensor : LiteRtGetSignatureOutputTensor)(signature, name, &tensor) != 0
        || LiteRtGetRankedTensorType(tensor, &type) != 0 || type.type != (width ? LITERT_FLOAT32 : LITERT_INT32)
        || type.layout.rank != (width ? 2 : 1) || (width && type.layout.dimensions[1] < 1))
        return false;
    type.layout.dimensions[0] = 1; /* the file does not define the number of rows */
    size_t size = 4 * (width ? (size_t)type.layout.dimensions[1] : 1);
    if (width)
        *width = size / 4;
    model->memory[which] = aligned(size);
    return model->memory[which]
           && LiteRtCreateTensorBufferFromHostMemory(&type, model->memory[which], size, NULL,
                                                     (input ? model->inputs : model->outputs) + place) == 0;
}

static const char *make_tensors(struct model *model)
{
    LiteRtSignature step;
    size_t inputs, outputs, S = 0;
    if (!find_step(model, &step))
        return "it has no signature 'step'";
    if (LiteRtGetNumSignatureInputs(step, &inputs) != 0 || LiteRtGetNumSignatureOutputs(step, &outputs) != 0
        || inputs != 2 || outputs != 2 || !make_tensor(model, step, IDS, "ids", NULL)
        || !make_tensor(model, step, STATE, "state", &model->S)
        || !make_tensor(model, step, LOGITS, "logits", &model->V)
        || !make_tensor(model, step, NEXT_STATE, "next_state", &S) || S != model->S)
        return "its signature 'step' has other inputs or outputs than docs/contract.md specifies";
    model->logits = model->memory[LOGITS];
    return NULL;
}

/* Set the number of threads that compute one operator. */
static bool set_threads(LiteRtOptions options)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    char *toml = malloc(32);
    LiteRtOpaqueOptions opaque;
    if (toml == NULL)
        return false;
    snprintf(toml, 32, "num_threads = %d\n", cores < 1 ? 1 : cores < MOST_THREADS ? (int)cores : MOST_THREADS);
    if (LiteRtCreateOpaqueOptions("xnnpack", toml, free, &opaque) != 0) {
        free(toml);
        return false;
    }
    return LiteRtAddOpaqueOptions(options, opaque) == 0;
}

static const char *compile(struct model *model)
{
    LiteRtOptions options;
    bool done = LiteRtCreateOptions(&options) == 0;
    if (done) {
        done = LiteRtSetOptionsHardwareAccelerators(options, LITERT_CPU) == 0 && set_threads(options)
               && LiteRtCreateCompiledModel(model->environment, model->handle, options, &model->compiled) == 0;
        LiteRtDestroyOptions(options);
    }
    return done ? NULL : "LiteRT cannot run its graphs";
}

static const char *open_all(struct model *model, const char *path)
{
    TRY(read_model(model, path));
    TRY(make_tensors(model));
    TRY(compile(model));
    TRY(model_step(model, 0)); /* fails now and not later if the model cannot run */
    model_begin(model);
    return NULL;
}

/* Discard the messages of LiteRT on standard error, until `speak` is called with the returned number. */
static int silence(void)
{
    fflush(stderr);
    int kept = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY);
    if (kept >= 0 && nowhere >= 0)
        dup2(nowhere, STDERR_FILENO);
    if (nowhere >= 0)
        close(nowhere);
    return kept;
}

static void speak(int kept)
{
    if (kept >= 0) {
        dup2(kept, STDERR_FILENO);
        close(kept);
    }
}

const char *model_open(struct model *model, const char *path)
{
    memset(model, 0, sizeof *model);
    int kept = silence();
    const char *why = open_all(model, path);
    speak(kept);
    return why;
}

const char *model_step(struct model *model, int32_t id)
{
    *(int32_t *)model->memory[IDS] = id;
    if (LiteRtRunCompiledModel(model->compiled, model->signature, 2, model->inputs, 2, model->outputs) != 0)
        return "LiteRT cannot run it";
    memcpy(model->memory[STATE], model->memory[NEXT_STATE], model->S * sizeof(float));
    return NULL;
}

void model_begin(struct model *model)
{
    memset(model->memory[STATE], 0, model->S * sizeof(float));
}

void model_close(struct model *model)
{
    int kept = silence();
    for (int place = 0; place < 2; place++) {
        if (model->inputs[place] != NULL)
            LiteRtDestroyTensorBuffer(model->inputs[place]);
        if (model->outputs[place] != NULL)
            LiteRtDestroyTensorBuffer(model->outputs[place]);
    }
    if (model->compiled != NULL)
        LiteRtDestroyCompiledModel(model->compiled);
    if (model->handle != NULL)
        LiteRtDestroyModel(model->handle);
    if (model->environment != NULL)
        LiteRtDestroyEnvironment(model->environment);
    for (int which = 0; which < TENSORS; which++)
        free(model->memory[which]);
    free(model->file);
    speak(kept);
}
