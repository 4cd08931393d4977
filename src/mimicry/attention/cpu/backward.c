/* Gradients of Hedgehog attention, bidirectional and causal; features are formed again, chunk by chunk. With n the
   gradient of a query's numerator and m that of its normaliser, over the pairs (i, j) in which query i sees key j:

     d phi(q_i) = sum_j (n_i . v_j + m_i) phi(k_j)     d v_j      = sum_i (phi(q_i) . phi(k_j)) n_i
     d phi(k_j) = sum_i (n_i . v_j + m_i) phi(q_i)     d u        = d phi+ phi+ - d phi- phi-

   Sums over pairs in different chunks go through states, as those of the outputs do. */

#include "maps.h"

/* What the outputs left, and where gradients go: contiguous, those of weights and biases for each example and head,
   0 before. `grad` is that of the outputs, with strides as in Problem. */
typedef struct {
    const float *grad;
    ptrdiff_t strides[3];
    const float *y, *inverse;
    float *q, *k, *v, *query_weight, *query_bias, *key_weight, *key_bias;
} Gradients;

/* n (tokens, value_width) and m (tokens) of a chunk of queries, the first of them at `at` in (batch, heads) `item`. */
static void of_rows(const Problem *p, const Gradients *g, int item, int at, int tokens, float *n, float *m)
{
    int width = p->value_width;

    for (int t = 0; t < tokens; t++) {
        size_t row = (size_t)item * p->queries + at + t;
        const float *grad = rows_of(p, g->grad, g->strides, item) + (at + t) * g->strides[2];
        float *mine = n + (size_t)t * width;
        for (int c = 0; c < width; c++)
            mine[c] = grad[c] * g->inverse[row];
        m[t] = -dot(mine, g->y + row * width, width);
    }
}

/* From d phi (tokens, 2 features) of queries, lost, to the gradients of tokens and map. */
static void pull_queries(const Problem *p, const Gradients *g, const Map *map, const float *q, const float *phi,
                         float *of_phi, int item, int at, int tokens)
{
    int f = p->features, d = p->width;
    float *bias = g->query_bias + (size_t)item * f;

    for (int t = 0; t < tokens; t++) {
        const float *mine = phi + (size_t)t * 2 * f;
        float *u = of_phi + (size_t)t * 2 * f;
        for (int i = 0; i < f; i++) {
            u[i] = u[i] * mine[i] - u[f + i] * mine[f + i];
            bias[i] += u[i];
        }
    }
    product(tokens, d, f, of_phi, 2 * f, 1, map->weight, d, g->q + ((size_t)item * p->queries + at) * d, d, 0);
    product(f, d, tokens, of_phi, 1, 2 * f, q, p->q_strides[2], g->query_weight + (size_t)item * f * d, d, 1);
}

/* The same of keys, from d phi (2 features, CHUNK). Masked keys have no features, and so get no gradients. */
static void pull_keys(const Problem *p, const Gradients *g, const Map *map, const float *k, const float *phi,
                      float *of_phi, int item, int at, int tokens)
{
    int f = p->features, d = p->width;
    size_t half = (size_t)f * CHUNK;

    for (int i = 0; i < f; i++) {
        vec sum = {0};
        for (int t = 0; t < CHUNK; t += LANES) {
            size_t here = (size_t)i * CHUNK + t;
            vec u = load(of_phi + here) * load(phi + here) - load(of_phi + half + here) * load(phi + half + here);
            store(of_phi + here, u);
            sum += u;
        }
        g->key_bias[(size_t)item * f + i] += sum_of(sum);
    }
    product(tokens, d, f, of_phi, 1, CHUNK, map->weight, d, g->k + ((size_t)item * p->keys + at) * d, d, 0);
    product(f, d, tokens, of_phi, CHUNK, 1, k, p->k_strides[2], g->key_weight + (size_t)item * f * d, d, 1);
}

/* Weights act on tokens times `scale`. */
static void scale_weights(const Problem *p, float *weight, int item)
{
    for (size_t i = 0; i < (size_t)p->features * p->width; i++)
        weight[(size_t)item * p->features * p->width + i] *= p->scale;
}

