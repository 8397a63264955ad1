// One layer of the transformer in model.py, forward and backward, in float32: see kernel.py, which compiles and calls it.
//
// Compiled for one shape: V characters, C = NH * HS channels, H hidden units; VP is V rounded up to whole vectors.
// T positions, of which those from `first` on ask; R = T * V (position, character) rows, of which the asking ones are
// the last. Within a row's channels the heads lie side by side, so that attention's loops run over whole vectors.
// Matrices lie row by row; what ends in _t is transposed; what begins with d_ is the loss's gradient.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
enum { WIDTH = 16 };
#else
enum { WIDTH = 8 };
#endif
enum { LANES = 16, PARTS = LANES / WIDTH, HEIGHT = 4, TILE = 64, C = NH * HS, VP = (V + LANES - 1) / LANES * LANES };
typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4)));

#if defined(__x86_64__)  // keep in a register what the compiler would load anew for each product
#define HELD(x) __asm__("" : "+x"(x))
#else
#define HELD(x)
#endif

typedef struct {
    float *token, *position, *qkv, *out, *up, *down, *head;  // as in model.py, the head with VP rows
} Weights;

typedef struct {  // what does not depend on the texts
    float *rows, *normed, *scales;            // (R, C), (R, C), (R,): what enters the layer, and its norm
    float *query, *key, *value;               // (R, C)
    float *pairs;                             // (asking rows, R, NH): exp of the scores
    float *qkv, *out;                         // (3, C, C), (C, C): those of the heads side by side
    float *qkv_t, *out_t, *up_t, *down_t, *head_t;
} Table;

typedef struct {
    float *rows, *value, *pairs, *out, *up, *down, *head;  // gradients of a share of the texts
} Sums;

// c (M, N) += a (M, K) b (K, N), where a[i][k] lies at a[i * row + k * column]; M % HEIGHT = N % LANES = 0
static void matmul(int M, int N, int K, const float *a, int row, int column, const float *b, float *c) {
    for (int j = 0; j < N; j += LANES)
        for (int i = 0; i < M; i += HEIGHT) {
            vector sum[HEIGHT][PARTS], of_b[PARTS];
            #pragma GCC unroll 4
            for (int r = 0; r < HEIGHT; r++)
                #pragma GCC unroll 4
                for (int p = 0; p < PARTS; p++) sum[r][p] = *(const vector *)(c + (i + r) * N + j + p * WIDTH);
            for (int k = 0; k < K; k++) {
                #pragma GCC unroll 4
                for (int p = 0; p < PARTS; p++) {
                    of_b[p] = *(const vector *)(b + k * N + j + p * WIDTH);
                    HELD(of_b[p]);
                }
                #pragma GCC unroll 4
                for (int r = 0; r < HEIGHT; r++)
                    #pragma GCC unroll 4
                    for (int p = 0; p < PARTS; p++) sum[r][p] += a[(i + r) * row + k * column] * of_b[p];
            }
            #pragma GCC unroll 4
            for (int r = 0; r < HEIGHT; r++)
                #pragma GCC unroll 4
                for (int p = 0; p < PARTS; p++) *(vector *)(c + (i + r) * N + j + p * WIDTH) = sum[r][p];
        }
}

static void product(int M, int N, int K, const float *a, int row, int column, const float *b, float *c) {
    memset(c, 0, sizeof(float) * M * N);
    matmul(M, N, K, a, row, column, b, c);
}

static void transpose(int rows, int columns, const float *from, float *to) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
}

static int side_by_side(int channel) { return channel % HS * NH + channel / HS; }

static void norm(int n, const float *x, float *normed, float *scales) {
    for (int i = 0; i < n; i++, x += C, normed += C) {
        float mean = 0, square = 0;
        if (CENTERED) {
            for (int c = 0; c < C; c++) mean += x[c];
            mean /= C;
        }
        for (int c = 0; c < C; c++) square += (x[c] - mean) * (x[c] - mean);
        scales[i] = 1 / sqrtf(square / C + EPSILON);
        for (int c = 0; c < C; c++) normed[c] = (x[c] - mean) * scales[i];
    }
}

