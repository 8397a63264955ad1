// One layer of the transformer of model.py, and its training with Muon and AdamW. kernel.py compiles and calls this
// file. Several threads make each call together; each gets its number and the number of threads, and computes a share.
// All arithmetic is float32; with BFLOAT16 the factors of matrix products are rounded to bfloat16.
//
// Compiled for one shape: V characters, C = NH * HS channels, H hidden units; VP is V rounded up to whole vectors.
// T positions, of which those from `query_start` on have queries; Q = T - query_start. A row is one of the R = T * V
// combinations of a position and a character; a pair is a query's row with a key's row. In the wide layout, channel
// s * NH + h of a row is channel s of head h, so that attention computes on vectors of heads. Matrices are row-major.
// The suffix _t means transposed; the prefix d_ means the gradient of the loss.

#include <float.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if BFLOAT16 && !defined(__AVX512BF16__)
#error "the processor, or the compiler, has no AVX512-BF16"
#endif
#ifdef __AVX512F__
enum { WIDTH = 16 };
#else
enum { WIDTH = 8 };
#endif
enum { LANES = 16, PARTS = LANES / WIDTH, TILE = 64, C = NH * HS, VP = (V + LANES - 1) / LANES * LANES };
enum { LINE = 64 };           // bytes of a cache line; loading a vector that spans two lines is slower
enum { HEIGHT = 8 / PARTS };  // rows of a product computed together, with their sums in registers
typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
// Heads computed at once in attention: the largest power of two that divides NH and fits into a vector.
enum { GROUP = (NH & -NH) < WIDTH ? NH & -NH : WIDTH, GROUPS = NH / GROUP };
typedef float heads __attribute__((vector_size(4 * GROUP), aligned(4), may_alias));

#if defined(__AVX__)  // keep x in a register; the compiler would reload it for each product
#define KEEP_IN_REGISTER(x) __asm__("" : "+x"(x))
#else
#define KEEP_IN_REGISTER(x)
#endif

typedef struct {
    float *token, *position, *qkv, *out, *up, *down, *head;  // as in model.py
} Weights;

typedef struct {  // everything that depends only on the weights and, for `used`, on which rows occur in the batch
    float *rows, *normed, *scales;            // (R, C), (R, C), (R,): the layer's input, its norm and the norm's scale
    float *used;                              // (R,): 1 where a text contains the row; other rows have no pairs
    float *query, *key, *value;               // (R, C)
    float *qkv, *out;                         // (3, C, C), (C, C): weights in wide layout
    float *qkv_t, *out_t, *up_t, *down_t, *head, *head_t;  // head with VP rows
} Table;

typedef struct {
    float *rows, *query, *key, *value, *out, *up, *down, *head;  // gradients summed over a thread's texts
    float *normed, *qkv;                      // scratch of reduce_gradients
} Sums;

// -----------------------------------------------------------------------------
// threads

typedef struct { atomic_int arrived, generation, abandoned; } Barrier;
typedef struct { int number, count; Barrier *barrier; } Thread;

static int share(const Thread *thread, int n, int edge) { return (int64_t)n * (thread->number + edge) / thread->count; }

// Wait until all threads have arrived. Spins first, as the others usually arrive soon, then yields the core. Returns
// early when `abandoned` is set because one of the threads was never started.
static void wait_for_all(const Thread *thread) {
    Barrier *barrier = thread->barrier;
    const int before = atomic_load(&barrier->generation);
    if (atomic_fetch_add(&barrier->arrived, 1) + 1 == thread->count) {
        atomic_store(&barrier->arrived, 0);
        atomic_fetch_add(&barrier->generation, 1);
        return;
    }
    for (int turn = 0; atomic_load(&barrier->generation) == before && !atomic_load(&barrier->abandoned); turn++)
        if (turn > 1000) sched_yield();
}

// -----------------------------------------------------------------------------
// matrices

// Thread-local scratch memory, aligned to a cache line; it grows on demand and is never freed.
typedef struct { void *memory; int64_t size; } Buffer;

static void *buffer(Buffer *mine, int64_t size) {
    if (size > mine->size) {
        free(mine->memory);
        mine->memory = malloc((mine->size = size) + LINE);
    }
    return (void *)(((uintptr_t)mine->memory + LINE - 1) / LINE * LINE);
}

#if BFLOAT16  // each float holds two bfloat16 numbers; a product is the sum of their two products
#define ADD_PRODUCT(sum, a, b) __asm__("vdpbf16ps %1%{1to16%}, %2, %0" : "+v"(sum) : "m"(a), "v"(b))
#else
#define ADD_PRODUCT(sum, a, b) sum += a * b
#endif

