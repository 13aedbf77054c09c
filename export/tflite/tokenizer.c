/* Parse a SentencePiece model, look up pieces, and decode ids to text. encode.c encodes text. */

#include "tokenizer.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

static const char DAMAGED[] = "its tokenizer is not a SentencePiece model";

/* A protobuf message, and one field of a message. The value of a field is a number, or bytes for all wire types except varint. */
struct message {
    const char *at, *end;
};
struct field {
    uint64_t number, value;
    bool is_number;
    struct message bytes;
};

/* Read a varint. Each byte contains seven bits, and the first byte contains the lowest bits. */
static bool read_varint(struct message *message, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (message->at == message->end)
            return false;
        unsigned char byte = (unsigned char)*message->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

/* Read the next field of a message that is not empty. Return false if the message is damaged. */
static bool read_field(struct message *message, struct field *field)
{
    uint64_t key, size;
    if (!read_varint(message, &key))
        return false;
    field->number = key >> 3;
    field->is_number = (key & 7) == 0;
    if (field->is_number)
        return read_varint(message, &field->value);
    if ((key & 7) == 2) {
        if (!read_varint(message, &size))
            return false;
    } else if ((key & 7) == 1 || (key & 7) == 5) {
        size = (key & 7) == 1 ? 8 : 4;
    } else {
        return false;
    }
    if (size > (uint64_t)(message->end - message->at))
        return false;
    field->bytes = (struct message){message->at, message->at + size};
    message->at += size;
    return true;
}

static bool valid_text(struct message text)
{
    return utf8_valid(text.at, (size_t)(text.end - text.at));
}

/* Store the id of a byte piece; for example, the piece `<0x0A>` has the byte 10. Return false if the piece is invalid. */
static bool read_byte_piece(struct tokenizer *tokenizer, const struct piece *piece)
{
    char digits[3] = {0};
    char *end;
    if (piece->size != 6 || memcmp(piece->text, "<0x", 3) != 0 || piece->text[5] != '>')
        return false;
    memcpy(digits, piece->text + 3, 2);
    long byte = strtol(digits, &end, 16);
    if (end != digits + 2 || byte < 0)
        return false;
    tokenizer->byte_ids[byte] = piece->id;
    return true;
}

/* Parse a SentencePiece message. Its fields are piece (1), score (2) and type (3). */
static bool read_piece(struct tokenizer *tokenizer, struct message message)
{
    struct piece *piece = &tokenizer->pieces[tokenizer->count];
    struct field field;
    bool text = false;
    *piece = (struct piece){.type = NORMAL, .id = (int32_t)tokenizer->count};
    while (message.at < message.end) {
        if (!read_field(&message, &field) || (field.number < 4 && field.is_number != (field.number == 3)))
            return false;
        if (field.number == 1) {
            text = valid_text(field.bytes);
            piece->text = field.bytes.at;
            piece->size = (size_t)(field.bytes.end - field.bytes.at);
        } else if (field.number == 2 && field.bytes.end - field.bytes.at == sizeof piece->score) {
            memcpy(&piece->score, field.bytes.at, sizeof piece->score);
        } else if (field.number == 3) {
            piece->type = field.value > BYTE ? UNUSED : (int)field.value;
        }
    }
    tokenizer->count++;
    if (piece->type == UNKNOWN && tokenizer->unknown_id < 0)
        tokenizer->unknown_id = piece->id;
    return text && (piece->type != BYTE || read_byte_piece(tokenizer, piece));
}

/* Parse a TrainerSpec message. The required fields are model_type (3), byte_fallback (35) and unk_surface (44). */
static bool read_trainer(struct tokenizer *tokenizer, struct message message)
{
    struct field field;
    while (message.at < message.end) {
        if (!read_field(&message, &field))
            return false;
        if (field.number == 3 && field.is_number)
            tokenizer->kind = (enum kind)(field.value < UNIGRAM || field.value > CHAR ? 0 : field.value);
        if (field.number == 35 && field.is_number)
            tokenizer->byte_fallback = field.value != 0;
        if (field.number == 44 && !field.is_number) {
            if (!valid_text(field.bytes))
                return false;
            tokenizer->surface.text = field.bytes.at;
            tokenizer->surface.size = (size_t)(field.bytes.end - field.bytes.at);
        }
    }
    return tokenizer->kind != 0;
}

/* Parse a NormalizerSpec message, and store whether it changes the text. The required fields are precompiled_charsmap (2),
   add_dummy_prefix (3), remove_extra_whitespaces (4) and escape_whitespaces (5). The last three are true by default. */
static bool read_normalizer(struct message message, bool *changes_text)
{
    struct field field;
    bool charsmap = false, on[3] = {true, true, true};
    while (message.at < message.end) {
        if (!read_field(&message, &field))
            return false;
        if (field.number == 2 && !field.is_number)
            charsmap = field.bytes.at < field.bytes.end;
        if (field.number >= 3 && field.number <= 5 && field.is_number)
            on[field.number - 3] = field.value != 0;
    }
    *changes_text = charsmap || on[0] || on[1] || !on[2];
    return true;
}

/* Parse a ModelProto message. Its fields are pieces (1), trainer_spec (2) and normalizer_spec (3). The last two must exist. */
static bool read_proto(struct tokenizer *tokenizer, struct message message, bool *changes_text)
{
    struct field field;
    bool trainer = false, normalizer = false;
    while (message.at < message.end) {
        if (!read_field(&message, &field) || (field.number < 4 && field.is_number))
            return false;
        if (field.number == 1 && !read_piece(tokenizer, field.bytes))
            return false;
        if (field.number == 2 && !(trainer = read_trainer(tokenizer, field.bytes)))
            return false;
        if (field.number == 3 && !(normalizer = read_normalizer(field.bytes, changes_text)))
            return false;
    }
    return trainer && normalizer;
}

static int compare(const char *left, size_t left_size, const char *right, size_t right_size)
{
    int order = memcmp(left, right, left_size < right_size ? left_size : right_size);
    return order != 0 ? order : (left_size > right_size) - (left_size < right_size);
}

static int by_text(const void *left, const void *right)
{
    const struct piece *a = left, *b = right;
    int order = compare(a->text, a->size, b->text, b->size);
    return order != 0 ? order : a->id - b->id;
}

static size_t characters(const char *text, size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += (text[i] & 0xc0) != 0x80;
    return count;
}

/* Sort the pieces that are text, and compute their largest length and their lowest score. */
static void index_pieces(struct tokenizer *tokenizer)
{
    bool normal = false;
    for (size_t id = 0; id < tokenizer->count; id++) {
        const struct piece *piece = &tokenizer->pieces[id];
        if (piece->type != NORMAL && piece->type != USER_DEFINED)
            continue;
        tokenizer->written[tokenizer->written_count++] = *piece;
        size_t length = characters(piece->text, piece->size);
        if (length > tokenizer->longest)
            tokenizer->longest = length;
        if (piece->type == USER_DEFINED && piece->size > tokenizer->longest_symbol)
            tokenizer->longest_symbol = piece->size;
        if (piece->type == NORMAL && (!normal || piece->score < tokenizer->lowest))
            tokenizer->lowest = piece->score;
        normal = normal || piece->type == NORMAL;
    }
    qsort(tokenizer->written, tokenizer->written_count, sizeof *tokenizer->written, by_text);
}

/* Return whether every text can be encoded, because all bytes have pieces or because there is an unknown id. */
static bool covers_all_text(const struct tokenizer *tokenizer)
{
    if (!tokenizer->byte_fallback)
        return tokenizer->unknown_id >= 0;
    for (int byte = 0; byte < 256; byte++)
        if (tokenizer->byte_ids[byte] < 0)
            return false;
    return true;
}

const char *tokenizer_read(struct tokenizer *tokenizer, const char *model, size_t size)
{
    static const char SURFACE[] = " \xe2\x81\x87 ";
    bool changes_text = true;
    *tokenizer = (struct tokenizer){.kind = UNIGRAM, .unknown_id = -1, .surface = {.text = SURFACE, .size = 5}};
    memset(tokenizer->byte_ids, -1, sizeof tokenizer->byte_ids);
    tokenizer->pieces = calloc(size / 2 + 1, sizeof *tokenizer->pieces); /* a piece has at least two bytes */
    tokenizer->written = calloc(size / 2 + 1, sizeof *tokenizer->written);
    if (tokenizer->pieces == NULL || tokenizer->written == NULL)
        return "there is not enough memory";
    if (!read_proto(tokenizer, (struct message){model, model + size}, &changes_text) || !covers_all_text(tokenizer))
        return DAMAGED;
    if (changes_text)
        return "its tokenizer changes the text (normalization or a dummy prefix), which is not supported";
    index_pieces(tokenizer);
    return NULL;
}

void tokenizer_free(struct tokenizer *tokenizer)
{
    free(tokenizer->pieces);
    free(tokenizer->written);
}

const struct piece *find_piece(const struct tokenizer *tokenizer, const char *text, size_t size)
{
    size_t low = 0, high = tokenizer->written_count; /* the loop finds the last piece that is not greater than the text */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(tokenizer->written[middle].text, tokenizer->written[middle].size, text, size) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    const struct piece *piece = low > 0 ? &tokenizer->written[low - 1] : NULL;
    return piece != NULL && compare(piece->text, piece->size, text, size) == 0 ? piece : NULL;
}

/* Output the complete characters, and keep the bytes of an incomplete character. If `final` is true, output U+FFFD for each of
   these bytes instead. */
static void release(struct tail *tail, bool final, put_text *put, void *to)
{
    size_t at = 0;
    while (at < tail->count) {
        int size = utf8_character(tail->held + at, tail->count - at);
        if (size < 0 && !final)
            break;
        if (size > 0)
            put(to, tail->held + at, (size_t)size);
        else
            put(to, "\xef\xbf\xbd", 3);
        at += size > 0 ? (size_t)size : 1;
    }
    tail->count -= at;
    memmove(tail->held, tail->held + at, tail->count);
}

void decode_end(struct tail *tail, put_text *put, void *to)
{
    release(tail, true, put, to);
}

/* Output a piece with a space for each U+2581. */
static void put_piece(const struct piece *piece, put_text *put, void *to)
{
    const char *text = piece->text, *end = text + piece->size;
    while (text < end) {
        const char *sign = text;
        while (sign < end && !(end - sign >= 3 && memcmp(sign, "\xe2\x96\x81", 3) == 0))
            sign++;
        if (sign > text)
            put(to, text, (size_t)(sign - text));
        if (sign < end)
            put(to, " ", 1);
        text = sign < end ? sign + 3 : end;
    }
}

void decode(const struct tokenizer *tokenizer, struct tail *tail, int32_t id, put_text *put, void *to)
{
    const struct piece *piece = &tokenizer->pieces[id];
    if (piece->type == BYTE) {
        char digits[3] = {piece->text[3], piece->text[4], 0};
        tail->held[tail->count++] = (char)strtol(digits, NULL, 16);
        release(tail, false, put, to);
        return;
    }
    release(tail, true, put, to);
    if (piece->type == UNKNOWN)
        put(to, tokenizer->surface.text, tokenizer->surface.size);
    else if (piece->type != CONTROL)
        put_piece(piece, put, to);
}