static void add_norm_gradient(int n, const float *normed, const float *scales, const float *d_normed, float *d_x) {
    for (int i = 0; i < n; i++, normed += C, d_normed += C, d_x += C) {
        float mean = 0, along = 0;
        if (CENTERED) {
            for (int c = 0; c < C; c++) mean += d_normed[c];
            mean /= C;
        }
        for (int c = 0; c < C; c++) along += d_normed[c] * normed[c];
        along /= C;
        for (int c = 0; c < C; c++) d_x[c] += scales[i] * (d_normed[c] - mean - normed[c] * along);
    }
}

static int up_to_height(int n) { return (n + HEIGHT - 1) / HEIGHT * HEIGHT; }

// Everything about the layer that all texts of T characters share. Tables of rows have room for up_to_height(R).
void prepare(int T, int first, const Weights *weights, const Table *table) {
    const int R = T * V, padded = up_to_height(R);
    for (int i = 0; i < C; i++)
        for (int j = 0; j < C; j++) {
            for (int m = 0; m < 3; m++)
                table->qkv[(m * C + side_by_side(i)) * C + j] = weights->qkv[(m * C + i) * C + j];
            table->out[i * C + side_by_side(j)] = weights->out[i * C + j];
        }
    for (int m = 0; m < 3; m++) transpose(C, C, table->qkv + m * C * C, table->qkv_t + m * C * C);
    transpose(C, C, table->out, table->out_t);
    transpose(H, C, weights->up, table->up_t);
    transpose(C, H, weights->down, table->down_t);
    transpose(VP, C, weights->head, table->head_t);

    memset(table->rows + R * C, 0, sizeof(float) * (padded - R) * C);
    for (int t = 0; t < T; t++)
        for (int v = 0; v < V; v++)
            for (int c = 0; c < C; c++)
                table->rows[(t * V + v) * C + c] = weights->token[v * C + c] + weights->position[t * C + c];
    norm(padded, table->rows, table->normed, table->scales);
    product(padded, C, C, table->normed, C, 1, table->qkv_t, table->query);
    product(padded, C, C, table->normed, C, 1, table->qkv_t + C * C, table->key);
    product(padded, C, C, table->normed, C, 1, table->qkv_t + 2 * C * C, table->value);

    const float scale = 1 / sqrtf(HS);
    for (int row = first * V; row < R; row++) {
        const float *query = table->query + row * C;
        float *pairs = table->pairs + (int64_t)(row - first * V) * R * NH, most[NH];
        const int seen = (row / V + 1) * V;  // rows that do not lie ahead
        for (int h = 0; h < NH; h++) most[h] = -1e30f;
        for (int r = 0; r < seen; r++)
            for (int h = 0; h < NH; h++) {
                float score = 0;
                for (int s = 0; s < HS; s++) score += query[s * NH + h] * table->key[r * C + s * NH + h];
                pairs[r * NH + h] = score * scale;
                most[h] = fmaxf(most[h], score * scale);
            }
        // A text may hold none of the rows near the maximum, so exp must not underflow; see model.py.
        for (int r = 0; r < seen; r++)
            for (int h = 0; h < NH; h++) pairs[r * NH + h] = expf(fmaxf(pairs[r * NH + h] - most[h], -80.0f));
    }
}

