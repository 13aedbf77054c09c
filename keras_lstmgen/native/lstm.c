/* Compute the forward and backward pass of an LSTM layer over a window of a batch; native_ops.py calls it by ctypes.

   Inputs and outputs are float32. The operands of the matrix products are float32, or bfloat16 on processors that can
   multiply bfloat16. Sums, gates and states are always float32. The threads start once per pass. shared_weights.h contains
   their work for processors with matrix registers (AMX), and per_thread_batch.h for all other processors. Source of the
   equations: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; Gers, Schmidhuber and Cummins, "Learning to
   Forget", 2000.

       i, f, g, o = split(x W + h U + b)
       c' = sigmoid(f) c + sigmoid(i) tanh(g)          h' = sigmoid(o) tanh(c')
*/

#define _GNU_SOURCE /* for thread_team.h */
#if defined(HAS_AMX) && !defined(__linux__)
#undef HAS_AMX /* only Linux gives the permission to use the matrix registers by this system call */
#endif
#ifdef HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(HAS_NEON_BF16) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(HAS_NEON_BF16) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "lstm.h"

enum { NO_MEMORY = -1, NO_INSTRUCTIONS = -2 }; /* error codes, which native_ops.py knows too */

/* ---- selection of the kind -------------------------------------------------------------------------------------- */

/* The kinds for float32 and for bfloat16 that lstm_choose selected, or NULL for the fastest kind. Several threads may read
   and write these variables, so access them only by `choice_of` and `choose`. */
static const struct kind *chosen, *chosen_pairs;

static const struct kind *choice_of(const struct kind **choice) { return __atomic_load_n(choice, __ATOMIC_ACQUIRE); }

static void choose(const struct kind **choice, const struct kind *kind)
{
    __atomic_store_n(choice, kind, __ATOMIC_RELEASE);
}

static int always(void) { return 1; }

#if defined(__x86_64__)
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static int has_avx512(void) { return __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"); }

static int has_avx512_bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

#ifdef HAS_AMX
static int amx_granted;

/* Ask Linux for permission to use the matrix registers. Linux enables them only for processes that ask for them. */
static void ask_for_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, features = 0, amx_bf16 = 1u << 22, amx_tile = 1u << 24; /* not every compiler can test them by name */
    __get_cpuid_count(7, 0, &a, &b, &c, &features);
    amx_granted = (features & amx_tile) && (features & amx_bf16) && has_avx512() &&
                  !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

static int has_amx(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ask_for_amx);
    return amx_granted;
}
#endif

#ifdef HAS_NEON_BF16
/* Return whether the processor has BFMMLA. */
static int has_neon_bf16(void)
{
#if defined(__linux__)
    return getauxval(AT_HWCAP2) >> 14 & 1; /* HWCAP2_BF16, which older headers lack */
#elif defined(__APPLE__)
    int found = 0;
    size_t size = sizeof found;
    return !sysctlbyname("hw.optional.arm.FEAT_BF16", &found, &size, NULL, 0) && found;
#else
    return 0;
#endif
}
#endif

/* A kind, and a function that returns whether this processor can run it. */
struct candidate {
    const struct kind *kind;
    int (*can_run)(void);
};

/* The kinds for float32, from the fastest to the slowest. */
static const struct candidate floats[] = {
#ifdef HAS_AVX512
    {&kind_avx512, has_avx512},
#endif
#ifdef HAS_AVX2
    {&kind_avx2, has_avx2},
#endif
#ifdef HAS_NEON
    {&kind_neon, always},
#endif
    {&kind_plain, always},
};

/* The kinds for bfloat16, from the fastest to the slowest. "best" never selects an emulated one. */
static const struct candidate pairs[] = {
#ifdef HAS_AMX
    {&kind_amx, has_amx},
#endif
#ifdef HAS_AVX512_BF16
    {&kind_avx512_bf16, has_avx512_bf16},
#endif
#ifdef HAS_NEON_BF16
    {&kind_neon_bf16, has_neon_bf16},
#endif
#if defined(HAS_EMULATED) && defined(__x86_64__)
    {&kind_emulated, has_avx2},
    {&kind_emulated_amx, has_avx2},
#elif defined(HAS_EMULATED)
    {&kind_emulated, always},
    {&kind_emulated_amx, always},
#endif
    {NULL, NULL},
};

