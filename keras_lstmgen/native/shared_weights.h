/* Compute the forward and backward pass so that each thread keeps the weights of its own units in its second-level cache.

   lstm_template.h includes this file for processors that multiply faster than they read weights from memory. Each thread
   computes some of the units. If there are enough threads and texts, the threads form groups, and the texts are divided among
   the groups. The threads of a group wait for each other after each step, because the next step needs h of all units (in the
   backward pass, dz of all units). The products x W and dz W^T do not depend on the previous step. They are computed for the
   whole window, before the loop over the steps and after it.
*/

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* Convert x of the rows from first to before end to words, and set the padding of these rows to 0. */
static void NAME(put_x)(struct lstm *l, long first, long end)
{
    long E = NAME(words)(l->E), filled = E + l->P * (LANES / PAIR);
    for (long row = first; row < end; row++) {
        word *operands = NAME(text_at)(l, l->operands, l->K, row / l->B, row % l->B);
        const float *x = l->x + (row % l->B * l->T + row / l->B) * l->E;
        for (long k = 0; k < E; k += STEP) {
            word *to = operands + NAME(word_at)(k);
            long count = l->E - PAIR * k;
            if (count < PAIR * STEP)
                memset(to, 0, STEP * sizeof *to);
            NAME(put_words)(to, x + PAIR * k, count < PAIR * STEP ? count : PAIR * STEP);
        }
        if (filled < l->K) /* the last half of a register is padding */
            memset(operands + NAME(word_at)(filled), 0, (size_t)(l->K - filled) * sizeof(word));
    }
}

/* Compute x W for all steps, for the texts and units of a region, and store it in the array of the gates. */
static void NAME(project)(struct lstm *l, const struct region *r)
{
    long E = NAME(words)(l->E);
    for (long t = 0; t < l->T; t++)
        for (long b = r->texts.first, rows; b < r->texts.end; b += rows) {
            rows = NAME(next)(r->texts.end - b);
            for (long p = r->panels.first; p < r->panels.end; p++) {
                vector(*z)[4] = (vector(*)[4])NAME(gates_at)(l, t, b, p);
                const word *x = NAME(text_at)(l, l->operands, l->K, t, b);
                NAME(will_write)(z, rows * (long)sizeof *z);
                NAME(tile)((int)rows, E, x, l->K, l->packed_x + p * E * PANEL, z);
            }
        }
}

/* Store h of a panel twice: as floats in y, and as words in the operands of the next step. */
static inline void NAME(put_h)(struct lstm *l, long t, long b, long p, vector h)
{
    NAME(write)(l->y + (b * l->T + t) * l->H, p * LANES, l->H, h);
    if (t + 1 < l->T) {
        word *operands = NAME(text_at)(l, l->operands, l->K, t + 1, b);
        NAME(put_words)(operands + NAME(word_at)(NAME(words)(l->E) + p * (LANES / PAIR)), (const float *)&h, LANES);
    }
}

/* Compute one time step: add h U to x W, and compute the cells. */
static void NAME(step)(struct lstm *l, long t, const struct region *r)
{
    vector sums[ROWS][4];
    long E = NAME(words)(l->E), H = NAME(words)(l->H);
    for (long p = r->panels.first; p < r->panels.end; p++)
        for (long b = r->texts.first, rows; b < r->texts.end; b += rows) {
            vector *gates = (vector *)NAME(gates_at)(l, t, b, p), h;
            rows = NAME(next)(r->texts.end - b);
            const word *before = NAME(text_at)(l, l->operands, l->K, t, b) + NAME(word_at)(E);
            NAME(tile_onto)((int)rows, H, before, l->K, l->packed + p * H * PANEL, (const vector(*)[4])gates, sums);
            for (long n = 0; n < rows; n++) {
                vector *c = (vector *)NAME(c_at)(l, t + 1, b + n, p);
                const vector *c_before = (const vector *)NAME(c_at)(l, t, b + n, p);
                NAME(cell)(sums[n], (const vector *)(l->bias + p * PANEL), c_before, gates + 4 * n, c, &h);
                NAME(put_h)(l, t, b + n, p, h);
            }
        }
}

static void NAME(pack_share)(struct lstm *l, struct member *me)
{
    struct range panels = share(l->P, me->index, me->team->size);
    long E = NAME(words)(l->E), H = NAME(words)(l->H);
    for (long p = panels.first; p < panels.end; p++) {
        NAME(pack_rows_of)(l, l->W, l->E, E, p, E, l->packed_x + p * E * PANEL);
        NAME(pack_rows_of)(l, l->U, l->H, H, p, H, l->packed + p * H * PANEL);
        NAME(pack_bias)(l, p);
    }
}

/* Store h0 as words in the operands of the first step. */
static void NAME(put_h0)(struct lstm *l, const struct region *r)
{
    for (long b = r->texts.first; b < r->texts.end; b++)
        for (long p = r->panels.first; p < r->panels.end; p++) {
            vector h = NAME(read)(l->h0 + b * l->H, p * LANES, l->H);
            word *operands = NAME(text_at)(l, l->operands, l->K, 0, b);
            NAME(put_words)(operands + NAME(word_at)(NAME(words)(l->E) + p * (LANES / PAIR)), (const float *)&h, LANES);
        }
}

