/* Declarations of the functions of LiteRT's C API that run one signature of a model on the CPU.

   The package ai-edge-litert contains libLiteRt.so without headers. The declarations are valid for its versions 2.1 to 2.3
   on 64-bit machines. All functions except the destructors return 0 on success.
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

enum { LITERT_FLOAT32 = 1, LITERT_INT32 = 2 }; /* element types */
enum { LITERT_CPU = 1 };                       /* bit set of accelerators */
enum { LITERT_ALIGNMENT = 64 };                /* alignment of the memory of tensor buffers, in bytes */

/* Type and shape of a tensor; an unknown dimension is -1. */
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

/* Create an environment, which owns models and their memory; options may be NULL. */
int LiteRtCreateEnvironment(int count, const void *options, LiteRtEnvironment *environment);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);

/* Create a model from the bytes of a file, which are verified and must outlive the model. (LiteRtCreateModelFromFile
   does not verify the file: a truncated file crashes the process.) */
int LiteRtCreateModelFromBuffer(LiteRtEnvironment environment, const void *bytes, size_t size, LiteRtModel *model);
void LiteRtDestroyModel(LiteRtModel model);

/* Get a metadata buffer by its name; the model owns the bytes. */
int LiteRtGetModelMetadata(LiteRtModel model, const char *name, const void **bytes, size_t *size);

/* Get signatures by number, and their inputs and outputs by number or name. */
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
