/* Outputs of Hedgehog attention, bidirectional and causal: y = phi(q)^T S / (phi(q)^T s), S = sum phi(k) v^T,
   s = sum phi(k), over all keys or over those up to the query. Features live for one chunk of tokens only. */

#include "maps.h"

/* Outputs and 1 / normaliser of one query; a row that sums to less than eps sees no key. */
static void normalise(float *y, int width, float total, float eps, float *inverse)
{
    /* Not a number is not less. */
    *inverse = total < eps ? 0.0f : 1.0f / total;
    for (int c = 0; c < width; c++)
        y[c] *= *inverse;
}

/* Adds a chunk of keys to the sums; phi is (2 features, CHUNK). */
static void take_in(const Problem *p, const float *phi, const float *v, int tokens, float *kv, float *sums)
{
    int f = 2 * p->features;

    product(f, p->value_width, tokens, phi, CHUNK, 1, v, p->v_strides[2], kv, p->value_width, 1);
    for (int i = 0; i < f; i++) {
        vec total = {0};
        for (int t = 0; t < CHUNK; t += LANES)
            total += load(phi + (size_t)i * CHUNK + t);
        sums[i] += sum_of(total);
    }
}

/* Sums over all keys: kv (batch, heads, 2 features, value_width), sums (batch, heads, 2 features), both zero before.
   Returns 1 if exponents leave the range in which plain exponentials serve. */
int hedgehog_sum_keys(const Problem *p, float *kv, float *sums)
{
    int f = 2 * p->features, width = p->value_width, beyond = 0;
    Map *maps = maps_of(p, p->key_weight, p->key_bias);

    #pragma omp parallel num_threads(p->threads) reduction(| : beyond)
    {
        float *phi = floats((size_t)f * CHUNK);
        #pragma omp for
        for (int item = 0; item < p->batch * p->heads; item++) {
            int h = item % p->heads;
            const float *k = rows_of(p, p->k, p->k_strides, item);
            const float *v = rows_of(p, p->v, p->v_strides, item);
            float *total = sums + (size_t)item * f;
            for (int at = 0; at < p->keys && !beyond; at += CHUNK) {
                int tokens = least(CHUNK, p->keys - at);
                beyond |= features_of(&maps[h], p, k + at * p->k_strides[2], p->k_strides[2], tokens, phi);
                hide(p, item, at, tokens, phi, f, 1);
                product(f, width, tokens, phi, 1, f, v + at * p->v_strides[2], p->v_strides[2],
                        kv + (size_t)item * f * width, width, 1);
                add_rows(tokens, f, phi, total);
            }
        }
        free(phi);
    }
    release(p, maps);
    return beyond;
}

/* y (batch, heads, queries, value_width) and 1 / normaliser (batch, heads, queries) of all queries. */
int hedgehog_read(const Problem *p, const float *kv, const float *sums, float *y, float *inverse)
{
    int f = 2 * p->features, width = p->value_width, beyond = 0;
    Map *maps = maps_of(p, p->query_weight, p->query_bias);

    #pragma omp parallel num_threads(p->threads) reduction(| : beyond)
    {
        float *phi = floats((size_t)f * CHUNK);
        #pragma omp for
        for (int item = 0; item < p->batch * p->heads; item++) {
            int h = item % p->heads;
            const float *q = rows_of(p, p->q, p->q_strides, item);
            const float *state = kv + (size_t)item * f * width, *total = sums + (size_t)item * f;
            for (int at = 0; at < p->queries && !beyond; at += CHUNK) {
                int tokens = least(CHUNK, p->queries - at);
                size_t first = (size_t)item * p->queries + at;
                beyond |= features_of(&maps[h], p, q + at * p->q_strides[2], p->q_strides[2], tokens, phi);
                product(tokens, width, f, phi, f, 1, state, width, y + first * width, width, 0);
                for (int t = 0; t < tokens; t++)
                    normalise(y + (first + t) * width, width, dot(phi + (size_t)t * f, total, f), p->eps,
                              inverse + first + t);
            }
        }
        free(phi);
    }
    release(p, maps);
    return beyond;
}