// c (M, N) = a (M, K) b (K, N), plus c itself if `adds`. a[i][k] is a[i * row + k * column]. M must be a multiple of
// HEIGHT, N of LANES.
static void multiply(int M, int N, int K, const float *a, int row, int column, const float *b, float *c, int adds) {
    for (int j = 0; j < N; j += LANES)
        for (int i = 0; i < M; i += HEIGHT) {
            vector sum[HEIGHT][PARTS], b_parts[PARTS];
            #pragma GCC unroll 8
            for (int r = 0; r < HEIGHT; r++)
                #pragma GCC unroll 8
                for (int p = 0; p < PARTS; p++)
                    sum[r][p] = adds ? *(const vector *)(c + (i + r) * N + j + p * WIDTH) : (vector){0};
            for (int k = 0; k < K; k++) {
                #pragma GCC unroll 8
                for (int p = 0; p < PARTS; p++) {
                    b_parts[p] = *(const vector *)(b + k * N + j + p * WIDTH);
                    KEEP_IN_REGISTER(b_parts[p]);
                }
                #pragma GCC unroll 8
                for (int r = 0; r < HEIGHT; r++)
                    #pragma GCC unroll 8
                    for (int p = 0; p < PARTS; p++) ADD_PRODUCT(sum[r][p], a[(i + r) * row + k * column], b_parts[p]);
            }
            #pragma GCC unroll 8
            for (int r = 0; r < HEIGHT; r++)
                #pragma GCC unroll 8
                for (int p = 0; p < PARTS; p++) *(vector *)(c + (i + r) * N + j + p * WIDTH) = sum[r][p];
        }
}

#if BFLOAT16
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

// Round to nearest even; the upper half of each word is the bfloat16 number. Inlined despite -fno-inline in kernel.py:
// the call would take longer than the computation.
static inline __attribute__((always_inline)) words rounded(const float *x) {
    const words bits = *(const words *)x;
    return bits + 0x7fff + (bits >> 16 & 1);
}

// Round in place, so that a matrix has the same values as a factor and as a summand.
static void round_all(int n, float *x) {
    for (int i = 0; i < n; i += LANES) *(words *)(x + i) = rounded(x + i) & 0xffff0000;
}

// Pack pairs of vertically adjacent numbers of two rows of `n`, or pairs of adjacent numbers of one row.
static void pack_rows(int n, const float *row, const float *next, float *pairs) {
    for (int i = 0; i < n; i += LANES)
        *(words *)(pairs + i) = rounded(row + i) >> 16 | (rounded(next + i) & 0xffff0000);
}

static void pack_along(int n, const float *row, float *pairs) {
    for (int i = 0; i < n; i += LANES)
        *(halves *)(pairs + i / 2) = __builtin_convertvector(rounded(row + i) >> 16, halves);
}

// As `multiply`, for float32 factors that are rounded here. K must be even, and a multiple of LANES if column is 1.
static void round_and_multiply(int M, int N, int K, const float *a, int row, int column, const float *b, float *c,
                               int adds) {
    static _Thread_local Buffer factors;
    const int64_t pairs = K / 2;
    float *packed_a = buffer(&factors, sizeof(float) * pairs * (M + N)), *packed_b = packed_a + pairs * M;
    for (int k = 0; k < pairs; k++) pack_rows(N, b + 2 * k * N, b + (2 * k + 1) * N, packed_b + k * N);
    if (column == 1) {
        for (int i = 0; i < M; i++) pack_along(K, a + i * row, packed_a + i * pairs);
        multiply(M, N, pairs, packed_a, pairs, 1, packed_b, c, adds);
    } else {
        for (int k = 0; k < pairs; k++) pack_rows(M, a + 2 * k * column, a + (2 * k + 1) * column, packed_a + k * M);
        multiply(M, N, pairs, packed_a, 1, M, packed_b, c, adds);
    }
}
#else
#define round_and_multiply multiply
static void round_all(int n, float *x) { (void)n, (void)x; }
#endif

static void matmul(int M, int N, int K, const float *a, int row, int column, const float *b, float *c) {
    round_and_multiply(M, N, K, a, row, column, b, c, 1);
}

static void product(int M, int N, int K, const float *a, int row, int column, const float *b, float *c) {
    round_and_multiply(M, N, K, a, row, column, b, c, 0);
}

static void transpose(int rows, int columns, const float *from, float *to) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
}