/* Values of a chunk transposed, (value_width, CHUNK), 0 past the tokens. */
static void values_across(const Problem *p, const float *v, int tokens, float *turned)
{
    if (tokens < CHUNK)
        memset(turned, 0, (size_t)p->value_width * CHUNK * sizeof(float));
    transpose(tokens, p->value_width, v, p->v_strides[2], turned, CHUNK);
}

/* Adds a chunk of queries to the gradients of the state: sum phi(q) n^T and sum m phi(q). */
static void take_in(const Problem *p, const float *phi, const float *n, const float *m, int tokens, float *of_kv,
                    float *of_sums)
{
    int f = 2 * p->features;

    product(f, p->value_width, tokens, phi, 1, f, n, p->value_width, of_kv, p->value_width, 1);
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < f; i++)
            of_sums[i] += m[t] * phi[(size_t)t * f + i];
}

/* of_phi rows = m_t sums. */
static void start_rows(const float *m, const float *sums, int tokens, int f, float *of_phi)
{
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < f; i++)
            of_phi[(size_t)t * f + i] = m[t] * sums[i];
}

/* of_phi (2 features, CHUNK) = of_kv v^T + of_sums. */
static void start_across(const Problem *p, const float *of_kv, const float *of_sums, const float *values,
                         float *of_phi)
{
    int f = 2 * p->features;

    for (int i = 0; i < f; i++)
        for (int t = 0; t < CHUNK; t += LANES)
            store(of_phi + (size_t)i * CHUNK + t, of_sums[i] + (vec){0});
    product(f, CHUNK, p->value_width, of_kv, p->value_width, 1, values, CHUNK, of_phi, CHUNK, 1);
}

/* Bidirectional: gradients of queries and of the state that `hedgehog_sum_keys` made; of_kv and of_sums 0 before. */
void hedgehog_read_backward(const Problem *p, const Gradients *g, const float *kv, const float *sums, float *of_kv,
                            float *of_sums)
{
    int f = 2 * p->features, width = p->value_width;
    Map *maps = maps_of(p, p->query_weight, p->query_bias);

    #pragma omp parallel num_threads(p->threads)
    {
        float *phi = floats((size_t)f * CHUNK), *of_phi = floats((size_t)f * CHUNK);
        float *n = floats((size_t)width * CHUNK), *m = floats(CHUNK), *turned = floats((size_t)f * width);
        #pragma omp for
        for (int item = 0; item < p->batch * p->heads; item++) {
            int h = item % p->heads;
            const float *q = rows_of(p, p->q, p->q_strides, item), *total = sums + (size_t)item * f;
            size_t state = (size_t)item * f * width;
            transpose(f, width, kv + state, width, turned, f);
            for (int at = 0; at < p->queries; at += CHUNK) {
                int tokens = least(CHUNK, p->queries - at);
                const float *x = q + at * p->q_strides[2];
                features_of(&maps[h], p, x, p->q_strides[2], tokens, phi);
                of_rows(p, g, item, at, tokens, n, m);
                take_in(p, phi, n, m, tokens, of_kv + state, of_sums + (size_t)item * f);
                start_rows(m, total, tokens, f, of_phi);
                product(tokens, f, width, n, width, 1, turned, f, of_phi, f, 1);
                pull_queries(p, g, &maps[h], x, phi, of_phi, item, at, tokens);
            }
            scale_weights(p, g->query_weight, item);
        }
        free(phi), free(of_phi), free(n), free(m), free(turned);
    }
    release(p, maps);
}