/* Outputs of a chunk of queries that see the keys of the same chunk up to themselves, and all before in kv and sums.
   phi_q is (CHUNK, 2 features), phi_k (2 features, CHUNK), scores (ROWS, CHUNK). */
static void attend(const Problem *p, const float *phi_q, const float *phi_k, const float *v, const float *kv,
                   const float *sums, int tokens, float *scores, float *y, float *inverse)
{
    int f = 2 * p->features, width = p->value_width;

    product(tokens, width, f, phi_q, f, 1, kv, width, y, width, 0);
    for (int first = 0; first < tokens; first += ROWS) {
        int rows = least(ROWS, tokens - first), seen = first + rows;
        int columns = (seen + COLUMNS - 1) / COLUMNS * COLUMNS;
        const float *mine = phi_q + (size_t)first * f;
        product(rows, columns, f, mine, f, 1, phi_k, CHUNK, scores, CHUNK, 0);
        for (int t = 0; t < rows; t++)
            memset(scores + t * CHUNK + first + t + 1, 0, (columns - first - t - 1) * sizeof(float));
        product(rows, width, seen, scores, CHUNK, 1, v, p->v_strides[2], y + (size_t)first * width, width, 1);
        for (int t = 0; t < rows; t++) {
            vec inside = {0};
            for (int j = 0; j < columns; j += LANES)
                inside += load(scores + t * CHUNK + j);
            normalise(y + (size_t)(first + t) * width, width, sum_of(inside) + dot(mine + (size_t)t * f, sums, f),
                      p->eps, inverse + first + t);
        }
    }
}

/* The same causally, as many queries as keys. kv and sums hold the state before the first token, and get the last. */
int hedgehog_causal(const Problem *p, float *kv, float *sums, float *y, float *inverse)
{
    int f = 2 * p->features, width = p->value_width, beyond = 0;
    Map *of_query = maps_of(p, p->query_weight, p->query_bias), *of_key = maps_of(p, p->key_weight, p->key_bias);

    #pragma omp parallel num_threads(p->threads) reduction(| : beyond)
    {
        float *phi_q = floats((size_t)f * CHUNK), *phi_k = floats((size_t)f * CHUNK);
        float *turned = floats((size_t)p->width * CHUNK), *scores = floats(ROWS * CHUNK);
        #pragma omp for
        for (int item = 0; item < p->batch * p->heads; item++) {
            int h = item % p->heads;
            const float *q = rows_of(p, p->q, p->q_strides, item);
            const float *k = rows_of(p, p->k, p->k_strides, item);
            const float *v = rows_of(p, p->v, p->v_strides, item);
            float *state = kv + (size_t)item * f * width, *total = sums + (size_t)item * f;
            for (int at = 0; at < p->keys && !beyond; at += CHUNK) {
                int tokens = least(CHUNK, p->keys - at);
                size_t first = (size_t)item * p->queries + at;
                const float *values = v + at * p->v_strides[2];
                beyond |= features_of(&of_query[h], p, q + at * p->q_strides[2], p->q_strides[2], tokens, phi_q);
                beyond |= features_across(&of_key[h], p, k + at * p->k_strides[2], p->k_strides[2], tokens, phi_k, turned);
                hide(p, item, at, tokens, phi_k, 1, CHUNK);
                attend(p, phi_q, phi_k, values, state, total, tokens, scores, y + first * width, inverse + first);
                take_in(p, phi_k, values, tokens, state, total);
            }
        }
        free(phi_q);
        free(phi_k);
        free(turned);
        free(scores);
    }
    release(p, of_query);
    release(p, of_key);
    return beyond;
}

/* What widths must be multiples of. */
int hedgehog_columns(void) { return COLUMNS; }