static int wide_channel(int channel) { return channel % HS * NH + channel / HS; }

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
        float mean = 0, projection = 0;
        if (CENTERED) {
            for (int c = 0; c < C; c++) mean += d_normed[c];
            mean /= C;
        }
        for (int c = 0; c < C; c++) projection += d_normed[c] * normed[c];
        projection /= C;
        for (int c = 0; c < C; c++) d_x[c] += scales[i] * (d_normed[c] - mean - normed[c] * projection);
    }
}

// -----------------------------------------------------------------------------
// the layer

static int up_to_height(int n) { return (n + HEIGHT - 1) / HEIGHT * HEIGHT; }

// Reserve `size` floats at `*address`, aligned to a cache line.
static float *reserve(uintptr_t *address, int64_t size) {
    float *reserved = (float *)*address;
    *address += (sizeof(float) * size + LINE - 1) / LINE * LINE;
    return reserved;
}

// Lay out a table at `*address` and advance `*address` past it; parts with rows have up_to_height(R) of them.
static Table table_at(uintptr_t *address, int T) {
    const int64_t R = T * V, rows = up_to_height(R) * C;
    Table table;
    table.rows = reserve(address, rows), table.normed = reserve(address, rows);
    table.scales = reserve(address, up_to_height(R));
    table.used = reserve(address, R);
    table.query = reserve(address, rows), table.key = reserve(address, rows), table.value = reserve(address, rows);
    table.qkv = reserve(address, 3 * C * C), table.out = reserve(address, C * C);
    table.qkv_t = reserve(address, 3 * C * C), table.out_t = reserve(address, C * C);
    table.up_t = reserve(address, C * H), table.down_t = reserve(address, H * C);
    table.head = reserve(address, VP * C), table.head_t = reserve(address, C * VP);
    return table;
}

static Sums sums_at(uintptr_t *address, int T) {
    const int64_t rows = up_to_height(T * V) * C;
    Sums sums;
    sums.rows = reserve(address, rows);
    sums.query = reserve(address, rows), sums.key = reserve(address, rows), sums.value = reserve(address, rows);
    sums.out = reserve(address, C * C), sums.up = reserve(address, H * C), sums.down = reserve(address, C * H);
    sums.head = reserve(address, VP * C);
    sums.normed = reserve(address, rows), sums.qkv = reserve(address, 3 * C * C);
    return sums;
}

int64_t table_size(int T) {
    uintptr_t end = 0;
    table_at(&end, T);
    return end / sizeof(float);
}

int64_t sums_size(int T) {
    uintptr_t end = 0;
    sums_at(&end, T);
    return end / sizeof(float);
}

// Fill the table for B texts of T characters; without texts, for every row.
static void fill_table(const Thread *thread, int T, int64_t B, const uint8_t *texts, const Weights *weights,
                       const Table *table) {
    const int R = T * V, padded = up_to_height(R);
    if (thread->number == 0) {
        for (int r = 0; r < R; r++) table->used[r] = !texts;
        for (int64_t b = 0; texts && b < B; b++)
            for (int t = 0; t < T; t++) table->used[t * V + texts[b * (T + 1) + t]] = 1;
        for (int i = 0; i < C; i++)
            for (int m = 0; m < 3; m++)
                memcpy(table->qkv + (m * C + wide_channel(i)) * C, weights->qkv + (m * C + i) * C, sizeof(float) * C);
        for (int m = 0; m < 3; m++) transpose(C, C, table->qkv + m * C * C, table->qkv_t + m * C * C);
        transpose(H, C, weights->up, table->up_t);
    }
    if (thread->number == thread->count - 1) {
        for (int i = 0; i < C; i++)
            for (int j = 0; j < C; j++) table->out[i * C + wide_channel(j)] = weights->out[i * C + j];
        transpose(C, C, table->out, table->out_t);
        transpose(C, H, weights->down, table->down_t);
        memcpy(table->head, weights->head, sizeof(float) * V * C);
        memset(table->head + V * C, 0, sizeof(float) * (VP - V) * C);
        transpose(VP, C, table->head, table->head_t);
        memset(table->rows + R * C, 0, sizeof(float) * (padded - R) * C);
        for (int t = 0; t < T; t++)
            for (int v = 0; v < V; v++)
                for (int c = 0; c < C; c++)
                    table->rows[(t * V + v) * C + c] = weights->token[v * C + c] + weights->position[t * C + c];
        norm(padded, table->rows, table->normed, table->scales);
    }
    wait_for_all(thread);
    const int from = share(thread, padded / HEIGHT, 0) * HEIGHT, n = share(thread, padded / HEIGHT, 1) * HEIGHT - from;
    const float *normed = table->normed + from * C;
    product(n, C, C, normed, C, 1, table->qkv_t, table->query + from * C);
    product(n, C, C, normed, C, 1, table->qkv_t + C * C, table->key + from * C);
    product(n, C, C, normed, C, 1, table->qkv_t + 2 * C * C, table->value + from * C);
    wait_for_all(thread);
}