/* Return the kind with the given name, or for "best" the first kind that this processor can run. Return NULL if this processor
   cannot run the kind, or if the name is unknown. */
static const struct kind *found(const struct candidate *candidates, int count, const char *name)
{
    for (int n = 0; n < count && candidates[n].kind; n++) {
        const char *known = candidates[n].kind->name;
        int wanted = strcmp(name, "best") ? !strcmp(name, known) : strncmp(known, "emulated", strlen("emulated"));
        if (wanted && candidates[n].can_run())
            return candidates[n].kind;
    }
    return NULL;
}

static const struct kind *supported(const char *name) { return found(floats, sizeof floats / sizeof *floats, name); }

static const struct kind *supported_pairs(const char *name) { return found(pairs, sizeof pairs / sizeof *pairs, name); }

static const struct kind *kind_of(int bfloat16)
{
    const struct kind *choice = choice_of(bfloat16 ? &chosen_pairs : &chosen);
    if (choice)
        return choice;
    return bfloat16 ? supported_pairs("best") : supported("best");
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void *taken(size_t bytes, int *lacking)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    *lacking |= !memory;
    return memory;
}

/* Allocate memory, and set it to 0. */
static void *cleared(size_t bytes, int *lacking)
{
    void *memory = taken(bytes, lacking);
    return memory ? memset(memory, 0, bytes) : NULL;
}

/* Add up the gradients of the bias that the threads have computed. */
static void add_up_bias(struct lstm *l, const struct kind *kind, int threads)
{
    for (long n = 0; n < 4 * l->H; n++) {
        long gate = n / l->H, unit = n % l->H, p = unit / kind->lanes, lane = unit % kind->lanes;
        l->db[n] = 0;
        for (int thread = 0; thread < threads; thread++)
            l->db[n] += l->partial[((thread * l->P + p) * 4 + gate) * kind->lanes + lane];
    }
}

/* ---- interface of native_ops.py --------------------------------------------------------------------------------- */

/* Return 0 if this processor cannot multiply bfloat16, 1 if it can, and 2 if it multiplies bfloat16 faster than float32. */
int lstm_has_bfloat16(void)
{
    const struct kind *kind = kind_of(1);
#ifdef HAS_AVX512_BF16
    if (kind == &kind_avx512_bf16 && __builtin_cpu_is("intel"))
        return 1; /* on Intel processors, this instruction has a quarter of the throughput of a float32 product */
#endif
    return kind ? 2 : 0;
}

/* Return the name of the kind for float32 or for bfloat16, or "" if there is none. */
const char *lstm_kernel(int bfloat16)
{
    const struct kind *kind = kind_of(bfloat16);
    return kind ? kind->name : "";
}

/* Select a kind. The names for float32 are "plain", "avx2", "avx512" and "neon". The names for bfloat16 are "avx512_bf16",
   "amx", "neon_bf16", "emulated" and "emulated amx". "best" selects the fastest kind for both types. Return 0, or -1 if this processor cannot
   run the kind. */
int lstm_choose(const char *name)
{
    const struct kind *kind = supported(name), *pairs = supported_pairs(name);
    int best = !strcmp(name, "best");
    if (best || kind)
        choose(&chosen, best ? NULL : kind);
    if (best || pairs)
        choose(&chosen_pairs, best ? NULL : pairs);
    return best || kind || pairs ? 0 : -1;
}

/* Compute the sizes that follow from B, T, E and H. */
static void set_sizes(struct lstm *l, const struct kind *kind)
{
    l->P = (l->H + kind->lanes - 1) / kind->lanes;
    l->K = words_of(kind->pair, kind->step, l->E) + words_of(kind->pair, kind->step, l->H);
    l->N = l->P * 4 * kind->lanes / kind->pair;
    l->rows = l->T * words_of(1, kind->matrix ? kind->step : 1, l->B);
}

/* Compute the sizes in bytes of the arrays gates, c and operands. The caller allocates these arrays, and keeps them from the
   forward to the backward pass. Return 0 or NO_INSTRUCTIONS. */
int lstm_sizes(int bfloat16, long B, long T, long E, long H, long *bytes)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.B = B, .T = T, .E = E, .H = H};
    set_sizes(&l, kind);
    bytes[0] = T * B * l.P * 4 * kind->lanes * 4;
    bytes[1] = (T + 1) * B * l.P * kind->lanes * 4;
    bytes[2] = l.rows * l.K * 4;
    return 0;
}

