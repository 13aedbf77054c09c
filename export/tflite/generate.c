/* Generate text with a TFLite file. The program requires libLiteRt.so of the Python package ai-edge-litert.

   make && build/generate model.tflite --prompt "Once" --seed 1
*/

#include "contract.h"
#include "metadata.h"
#include "model.h"
#include "tokenizer.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAD_INPUT = 2 };

static const char HELP[] =
    "usage: generate [options] model.tflite\n\n"
    "Generate text with a TFLite file. Each option has a value; the default is in parentheses:\n\n"
    "  --prompt              text to continue; without it, begin a new text\n"
    "  --seed                64-bit number; the same seed gives the same text (0)\n"
    "  --n                   number of texts, with the seeds seed, seed + 1, ... (1)\n"
    "  --max-new-tokens      largest number of tokens of each text (200)\n"
    "  --repetition-penalty  above 1, tokens that are already in the text become less likely; 1: off (1)\n"
    "  --temperature         divide the logits by this number; 0 always selects the most likely token (1)\n"
    "  --top-k               sample only from the k most likely tokens; 0: from all (0)\n"
    "  --top-p               sample only from the most likely tokens whose probabilities add up to this number;\n"
    "                        1: from all (1)\n"
    "  --min-p               sample only from tokens with at least this share of the largest probability;\n"
    "                        0: from all (0)\n";

struct arguments {
    const char *path, *prompt;
    uint64_t seed;
    bool negative; /* whether the seed was given as a negative number */
    int n, max_new_tokens;
    struct options options;
};

/* The opened artifact, with memory for generation. */
struct writer {
    struct model model;
    struct metadata metadata;
    struct tokenizer tokenizer;
    struct ids prompt;
    bool *seen, *unsampled; /* [V] */
    float *sorted;          /* [V] */
};

/* Parse an integer from `low` to `high`. */
static bool read_whole(const char *text, long long low, long long high, long long *number)
{
    char *end;
    errno = 0;
    *number = strtoll(text, &end, 10);
    return end != text && *end == '\0' && errno == 0 && low <= *number && *number <= high;
}

static bool read_int(const char *text, int *number)
{
    long long whole;
    bool read = read_whole(text, 1, INT_MAX, &whole);
    *number = read ? (int)whole : 0;
    return read;
}

static bool read_real(const char *text, double *number)
{
    char *end;
    *number = strtod(text, &end);
    return end != text && *end == '\0';
}

/* Parse a seed from -2^63 to 2^64 - 1. A negative seed is stored as its two's complement. */
static bool read_seed(const char *text, struct arguments *arguments)
{
    long long whole;
    char *end;
    arguments->negative = read_whole(text, LLONG_MIN, -1, &whole);
    arguments->seed = (uint64_t)whole;
    if (arguments->negative || read_whole(text, 0, LLONG_MAX, &whole))
        return true;
    errno = 0;
    arguments->seed = strtoull(text, &end, 10);
    return strchr(text, '-') == NULL && end != text && *end == '\0' && errno == 0;
}

enum { PROMPT, SEED, N, MAX_NEW_TOKENS, REPETITION_PENALTY, TEMPERATURE, TOP_K, TOP_P, MIN_P, HELP_WANTED };

static const struct option OPTIONS[] = {
    {"prompt", required_argument, NULL, PROMPT},
    {"seed", required_argument, NULL, SEED},
    {"n", required_argument, NULL, N},
    {"max-new-tokens", required_argument, NULL, MAX_NEW_TOKENS},
    {"repetition-penalty", required_argument, NULL, REPETITION_PENALTY},
    {"temperature", required_argument, NULL, TEMPERATURE},
    {"top-k", required_argument, NULL, TOP_K},
    {"top-p", required_argument, NULL, TOP_P},
    {"min-p", required_argument, NULL, MIN_P},
    {"help", no_argument, NULL, HELP_WANTED},
    {NULL, 0, NULL, 0},
};