// Compute exp(score - maximum) of a query's row with every used row at its position or before, pairs (R, NH).
static void fill_pairs(const Table *table, int row, float *pairs) {
    const float *query = table->query + row * C, scale = 1 / sqrtf(HS);
    const int num_visible = (row / V + 1) * V;
    float maximum[NH];
    for (int h = 0; h < NH; h++) maximum[h] = -1e30f;
    for (int r = 0; r < num_visible; r++) {
        if (!table->used[r]) continue;
        const float *key = table->key + r * C;
        float score[NH] = {0};
        for (int s = 0; s < HS; s++)
            for (int h = 0; h < NH; h++) score[h] += query[s * NH + h] * key[s * NH + h];
        for (int h = 0; h < NH; h++) {
            pairs[r * NH + h] = score[h] * scale;
            maximum[h] = fmaxf(maximum[h], score[h] * scale);
        }
    }
    // A text may contain none of the rows near the maximum, so exp must not underflow; see pair_table.py.
    for (int r = 0; r < num_visible; r++) {
        if (!table->used[r]) continue;
        for (int h = 0; h < NH; h++) pairs[r * NH + h] = expf(fmaxf(pairs[r * NH + h] - maximum[h], -80.0f));
    }
}

// Add the gradients of a row's query and of all keys, given the gradients of the row's pairs.
static void add_pairs_gradient(const Table *table, int row, const float *pairs, const float *d_pairs,
                               const Sums *sums) {
    const heads *query = (const heads *)(table->query + row * C);
    const float scale = 1 / sqrtf(HS);
    heads d_query[HS * GROUPS] = {0};
    for (int r = 0; r < (row / V + 1) * V; r++) {
        if (!table->used[r]) continue;
        const heads *pair = (const heads *)(pairs + r * NH), *d_pair = (const heads *)(d_pairs + r * NH);
        const heads *key = (const heads *)(table->key + r * C);
        heads *d_key = (heads *)(sums->key + r * C);
        #pragma GCC unroll 8
        for (int g = 0; g < GROUPS; g++) {
            const heads d_score = d_pair[g] * pair[g] * scale;
            #pragma GCC unroll 8
            for (int s = 0; s < HS; s++) {
                d_query[s * GROUPS + g] += d_score * key[s * GROUPS + g];
                d_key[s * GROUPS + g] += d_score * query[s * GROUPS + g];
            }
        }
    }
    heads *sum = (heads *)(sums->query + row * C);
    #pragma GCC unroll 8
    for (int c = 0; c < HS * GROUPS; c++) sum[c] += d_query[c];
}

typedef struct {  // one query: a position of a text, whose next character is predicted
    const uint8_t *text;
    int last, row;  // position in the text, and row of the table
    float *pairs;   // (R, NH), pairs of that row
} Query;

// Compute each query's residual stream x (n, C), the attention output y (n, C) in wide layout, and the inverse of the
// sum of its weights, (n, NH).
static void attend(const Table *table, int n, const Query *queries, float *x, float *y, float *inverses) {
    for (int i = 0; i < n; i++) {
        const Query *q = queries + i;
        heads total[GROUPS] = {0}, sum[HS * GROUPS] = {0};
        for (int t = 0; t <= q->last; t++) {
            const int row = t * V + q->text[t];
            const heads *pair = (const heads *)(q->pairs + row * NH);
            const heads *value = (const heads *)(table->value + row * C);
            #pragma GCC unroll 8
            for (int g = 0; g < GROUPS; g++) total[g] += pair[g];
            #pragma GCC unroll 8
            for (int s = 0; s < HS; s++)
                #pragma GCC unroll 8
                for (int g = 0; g < GROUPS; g++) sum[s * GROUPS + g] += pair[g] * value[s * GROUPS + g];
        }
        memcpy(x + i * C, table->rows + q->row * C, sizeof(float) * C);
        heads *inverse = (heads *)(inverses + i * NH), *mean = (heads *)(y + i * C);
        #pragma GCC unroll 8
        for (int g = 0; g < GROUPS; g++) inverse[g] = 1 / total[g];
        #pragma GCC unroll 8
        for (int s = 0; s < HS; s++)
            #pragma GCC unroll 8
            for (int g = 0; g < GROUPS; g++) mean[s * GROUPS + g] = sum[s * GROUPS + g] * inverse[g];
    }
}

