/* Hedgehog's feature map over blocks of tokens: phi(x) = [exp(u), exp(-u)], u = scale W x + b. */

#ifndef MIMICRY_MAPS_H
#define MIMICRY_MAPS_H

#include "vectors.h"

/* One layer and one batch. Strides are in elements, of the first three of (batch, heads, tokens, width); the last is
   contiguous. Weights are (heads, features, width), biases (heads, features) or null, of one head for all if `shared`;
   mask is (batch, keys) or null. Results are contiguous. */
typedef struct {
    const float *q, *k, *v;
    ptrdiff_t q_strides[3], k_strides[3], v_strides[3];
    const float *query_weight, *query_bias, *key_weight, *key_bias;
    const unsigned char *mask;
    int batch, heads, queries, keys, width, value_width, features, shared, threads;
    float scale, eps, limit;
} Problem;

/* One head's map: scale W as it is (features, width) and transposed, and b. */
typedef struct {
    float *weight, *transposed, *bias;
} Map;

/* The maps of all heads, which `release` frees; threads share them. */
static Map *maps_of(const Problem *p, const float *weight, const float *bias)
{
    int f = p->features, d = p->width;
    size_t size = (size_t)f * d;
    Map *maps = malloc(p->heads * sizeof(Map));

    for (int h = 0; h < p->heads; h++) {
        size_t row = p->shared ? 0 : (size_t)h * f;
        maps[h] = (Map){floats(size), floats(size), floats(f)};
        for (size_t i = 0; i < size; i++)
            maps[h].weight[i] = p->scale * weight[row * d + i];
        transpose(f, d, maps[h].weight, d, maps[h].transposed, f);
        for (int i = 0; i < f; i++)
            maps[h].bias[i] = bias ? bias[row + i] : 0.0f;
    }
    return maps;
}

static void release(const Problem *p, Map *maps)
{
    for (int h = 0; h < p->heads; h++)
        free(maps[h].weight), free(maps[h].transposed), free(maps[h].bias);
    free(maps);
}

/* Turns u into exp(u) and writes exp(-u), n elements each; whether some |u| exceeds `limit` or is not a number. */
static int exponentials(float *u, float *inverse, size_t n, float limit)
{
    ivec beyond = {0};

    for (size_t i = 0; i < n; i += LANES) {
        vec x = load(u + i), e = exponential(x);
        beyond |= ~((x <= limit) & (x >= -limit));
        store(u + i, e);
        store(inverse + i, 1.0f / e);
    }
    for (int lane = 0; lane < LANES; lane++)
        if (beyond[lane])
            return 1;
    return 0;
}

/* phi (tokens, 2 features) of rows x; whether exponents leave the range of plain exponentials. */
static int features_of(const Map *map, const Problem *p, const float *x, ptrdiff_t x_row, int tokens, float *phi)
{
    int f = p->features, beyond = 0;

    for (int t = 0; t < tokens; t++)
        memcpy(phi + (size_t)t * 2 * f, map->bias, f * sizeof(float));
    product(tokens, f, p->width, x, x_row, 1, map->transposed, f, phi, 2 * f, 1);
    for (int t = 0; t < tokens; t++)
        beyond |= exponentials(phi + (size_t)t * 2 * f, phi + (size_t)t * 2 * f + f, f, p->limit);
    return beyond;
}

/* The same transposed, (2 features, CHUNK), 0 in columns past the tokens; `turned` holds width * CHUNK floats. */
static int features_across(const Map *map, const Problem *p, const float *x, ptrdiff_t x_row, int tokens, float *phi,
                           float *turned)
{
    int f = p->features, beyond;

    if (tokens < CHUNK)
        memset(turned, 0, (size_t)p->width * CHUNK * sizeof(float));
    transpose(tokens, p->width, x, x_row, turned, CHUNK);
    for (int i = 0; i < f; i++)
        for (int t = 0; t < CHUNK; t += LANES)
            store(phi + (size_t)i * CHUNK + t, map->bias[i] + (vec){0});
    product(f, CHUNK, p->width, map->weight, p->width, 1, turned, CHUNK, phi, CHUNK, 1);
    beyond = exponentials(phi, phi + (size_t)f * CHUNK, (size_t)f * CHUNK, p->limit);
    for (int i = 0; i < 2 * f && tokens < CHUNK; i++)
        memset(phi + (size_t)i * CHUNK + tokens, 0, (CHUNK - tokens) * sizeof(float));
    return beyond;
}

/* The first row of one of q, k and v, or of what has their layout, in the head `item` of (batch, heads). */
static const float *rows_of(const Problem *p, const float *x, const ptrdiff_t *strides, int item)
{
    return x + item / p->heads * strides[0] + item % p->heads * strides[1];
}

/* Takes keys that are masked out of the features of a chunk, from `at` on, in either layout. */
static void hide(const Problem *p, int item, int at, int tokens, float *phi, ptrdiff_t of_token, ptrdiff_t of_feature)
{
    const unsigned char *mask = p->mask ? p->mask + (size_t)(item / p->heads) * p->keys + at : 0;

    for (int t = 0; mask && t < tokens; t++)
        for (int i = 0; !mask[t] && i < 2 * p->features; i++)
            phi[t * of_token + i * of_feature] = 0.0f;
}

/* Adds the features of all tokens, rows of phi, to their sums. */
static void add_rows(int tokens, int features, const float *phi, float *sums)
{
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < features; i++)
            sums[i] += phi[(size_t)t * features + i];
}

#endif
