/* Matrix products and exponentials of small blocks that stay in a processor's caches, float32. */

#ifndef MIMICRY_VECTORS_H
#define MIMICRY_VECTORS_H

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
/* Columns of a product that one pass over its depth forms: two vectors. Widths must be multiples of it. */
#define COLUMNS (2 * LANES)
/* Rows likewise: 6 by 2 sums, two columns and a row are the registers that the oldest of these processors have. */
#define ROWS 6
/* Tokens of a chunk: whole rows, whole columns. */
#define CHUNK (3 * COLUMNS)

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vec load(const float *at) { return *(const vec *)at; }
static inline void store(float *at, vec x) { *(vec *)at = x; }

static inline int least(int a, int b) { return a < b ? a : b; }

/* exp(x) to 2 units in the last place for |x| <= 80: x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an
   integer, which then stands in the low bits; the polynomial is the exponential series, moved towards the least
   largest error. */
static inline vec exponential(vec x)
{
    vec shifted = x * 1.44269504089f + 12582912.0f;
    vec n = shifted - 12582912.0f;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;

    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* Sum of a vector's elements. */
static inline float sum_of(vec x)
{
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; lane++)
        sum += x[lane];
    return sum;
}

/* a . b of n elements, n any number. */
static inline float dot(const float *a, const float *b, int n)
{
    vec sums = {0};
    int i = 0;
    float rest = 0.0f;

    for (; i + LANES <= n; i += LANES)
        sums += load(a + i) * load(b + i);
    for (; i < n; i++)
        rest += a[i] * b[i];
    return sum_of(sums) + rest;
}

/* ROWS or fewer rows and COLUMNS columns of c = a b, or c += a b. Element (i, k) of a is a[i a_row + k a_depth]; rows
   of b and c are contiguous. Inlined with a constant number of rows, so that all sums stay in registers. */
static inline __attribute__((always_inline)) void tile(int rows, int depth, const float *a, ptrdiff_t a_row,
                                                       ptrdiff_t a_depth, const float *b, ptrdiff_t b_row, float *c,
                                                       ptrdiff_t c_row, int add)
{
    vec sums[ROWS][2];

    for (int i = 0; i < rows; i++)
        for (int half = 0; half < 2; half++)
            sums[i][half] = add ? load(c + i * c_row + half * LANES) : (vec){0};
    for (int k = 0; k < depth; k++) {
        vec left = load(b + k * b_row), right = load(b + k * b_row + LANES);
        for (int i = 0; i < rows; i++) {
            float x = a[i * a_row + k * a_depth];
            sums[i][0] += x * left;
            sums[i][1] += x * right;
        }
    }
    for (int i = 0; i < rows; i++)
        for (int half = 0; half < 2; half++)
            store(c + i * c_row + half * LANES, sums[i][half]);
}

/* c = a b or c += a b for any number of rows and a multiple of COLUMNS columns; see `tile`. */
static void product(int rows, int columns, int depth, const float *a, ptrdiff_t a_row, ptrdiff_t a_depth,
                    const float *b, ptrdiff_t b_row, float *c, ptrdiff_t c_row, int add)
{
    for (int j = 0; j < columns; j += COLUMNS)
        for (int i = 0; i < rows; i += ROWS) {
            const float *from = a + i * a_row;
            float *to = c + i * c_row + j;
            switch (least(rows - i, ROWS)) {
            case 6: tile(6, depth, from, a_row, a_depth, b + j, b_row, to, c_row, add); break;
            case 5: tile(5, depth, from, a_row, a_depth, b + j, b_row, to, c_row, add); break;
            case 4: tile(4, depth, from, a_row, a_depth, b + j, b_row, to, c_row, add); break;
            case 3: tile(3, depth, from, a_row, a_depth, b + j, b_row, to, c_row, add); break;
            case 2: tile(2, depth, from, a_row, a_depth, b + j, b_row, to, c_row, add); break;
            default: tile(1, depth, from, a_row, a_depth, b + j, b_row, to, c_row, add); break;
            }
        }
}

/* to (columns, rows) = transposed from (rows, columns), whose rows lie `from_row` apart; `to_row` likewise. */
static void transpose(int rows, int columns, const float *from, ptrdiff_t from_row, float *to, ptrdiff_t to_row)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            to[j * to_row + i] = from[i * from_row + j];
}

/* n floats for one thread, aligned to a line of the cache. */
static float *floats(size_t n) { return aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64); }

#endif