// Backward pass of `attend`, given d_x and d_y (n, C). `d_pairs` (R, NH) is scratch: the gradients of one row's pairs.
static void add_attention_gradient(const Table *table, int R, int n, const Query *queries, const float *y,
                                   const float *inverses, const float *d_x, const float *d_y, float *d_pairs,
                                   const Sums *sums) {
    for (int i = 0; i < n; i++) {
        const Query *q = queries + i;
        const heads *inverse = (const heads *)(inverses + i * NH), *mean = (const heads *)(y + i * C);
        const heads *d_mean = (const heads *)(d_y + i * C);
        heads d_sum[HS * GROUPS], d_total[GROUPS] = {0};
        for (int c = 0; c < C; c++) sums->rows[q->row * C + c] += d_x[i * C + c];
        #pragma GCC unroll 8
        for (int s = 0; s < HS; s++)
            #pragma GCC unroll 8
            for (int g = 0; g < GROUPS; g++) {
                d_sum[s * GROUPS + g] = d_mean[s * GROUPS + g] * inverse[g];
                d_total[g] -= d_sum[s * GROUPS + g] * mean[s * GROUPS + g];
            }
        if (i == 0 || q->row != q[-1].row) memset(d_pairs, 0, sizeof(float) * R * NH);
        for (int t = 0; t <= q->last; t++) {
            const int row = t * V + q->text[t];
            const heads *pair = (const heads *)(q->pairs + row * NH);
            const heads *value = (const heads *)(table->value + row * C);
            heads *d_pair = (heads *)(d_pairs + row * NH), *d_value = (heads *)(sums->value + row * C);
            #pragma GCC unroll 8
            for (int g = 0; g < GROUPS; g++) {
                const heads exp_score = pair[g];
                heads d = d_total[g];
                #pragma GCC unroll 8
                for (int s = 0; s < HS; s++) {
                    d += d_sum[s * GROUPS + g] * value[s * GROUPS + g];
                    d_value[s * GROUPS + g] += d_sum[s * GROUPS + g] * exp_score;
                }
                d_pair[g] += d;
            }
        }
        if (i == n - 1 || q->row != q[1].row) add_pairs_gradient(table, q->row, q->pairs, d_pairs, sums);
    }
}

// Sort the queries of B texts by row (a counting sort); query b * Q + q is position query_start + q of text b.
static void sort_queries(int T, int query_start, int64_t B, const uint8_t *texts, int stride, int32_t *order) {
    const int Q = T - query_start;
    for (int q = 0; q < Q; q++) {
        const uint8_t *column = texts + query_start + q;
        int64_t next[V + 1] = {q * B};
        for (int64_t b = 0; b < B; b++) next[column[b * stride] + 1]++;
        for (int v = 0; v < V; v++) next[v + 1] += next[v];
        for (int64_t b = 0; b < B; b++) order[next[column[b * stride]]++] = b * Q + q;
    }
}

