/* Encode a text to ids. Each line is split into pieces by the rules of the type of the model. */

#include "tokenizer.h"

#include "utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char SPACE[] = "\xe2\x96\x81"; /* U+2581 */
enum { SPACE_SIZE = 3 };

/* A text or a line of a text, in which U+2581 replaces each space. */
struct text {
    const char *at;
    size_t size;
};

/* A function that splits a line into pieces, and appends their ids. It returns false if there is not enough memory. */
typedef bool cut(const struct tokenizer *tokenizer, struct text line, struct ids *ids);

bool append(struct ids *ids, int32_t id)
{
    if (ids->count == ids->room) {
        size_t room = 2 * ids->room + 64;
        int32_t *grown = realloc(ids->at, room * sizeof *grown);
        if (grown == NULL)
            return false;
        ids->at = grown;
        ids->room = room;
    }
    ids->at[ids->count++] = id;
    return true;
}

/* Append the id of a part of the text. If the part is not a piece, append the ids of its bytes or the unknown id. */
static bool append_part(const struct tokenizer *tokenizer, const char *part, size_t size, struct ids *ids)
{
    const struct piece *piece = find_piece(tokenizer, part, size);
    if (piece != NULL)
        return append(ids, piece->id);
    if (!tokenizer->byte_fallback)
        return append(ids, tokenizer->unknown_id);
    for (size_t i = 0; i < size; i++)
        if (!append(ids, tokenizer->byte_ids[(unsigned char)part[i]]))
            return false;
    return true;
}

/* Return the size of the first part of a text in bytes. The part is the longest user-defined piece that matches, or a
   character. */
static size_t first_part(const struct tokenizer *tokenizer, struct text text)
{
    size_t size = tokenizer->longest_symbol < text.size ? tokenizer->longest_symbol : text.size;
    for (; size > 0; size--) {
        const struct piece *piece = find_piece(tokenizer, text.at, size);
        if (piece != NULL && piece->type == USER_DEFINED)
            return size;
    }
    return (size_t)utf8_character(text.at, text.size);
}

static struct text behind(struct text text, size_t size)
{
    return (struct text){text.at + size, text.size - size};
}

static bool cut_characters(const struct tokenizer *tokenizer, struct text line, struct ids *ids)
{
    while (line.size > 0) {
        size_t size = first_part(tokenizer, line);
        if (!append_part(tokenizer, line.at, size, ids))
            return false;
        line = behind(line, size);
    }
    return true;
}

static bool begins_with_space(struct text text)
{
    return text.size >= SPACE_SIZE && memcmp(text.at, SPACE, SPACE_SIZE) == 0;
}

/* Return the size of the first word of a line in bytes. A word is a newline, or all characters before the next space or
   newline. A space before the word is part of it. */
static size_t first_word(struct text line)
{
    size_t size = begins_with_space(line) ? SPACE_SIZE : 0;
    if (size < line.size && line.at[size] == '\n')
        return size + 1;
    while (size < line.size && line.at[size] != '\n' && !begins_with_space(behind(line, size)))
        size++;
    return size;
}

static bool cut_words(const struct tokenizer *tokenizer, struct text line, struct ids *ids)
{
    while (line.size > 0) {
        size_t size = first_word(line);
        if (!append_part(tokenizer, line.at, size, ids))
            return false;
        line = behind(line, size);
    }
    return true;
}

/* A part of a line for byte pair encoding. The parts form a linked list. When two parts are merged, the right part becomes
   empty. */
struct part {
    size_t at, size, before, after;
    bool fixed; /* whether the part is a user-defined piece, which is never merged */
};

/* A pair of adjacent parts that can be merged, with its score. */
struct pair {
    float score;
    size_t left, right, size;
};

/* Heap of pairs. The first pair has the highest score; if several pairs have this score, it is the leftmost of them. */
struct heap {
    struct pair *pairs;
    size_t count;
};

static bool better(struct pair a, struct pair b)
{
    return a.score > b.score || (a.score == b.score && a.left < b.left);
}

static void push(struct heap *heap, struct pair pair)
{
    size_t at = heap->count++;
    for (; at > 0 && better(pair, heap->pairs[(at - 1) / 2]); at = (at - 1) / 2)
        heap->pairs[at] = heap->pairs[(at - 1) / 2];
    heap->pairs[at] = pair;
}

static struct pair pop(struct heap *heap)
{
    struct pair best = heap->pairs[0], last = heap->pairs[--heap->count];
    size_t at = 0;
    for (size_t child = 1; child < heap->count; child = 2 * at + 1) {
        if (child + 1 < heap->count && better(heap->pairs[child + 1], heap->pairs[child]))
            child++;
        if (!better(heap->pairs[child], last))
            break;
        heap->pairs[at] = heap->pairs[child];
        at = child;
    }
    heap->pairs[at] = last;
    return best;
}

struct merging {
    const struct tokenizer *tokenizer;
    struct text line;
    struct part *parts; /* the first and the last part are empty, and mark the ends of the list */
    size_t count;
    struct heap heap;
};

static void propose(struct merging *merging, size_t left, size_t right)
{
    const struct part *a = &merging->parts[left], *b = &merging->parts[right];
    if (a->size == 0 || b->size == 0 || a->fixed || b->fixed)
        return;
    const struct piece *joint = find_piece(merging->tokenizer, merging->line.at + a->at, a->size + b->size);
    if (joint != NULL)
        push(&merging->heap, (struct pair){joint->score, left, right, joint->size});
}

