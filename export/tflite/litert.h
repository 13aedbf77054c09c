/* The part of LiteRT's C API that runs one signature of a model on the CPU.

   libLiteRt.so of the package ai-edge-litert exports it and brings no headers. What stands here is that of its versions
   2.1 to 2.3 on 64-bit machines; every function but those that destroy returns 0 where all went well.
*/

#ifndef LITERT_H
#define LITERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct LiteRtEnvironmentT *LiteRtEnvironment;
typedef struct LiteRtModelT *LiteRtModel;
typedef struct LiteRtSignatureT *LiteRtSignature;
typedef struct LiteRtTensorT *LiteRtTensor;
typedef struct LiteRtOptionsT *LiteRtOptions;
typedef struct LiteRtOpaqueOptionsT *LiteRtOpaqueOptions;
typedef struct LiteRtCompiledModelT *LiteRtCompiledModel;
typedef struct LiteRtTensorBufferT *LiteRtTensorBuffer;

enum { LITERT_FLOAT32 = 1, LITERT_INT32 = 2 }; /* types of numbers */
enum { LITERT_CPU = 1 };                       /* a set of accelerators, one a bit */
enum { LITERT_ALIGNMENT = 64 };                /* of memory that a tensor buffer is made of, in bytes */

/* Type and shape of a tensor; a dimension that is left open is -1. */
typedef struct {
    int32_t type;
    struct {
        unsigned int rank : 7;
        bool has_strides : 1;
        int32_t dimensions[8];
        uint32_t strides[8];
    } layout;
} LiteRtRankedTensorType;
_Static_assert(sizeof(LiteRtRankedTensorType) == 72, "LiteRT passes this by its address");

/* An environment is what models and their memory belong to; options may be NULL. */
int LiteRtCreateEnvironment(int count, const void *options, LiteRtEnvironment *environment);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);

/* The bytes of a file, which are checked and must outlive the model. (LiteRtCreateModelFromFile checks nothing:
   a file that was cut short ends the process.) */
int LiteRtCreateModelFromBuffer(LiteRtEnvironment environment, const void *bytes, size_t size, LiteRtModel *model);
void LiteRtDestroyModel(LiteRtModel model);

/* A metadata buffer by its name; the bytes are the model's. */
int LiteRtGetModelMetadata(LiteRtModel model, const char *name, const void **bytes, size_t *size);

/* Signatures by number, their inputs and outputs by number or name. */
int LiteRtGetNumModelSignatures(LiteRtModel model, size_t *count);
int LiteRtGetModelSignature(LiteRtModel model, size_t number, LiteRtSignature *signature);
int LiteRtGetSignatureKey(LiteRtSignature signature, const char **name);
int LiteRtGetNumSignatureInputs(LiteRtSignature signature, size_t *count);
int LiteRtGetNumSignatureOutputs(LiteRtSignature signature, size_t *count);
int LiteRtGetSignatureInputName(LiteRtSignature signature, size_t number, const char **name);
int LiteRtGetSignatureOutputName(LiteRtSignature signature, size_t number, const char **name);
int LiteRtGetSignatureInputTensor(LiteRtSignature signature, const char *name, LiteRtTensor *tensor);
int LiteRtGetSignatureOutputTensor(LiteRtSignature signature, const char *name, LiteRtTensor *tensor);
int LiteRtGetRankedTensorType(LiteRtTensor tensor, LiteRtRankedTensorType *type);

/* How a model is compiled: on which accelerators, and, for the one named `identifier`, lines of TOML. The lines belong
   to the opaque options, which call `destroy` with them, and those to the options. */
int LiteRtCreateOptions(LiteRtOptions *options);
void LiteRtDestroyOptions(LiteRtOptions options);
int LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
int LiteRtCreateOpaqueOptions(const char *identifier, void *toml, void (*destroy)(void *), LiteRtOpaqueOptions *opaque);
int LiteRtAddOpaqueOptions(LiteRtOptions options, LiteRtOpaqueOptions opaque);

/* Memory of the caller's as a tensor; `destroy` may be NULL. */
int LiteRtCreateTensorBufferFromHostMemory(const LiteRtRankedTensorType *type, void *memory, size_t size,
                                           void (*destroy)(void *), LiteRtTensorBuffer *buffer);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);

/* A model, ready to run: one signature, by its number, with all its inputs and outputs in their order. */
int LiteRtCreateCompiledModel(LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options,
                              LiteRtCompiledModel *compiled);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel compiled);
int LiteRtRunCompiledModel(LiteRtCompiledModel compiled, size_t signature, size_t input_count,
                           LiteRtTensorBuffer *inputs, size_t output_count, LiteRtTensorBuffer *outputs);

#endif
