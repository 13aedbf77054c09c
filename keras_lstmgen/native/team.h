/* Threads that compute a pass together: they start once, share out what there is, and meet where one needs what others
   computed. */

/* So many meet here, again and again. They look for each other rather than sleep: waking takes longer than most waits. */
struct barrier {
    int waiting, times;
    char alone[64 - 2 * sizeof(int)]; /* in its line of the cache */
};

struct team {
    struct lstm *l;
    void (*work)(struct lstm *, struct member *);
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

/* What one thread has in the steps: texts, and of each its quads of units, which are so many panels; and of dx, panels of
   columns. Threads with the same texts are a group, of so many. */
struct region {
    struct range texts, quads, panels, columns;
    struct barrier *group;
    int size;
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

static void meet(struct barrier *here, int size)
{
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
    me->team->work(me->team->l, me);
    return NULL;
}

/* Run `work` on so many threads, or on as many of them as can be had, and wait for all. */
static void in_team(struct lstm *l, int threads, void (*work)(struct lstm *, struct member *))
{
    pthread_t ids[MOST_THREADS];
    struct member members[MOST_THREADS];
    struct team team = {.l = l, .work = work};
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

static long quads_of(long count, int lanes) { return (count + 4 * lanes - 1) / (4 * lanes); }

/* Texts of a thread that has all their units. */
static inline struct range texts_of(const struct lstm *l, const struct member *me)
{
    return share(l->B, me->index, l->by_text < me->team->size ? l->by_text : me->team->size);
}

/* Into how many parts units are cut: as few as keep the recurrent weights near, and leave texts enough for a tile. */
static inline int parts_of(const struct lstm *l, int threads, int lanes)
{
    long weights = 4 * l->H * l->H * (long)sizeof(half), most = quads_of(l->H, lanes);
    long parts = (weights + RESIDENT - 1) / RESIDENT, by_rows = (threads * 2 * lanes + l->B - 1) / l->B;
    parts = parts > by_rows ? parts : by_rows;
    parts = parts < most ? parts : most;
    return (int)(parts < threads ? parts : threads);
}

/* A thread too many for a region has an empty one, and meets no one. */
static inline struct region region_of(const struct lstm *l, struct member *me, int lanes)
{
    int parts = parts_of(l, me->team->size, lanes), groups = me->team->size / parts;
    groups = groups < l->B ? groups : (int)l->B;
    int group = me->index / parts, part = me->index % parts;
    struct region mine = {.texts = share(l->B, group, groups), .size = group < groups ? parts : 1};
    mine.quads = share(quads_of(l->H, lanes), part, parts);
    mine.columns = share(quads_of(l->E, lanes), part, parts);
    mine.panels.first = 4 * mine.quads.first;
    mine.panels.end = 4 * mine.quads.end < l->P ? 4 * mine.quads.end : l->P;
    mine.group = me->team->of_group + (group < groups ? group : groups + me->index % (MOST_THREADS - groups));
    return mine;
}