// Texts of `stride` characters, each asked from `first` on: their logits (B, T - first, VP), if wanted, and, if `sums`
// is there, the sum of the losses of the characters that follow, and `weight` times its gradients, added to `sums`.
double examples(int T, int first, int64_t B, const uint8_t *texts, int stride, float weight, const Weights *weights,
                const Table *table, float *all_logits, const Sums *sums) {
    const int Q = T - first, R = T * V;
    // a tile's numbers; wide models would not fit on a thread's stack
    static _Thread_local float x[TILE * C], normed[TILE * C], normed_2[TILE * C], scales[TILE], scales_2[TILE];
    static _Thread_local float y[TILE * C], shares[TILE * NH], hidden[TILE * H], active[TILE * H], logits[TILE * VP];
    static _Thread_local float d_x[TILE * C], d_normed[TILE * C], d_hidden[TILE * H];
    double loss = 0;
    for (int64_t start = 0; start < B * Q; start += TILE) {
        const int n = B * Q - start < TILE ? B * Q - start : TILE;

        // attention: the residual stream x, and each head's weighted mean y
        memset(x + n * C, 0, sizeof(float) * (TILE - n) * C);
        memset(y + n * C, 0, sizeof(float) * (TILE - n) * C);
        for (int i = 0; i < n; i++) {
            const uint8_t *text = texts + (start + i) / Q * stride;
            const int last = first + (start + i) % Q, row = last * V + text[last];
            const float *pairs = table->pairs + (int64_t)(row - first * V) * R * NH;
            float total[NH] = {0}, sum[C] = {0};
            for (int t = 0; t <= last; t++) {
                const float *pair = pairs + (t * V + text[t]) * NH, *value = table->value + (t * V + text[t]) * C;
                for (int h = 0; h < NH; h++) total[h] += pair[h];
                for (int s = 0; s < HS; s++)
                    for (int h = 0; h < NH; h++) sum[s * NH + h] += pair[h] * value[s * NH + h];
            }
            memcpy(x + i * C, table->rows + row * C, sizeof(float) * C);
            for (int h = 0; h < NH; h++) shares[i * NH + h] = 1 / total[h];
            for (int s = 0; s < HS; s++)
                for (int h = 0; h < NH; h++) y[i * C + s * NH + h] = sum[s * NH + h] * shares[i * NH + h];
        }
        matmul(TILE, C, C, y, C, 1, table->out_t, x);

        // MLP and head
        norm(TILE, x, normed, scales);
        product(TILE, H, C, normed, C, 1, table->up_t, hidden);
        for (int i = 0; i < TILE * H; i++) active[i] = 0.5f * hidden[i] * (1 + erff(hidden[i] * 0.70710678f));
        matmul(TILE, C, H, active, H, 1, table->down_t, x);
        norm(TILE, x, normed_2, scales_2);
        product(TILE, VP, C, normed_2, C, 1, table->head_t, logits);
        if (all_logits) memcpy(all_logits + start * VP, logits, sizeof(float) * n * VP);
        if (!sums) continue;

        // cross-entropy
        memset(logits + n * VP, 0, sizeof(float) * (TILE - n) * VP);
        for (int i = 0; i < n; i++) {
            float *z = logits + i * VP, most = z[0], total = 0;
            const int target = texts[(start + i) / Q * stride + first + (start + i) % Q + 1];
            for (int v = 1; v < V; v++) most = fmaxf(most, z[v]);
            const float of_target = z[target] - most;
            for (int v = 0; v < VP; v++) {
                z[v] = v < V ? expf(z[v] - most) : 0.0f;
                total += z[v];
            }
            loss += logf(total) - of_target;
            for (int v = 0; v < VP; v++) z[v] *= weight / total;
            z[target] -= weight;
        }

        // all the way back
        matmul(VP, C, TILE, logits, 1, VP, normed_2, sums->head);
        product(TILE, C, VP, logits, VP, 1, weights->head, d_normed);
        memset(d_x, 0, sizeof d_x);
        add_norm_gradient(TILE, normed_2, scales_2, d_normed, d_x);
        matmul(C, H, TILE, d_x, 1, C, active, sums->down);
        product(TILE, H, C, d_x, C, 1, weights->down, d_hidden);
        for (int i = 0; i < TILE * H; i++) {
            const float z = hidden[i], below = 0.5f * (1 + erff(z * 0.70710678f));  // the normal distribution's
            d_hidden[i] *= below + z * 0.39894228f * expf(-0.5f * z * z);
        }
        matmul(H, C, TILE, d_hidden, 1, H, normed, sums->up);
        product(TILE, C, H, d_hidden, H, 1, weights->up, d_normed);
        add_norm_gradient(TILE, normed, scales, d_normed, d_x);
        matmul(C, C, TILE, d_x, 1, C, y, sums->out);
        product(TILE, C, C, d_x, C, 1, table->out, d_normed);  // of y
        for (int i = 0; i < n; i++) {
            const uint8_t *text = texts + (start + i) / Q * stride;
            const int last = first + (start + i) % Q, row = last * V + text[last];
            const int64_t asked = (int64_t)(row - first * V) * R * NH;
            float d_sum[C], d_total[NH] = {0};
            for (int c = 0; c < C; c++) sums->rows[row * C + c] += d_x[i * C + c];
            for (int s = 0; s < HS; s++)
                for (int h = 0; h < NH; h++) {
                    d_sum[s * NH + h] = d_normed[i * C + s * NH + h] * shares[i * NH + h];
                    d_total[h] -= d_sum[s * NH + h] * y[i * C + s * NH + h];
                }
            for (int t = 0; t <= last; t++) {
                const int place = t * V + text[t];
                const float *pair = table->pairs + asked + place * NH, *value = table->value + place * C;
                float *restrict d_pair = sums->pairs + asked + place * NH, *restrict d_value = sums->value + place * C;
                float d[NH];
                for (int h = 0; h < NH; h++) d[h] = d_total[h];
                for (int s = 0; s < HS; s++)
                    for (int h = 0; h < NH; h++) {
                        d[h] += d_sum[s * NH + h] * value[s * NH + h];
                        d_value[s * NH + h] += d_sum[s * NH + h] * pair[h];
                    }
                for (int h = 0; h < NH; h++) d_pair[h] += d[h];
            }
        }
    }
    return loss;
}