// Forward pass and, with `sums`, backward pass of B texts of `stride` characters, with B * Q < 2**31. If `all_logits`
// is given, it receives the logits (B, Q, VP) and nothing else is computed. Otherwise returns the sum of the losses of
// the next characters, stores the loss and the margin of each in `losses` and `margins` (B, Q) if given, and adds the
// gradients of `weight` times the sum to `sums` if given. The thread computes each count-th tile.
static double process_texts(const Thread *thread, int T, int query_start, int64_t B, const uint8_t *texts, int stride,
                            float weight, const Weights *weights, const Table *table, float *all_logits, float *losses,
                            float *margins, const Sums *sums) {
    const int Q = T - query_start, R = T * V;
    // buffers of one tile; those of wide models would not fit on a thread's stack
    static _Thread_local _Alignas(LINE) float x[TILE * C], normed[TILE * C], normed_2[TILE * C], y[TILE * C];
    static _Thread_local _Alignas(LINE) float scales[TILE], scales_2[TILE], inverses[TILE * NH], logits[TILE * VP];
    static _Thread_local _Alignas(LINE) float hidden[TILE * H], cdf[TILE * H], active[TILE * H], d_hidden[TILE * H];
    static _Thread_local _Alignas(LINE) float d_x[TILE * C], d_normed[TILE * C];
    static _Thread_local Buffer order_buffer, pairs_buffer;
    int32_t *order = buffer(&order_buffer, sizeof(int32_t) * B * Q);
    float *d_pairs = buffer(&pairs_buffer, sizeof(float) * (1 + TILE) * R * NH), *all_pairs = d_pairs + R * NH;
    Query queries[TILE];
    double loss = 0;
    sort_queries(T, query_start, B, texts, stride, order);
    for (int64_t start = thread->number * TILE; start < B * Q; start += thread->count * TILE) {
        const int32_t *tile_order = order + start;
        const int n = B * Q - start < TILE ? B * Q - start : TILE;

        // attention; queries of the same row are adjacent and share its pairs
        for (int i = 0; i < n; i++) {
            Query *q = queries + i;
            q->text = texts + tile_order[i] / Q * (int64_t)stride, q->last = query_start + tile_order[i] % Q;
            q->row = q->last * V + q->text[q->last];
            if (i > 0 && q->row == q[-1].row) q->pairs = q[-1].pairs;
            else fill_pairs(table, q->row, q->pairs = all_pairs + i * R * NH);
        }
        memset(x + n * C, 0, sizeof(float) * (TILE - n) * C);
        memset(y + n * C, 0, sizeof(float) * (TILE - n) * C);
        attend(table, n, queries, x, y, inverses);
        matmul(TILE, C, C, y, C, 1, table->out_t, x);

        // MLP and head
        norm(TILE, x, normed, scales);
        product(TILE, H, C, normed, C, 1, table->up_t, hidden);
        for (int i = 0; i < TILE * H; i++) cdf[i] = 0.5f * (1 + erff(hidden[i] * 0.70710678f));  // normal CDF
        for (int i = 0; i < TILE * H; i++) active[i] = hidden[i] * cdf[i];
        matmul(TILE, C, H, active, H, 1, table->down_t, x);
        norm(TILE, x, normed_2, scales_2);
        product(TILE, VP, C, normed_2, C, 1, table->head_t, logits);
        if (all_logits) {
            for (int i = 0; i < n; i++)
                memcpy(all_logits + (int64_t)tile_order[i] * VP, logits + i * VP, sizeof(float) * VP);
            continue;
        }

        // cross-entropy
        memset(logits + n * VP, 0, sizeof(float) * (TILE - n) * VP);
        for (int i = 0; i < n; i++) {
            float *z = logits + i * VP, maximum = z[0], total = 0;
            const int target = queries[i].text[queries[i].last + 1];
            for (int v = 1; v < V; v++) maximum = fmaxf(maximum, z[v]);
            if (margins) {
                float other = -FLT_MAX;  // infinity is undefined with -ffast-math
                for (int v = 0; v < V; v++)
                    if (v != target) other = fmaxf(other, z[v]);
                margins[tile_order[i]] = z[target] - other;
            }
            const float target_logit = z[target] - maximum;
            for (int v = 0; v < VP; v++) {
                z[v] = v < V ? expf(z[v] - maximum) : 0.0f;
                total += z[v];
            }
            loss += logf(total) - target_logit;
            if (losses) losses[tile_order[i]] = logf(total) - target_logit;
            for (int v = 0; v < VP; v++) z[v] *= weight / total;
            z[target] -= weight;
        }

        if (!sums) continue;

        // backward pass
        matmul(VP, C, TILE, logits, 1, VP, normed_2, sums->head);
        product(TILE, C, VP, logits, VP, 1, table->head, d_normed);
        memset(d_x, 0, sizeof d_x);
        add_norm_gradient(TILE, normed_2, scales_2, d_normed, d_x);
        matmul(C, H, TILE, d_x, 1, C, active, sums->down);
        product(TILE, H, C, d_x, C, 1, weights->down, d_hidden);
        for (int i = 0; i < TILE * H; i++)
            d_hidden[i] *= cdf[i] + hidden[i] * 0.39894228f * expf(-0.5f * hidden[i] * hidden[i]);
        matmul(H, C, TILE, d_hidden, 1, H, normed, sums->up);
        product(TILE, C, H, d_hidden, H, 1, weights->up, d_normed);
        add_norm_gradient(TILE, normed, scales, d_normed, d_x);
        matmul(C, C, TILE, d_x, 1, C, y, sums->out);
        product(TILE, C, C, d_x, C, 1, table->out, d_normed);  // d_y
        add_attention_gradient(table, R, n, queries, y, inverses, d_x, d_normed, d_pairs, sums);
    }
    return loss;
}

