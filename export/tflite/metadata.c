/* Parse the metadata, which are a JSON object. The parser skips unknown entries. */

#include "metadata.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

enum { FORMAT_VERSION = 1, DEEPEST = 64 };

static const char DAMAGED[] = "its metadata is damaged, or not JSON";

/* The part of the text that is not parsed yet. All parsing functions return false if the JSON is invalid, or if a value has
   the wrong type. */
struct json {
    const char *at, *end;
};

static void skip_space(struct json *json)
{
    while (json->at < json->end && strchr(" \t\r\n", *json->at) != NULL && *json->at != '\0')
        json->at++;
}

static bool take(struct json *json, const char *token)
{
    size_t size = strlen(token);
    skip_space(json);
    if ((size_t)(json->end - json->at) < size || memcmp(json->at, token, size) != 0)
        return false;
    json->at += size;
    return true;
}

/* Parse a string without decoding escape sequences, because no known name contains any. */
static bool read_string(struct json *json, const char **text, size_t *size)
{
    if (!take(json, "\""))
        return false;
    *text = json->at;
    for (; json->at < json->end && *json->at != '"'; json->at++) {
        if ((unsigned char)*json->at < ' ')
            return false;
        if (*json->at == '\\' && (++json->at == json->end || strchr("\"\\/bfnrtu", *json->at) == NULL))
            return false;
    }
    *size = (size_t)(json->at - *text);
    return take(json, "\"");
}

static bool digit(const struct json *json)
{
    return json->at < json->end && *json->at >= '0' && *json->at <= '9';
}

/* Parse one or more digits. A number above 2^31 - 1 becomes 2^31 - 1. */
static bool read_digits(struct json *json, int64_t *number)
{
    bool some = digit(json);
    for (*number = 0; digit(json); json->at++) {
        *number = *number * 10 + (*json->at - '0');
        if (*number > INT32_MAX)
            *number = INT32_MAX;
    }
    return some;
}

/* Parse an integer that is not negative. */
static bool read_whole(struct json *json, int64_t *number)
{
    skip_space(json);
    return read_digits(json, number);
}

static bool skip_number(struct json *json)
{
    int64_t ignored;
    take(json, "-");
    if (!read_digits(json, &ignored))
        return false;
    if (json->at < json->end && *json->at == '.') {
        json->at++;
        if (!read_digits(json, &ignored))
            return false;
    }
    if (json->at < json->end && (*json->at == 'e' || *json->at == 'E')) {
        json->at++;
        if (json->at < json->end && (*json->at == '+' || *json->at == '-'))
            json->at++;
        return read_digits(json, &ignored);
    }
    return true;
}

static bool skip_value(struct json *json, int depth);

/* Skip the rest of an object or array after its first character. */
static bool skip_entries(struct json *json, bool object, int depth)
{
    const char *close = object ? "}" : "]", *name;
    size_t size;
    if (take(json, close))
        return true;
    do {
        if (object && !(read_string(json, &name, &size) && take(json, ":")))
            return false;
        if (!skip_value(json, depth + 1))
            return false;
    } while (take(json, ","));
    return take(json, close);
}

static bool skip_value(struct json *json, int depth)
{
    const char *text;
    size_t size;
    if (depth > DEEPEST)
        return false;
    if (take(json, "{"))
        return skip_entries(json, true, depth);
    if (take(json, "["))
        return skip_entries(json, false, depth);
    if (json->at < json->end && *json->at == '"')
        return read_string(json, &text, &size);
    return take(json, "true") || take(json, "false") || take(json, "null") || skip_number(json);
}

static bool read_id(struct json *json, int32_t *id)
{
    int64_t number = 0;
    bool read = read_whole(json, &number);
    *id = (int32_t)number;
    return read;
}

/* Parse an array of ids. The memory is large enough for every array that the text can contain. */
static bool read_ids(struct json *json, struct metadata *metadata)
{
    int64_t id;
    metadata->unsampled_count = 0;
    if (!take(json, "["))
        return false;
    if (take(json, "]"))
        return true;
    do {
        if (!read_whole(json, &id))
            return false;
        metadata->unsampled_ids[metadata->unsampled_count++] = (int32_t)id;
    } while (take(json, ","));
    return take(json, "]");
}

