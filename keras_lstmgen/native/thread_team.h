/* Threads that compute a pass together: they start once, share out what there is, and meet where one needs what others
   computed. */

#include <pthread.h>
#include <sched.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MOST_THREADS = 256 };
enum { SPINS = 256 }; /* looks for the others, before the processor is left to them */

/* So many meet here, again and again. They look for each other rather than sleep: waking takes longer than most waits. */
struct barrier {
    _Alignas(64) int waiting; /* each barrier has a cache line of its own */
    int times;
};

struct member;

struct team {
    void *task; /* what the work is given */
    void (*work)(void *, struct member *);
    int size; /* 0 until all have come that can be had */
    struct barrier all, of_group[MOST_THREADS];
};

struct member {
    struct team *team;
    int index;
};

struct range {
    long first, end;
};

/* Looks once more for what another thread writes; after many looks the processor is left to that one. */
static void look_again(int *looks)
{
    if (++*looks > SPINS)
        sched_yield();
#if defined(__x86_64__)
    else
        _mm_pause();
#endif
}

static inline void meet(struct barrier *here, int size)
{
    if (size == 1)
        return;
    int before = __atomic_load_n(&here->times, __ATOMIC_ACQUIRE), looks = 0;
    if (__atomic_add_fetch(&here->waiting, 1, __ATOMIC_ACQ_REL) == size) {
        __atomic_store_n(&here->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&here->times, before + 1, __ATOMIC_RELEASE);
    } else {
        while (__atomic_load_n(&here->times, __ATOMIC_ACQUIRE) == before)
            look_again(&looks);
    }
}

static void *take_part(void *argument)
{
    struct member *me = argument;
    int size, looks = 0;
    while (!(size = __atomic_load_n(&me->team->size, __ATOMIC_ACQUIRE)))
        look_again(&looks);
    me->team->work(me->team->task, me);
    return NULL;
}

/* Run `work` on so many threads and wait for all. There are fewer, and never less than one, where the system starts no
   more, or beyond MOST_THREADS: this is the one place that caps their number. */
static void in_team(void *task, int threads, void (*work)(void *, struct member *))
{
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    pthread_t ids[MOST_THREADS];
    struct member members[MOST_THREADS];
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

/* An even share of 0 to count; none for those beyond. */
static struct range share(long count, int index, int of)
{
    if (index >= of)
        return (struct range){count, count};
    return (struct range){count * index / of, count * (index + 1) / of};
}