// Reduce the gradients of all threads, `all_sums`, and compute from them the gradients of the weights.
static void reduce_gradients(const Thread *thread, int T, const Table *table, float *all_sums,
                             const Weights *d_weights) {
    const int R = T * V, padded = up_to_height(R);
    const int64_t size = sums_size(T);
    uintptr_t address = (uintptr_t)all_sums;
    const Sums sums = sums_at(&address, T);  // the total is accumulated in the first thread's sums
    const int end = share(thread, sums.normed - all_sums, 1);
    for (int other = 1; other < thread->count; other++)
        for (int i = share(thread, sums.normed - all_sums, 0); i < end; i++) all_sums[i] += all_sums[other * size + i];
    wait_for_all(thread);

    const float *d_each[3] = {sums.query, sums.key, sums.value};
    if (thread->number == 0) {
        for (int m = 0; m < 3; m++) product(C, C, padded, d_each[m], 1, C, table->normed, sums.qkv + m * C * C);
        for (int i = 0; i < C; i++)
            for (int m = 0; m < 3; m++)
                memcpy(d_weights->qkv + (m * C + i) * C, sums.qkv + (m * C + wide_channel(i)) * C, sizeof(float) * C);
        memcpy(d_weights->up, sums.up, sizeof(float) * H * C);
        memcpy(d_weights->down, sums.down, sizeof(float) * C * H);
    }
    if (thread->number == thread->count - 1) {
        for (int m = 0; m < 3; m++)
            (m ? matmul : product)(padded, C, C, d_each[m], C, 1, table->qkv + m * C * C, sums.normed);
        add_norm_gradient(R, table->normed, table->scales, sums.normed, sums.rows);
        memset(d_weights->token, 0, sizeof(float) * V * C);
        memset(d_weights->position, 0, sizeof(float) * T * C);
        memset(d_weights->head, 0, sizeof(float) * V * C);  // tied weights: it can be the same memory as the token's
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++) {
                d_weights->token[r % V * C + c] += sums.rows[r * C + c];
                d_weights->position[r / V * C + c] += sums.rows[r * C + c];
            }
        for (int i = 0; i < C; i++)
            for (int j = 0; j < C; j++) d_weights->out[i * C + j] = sums.out[i * C + wide_channel(j)];
        for (int i = 0; i < V * C; i++) d_weights->head[i] += sums.head[i];
    }
    wait_for_all(thread);
}

// -----------------------------------------------------------------------------
// the optimizers

typedef struct {
    float *weight, *gradient, *mean;  // `mean` (rows, columns) with rows <= columns is the running mean of the gradient
    int rows, columns, is_transposed; // whether `weight` and `gradient` are (columns, rows)
    float scale;                      // of the update
} MuonWeight;

typedef struct {
    float *weight, *gradient, *mean, *mean_square;
    int size;
    float weight_decay;
} AdamWWeight;

typedef struct {  // see optim.py
    int num_muon_weights, num_adamw_weights, num_iterations, adamw_steps;  // adamw_steps: taken before this call
    const MuonWeight *muon_weights;
    const AdamWWeight *adamw_weights;
    float muon_rate, momentum, muon_weight_decay, coefficients[3];
    float adamw_rate, betas[2], epsilon;
} Optimizers;

// Muon's step; the thread updates each count-th matrix. Sizes must be multiples of LANES.
static void muon(const Thread *thread, const Optimizers *optimizers, float rate) {
    static _Thread_local Buffer scratch;
    const float momentum = optimizers->momentum, decay_factor = 1 - rate * optimizers->muon_weight_decay;
    const float *coefficients = optimizers->coefficients;
    for (const MuonWeight *m = optimizers->muon_weights + thread->number;
         m < optimizers->muon_weights + optimizers->num_muon_weights; m += thread->count) {
        const int rows = m->rows, columns = m->columns, size = rows * columns;
        float *wide = buffer(&scratch, sizeof(float) * (3 * size + 2 * rows * rows)), *x = wide + size;
        float *next = x + size, *gram = next + size, *polynomial = gram + rows * rows, square = 0;
        if (m->is_transposed) transpose(columns, rows, m->gradient, wide);
        else memcpy(wide, m->gradient, sizeof(float) * size);
        for (int i = 0; i < size; i++) {
            m->mean[i] += (1 - momentum) * (wide[i] - m->mean[i]);
            wide[i] += momentum * (m->mean[i] - wide[i]);
            square += wide[i] * wide[i];
        }
        const float length = sqrtf(square) + 1e-7f;
        for (int i = 0; i < size; i++) wide[i] /= length;

        // Newton-Schulz on the transpose, whose Gram matrix needs no transposed copy. A matrix that is both a factor
        // and a summand is rounded in both roles, because their rounding errors nearly cancel.
        transpose(rows, columns, wide, x);
        for (int k = 0; k < optimizers->num_iterations; k++) {
            round_all(size, x);
            product(rows, rows, columns, x, 1, rows, x, gram);
            round_all(rows * rows, gram);
            product(rows, rows, rows, gram, rows, 1, gram, polynomial);
            for (int i = 0; i < rows * rows; i++)
                polynomial[i] = coefficients[1] * gram[i] + coefficients[2] * polynomial[i];
            for (int i = 0; i < size; i++) next[i] = coefficients[0] * x[i];
            matmul(columns, rows, rows, x, rows, 1, polynomial, next);
            float *last = x;
            x = next, next = last;
        }
        if (!m->is_transposed) transpose(columns, rows, x, next);
        const float *update = m->is_transposed ? x : next, amount = rate * m->scale;
        for (int i = 0; i < size; i++) m->weight[i] = decay_factor * m->weight[i] - amount * update[i];
    }
}