static void NAME(forward)(void *window, struct member *me)
{
    struct lstm *l = window;
    struct range rows = share(l->T * l->B, me->index, me->team->size);
    struct region mine = region_of(l, me, LANES);
    NAME(pack_share)(l, me);
    NAME(put_x)(l, rows.first, rows.end);
    NAME(put_h0)(l, &mine);
    NAME(begin)(l, mine.texts.first, mine.texts.end, mine.panels.first, mine.panels.end);
    meet(&me->team->all, me->team->size);
    NAME(project)(l, &mine);
    for (long t = 0; t < l->T; t++) {
        NAME(step)(l, t, &mine);
        meet(mine.group, mine.size);
    }
    NAME(finish)(l, mine.texts.first, mine.texts.end, mine.panels.first, mine.panels.end);
    NAME(release)();
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Prefetch the memory of step t that is read and written after the product, for some texts and the units of a quad. */
static inline void NAME(prefetch_step)(const struct lstm *l, long t, long b, long rows, long q)
{
    for (long p = 4 * q; p < l->P && p < 4 * q + 4; p++) {
        NAME(will_read)(NAME(gates_at)(l, t, b, p), rows * PANEL * (long)sizeof(float));
        NAME(will_read)(NAME(c_at)(l, t, b, p), rows * (long)sizeof(vector));
    }
    for (long n = 0; n < rows; n++) {
        const word *dz = NAME(text_at)(l, l->dz, l->N, t, b + n) + NAME(word_at)(q * 2 * PANEL);
        if (n % STEP == 0)
            NAME(will_write)(dz, 2 * PANEL * STEP * (long)sizeof *dz);
        NAME(will_read)(l->dy + ((b + n) * l->T + t) * l->H + q * PANEL, PANEL * (long)sizeof(float));
    }
}

/* Compute one step of the backward pass. The gradient with respect to h is dz U^T, with dz of step t + 1. From this gradient,
   the function computes dz of step t. */
static void NAME(step_back)(struct lstm *l, long t, const struct region *r, float *db)
{
    long N = l->N;
    int last = t == l->T - 1;
    vector sums[ROWS][4];
    for (long q = r->quads.first; q < r->quads.end; q++)
        for (long b = r->texts.first, rows; b < r->texts.end; b += rows) {
            rows = NAME(next)(r->texts.end - b);
            if (t >= 0)
                NAME(prefetch_step)(l, t, b, rows, q);
            if (!last)
                NAME(tile)((int)rows, N, NAME(text_at)(l, l->dz, l->N, t + 1, b), l->N,
                           l->packed + q * N * PANEL, sums);
            for (long n = 0; n < rows; n++)
                NAME(text_back)(l, t, b + n, q, last ? NULL : sums[n], l->dc, db);
        }
}

/* Copy the gradient with respect to c for a region. With after = 0 (before the loop over the steps), read the gradient of the
   last c. With after = 1 (after the loop), write the gradient of c0. */
static void NAME(carry)(struct lstm *l, const struct region *r, int after)
{
    for (long b = r->texts.first; b < r->texts.end; b++)
        for (long p = r->panels.first; p < r->panels.end; p++) {
            vector *dc = (vector *)(l->dc + (b * l->P + p) * LANES);
            if (after)
                NAME(write)(l->dc0 + b * l->H, p * LANES, l->H, *dc);
            else
                *dc = NAME(read)(l->dc_last + b * l->H, p * LANES, l->H);
        }
}

/* Compute dx = dz W^T for the texts of a region, and for the columns of x that belong to this thread. */
static void NAME(backward_x)(struct lstm *l, const struct region *r)
{
    long N = l->N;
    vector sums[ROWS][4];
    for (long t = 0; t < l->T; t++)
        for (long b = r->texts.first, rows; b < r->texts.end; b += rows) {
            rows = NAME(next)(r->texts.end - b);
            for (long q = r->columns.first; q < r->columns.end; q++) {
                for (long n = 0; n < rows; n++)
                    NAME(will_write)(l->dx + ((b + n) * l->T + t) * l->E + q * PANEL, PANEL * (long)sizeof(float));
                const word *dz = NAME(text_at)(l, l->dz, l->N, t, b);
                NAME(tile)((int)rows, N, dz, l->N, l->packed_x + q * N * PANEL, sums);
                for (long n = 0; n < rows; n++)
                    for (int v = 0; v < 4; v++)
                        NAME(write)(l->dx + ((b + n) * l->T + t) * l->E, q * PANEL + v * LANES, l->E, sums[n][v]);
            }
        }
}

static void NAME(backward)(void *window, struct member *me)
{
    struct lstm *l = window;
    struct region mine = region_of(l, me, LANES);
    NAME(pack_transposed)(l, me);
    NAME(carry)(l, &mine, 0);
    meet(&me->team->all, me->team->size);
    for (long t = l->T - 1; t >= -1; t--) {
        NAME(step_back)(l, t, &mine, l->partial + me->index * l->P * PANEL);
        meet(mine.group, mine.size);
    }
    NAME(carry)(l, &mine, 1);
    NAME(backward_x)(l, &mine);
    NAME(turn_share)(l, me);
    meet(&me->team->all, me->team->size);
    NAME(weights_share)(l, me);
    NAME(release)();
}
