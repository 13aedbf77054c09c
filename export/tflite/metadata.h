/* Metadata of an artifact, as specified in docs/contract.md. */

#ifndef METADATA_H
#define METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NO_ID = -1 };

struct metadata {
    size_t vocab_size, state_size;
    int32_t start_id, end_id;
    bool prompt_start;
    int32_t source_end_id; /* NO_ID if the model is not trained on pairs */
    int32_t *unsampled_ids; /* ids that are never generated; all are below vocab_size */
    size_t unsampled_count;
};

/* Parse the metadata from JSON. Return NULL on success, or an error message. The caller must free the metadata in both cases. */
const char *metadata_read(struct metadata *metadata, const char *json, size_t size);
void metadata_free(struct metadata *metadata);

#endif