// AdamW's step for the thread's share of each weight; `step` counts from 1.
static void adamw(const Thread *thread, const Optimizers *optimizers, float rate, int step) {
    const float beta_1 = optimizers->betas[0], beta_2 = optimizers->betas[1];
    const float amount = rate / (1 - powf(beta_1, step)), root = sqrtf(1 - powf(beta_2, step));
    for (const AdamWWeight *w = optimizers->adamw_weights;
         w < optimizers->adamw_weights + optimizers->num_adamw_weights; w++) {
        const float decay_factor = 1 - rate * w->weight_decay;
        for (int i = share(thread, w->size, 0); i < share(thread, w->size, 1); i++) {
            const float g = w->gradient[i];
            w->mean[i] += (1 - beta_1) * (g - w->mean[i]);
            w->mean_square[i] = beta_2 * w->mean_square[i] + (1 - beta_2) * g * g;
            w->weight[i] = decay_factor * w->weight[i]
                - amount * w->mean[i] / (sqrtf(w->mean_square[i]) / root + optimizers->epsilon);
        }
    }
}

// -----------------------------------------------------------------------------
// entry points for kernel.py

// Fill a table of table_size floats.
void prepare(int number, int count, Barrier *barrier, int T, const Weights *weights, uintptr_t table) {
    const Table filled = table_at(&table, T);
    fill_table(&(Thread){number, count, barrier}, T, 0, NULL, weights, &filled);
}

// Compute the logits (B, Q, VP) of texts (B, T).
void logits(int number, int count, int T, int query_start, int64_t B, const uint8_t *texts, const Weights *weights,
            uintptr_t table, float *output) {
    const Table filled = table_at(&table, T);
    process_texts(&(Thread){number, count, NULL}, T, query_start, B, texts, T, 0, weights, &filled, output, NULL, NULL,
                  NULL);
}

// Compute the loss (B, Q) of each next character of texts (B, T + 1), and its logit less the largest other one.
void evaluate(int number, int count, int T, int query_start, int64_t B, const uint8_t *texts, const Weights *weights,
             uintptr_t table, float *losses, float *margins) {
    const Table filled = table_at(&table, T);
    process_texts(&(Thread){number, count, NULL}, T, query_start, B, texts, T + 1, 0, weights, &filled, NULL, losses,
                  margins, NULL);
}

// Take one step on each batch of texts (steps, B, T + 1), with learning rates `factors` (steps,) times the peak.
// Returns the thread's part of the summed loss of the last batch. `space` has table_size floats, plus sums_size for
// each thread.
double train(int number, int count, Barrier *barrier, int T, int query_start, int64_t B, int steps,
             const uint8_t *texts, const float *factors, const Weights *weights, const Weights *gradients,
             const Optimizers *optimizers, uintptr_t space) {
    const Thread thread = {number, count, barrier};
    float *all_sums = (float *)space + table_size(T), *own = all_sums + number * sums_size(T);
    uintptr_t address = (uintptr_t)own;
    const Table table = table_at(&space, T);
    const Sums sums = sums_at(&address, T);
    const float weight = 1.0f / (B * (T - query_start));
    double loss = 0;
    for (int step = 0; step < steps && !atomic_load(&barrier->abandoned); step++) {
        const uint8_t *batch = texts + step * B * (T + 1);
        memset(own, 0, sizeof(float) * (sums.normed - own));
        fill_table(&thread, T, B, batch, weights, &table);
        loss = process_texts(&thread, T, query_start, B, batch, T + 1, weight, weights, &table, NULL, NULL, NULL,
                             &sums);
        wait_for_all(&thread);
        reduce_gradients(&thread, T, &table, all_sums, gradients);
        muon(&thread, optimizers, factors[step] * optimizers->muon_rate);
        adamw(&thread, optimizers, factors[step] * optimizers->adamw_rate, optimizers->adamw_steps + step + 1);
        wait_for_all(&thread);
    }
    return loss;
}
