/* What the JSON inside an artifact says about ids and sizes (docs/contract.md). */

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
    int32_t source_end_id; /* NO_ID where there is none */
    int32_t *unsampled_ids; /* those that are never written; all ids are below vocab_size */
    size_t unsampled_count;
};

/* Read the JSON: NULL, or a line that says what is wrong. Free it in either case. */
const char *metadata_read(struct metadata *metadata, const char *json, size_t size);
void metadata_free(struct metadata *metadata);

#endif
