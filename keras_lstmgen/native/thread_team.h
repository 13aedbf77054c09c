/* Run the threads of one pass. The threads start once, divide the work, and wait for each other at barriers. */

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

static void *take_part(void *argument)
{
    struct member *me = argument;
    int size, polls = 0;
    while (!(size = __atomic_load_n(&me->team->size, __ATOMIC_ACQUIRE)))
        wait_for_poll(&polls);
    me->team->work(me->team->task, me);
    return NULL;
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
    int size = 1;
    while (size < threads && !pthread_create(&ids[size], NULL, take_part, &members[size]))
        size++;
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