/* Parse the value of one option. Return NULL on success, or a description of the valid values. */
static const char *read_option(int option, const char *text, struct arguments *arguments)
{
    switch (option) {
    case PROMPT:
        arguments->prompt = text;
        return utf8_valid(text, strlen(text)) ? NULL : "text in UTF-8";
    case SEED:
        return read_seed(text, arguments) ? NULL : "a whole number of 64 bits";
    case N:
        return read_int(text, &arguments->n) ? NULL : "a whole number of 1 or more";
    case MAX_NEW_TOKENS:
        return read_int(text, &arguments->max_new_tokens) ? NULL : "a whole number of 1 or more";
    case TOP_K:
        return read_whole(text, LLONG_MIN, LLONG_MAX, &arguments->options.top_k) ? NULL : "a whole number";
    case REPETITION_PENALTY:
        return read_real(text, &arguments->options.repetition_penalty) ? NULL : "a number";
    case TEMPERATURE:
        return read_real(text, &arguments->options.temperature) ? NULL : "a number";
    case TOP_P:
        return read_real(text, &arguments->options.top_p) ? NULL : "a number";
    default:
        return read_real(text, &arguments->options.min_p) ? NULL : "a number";
    }
}

/* Return whether standard output was written completely. If not, print an error message. */
static bool written(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return true;
    fputs("generate: the text cannot be written\n", stderr);
    return false;
}

/* Parse the command line. On failure, print an error message and return false. */
static bool read_arguments(int argc, char **argv, struct arguments *arguments)
{
    int option, which = 0;
    while ((option = getopt_long(argc, argv, "h", OPTIONS, &which)) != -1) {
        if (option == '?')
            return false; /* getopt_long has printed an error message */
        if (option == HELP_WANTED || option == 'h') {
            fputs(HELP, stdout);
            exit(written() ? EXIT_SUCCESS : BAD_INPUT);
        }
        const char *wanted = read_option(option, optarg, arguments);
        if (wanted != NULL) {
            fprintf(stderr, "generate: --%s must be %s, not '%s'\n", OPTIONS[which].name, wanted, optarg);
            return false;
        }
    }
    if (optind != argc - 1) {
        fputs("generate: give one model, a TFLite file; --help lists the options\n", stderr);
        return false;
    }
    arguments->path = argv[optind];
    return true;
}

static const char *open_parts(struct writer *writer, const char *path)
{
    struct model *model = &writer->model;
    const char *why = model_open(model, path);
    if (why == NULL)
        why = metadata_read(&writer->metadata, model->json, model->json_size);
    if (why == NULL)
        why = tokenizer_read(&writer->tokenizer, model->tokenizer, model->tokenizer_size);
    if (why == NULL && (writer->metadata.vocab_size != model->V || writer->tokenizer.count != model->V))
        why = "model, tokenizer and metadata differ in vocabulary size";
    if (why == NULL && writer->metadata.state_size != model->S)
        why = "model and metadata differ in state size";
    return why;
}

/* Allocate the memory for generating one text, and mark the ids that are never generated. */
static const char *make_room(struct writer *writer)
{
    size_t V = writer->model.V;
    writer->seen = calloc(V, sizeof *writer->seen);
    writer->unsampled = calloc(V, sizeof *writer->unsampled);
    writer->sorted = calloc(V, sizeof *writer->sorted);
    if (writer->seen == NULL || writer->unsampled == NULL || writer->sorted == NULL)
        return "there is not enough memory";
    size_t writable = V;
    for (size_t i = 0; i < writer->metadata.unsampled_count; i++) {
        bool *unsampled = &writer->unsampled[writer->metadata.unsampled_ids[i]];
        writable -= !*unsampled;
        *unsampled = true;
    }
    return writable > 0 ? NULL : "its metadata excludes all ids from generation";
}

/* Return whether the symbol that ends a source must be appended to the prompt. This is the case if the model was trained on
   pairs, and the ids of the prompt from number `from` on are not empty and do not contain the symbol. */
static bool is_open(const struct writer *writer, size_t from)
{
    int32_t end = writer->metadata.source_end_id;
    for (size_t i = from; i < writer->prompt.count; i++)
        if (writer->prompt.at[i] == end)
            return false;
    return end != NO_ID && from < writer->prompt.count;
}

/* Encode a prompt. If the prompt is empty or the metadata require it, the ids begin with the start symbol. */
static const char *encode_prompt(struct writer *writer, const char *prompt)
{
    bool start = writer->metadata.prompt_start || *prompt == '\0';
    bool done = (!start || append(&writer->prompt, writer->metadata.start_id))
                && encode(&writer->tokenizer, prompt, strlen(prompt), &writer->prompt);
    if (done && is_open(writer, start))
        done = append(&writer->prompt, writer->metadata.source_end_id);
    return done ? NULL : "there is not enough memory";
}

static void put(void *file, const char *text, size_t size)
{
    fwrite(text, 1, size, file);
}