/* Bidirectional: gradients of keys and values, from those of the state. */
void hedgehog_sum_keys_backward(const Problem *p, const Gradients *g, const float *of_kv, const float *of_sums)
{
    int f = 2 * p->features, width = p->value_width;
    Map *maps = maps_of(p, p->key_weight, p->key_bias);

    #pragma omp parallel num_threads(p->threads)
    {
        float *phi = floats((size_t)f * CHUNK), *of_phi = floats((size_t)f * CHUNK);
        float *turned = floats((size_t)p->width * CHUNK), *values = floats((size_t)width * CHUNK);
        #pragma omp for
        for (int item = 0; item < p->batch * p->heads; item++) {
            int h = item % p->heads;
            const float *k = rows_of(p, p->k, p->k_strides, item);
            const float *v = rows_of(p, p->v, p->v_strides, item);
            const float *state = of_kv + (size_t)item * f * width, *total = of_sums + (size_t)item * f;
            for (int at = 0; at < p->keys; at += CHUNK) {
                int tokens = least(CHUNK, p->keys - at);
                const float *x = k + at * p->k_strides[2];
                features_across(&maps[h], p, x, p->k_strides[2], tokens, phi, turned);
                hide(p, item, at, tokens, phi, 1, CHUNK);
                values_across(p, v + at * p->v_strides[2], tokens, values);
                product(tokens, width, f, phi, 1, CHUNK, state, width, g->v + ((size_t)item * p->keys + at) * width,
                        width, 0);
                start_across(p, state, total, values, of_phi);
                pull_keys(p, g, &maps[h], x, phi, of_phi, item, at, tokens);
            }
            scale_weights(p, g->key_weight, item);
        }
        free(phi), free(of_phi), free(turned), free(values);
    }
    release(p, maps);
}

/* a_i . b_j of all pairs of a chunk, plus start_i unless that is null: (CHUNK, CHUNK), 0 where key j is after query i.
   a is (tokens, depth), b (depth, CHUNK). */
static void pairs_of(const float *a, const float *b, int depth, const float *start, int tokens, float *pairs)
{
    for (int first = 0; first < tokens; first += ROWS) {
        int rows = least(ROWS, tokens - first), columns = (first + rows + COLUMNS - 1) / COLUMNS * COLUMNS;
        for (int t = first; t < first + rows; t++)
            for (int j = 0; j < columns; j += LANES)
                store(pairs + t * CHUNK + j, (start ? start[t] : 0.0f) + (vec){0});
        product(rows, columns, depth, a + (size_t)first * depth, depth, 1, b, CHUNK, pairs + first * CHUNK, CHUNK, 1);
        for (int t = first; t < first + rows; t++)
            memset(pairs + t * CHUNK + t + 1, 0, (CHUNK - t - 1) * sizeof(float));
    }
}

/* Causal: gradients of queries, from the first chunk on with the state that the outputs had there. */
void hedgehog_causal_queries_backward(const Problem *p, const Gradients *g)
{
    int f = 2 * p->features, width = p->value_width;
    Map *of_query = maps_of(p, p->query_weight, p->query_bias), *of_key = maps_of(p, p->key_weight, p->key_bias);

    #pragma omp parallel num_threads(p->threads)
    {
        float *phi_q = floats((size_t)f * CHUNK), *phi_k = floats((size_t)f * CHUNK);
        float *of_phi = floats((size_t)f * CHUNK), *pairs = floats(CHUNK * CHUNK), *m = floats(CHUNK);
        float *n = floats((size_t)width * CHUNK), *values = floats((size_t)width * CHUNK);
        float *turned = floats((size_t)f * width), *sums = floats(f);
        #pragma omp for
        for (int item = 0; item < p->batch * p->heads; item++) {
            int h = item % p->heads;
            const float *q = rows_of(p, p->q, p->q_strides, item);
            const float *k = rows_of(p, p->k, p->k_strides, item);
            const float *v = rows_of(p, p->v, p->v_strides, item);
            /* The state transposed, (value_width, 2 features). */
            memset(turned, 0, (size_t)f * width * sizeof(float));
            memset(sums, 0, f * sizeof(float));
            for (int at = 0; at < p->keys; at += CHUNK) {
                int tokens = least(CHUNK, p->keys - at);
                const float *x = q + at * p->q_strides[2], *y = v + at * p->v_strides[2];
                features_of(&of_query[h], p, x, p->q_strides[2], tokens, phi_q);
                features_of(&of_key[h], p, k + at * p->k_strides[2], p->k_strides[2], tokens, phi_k);
                hide(p, item, at, tokens, phi_k, f, 1);
                of_rows(p, g, item, at, tokens, n, m);
                values_across(p, y, tokens, values);
                pairs_of(n, values, width, m, tokens, pairs);
                start_rows(m, sums, tokens, f, of_phi);
                product(tokens, f, width, n, width, 1, turned, f, of_phi, f, 1);
                for (int first = 0; first < tokens; first += ROWS) {
                    int rows = least(ROWS, tokens - first);
                    product(rows, f, first + rows, pairs + first * CHUNK, CHUNK, 1, phi_k, f,
                            of_phi + (size_t)first * f, f, 1);
                }
                pull_queries(p, g, &of_query[h], x, phi_q, of_phi, item, at, tokens);
                product(width, f, tokens, y, 1, p->v_strides[2], phi_k, f, turned, f, 1);
                add_rows(tokens, f, phi_k, sums);
            }
            scale_weights(p, g->query_weight, item);
        }
        free(phi_q), free(phi_k), free(of_phi), free(pairs), free(m), free(n), free(values), free(turned), free(sums);
    }
    release(p, of_query);
    release(p, of_key);
}

