/* Compute the forward and backward pass so that each thread computes all units and all time steps of its own texts.

   lstm_template.h includes this file for processors on which the products take longer than reading the weights. Each step
   multiplies [x, h] by [W; U]. The threads wait for each other only before and after the loop over the time steps.
*/

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* Compute one time step of the texts from first to before end. The operands contain [x, h] of this step. */
static void NAME(step)(struct lstm *l, long t, long first, long end)
{
    vector sums[ROWS][4];
    for (long p = 0; p < l->P; p++) {
        const word *panel = l->packed + p * l->K * PANEL;
        const vector *bias = (const vector *)(l->bias + p * PANEL);
        for (long b = first, rows; b < end; b += rows) {
            rows = NAME(next)(end - b);
            NAME(tile)((int)rows, l->K, l->operands + (t * l->B + b) * l->K, l->K, panel, sums);
            for (long r = 0; r < rows; r++) {
                vector h, *c = (vector *)NAME(c_at)(l, t + 1, b + r, p);
                const vector *before = (const vector *)NAME(c_at)(l, t, b + r, p);
                NAME(cell)(sums[r], bias, before, (vector *)NAME(gates_at)(l, t, b + r, p), c, &h);
                NAME(write)(l->y + ((b + r) * l->T + t) * l->H, p * LANES, l->H, h);
            }
        }
    }
}

/* Convert `count` floats to words, and set the padding after them to 0. */
static inline void NAME(put_row)(word *out, const float *values, long count)
{
    NAME(put_words)(out, values, count);
    for (long k = words_of(PAIR, 1, count); STEP > 1 && k < NAME(words)(count); k++)
        out[k] = 0;
}

/* Compute all time steps of the texts from first to before end. */
static void NAME(steps)(struct lstm *l, long first, long end)
{
    long E = NAME(words)(l->E);
    NAME(begin)(l, first, end, 0, l->P);
    for (long t = 0; t < l->T; t++) {
        for (long b = first; b < end; b++) {
            word *operands = l->operands + (t * l->B + b) * l->K;
            const float *h = t ? l->y + (b * l->T + t - 1) * l->H : l->h0 + b * l->H;
            NAME(put_row)(operands, l->x + (b * l->T + t) * l->E, l->E);
            NAME(put_row)(operands + E, h, l->H);
        }
        NAME(step)(l, t, first, end);
    }
    NAME(finish)(l, first, end, 0, l->P);
}

static void NAME(forward)(void *window, struct member *me)
{
    struct lstm *l = window;
    struct range panels = share(l->P, me->index, me->team->size), texts = texts_of(l, me);
    long E = NAME(words)(l->E), H = NAME(words)(l->H);
    for (long p = panels.first; p < panels.end; p++) {
        word *panel = l->packed + p * l->K * PANEL;
        NAME(pack_rows_of)(l, l->W, l->E, E, p, l->K, panel);
        NAME(pack_rows_of)(l, l->U, l->H, H, p, l->K, panel + E * WIDE * LANES);
        NAME(arrange)(panel, l->K);
        NAME(pack_bias)(l, p);
    }
    meet(&me->team->all, me->team->size);
    if (texts.first < texts.end)
        NAME(steps)(l, texts.first, texts.end);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Compute the backward pass over all time steps of the texts from first to before end. The array dc [texts][P LANES] holds the
   gradient with respect to c of the current step. The gradient of the bias is added to db [P][PANEL]. */
static void NAME(steps_back)(struct lstm *l, long first, long end, float *db)
{
    long N = l->N, wide = l->P * LANES;
    vector sums[ROWS][4];
    for (long b = first; b < end; b++)
        memcpy(l->dc + b * wide, l->dc_last + b * l->H, (size_t)l->H * sizeof(float));
    for (long t = l->T - 1; t >= -1; t--)
        for (long q = 0; q < quads_of(l->H, LANES); q++)
            for (long b = first, rows; b < end; b += rows) {
                int last = t == l->T - 1;
                rows = NAME(next)(end - b);
                if (!last)
                    NAME(tile)((int)rows, N, l->dz + ((t + 1) * l->B + b) * N, N, l->packed + q * N * PANEL, sums);
                for (long r = 0; r < rows; r++)
                    NAME(text_back)(l, t, b + r, q, last ? NULL : sums[r], l->dc, db);
            }
    for (long b = first; b < end; b++)
        memcpy(l->dc0 + b * l->H, l->dc + b * wide, (size_t)l->H * sizeof(float));
}

/* Compute dx = dz W^T for the texts from first to before end. */
static void NAME(backward_x)(struct lstm *l, long first, long end)
{
    long N = l->N;
    vector sums[ROWS][4];
    for (long q = 0; q < quads_of(l->E, LANES); q++)
        for (long b = first; b < end; b++)
            for (long t = 0, rows; t < l->T; t += rows) {
                rows = NAME(next)(l->T - t);
                const word *panel = l->packed_x + q * N * PANEL;
                NAME(tile)((int)rows, N, l->dz + (t * l->B + b) * N, l->B * N, panel, sums);
                for (long r = 0; r < rows; r++)
                    for (int v = 0; v < 4; v++)
                        NAME(write)(l->dx + (b * l->T + t + r) * l->E, q * PANEL + v * LANES, l->E, sums[r][v]);
            }
}

static void NAME(backward)(void *window, struct member *me)
{
    struct lstm *l = window;
    struct range texts = texts_of(l, me);
    NAME(pack_transposed)(l, me);
    meet(&me->team->all, me->team->size);
    NAME(steps_back)(l, texts.first, texts.end, l->partial + me->index * l->P * PANEL);
    NAME(backward_x)(l, texts.first, texts.end);
    NAME(turn_share)(l, me);
    meet(&me->team->all, me->team->size);
    NAME(weights_share)(l, me);
}
