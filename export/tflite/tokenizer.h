/* The tokenizer of an exported model, read from its SentencePiece file: text to ids and back.

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

/* What an id stands for; the text lies in the bytes that the tokenizer was read from. */
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
    struct piece *written; /* those that text is cut into, not symbols and not bytes, in the order of their text */
    size_t written_count;
    size_t longest;        /* of these, in characters */
    size_t longest_symbol; /* of the user-defined ones, in bytes */
    float lowest;          /* score of a normal piece */
    bool byte_fallback;
    int32_t byte_ids[256], unknown_id; /* -1 where there is none */
    struct piece surface;              /* how unknown looks in text */
};

struct ids {
    int32_t *at;
    size_t count, room;
};

/* Read a SentencePiece ModelProto, whose bytes must outlive the tokenizer: NULL, or a line that says what is wrong.
   Free it in either case. */
const char *tokenizer_read(struct tokenizer *tokenizer, const char *model, size_t size);
void tokenizer_free(struct tokenizer *tokenizer);

/* The piece of exactly this text, or NULL. */
const struct piece *find_piece(const struct tokenizer *tokenizer, const char *text, size_t size);

/* Append the ids of a text. What no piece covers becomes its bytes or, in a word model, unknown. False: no memory. */
bool encode(const struct tokenizer *tokenizer, const char *text, size_t size, struct ids *ids);
bool append(struct ids *ids, int32_t id);

/* Bytes that may still become a character. */
struct tail {
    char held[4];
    size_t count;
};

/* Give each part of the text that an id, or the end, completes to `put`: whole characters, and U+FFFD for each byte
   that is part of none. */
typedef void put_text(void *to, const char *text, size_t size);
void decode(const struct tokenizer *tokenizer, struct tail *tail, int32_t id, put_text *put, void *to);
void decode_end(struct tail *tail, put_text *put, void *to);

#endif
