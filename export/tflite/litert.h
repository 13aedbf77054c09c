/* Declare the functions of the C API of LiteRT that run one signature of a model on the CPU.

   The package ai-edge-litert contains libLiteRt.so, but no headers. The declarations are valid for the versions 2.1 to 2.3 of
   this package on 64-bit machines. All functions except the destructors return 0 on success.
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
enum { LITERT_CPU = 1 };                       /* bit for the CPU in a set of accelerators */
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
_Static_assert(sizeof(LiteRtRankedTensorType) == 72, "the struct must have the same layout as in libLiteRt.so");

/* Create an environment, which owns models and their memory. `options` may be NULL. */
int LiteRtCreateEnvironment(int count, const void *options, LiteRtEnvironment *environment);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);

/* Create a model from the bytes of a file. LiteRT verifies the bytes. The caller must not free them before the model. The
   function LiteRtCreateModelFromFile is not used, because it does not verify the file, and a truncated file crashes the
   process. */
int LiteRtCreateModelFromBuffer(LiteRtEnvironment environment, const void *bytes, size_t size, LiteRtModel *model);
void LiteRtDestroyModel(LiteRtModel model);

/* Get a metadata buffer by its name. The model owns the bytes. */
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

/* Create options for compiling a model, and set its accelerators. Opaque options contain the options of one accelerator, whose
   name is `identifier`, as TOML text. The opaque options own the text and free it with `destroy`. The options own the opaque
   options that are added to them. */
int LiteRtCreateOptions(LiteRtOptions *options);
void LiteRtDestroyOptions(LiteRtOptions options);
int LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
int LiteRtCreateOpaqueOptions(const char *identifier, void *toml, void (*destroy)(void *), LiteRtOpaqueOptions *opaque);
int LiteRtAddOpaqueOptions(LiteRtOptions options, LiteRtOpaqueOptions opaque);

/* Create a tensor buffer that uses memory of the caller. `destroy` may be NULL. */
int LiteRtCreateTensorBufferFromHostMemory(const LiteRtRankedTensorType *type, void *memory, size_t size,
                                           void (*destroy)(void *), LiteRtTensorBuffer *buffer);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);

/* Compile a model, and run one of its signatures by its number. The inputs and outputs have the order of the signature. */
int LiteRtCreateCompiledModel(LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options,
                              LiteRtCompiledModel *compiled);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel compiled);
int LiteRtRunCompiledModel(LiteRtCompiledModel compiled, size_t signature, size_t input_count,
                           LiteRtTensorBuffer *inputs, size_t output_count, LiteRtTensorBuffer *outputs);

#endif