/* Causal: gradients of keys and values, from the last chunk on with the gradients of the state after it. */
void hedgehog_causal_keys_backward(const Problem *p, const Gradients *g)
{
    int f = 2 * p->features, width = p->value_width;
    Map *of_query = maps_of(p, p->query_weight, p->query_bias), *of_key = maps_of(p, p->key_weight, p->key_bias);

    #pragma omp parallel num_threads(p->threads)
    {
        float *phi_q = floats((size_t)f * CHUNK), *phi_k = floats((size_t)f * CHUNK);
        float *of_phi = floats((size_t)f * CHUNK), *pairs = floats(CHUNK * CHUNK), *m = floats(CHUNK);
        float *n = floats((size_t)width * CHUNK), *values = floats((size_t)width * CHUNK);
        float *turned = floats((size_t)p->width * CHUNK), *of_kv = floats((size_t)f * width), *of_sums = floats(f);
        #pragma omp for
        for (int item = 0; item < p->batch * p->heads; item++) {
            int h = item % p->heads;
            const float *q = rows_of(p, p->q, p->q_strides, item);
            const float *k = rows_of(p, p->k, p->k_strides, item);
            const float *v = rows_of(p, p->v, p->v_strides, item);
            memset(of_kv, 0, (size_t)f * width * sizeof(float));
            memset(of_sums, 0, f * sizeof(float));
            for (int at = (p->keys - 1) / CHUNK * CHUNK; at >= 0; at -= CHUNK) {
                int tokens = least(CHUNK, p->keys - at);
                const float *x = k + at * p->k_strides[2];
                float *of_v = g->v + ((size_t)item * p->keys + at) * width;
                features_of(&of_query[h], p, q + at * p->q_strides[2], p->q_strides[2], tokens, phi_q);
                features_across(&of_key[h], p, x, p->k_strides[2], tokens, phi_k, turned);
                hide(p, item, at, tokens, phi_k, 1, CHUNK);
                of_rows(p, g, item, at, tokens, n, m);

                product(tokens, width, f, phi_k, 1, CHUNK, of_kv, width, of_v, width, 0);
                pairs_of(phi_q, phi_k, f, 0, tokens, pairs);
                for (int first = 0; first < tokens; first += ROWS)
                    product(least(ROWS, tokens - first), width, tokens - first, pairs + first * CHUNK + first, 1,
                            CHUNK, n + (size_t)first * width, width, of_v + (size_t)first * width, width, 1);

                values_across(p, v + at * p->v_strides[2], tokens, values);
                start_across(p, of_kv, of_sums, values, of_phi);
                pairs_of(n, values, width, m, tokens, pairs);
                for (int first = 0; first < tokens; first += COLUMNS)
                    product(f, COLUMNS, tokens - first, phi_q + (size_t)first * f, 1, f, pairs + first * CHUNK + first,
                            CHUNK, of_phi + first, CHUNK, 1);
                pull_keys(p, g, &of_key[h], x, phi_k, of_phi, item, at, tokens);
                take_in(p, phi_q, n, m, tokens, of_kv, of_sums);
            }
            scale_weights(p, g->key_weight, item);
        }
        free(phi_q), free(phi_k), free(of_phi), free(pairs), free(m), free(n), free(values), free(turned), free(of_kv);
        free(of_sums);
    }
    release(p, of_query);
    release(p, of_key);
}