static int at_most(long most, int threads) { return threads < most ? threads : (int)most; }

static void set_shape(struct lstm *l, const struct kind *kind, const int *threads, const long *shape)
{
    l->B = shape[0], l->T = shape[1], l->E = shape[2], l->H = shape[3];
    l->by_text = at_most(l->B, threads[1]);
    set_sizes(l, kind);
}

/* Compute the forward pass.

   bfloat16  whether the operands of the products are rounded to bfloat16
   threads   the maximum number of threads, and the number of threads among which the texts are divided
   shape     B, T, E, H
   in        x, h0, c0, W, U, b
   out       y, and h and c after the window
   kept      gates, c and operands, with the sizes of lstm_sizes

   Return 0, NO_MEMORY or NO_INSTRUCTIONS. */
int lstm_forward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.x = in[0], .h0 = in[1], .c0 = in[2], .W = in[3], .U = in[4], .b = in[5]};
    int lacking = 0;
    set_shape(&l, kind, threads, shape);
    l.y = out[0], l.h_last = out[1], l.c_last = out[2];
    l.gates = kept[0], l.c = kept[1], l.operands = kept[2];
    size_t columns = (size_t)(l.P * 4 * kind->lanes), of_x = columns * (size_t)words_of(kind->pair, kind->step, l.E);
    l.packed = taken(columns * (size_t)l.K * 4 - (kind->matrix ? of_x * 4 : 0), &lacking);
    l.packed_x = taken(kind->matrix ? of_x * 4 : 0, &lacking); /* used only if `packed` does not contain the weights of x */
    l.bias = taken(columns * 4, &lacking);
    if (!lacking)
        in_team(&l, at_most(l.P > l.by_text ? l.P : l.by_text, threads[0]), kind->forward);
    free(l.packed), free(l.packed_x), free(l.bias);
    return lacking ? NO_MEMORY : 0;
}

/* Compute the backward pass. The arguments and the result are the same as for lstm_forward, with these exceptions:

   in        W, U, and the gradients of y, and of h and c after the window
   out       the gradients of x, h0, c0, W, U, b
   kept      the arrays that the forward pass has filled */
int lstm_backward(int bfloat16, const int *threads, const long *shape, float **in, float **out, void **kept)
{
    const struct kind *kind = kind_of(bfloat16);
    if (!kind)
        return NO_INSTRUCTIONS;
    struct lstm l = {.W = in[0], .U = in[1], .dy = in[2], .dh_last = in[3], .dc_last = in[4]};
    int lacking = 0;
    set_shape(&l, kind, threads, shape);
    l.dx = out[0], l.dh0 = out[1], l.dc0 = out[2], l.dW = out[3], l.dU = out[4], l.db = out[5];
    l.gates = kept[0], l.c = kept[1], l.operands = kept[2];
    long wide = l.P * kind->lanes, panel = 4 * wide / kind->pair * 4 * kind->lanes; /* words in the packed panel of a quad */
    int size = at_most(l.P > l.by_text ? l.P : l.by_text, threads[0]);
    size_t blocks = (size_t)(size * kind->room(&l));
    size_t weights = (size_t)(quads_of(l.H, kind->lanes) * panel);
    l.stride = words_of(kind->pair, kind->step, l.T * l.B);
    l.stride += kind->matrix ? 0 : 16; /* avoids a power of two, with which all rows would compete for the same cache sets */
    l.packed = taken((blocks > weights ? blocks : weights) * 4, &lacking);
    l.packed_x = taken((size_t)(quads_of(l.E, kind->lanes) * panel) * 4, &lacking);
    l.dz = taken((size_t)(l.rows * l.N) * 4, &lacking);
    l.turned = taken((size_t)(l.K * kind->pair * l.stride) * 4, &lacking);
    l.dc = cleared((size_t)(l.B * wide) * 4, &lacking);
    l.partial = cleared((size_t)(size * 4 * wide) * 4, &lacking);
    if (!lacking) {
        in_team(&l, size, kind->backward);
        add_up_bias(&l, kind, size);
    }
    free(l.packed), free(l.packed_x), free(l.dz), free(l.turned), free(l.dc), free(l.partial);
    return lacking ? NO_MEMORY : 0;
}