/* The known entries. The entries before UNSAMPLED_IDS are numbers. */
enum { VERSION, VOCAB_SIZE, STATE_SIZE, START_ID, END_ID, UNSAMPLED_IDS, PROMPT_START, SOURCE_END_ID, KNOWN };

static const struct {
    const char *name, *lacks;
} ENTRIES[KNOWN] = {
    {"format_version", "its metadata is not of format_version 1"},
    {"vocab_size", "its metadata lacks vocab_size"},
    {"state_size", "its metadata lacks state_size"},
    {"start_id", "its metadata lacks start_id"},
    {"end_id", "its metadata lacks end_id"},
    {"unsampled_ids", "its metadata lacks unsampled_ids"},
    {"prompt_start", NULL},
    {"source_end_id", NULL},
};

struct found {
    bool entry[KNOWN];
    int64_t number[UNSAMPLED_IDS];
};

static int number_of(const char *name, size_t size)
{
    int entry = 0;
    while (entry < KNOWN && !(strlen(ENTRIES[entry].name) == size && memcmp(ENTRIES[entry].name, name, size) == 0))
        entry++;
    return entry;
}

static bool read_entry(struct json *json, struct metadata *metadata, struct found *found)
{
    const char *name;
    size_t size;
    if (!read_string(json, &name, &size) || !take(json, ":"))
        return false;
    int entry = number_of(name, size);
    if (entry == KNOWN)
        return skip_value(json, 0);
    found->entry[entry] = true;
    if (entry == UNSAMPLED_IDS)
        return read_ids(json, metadata);
    if (entry == PROMPT_START)
        return (metadata->prompt_start = take(json, "true")) || take(json, "false");
    if (entry == SOURCE_END_ID)
        return take(json, "-1") || read_id(json, &metadata->source_end_id);
    return read_whole(json, &found->number[entry]);
}

static bool read_object(struct json *json, struct metadata *metadata, struct found *found)
{
    if (!take(json, "{"))
        return false;
    if (!take(json, "}")) {
        do
            if (!read_entry(json, metadata, found))
                return false;
        while (take(json, ","));
        if (!take(json, "}"))
            return false;
    }
    skip_space(json);
    return json->at == json->end;
}

/* Copy the numbers to the metadata. Return an error message if an entry is missing or an id is not valid. */
static const char *check(struct metadata *metadata, const struct found *found)
{
    if (found->number[VERSION] != FORMAT_VERSION)
        return ENTRIES[VERSION].lacks;
    for (int entry = 0; entry < PROMPT_START; entry++)
        if (!found->entry[entry])
            return ENTRIES[entry].lacks;
    int64_t V = found->number[VOCAB_SIZE];
    bool ids = found->number[START_ID] < V && found->number[END_ID] < V && metadata->source_end_id < V;
    for (size_t i = 0; i < metadata->unsampled_count; i++)
        ids = ids && metadata->unsampled_ids[i] < V;
    metadata->vocab_size = (size_t)V;
    metadata->state_size = (size_t)found->number[STATE_SIZE];
    metadata->start_id = (int32_t)found->number[START_ID];
    metadata->end_id = (int32_t)found->number[END_ID];
    return ids ? NULL : DAMAGED;
}

const char *metadata_read(struct metadata *metadata, const char *json, size_t size)
{
    struct json all = {json, json + size};
    struct found found = {0};
    memset(metadata, 0, sizeof *metadata);
    metadata->source_end_id = NO_ID;
    metadata->unsampled_ids = calloc(size + 1, sizeof *metadata->unsampled_ids); /* more than the number of ids */
    if (metadata->unsampled_ids == NULL)
        return "there is not enough memory";
    if (!utf8_valid(json, size) || !read_object(&all, metadata, &found))
        return DAMAGED;
    return check(metadata, &found);
}

void metadata_free(struct metadata *metadata)
{
    free(metadata->unsampled_ids);
}
