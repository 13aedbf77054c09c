/* Run the threads of one pass. The threads start once, divide the work, and wait for each other at barriers. */

/* The file that includes this one defines _GNU_SOURCE before its first include, for sched_getaffinity. */
#include <pthread.h>
#include <sched.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MAX_THREADS = 256 };
enum { SPINS = 256 }; /* number of polls of a barrier after which a thread begins to yield the processor */

/* Reusable barrier. Threads poll the barrier instead of sleeping, because waking a thread takes longer than most waits. */
struct barrier {
    _Alignas(64) int waiting; /* number of waiting threads; each barrier has its own cache line */
    int times;                /* how many times all threads have met */
};

struct member;

struct team {
    void *task; /* first argument of `work` */
    void (*work)(void *, struct member *);
    int size; /* number of threads; 0 until all threads have been started */
#if defined(__GLIBC__)
    cpu_set_t allowed; /* processors of this process; empty if they are unknown */
#endif
    struct barrier all, of_group[MAX_THREADS];
};

struct member {
    struct team *team;
    int index;
};

struct range {
    long first, end;
};

/* Wait before the next poll; after many polls, yield the processor. */
static void wait_for_poll(int *polls)
{
    if (++*polls > SPINS)
        sched_yield();
#if defined(__x86_64__)
    else
        _mm_pause();
#endif
}

/* Wait until `size` threads have called this function with the same barrier. */
static inline void meet(struct barrier *here, int size)
{
    if (size == 1)
        return;
    int before = __atomic_load_n(&here->times, __ATOMIC_ACQUIRE), polls = 0;
    if (__atomic_add_fetch(&here->waiting, 1, __ATOMIC_ACQ_REL) == size) {
        __atomic_store_n(&here->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&here->times, before + 1, __ATOMIC_RELEASE);
    } else {
        while (__atomic_load_n(&here->times, __ATOMIC_ACQUIRE) == before)
            wait_for_poll(&polls);
    }
}

#if defined(__GLIBC__)
/* Make the next thread start on the allowed processor that follows `*last`, and store its number there.

   The system may otherwise start a thread on the processor of the calling thread, while a thread of TensorFlow still polls on
   another one. The two threads of a pass then share a processor. The system does not separate them for a long time, because
   both poll. */
static void choose_processor(const struct team *team, pthread_attr_t *attributes, int *last)
{
    cpu_set_t one;
    if (!CPU_COUNT(&team->allowed))
        return;
    do
        *last = (*last + 1) % CPU_SETSIZE;
    while (!CPU_ISSET(*last, &team->allowed));
    CPU_ZERO(&one);
    CPU_SET(*last, &one);
    pthread_attr_setaffinity_np(attributes, sizeof one, &one);
}
#endif

static void *take_part(void *argument)
{
    struct member *me = argument;
    int size, polls = 0;
#if defined(__GLIBC__)
    /* From here on, the system may move this thread. */
    if (me->index && CPU_COUNT(&me->team->allowed))
        sched_setaffinity(0, sizeof me->team->allowed, &me->team->allowed);
#endif
    while (!(size = __atomic_load_n(&me->team->size, __ATOMIC_ACQUIRE)))
        wait_for_poll(&polls);
    me->team->work(me->team->task, me);
    return NULL;
}

/* Start the threads of a team, without the calling thread. Return the number of threads, including the calling thread. */
static int start_threads(struct team *team, struct member *members, pthread_t *ids, int threads)
{
    int size = 1;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
#if defined(__GLIBC__)
    int last = sched_getcpu();
    if (sched_getaffinity(0, sizeof team->allowed, &team->allowed))
        CPU_ZERO(&team->allowed);
#endif
    for (; size < threads; size++) {
#if defined(__GLIBC__)
        choose_processor(team, &attributes, &last);
#endif
        if (pthread_create(&ids[size], &attributes, take_part, &members[size]) &&
            pthread_create(&ids[size], NULL, take_part, &members[size])) /* the system may refuse the processor */
            break;
    }
    pthread_attr_destroy(&attributes);
    return size;
}

/* Run `work` in several threads, including the calling thread, and wait for all of them. The number of threads is `threads`,
   but at most MAX_THREADS. It is smaller if the system cannot start that many threads. */
static void in_team(void *task, int threads, void (*work)(void *, struct member *))
{
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    pthread_t ids[MAX_THREADS];
    struct member members[MAX_THREADS];
    struct team team = {.task = task, .work = work};
    for (int n = 0; n < threads; n++)
        members[n] = (struct member){&team, n};
    int size = start_threads(&team, members, ids, threads);
    __atomic_store_n(&team.size, size, __ATOMIC_RELEASE);
    take_part(&members[0]);
    for (int n = 1; n < size; n++)
        pthread_join(ids[n], NULL);
}

/* Divide the numbers from 0 to count - 1 into `of` parts of nearly equal size, and return part number `index`. The part is
   empty if index >= of. */
static struct range share(long count, int index, int of)
{
    if (index >= of)
        return (struct range){count, count};
    return (struct range){count * index / of, count * (index + 1) / of};
}