static void split(struct merging *merging)
{
    struct text rest = merging->line;
    size_t count = 1;
    for (; rest.size > 0; count++) {
        size_t size = first_part(merging->tokenizer, rest);
        const struct piece *piece = find_piece(merging->tokenizer, rest.at, size);
        merging->parts[count] = (struct part){merging->line.size - rest.size, size, count - 1, count + 1,
                                              piece != NULL && piece->type == USER_DEFINED};
        rest = behind(rest, size);
    }
    merging->parts[0].after = 1;
    merging->parts[count].before = count - 1;
    merging->count = count;
}

static void merge(struct merging *merging)
{
    struct part *parts = merging->parts;
    for (size_t i = 1; i + 1 < merging->count; i++)
        propose(merging, i, i + 1);
    while (merging->heap.count > 0) {
        struct pair best = pop(&merging->heap);
        struct part *left = &parts[best.left], *right = &parts[best.right];
        if (left->size == 0 || right->size == 0 || left->size + right->size != best.size)
            continue; /* one part of this pair was merged with another part before */
        left->size = best.size;
        right->size = 0;
        left->after = right->after;
        parts[left->after].before = best.left;
        propose(merging, left->before, best.left);
        propose(merging, best.left, left->after);
    }
}

static bool cut_pairs(const struct tokenizer *tokenizer, struct text line, struct ids *ids)
{
    /* Each pair of adjacent parts can be in the heap, and each merge adds at most two pairs. */
    struct merging merging = {tokenizer, line, calloc(line.size + 2, sizeof(struct part)), 0,
                              {calloc(3 * line.size + 1, sizeof(struct pair)), 0}};
    bool done = merging.parts != NULL && merging.heap.pairs != NULL;
    if (done) {
        split(&merging);
        merge(&merging);
        for (size_t i = 1; done && i < merging.count; i++)
            if (merging.parts[i].size > 0)
                done = append_part(tokenizer, line.at + merging.parts[i].at, merging.parts[i].size, ids);
    }
    free(merging.parts);
    free(merging.heap.pairs);
    return done;
}

/* The best split of the text before a character. */
struct best {
    size_t at;   /* position of the character, in bytes */
    float score; /* sum of the scores of the parts */
    size_t from; /* number of the character with which the last part begins */
};

/* Compute the score of a part by the rules of SentencePiece. Return false if the part is neither a piece nor a single
   character. */
static bool score_of(const struct tokenizer *tokenizer, const char *part, size_t size, bool single, double *score)
{
    const struct piece *piece = find_piece(tokenizer, part, size);
    if (piece == NULL && !single)
        return false;
    if (piece == NULL)
        *score = (double)tokenizer->lowest - 10;
    else /* user-defined pieces get a higher score than normal pieces, whose scores are log-probabilities */
        *score = piece->type == USER_DEFINED ? -0.1 : (double)piece->score;
    return true;
}

/* Find the split with the highest sum of scores by the Viterbi algorithm. The sums are rounded to float32. */
static void find_best_cut(const struct tokenizer *tokenizer, struct text line, struct best *best, size_t count)
{
    double score;
    for (size_t at = 0; at < count; at++)
        for (size_t end = at + 1; end <= count && end - at <= tokenizer->longest; end++) {
            if (!score_of(tokenizer, line.at + best[at].at, best[end].at - best[at].at, end == at + 1, &score))
                continue;
            float total = (float)(best[at].score + score);
            if (total > best[end].score) {
                best[end].score = total;
                best[end].from = at;
            }
        }
}

static bool cut_likeliest(const struct tokenizer *tokenizer, struct text line, struct ids *ids)
{
    struct best *best = calloc(line.size + 1, sizeof *best);
    size_t *ends = calloc(line.size + 1, sizeof *ends), count = 0, parts = 0;
    bool done = best != NULL && ends != NULL;
    if (done) {
        for (size_t at = 0; at < line.size; best[++count].at = at)
            at += (size_t)utf8_character(line.at + at, line.size - at);
        for (size_t i = 1; i <= count; i++)
            best[i].score = -INFINITY;
        find_best_cut(tokenizer, line, best, count);
        for (size_t end = count; end > 0; end = best[end].from)
            ends[parts++] = end;
        for (; done && parts > 0; parts--) {
            struct best part = best[ends[parts - 1]];
            done = append_part(tokenizer, line.at + best[part.from].at, part.at - best[part.from].at, ids);
        }
    }
    free(best);
    free(ends);
    return done;
}

/* Return a copy of the text in which U+2581 replaces each space, or NULL if there is not enough memory. */
static char *with_signs(const char *text, size_t size, size_t *written)
{
    char *signs = malloc(SPACE_SIZE * size + 1);
    *written = 0;
    for (size_t i = 0; signs != NULL && i < size; i++) {
        bool space = text[i] == ' ';
        memcpy(signs + *written, space ? SPACE : text + i, space ? SPACE_SIZE : 1);
        *written += space ? SPACE_SIZE : 1;
    }
    return signs;
}

bool encode(const struct tokenizer *tokenizer, const char *text, size_t size, struct ids *ids)
{
    static cut *const CUT[] = {[UNIGRAM] = cut_likeliest, [BPE] = cut_pairs, [WORD] = cut_words, [CHAR] = cut_characters};
    struct text rest;
    char *signs = with_signs(text, size, &rest.size);
    bool done = signs != NULL;
    for (rest.at = signs; done && rest.size > 0;) {
        const char *newline = memchr(rest.at, '\n', rest.size);
        struct text line = {rest.at, newline != NULL ? (size_t)(newline - rest.at) + 1 : rest.size};
        done = CUT[tokenizer->kind](tokenizer, line, ids);
        rest = behind(rest, line.size);
    }
    free(signs);
    return done;
}