// From the gradients of what `prepare` made to those of the weights, which have been zeroed.
void finish(int T, int first, const Table *table, const Sums *sums, const Weights *d_weights) {
    const int R = T * V, padded = up_to_height(R), size = padded * C;
    float *d_query = calloc(3 * size, sizeof(float)), *d_key = d_query + size, *d_normed = d_key + size;
    const float scale = 1 / sqrtf(HS);
    for (int row = first * V; row < R; row++) {
        const int64_t asked = (int64_t)(row - first * V) * R * NH;
        const float *query = table->query + row * C;
        float *restrict d_of = d_query + row * C;
        for (int r = 0; r < (row / V + 1) * V; r++) {
            const float *pair = table->pairs + asked + r * NH, *d_pair = sums->pairs + asked + r * NH;
            const float *key = table->key + r * C;
            float *restrict d_k = d_key + r * C, d_score[NH];
            for (int h = 0; h < NH; h++) d_score[h] = pair[h] * d_pair[h] * scale;
            for (int s = 0; s < HS; s++)
                for (int h = 0; h < NH; h++) {
                    d_of[s * NH + h] += d_score[h] * key[s * NH + h];
                    d_k[s * NH + h] += d_score[h] * query[s * NH + h];
                }
        }
    }
    static _Thread_local float d_qkv[3 * C * C];
    const float *d_each[3] = {d_query, d_key, sums->value};
    for (int m = 0; m < 3; m++) {
        product(C, C, R, d_each[m], 1, C, table->normed, d_qkv + m * C * C);
        matmul(padded, C, C, d_each[m], C, 1, table->qkv + m * C * C, d_normed);
    }
    add_norm_gradient(R, table->normed, table->scales, d_normed, sums->rows);
    free(d_query);

    for (int i = 0; i < C; i++)
        for (int j = 0; j < C; j++) {
            for (int m = 0; m < 3; m++)
                d_weights->qkv[(m * C + i) * C + j] = d_qkv[(m * C + side_by_side(i)) * C + j];
            d_weights->out[i * C + j] = sums->out[i * C + side_by_side(j)];
        }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) {
            d_weights->token[r % V * C + c] += sums->rows[r * C + c];
            d_weights->position[r / V * C + c] += sums->rows[r * C + c];
        }
    memcpy(d_weights->up, sums->up, sizeof(float) * H * C);
    memcpy(d_weights->down, sums->down, sizeof(float) * C * H);
    memcpy(d_weights->head, sums->head, sizeof(float) * V * C);
}

// The quintic Newton-Schulz iteration of optim.py, in place, for n matrices x (rows, columns); both are multiples of
// LANES, and rows <= columns.
void orthogonalize(int n, int rows, int columns, int iterations, const float *coefficients, float *x) {
    const int size = rows * columns;
    float *next = malloc(sizeof(float) * (2 * size + 2 * rows * rows)), *x_t = next + size, *gram = x_t + size;
    float *polynomial = gram + rows * rows;
    for (int m = 0; m < n; m++, x += size) {
        float square = 0;
        for (int i = 0; i < size; i++) square += x[i] * x[i];
        const float length = sqrtf(square) + 1e-7f;
        for (int i = 0; i < size; i++) x[i] /= length;
        for (int k = 0; k < iterations; k++) {
            transpose(rows, columns, x, x_t);
            product(rows, rows, columns, x, columns, 1, x_t, gram);
            product(rows, rows, rows, gram, rows, 1, gram, polynomial);
            for (int i = 0; i < rows * rows; i++)
                polynomial[i] = coefficients[1] * gram[i] + coefficients[2] * polynomial[i];
            for (int i = 0; i < size; i++) next[i] = coefficients[0] * x[i];
            matmul(rows, columns, rows, polynomial, rows, 1, x, next);
            memcpy(x, next, sizeof(float) * size);
        }
    }
    free(next);
}