/* Reset the state of the model, and let the model read the prompt. */
static const char *read_prompt(struct writer *writer)
{
    const char *why = NULL;
    model_begin(&writer->model);
    memset(writer->seen, 0, writer->model.V * sizeof *writer->seen);
    for (size_t i = 0; i < writer->prompt.count && why == NULL; i++) {
        why = model_step(&writer->model, writer->prompt.at[i]);
        writer->seen[writer->prompt.at[i]] = true;
    }
    return why;
}

/* Generate one text, and write each token to standard output as soon as it is sampled. Stop after the end token, or at the
   largest number of tokens. */
static const char *write_text(struct writer *writer, const struct arguments *arguments, uint64_t seed, int *count,
                              bool *ended)
{
    struct tail tail = {.count = 0};
    const char *why = read_prompt(writer);
    int32_t end = writer->metadata.end_id, token = writer->prompt.at[writer->prompt.count - 1];
    for (*count = 0; why == NULL && token != end && *count < arguments->max_new_tokens; ++*count) {
        if (*count > 0)
            why = model_step(&writer->model, token);
        token = choose(writer->model.logits, writer->model.V, noise(seed, (uint32_t)*count), writer->seen,
                       writer->unsampled, &arguments->options, writer->sorted);
        writer->seen[token] = true;
        decode(&writer->tokenizer, &tail, token, put, stdout);
        fflush(stdout);
    }
    decode_end(&tail, put, stdout);
    putchar('\n');
    *ended = token == end;
    return why;
}

static void print_seed(uint64_t seed, bool negative)
{
    if (negative)
        printf("--- seed %lld\n", (long long)seed);
    else
        printf("--- seed %llu\n", (unsigned long long)seed);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Generate the texts, and print the number of tokens, the speed and the finish reasons to standard error. */
static const char *write_all(struct writer *writer, const struct arguments *arguments)
{
    double begun = seconds();
    long long total = 0;
    const char *why = NULL;
    bool *ended = calloc((size_t)arguments->n, sizeof *ended);
    if (ended == NULL)
        return "there is not enough memory";
    for (int i = 0; i < arguments->n && why == NULL; i++) {
        int count;
        if (arguments->n > 1)
            print_seed(arguments->seed + (uint64_t)i, arguments->negative);
        why = write_text(writer, arguments, arguments->seed + (uint64_t)i, &count, &ended[i]);
        total += count;
    }
    double took = seconds() - begun;
    if (why == NULL) {
        fprintf(stderr, "%lld tokens in %.2f s, %.0f tokens/s, finish reason: ", total, took, (double)total / took);
        for (int i = 0; i < arguments->n; i++)
            fprintf(stderr, "%s%s", ended[i] ? "stop" : "length", i + 1 < arguments->n ? ", " : "\n");
    }
    free(ended);
    return why;
}

/* Open the null device for each standard stream that is closed. Otherwise the file of the model would get its number. */
static void open_closed(void)
{
    for (int number = 0; number < 3; number++)
        if (fcntl(number, F_GETFD) == -1)
            (void)!open("/dev/null", O_RDWR); /* open returns the lowest free number, which is this one */
}

static void close_all(struct writer *writer)
{
    free(writer->prompt.at);
    free(writer->seen);
    free(writer->unsampled);
    free(writer->sorted);
    tokenizer_free(&writer->tokenizer);
    metadata_free(&writer->metadata);
    model_close(&writer->model);
}

int main(int argc, char **argv)
{
    open_closed();
    struct arguments arguments = {.prompt = "", .n = 1, .max_new_tokens = 200, .options = NEUTRAL};
    if (!read_arguments(argc, argv, &arguments))
        return BAD_INPUT;
    const char *why = out_of_range(&arguments.options);
    if (why != NULL) {
        fprintf(stderr, "generate: %s\n", why);
        return BAD_INPUT;
    }
    if (access(arguments.path, F_OK) != 0) {
        fprintf(stderr, "generate: %s: there is no such model\n", arguments.path);
        return BAD_INPUT;
    }
    struct writer writer = {0};
    why = open_parts(&writer, arguments.path);
    if (why == NULL)
        why = make_room(&writer);
    if (why == NULL)
        why = encode_prompt(&writer, arguments.prompt);
    if (why == NULL)
        why = write_all(&writer, &arguments);
    if (why != NULL)
        fprintf(stderr, "generate: %s: cannot be used: %s\n", arguments.path, why);
    close_all(&writer);
    if (why == NULL && !written())
        return BAD_INPUT;
    return why == NULL ? EXIT_SUCCESS : BAD_INPUT;
}
