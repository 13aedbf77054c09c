/* Tokenizer of an exported model: encodes and decodes text with a SentencePiece model.

   It reads the models that these artifacts carry: char, word, bpe or unigram over text taken as it is (nothing
   normalised, no space put before it), in which a space is written U+2581. All text is UTF-8.
*/

#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kind { UNIGRAM = 1, BPE, WORD, CHAR };
enum type { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

/* The piece of an id; its text points into the bytes of the model. */
struct piece {
    const char *text;
    size_t size;
    float score;
    int type;
    int32_t id;
};

struct tokenizer {
    enum kind kind;
    struct piece *pieces;  /* [V], by id */
    size_t count;          /* V */
    struct piece *written; /* pieces of text without control symbols and bytes, sorted by their text */
    size_t written_count;
    size_t longest;        /* maximum length of these, in characters */
    size_t longest_symbol; /* maximum length of user-defined symbols, in bytes */
    float lowest;          /* lowest score of a normal piece */
    bool byte_fallback;
    int32_t byte_ids[256], unknown_id; /* -1 without one */
    struct piece surface;              /* text of the unknown id */
};

struct ids {
    int32_t *at;
    size_t count, room;
};

/* Parse a SentencePiece ModelProto, whose bytes must outlive the tokenizer; return NULL or an error message. Free the
   tokenizer in both cases. */
const char *tokenizer_read(struct tokenizer *tokenizer, const char *model, size_t size);
void tokenizer_free(struct tokenizer *tokenizer);

/* Return the piece with this text, or NULL. */
const struct piece *find_piece(const struct tokenizer *tokenizer, const char *text, size_t size);

/* Append the ids of a text; a part without a piece becomes its bytes or the unknown id. Return false if memory is exhausted. */
bool encode(const struct tokenizer *tokenizer, const char *text, size_t size, struct ids *ids);
bool append(struct ids *ids, int32_t id);

/* The bytes of an incomplete character. */
struct tail {
    char held[4];
    size_t count;
};

/* Pass the text that an id, or the end, completes to `put`: complete characters, and U+FFFD for each byte that is not part
   of a character. */
typedef void put_text(void *to, const char *text, size_t size);
void decode(const struct tokenizer *tokenizer, struct tail *tail, int32_t id, put_text *put, void *to);
void decode_end(struct tail *tail, put_text *put, void *to);

#endif
