/* Encode and decode text with the SentencePiece model of an artifact.

   The code supports SentencePiece models of the types char, word, bpe and unigram that do not normalize the text and do not add
   a dummy prefix. In pieces, the character U+2581 represents a space. All text is UTF-8.
*/

#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kind { UNIGRAM = 1, BPE, WORD, CHAR };
enum type { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

/* The piece of one id. `text` points into the bytes of the model. */
struct piece {
    const char *text;
    size_t size;
    float score;
    int type;
    int32_t id;
};

struct tokenizer {
    enum kind kind;
    struct piece *pieces;  /* [V], sorted by id */
    size_t count;          /* V */
    struct piece *written; /* pieces that are text, which excludes control symbols and byte pieces; sorted by their text */
    size_t written_count;
    size_t longest;        /* length of the longest piece in `written`, in characters */
    size_t longest_symbol; /* length of the longest user-defined piece, in bytes */
    float lowest;          /* lowest score of a normal piece */
    bool byte_fallback;    /* whether text without a piece is encoded as bytes */
    int32_t byte_ids[256], unknown_id; /* -1 if the model has no such id */
    struct piece surface;              /* text that the unknown id is decoded to */
};

/* A list of ids with memory for `room` ids. */
struct ids {
    int32_t *at;
    size_t count, room;
};

/* Parse a SentencePiece ModelProto. Return NULL on success, or an error message. The caller must free the tokenizer in both
   cases, and must not free the bytes of the model before. */
const char *tokenizer_read(struct tokenizer *tokenizer, const char *model, size_t size);
void tokenizer_free(struct tokenizer *tokenizer);

/* Return the piece with the given text, or NULL if no piece has it. */
const struct piece *find_piece(const struct tokenizer *tokenizer, const char *text, size_t size);

/* Encode a text, and append its ids to a list. A part of the text that is not a piece is encoded as its bytes. If the model has
   no byte pieces, it becomes the unknown id. Return false if there is not enough memory. */
bool encode(const struct tokenizer *tokenizer, const char *text, size_t size, struct ids *ids);

/* Append one id to a list. Return false if there is not enough memory. */
bool append(struct ids *ids, int32_t id);

/* The bytes of a character that is not complete yet. */
struct tail {
    char held[4];
    size_t count;
};

/* A function that receives decoded text. */
typedef void put_text(void *to, const char *text, size_t size);

/* Decode one id, and pass its text to `put`. Keep the bytes of an incomplete character in `tail` until the next ids complete it.
   A byte that is not part of a valid character becomes U+FFFD. */
void decode(const struct tokenizer *tokenizer, struct tail *tail, int32_t id, put_text *put, void *to);

/* Pass the rest of the text to `put` after the last id. Each byte of an incomplete character becomes U+FFFD. */
void decode_end(struct tail *tail, put_text *put, void *to);

#endif
