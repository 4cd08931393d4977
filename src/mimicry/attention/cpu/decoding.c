/* One token of causal Hedgehog attention, float32: features, state and output of every head in one pass.

   phi(x) = [exp(u), exp(-u)], u = W x + b;  S += phi(k) v^T;  s += phi(k);  y = phi(q)^T S / max(phi(q)^T s, eps). */

#include "vectors.h"

/* phi of one head's vector x; whether some |u| exceeds `limit` or is not a number. */
static int features(const float *x, const float *weight, const float *bias, float scale, int width, int count,
                    float limit, float *phi)
{
    int beyond = 0;

    for (int f = 0; f < count; f++) {
        const float *row = weight + (size_t)f * width;
        phi[f] = dot(row, x, width) * scale + (bias ? bias[f] : 0.0f);
    }
    for (int f = 0; f < count; f++)
        beyond |= !(fabsf(phi[f]) <= limit);
    if (beyond)
        return 1;
    for (int f = 0; f < count; f += LANES) {
        float some[LANES] = {0};
        int many = least(LANES, count - f);
        memcpy(some, phi + f, many * sizeof(float));
        store(some, exponential(load(some)));
        memcpy(phi + f, some, many * sizeof(float));
    }
    for (int f = 0; f < count; f++)
        phi[count + f] = 1.0f / phi[f];
    return 0;
}

/* State and output of one head. `value` is null where the token is masked: it leaves the sums as they are. */
static void attend(const float *phi_q, const float *phi_k, const float *value, const float *kv, const float *sums,
                   float *next_kv, float *next_sums, float *y, int count, int width, float eps)
{
    float total;

    for (int f = 0; f < count; f++)
        next_sums[f] = sums[f] + (value ? phi_k[f] : 0.0f);
    total = dot(phi_q, next_sums, count);
    for (int c = 0; c < width; c++)
        y[c] = 0.0f;
    for (int f = 0; f < count; f++) {
        const float *row = kv + (size_t)f * width;
        float *next = next_kv + (size_t)f * width;
        for (int c = 0; c < width; c++) {
            float sum = row[c];
            if (value)
                sum += phi_k[f] * value[c];
            next[c] = sum;
            y[c] += phi_q[f] * sum;
        }
    }
    /* Not fmaxf, which would hide a total that is not a number. */
    total = total < eps ? eps : total;
    for (int c = 0; c < width; c++)
        y[c] /= total;
}

/* q, k, v: (batch, heads, width or value_width), their first two strides in `strides`; weights: (heads, count, width)
   and biases (heads, count) or null, of the one head for all if `shared`; mask: (batch) or null; kv, sums, y, phi
   contiguous; next_* may be kv and sums. Returns 1, with nothing but phi written, if exponents leave the range in which
   plain exponentials serve. */
int hedgehog_token(const float *q, const float *k, const float *v, const ptrdiff_t *strides, const float *query_weight,
                   const float *query_bias, const float *key_weight, const float *key_bias, const unsigned char *mask,
                   const float *kv, const float *sums, float *next_kv, float *next_sums, float *y, float *phi,
                   int batch, int heads, int shared, int width, int value_width, int count, float scale, float eps,
                   float limit, int threads)
{
    int beyond = 0, all = batch * heads, doubled = 2 * count;

    #pragma omp parallel num_threads(threads) if (threads > 1)
    {
        #pragma omp for reduction(| : beyond)
        for (int i = 0; i < all; i++) {
            int b = i / heads, h = i % heads;
            size_t row = shared ? 0 : (size_t)h * count;
            float *mine = phi + (size_t)i * 2 * doubled;
            beyond |= features(q + b * strides[0] + h * strides[1], query_weight + row * width,
                               query_bias ? query_bias + row : 0, scale, width, count, limit, mine);
            beyond |= features(k + b * strides[2] + h * strides[3], key_weight + row * width,
                               key_bias ? key_bias + row : 0, scale, width, count, limit, mine + doubled);
        }
        if (!beyond) {
            #pragma omp for
            for (int i = 0; i < all; i++) {
                int b = i / heads, h = i % heads;
                const float *mine = phi + (size_t)i * 2 * doubled;
                const float *value = mask && !mask[b] ? 0 : v + b * strides[4] + h * strides[5];
                size_t at = (size_t)i * doubled, kv_at = at * value_width;
                attend(mine, mine + doubled, value, kv + kv_at, sums + at, next_kv + kv_at, next_sums + at,
                       y + (size_t)i * value_width, doubled, value_width, eps);
            }
        }
    }
    return beyond;
}
