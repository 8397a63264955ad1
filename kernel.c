// One layer of the transformer in model.py, and its training by Muon and AdamW: see kernel.py, which compiles and calls
// it. Several threads make each call together, each with its number and their count, and do a share. All is float32;
// with BFLOAT16 the factors of matrix products are rounded to it.
//
// Compiled for one shape: V characters, C = NH * HS channels, H hidden units; VP is V rounded up to whole vectors.
// T positions, of which those from `first` on ask; R = T * V (position, character) rows. A pair is of a row that asks
// and one that it sees. Within a row's channels the heads lie side by side, so that attention runs over whole vectors.
// Matrices lie row by row; what ends in _t is transposed; what begins with d_ is the loss's gradient.

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
enum { LINE = 64 };           // bytes of a cache line; a vector that lies in two of them is slower to come by
enum { HEIGHT = 8 / PARTS };  // rows of a product computed together: so many sums are under way in registers
typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
// Heads that attention computes at once: the largest power of two that divides their number and fits into a vector.
enum { GROUP = (NH & -NH) < WIDTH ? NH & -NH : WIDTH, GROUPS = NH / GROUP };
typedef float heads __attribute__((vector_size(4 * GROUP), aligned(4), may_alias));

#if defined(__AVX__)  // keep in a register what the compiler would load anew for each product
#define HELD(x) __asm__("" : "+x"(x))
#else
#define HELD(x)
#endif

typedef struct {
    float *token, *position, *qkv, *out, *up, *down, *head;  // as in model.py
} Weights;

typedef struct {  // what does not depend on the texts
    float *rows, *normed, *scales;            // (R, C), (R, C), (R,): what enters the layer, and its norm
    float *used;                              // (R,): 1 where a text has the row; no pair has a row without
    float *query, *key, *value;               // (R, C)
    float *qkv, *out;                         // (3, C, C), (C, C): those of the heads side by side
    float *qkv_t, *out_t, *up_t, *down_t, *head, *head_t;  // the head with VP rows
} Table;

typedef struct {
    float *rows, *query, *key, *value, *out, *up, *down, *head;  // gradients of a share of the texts
    float *normed, *qkv;                      // the way from all shares to the weights
} Sums;

// -----------------------------------------------------------------------------
// threads

typedef struct { atomic_int arrived, meetings, abandoned; } Meeting;
typedef struct { int number, count; Meeting *meeting; } Thread;

static int share(const Thread *me, int n, int edge) { return (int64_t)n * (me->number + edge) / me->count; }

// Wait for the others. They are about to arrive, unless their core is taken away, and then one lets go of one's own; it
// is abandoned when one of them never set out.
static void meet(const Thread *me) {
    Meeting *meeting = me->meeting;
    const int before = atomic_load(&meeting->meetings);
    if (atomic_fetch_add(&meeting->arrived, 1) + 1 == me->count) {
        atomic_store(&meeting->arrived, 0);
        atomic_fetch_add(&meeting->meetings, 1);
        return;
    }
    for (int turn = 0; atomic_load(&meeting->meetings) == before && !atomic_load(&meeting->abandoned); turn++)
        if (turn > 1000) sched_yield();
}

// -----------------------------------------------------------------------------
// matrices

// A thread's own memory for something, from a cache line on; it grows with what is wanted.
typedef struct { void *memory; int64_t size; } Room;

static void *room(Room *mine, int64_t size) {
    if (size > mine->size) {
        free(mine->memory);
        mine->memory = malloc((mine->size = size) + LINE);
    }
    return (void *)(((uintptr_t)mine->memory + LINE - 1) / LINE * LINE);
}

#if BFLOAT16  // what lies in a float's place are two bfloat16 numbers, and a product is the sum of two
#define ADD_PRODUCT(sum, a, b) __asm__("vdpbf16ps %1%{1to16%}, %2, %0" : "+v"(sum) : "m"(a), "v"(b))
#else
#define ADD_PRODUCT(sum, a, b) sum += a * b
#endif

// c (M, N) = a (M, K) b (K, N), to which c itself is added if wanted; a[i][k] lies at a[i * row + k * column], and
// M % HEIGHT = N % LANES = 0.
static void multiply(int M, int N, int K, const float *a, int row, int column, const float *b, float *c, int adds) {
    for (int j = 0; j < N; j += LANES)
        for (int i = 0; i < M; i += HEIGHT) {
            vector sum[HEIGHT][PARTS], of_b[PARTS];
            #pragma GCC unroll 8
            for (int r = 0; r < HEIGHT; r++)
                #pragma GCC unroll 8
                for (int p = 0; p < PARTS; p++)
                    sum[r][p] = adds ? *(const vector *)(c + (i + r) * N + j + p * WIDTH) : (vector){0};
            for (int k = 0; k < K; k++) {
                #pragma GCC unroll 8
                for (int p = 0; p < PARTS; p++) {
                    of_b[p] = *(const vector *)(b + k * N + j + p * WIDTH);
                    HELD(of_b[p]);
                }
                #pragma GCC unroll 8
                for (int r = 0; r < HEIGHT; r++)
                    #pragma GCC unroll 8
                    for (int p = 0; p < PARTS; p++) ADD_PRODUCT(sum[r][p], a[(i + r) * row + k * column], of_b[p]);
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

// Floats whose upper halves are the nearest bfloat16 numbers, of two equally near the even one. Inlined against the
// option of kernel.py: a call would cost more than what it does.
static inline __attribute__((always_inline)) words rounded(const float *x) {
    const words bits = *(const words *)x;
    return bits + 0x7fff + (bits >> 16 & 1);
}

// The same numbers as factors and as terms.
static void round_all(int n, float *x) {
    for (int i = 0; i < n; i += LANES) *(words *)(x + i) = rounded(x + i) & 0xffff0000;
}

// Pairs of numbers that lie below one another in rows of `n`, or that follow one another in a row.
static void pack_rows(int n, const float *row, const float *next, float *pairs) {
    for (int i = 0; i < n; i += LANES)
        *(words *)(pairs + i) = rounded(row + i) >> 16 | (rounded(next + i) & 0xffff0000);
}

static void pack_along(int n, const float *row, float *pairs) {
    for (int i = 0; i < n; i += LANES)
        *(halves *)(pairs + i / 2) = __builtin_convertvector(rounded(row + i) >> 16, halves);
}

// The same for factors of float32 that are rounded here; K is even, and a multiple of LANES where column is 1.
static void round_and_multiply(int M, int N, int K, const float *a, int row, int column, const float *b, float *c,
                               int adds) {
    static _Thread_local Room factors;
    const int64_t pairs = K / 2;
    float *of_a = room(&factors, sizeof(float) * pairs * (M + N)), *of_b = of_a + pairs * M;
    for (int k = 0; k < pairs; k++) pack_rows(N, b + 2 * k * N, b + (2 * k + 1) * N, of_b + k * N);
    if (column == 1) {
        for (int i = 0; i < M; i++) pack_along(K, a + i * row, of_a + i * pairs);
        multiply(M, N, pairs, of_a, pairs, 1, of_b, c, adds);
    } else {
        for (int k = 0; k < pairs; k++) pack_rows(M, a + 2 * k * column, a + (2 * k + 1) * column, of_a + k * M);
        multiply(M, N, pairs, of_a, 1, M, of_b, c, adds);
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

// -----------------------------------------------------------------------------
// the layer

static int up_to_height(int n) { return (n + HEIGHT - 1) / HEIGHT * HEIGHT; }

// Each part begins at a cache line, as the whole does.
static float *take(uintptr_t *place, int64_t size) {
    float *taken = (float *)*place;
    *place += (sizeof(float) * size + LINE - 1) / LINE * LINE;
    return taken;
}

// The table at `place`, which moves behind it; tables of rows have room for up_to_height(R).
static Table table_at(uintptr_t *place, int T) {
    const int64_t R = T * V, rows = up_to_height(R) * C;
    Table table;
    table.rows = take(place, rows), table.normed = take(place, rows), table.scales = take(place, up_to_height(R));
    table.used = take(place, R);
    table.query = take(place, rows), table.key = take(place, rows), table.value = take(place, rows);
    table.qkv = take(place, 3 * C * C), table.out = take(place, C * C);
    table.qkv_t = take(place, 3 * C * C), table.out_t = take(place, C * C);
    table.up_t = take(place, C * H), table.down_t = take(place, H * C);
    table.head = take(place, VP * C), table.head_t = take(place, C * VP);
    return table;
}

static Sums sums_at(uintptr_t *place, int T) {
    const int64_t rows = up_to_height(T * V) * C;
    Sums sums;
    sums.rows = take(place, rows);
    sums.query = take(place, rows), sums.key = take(place, rows), sums.value = take(place, rows);
    sums.out = take(place, C * C), sums.up = take(place, H * C), sums.down = take(place, C * H);
    sums.head = take(place, VP * C);
    sums.normed = take(place, rows), sums.qkv = take(place, 3 * C * C);
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

// Everything about the layer that B texts of T characters share; or all that there may be, where none are given.
static void fill_table(const Thread *me, int T, int64_t B, const uint8_t *texts, const Weights *weights,
                       const Table *table) {
    const int R = T * V, padded = up_to_height(R);
    if (me->number == 0) {
        for (int r = 0; r < R; r++) table->used[r] = !texts;
        for (int64_t b = 0; texts && b < B; b++)
            for (int t = 0; t < T; t++) table->used[t * V + texts[b * (T + 1) + t]] = 1;
        for (int i = 0; i < C; i++)
            for (int m = 0; m < 3; m++)
                memcpy(table->qkv + (m * C + side_by_side(i)) * C, weights->qkv + (m * C + i) * C, sizeof(float) * C);
        for (int m = 0; m < 3; m++) transpose(C, C, table->qkv + m * C * C, table->qkv_t + m * C * C);
        transpose(H, C, weights->up, table->up_t);
    }
    if (me->number == me->count - 1) {
        for (int i = 0; i < C; i++)
            for (int j = 0; j < C; j++) table->out[i * C + side_by_side(j)] = weights->out[i * C + j];
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
    meet(me);
    const int from = share(me, padded / HEIGHT, 0) * HEIGHT, n = share(me, padded / HEIGHT, 1) * HEIGHT - from;
    const float *normed = table->normed + from * C;
    product(n, C, C, normed, C, 1, table->qkv_t, table->query + from * C);
    product(n, C, C, normed, C, 1, table->qkv_t + C * C, table->key + from * C);
    product(n, C, C, normed, C, 1, table->qkv_t + 2 * C * C, table->value + from * C);
    meet(me);
}

// exp of the scores of a row with those that do not lie ahead, (R, NH).
static void fill_pairs(const Table *table, int row, float *pairs) {
    const float *query = table->query + row * C, scale = 1 / sqrtf(HS);
    const int seen = (row / V + 1) * V;
    float most[NH];
    for (int h = 0; h < NH; h++) most[h] = -1e30f;
    for (int r = 0; r < seen; r++) {
        if (!table->used[r]) continue;
        const float *key = table->key + r * C;
        float score[NH] = {0};
        for (int s = 0; s < HS; s++)
            for (int h = 0; h < NH; h++) score[h] += query[s * NH + h] * key[s * NH + h];
        for (int h = 0; h < NH; h++) {
            pairs[r * NH + h] = score[h] * scale;
            most[h] = fmaxf(most[h], score[h] * scale);
        }
    }
    // A text may hold none of the rows near the maximum, so exp must not underflow; see model.py.
    for (int r = 0; r < seen; r++) {
        if (!table->used[r]) continue;
        for (int h = 0; h < NH; h++) pairs[r * NH + h] = expf(fmaxf(pairs[r * NH + h] - most[h], -80.0f));
    }
}

// From the gradients of a row's pairs to those of its query and of the keys.
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

typedef struct {  // one position of a text, asked for what follows
    const uint8_t *text;
    int last, row;  // the position, and the row it asks from
    float *pairs;   // (R, NH), of that row
} Query;

// Each query's residual stream x (n, C), and each head's weighted mean y (n, C), with the inverse (n, NH) of what the
// weights add up to.
static void attend(const Table *table, int n, const Query *queries, float *x, float *y, float *inverses) {
    for (int i = 0; i < n; i++) {
        const Query *q = queries + i;
        heads total[GROUPS] = {0}, sum[HS * GROUPS] = {0};
        for (int t = 0; t <= q->last; t++) {
            const int place = t * V + q->text[t];
            const heads *pair = (const heads *)(q->pairs + place * NH);
            const heads *value = (const heads *)(table->value + place * C);
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

// The way back, from d_x and d_y (n, C); `d_pairs` (R, NH) is room for the gradients of one row's pairs.
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
            const int place = t * V + q->text[t];
            const heads *pair = (const heads *)(q->pairs + place * NH);
            const heads *value = (const heads *)(table->value + place * C);
            heads *d_pair = (heads *)(d_pairs + place * NH), *d_value = (heads *)(sums->value + place * C);
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

// What B texts ask from `first` on, b * Q + q for position first + q of text b, in the order of the rows they ask from.
static void in_order_of_rows(int T, int first, int64_t B, const uint8_t *texts, int stride, int32_t *order) {
    const int Q = T - first;
    for (int q = 0; q < Q; q++) {
        const uint8_t *column = texts + first + q;
        int64_t place[V + 1] = {q * B};
        for (int64_t b = 0; b < B; b++) place[column[b * stride] + 1]++;
        for (int v = 0; v < V; v++) place[v + 1] += place[v];
        for (int64_t b = 0; b < B; b++) order[place[column[b * stride]]++] = b * Q + q;
    }
}

// Texts of `stride` characters, fewer than 2**31 / Q, each asked at Q positions from `first` on. Where `all_logits` is
// there, it gets theirs (B, Q, VP), and nothing else is done. Else the sum of the losses of the characters that follow
// is returned; `losses` and `wrong` (B, Q) get each, and whether another character had been likelier, or `sums` the
// gradients of `weight` times the sum, added up. This thread takes each count-th tile.
static double examples(const Thread *me, int T, int first, int64_t B, const uint8_t *texts, int stride, float weight,
                       const Weights *weights, const Table *table, float *all_logits, float *losses, uint8_t *wrong,
                       const Sums *sums) {
    const int Q = T - first, R = T * V;
    // a tile's numbers; wide models would not fit on a thread's stack
    static _Thread_local _Alignas(LINE) float x[TILE * C], normed[TILE * C], normed_2[TILE * C], y[TILE * C];
    static _Thread_local _Alignas(LINE) float scales[TILE], scales_2[TILE], inverses[TILE * NH], logits[TILE * VP];
    static _Thread_local _Alignas(LINE) float hidden[TILE * H], below[TILE * H], active[TILE * H], d_hidden[TILE * H];
    static _Thread_local _Alignas(LINE) float d_x[TILE * C], d_normed[TILE * C];
    static _Thread_local Room of_order, of_pairs;
    int32_t *order = room(&of_order, sizeof(int32_t) * B * Q);
    float *d_pairs = room(&of_pairs, sizeof(float) * (1 + TILE) * R * NH), *all_pairs = d_pairs + R * NH;
    Query queries[TILE];
    double loss = 0;
    in_order_of_rows(T, first, B, texts, stride, order);
    for (int64_t start = me->number * TILE; start < B * Q; start += me->count * TILE) {
        const int32_t *asked = order + start;
        const int n = B * Q - start < TILE ? B * Q - start : TILE;

        // attention; those who ask from the same row follow one another, and share its pairs
        for (int i = 0; i < n; i++) {
            Query *q = queries + i;
            q->text = texts + asked[i] / Q * (int64_t)stride, q->last = first + asked[i] % Q;
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
        for (int i = 0; i < TILE * H; i++) below[i] = 0.5f * (1 + erff(hidden[i] * 0.70710678f));  // the normal law's
        for (int i = 0; i < TILE * H; i++) active[i] = hidden[i] * below[i];
        matmul(TILE, C, H, active, H, 1, table->down_t, x);
        norm(TILE, x, normed_2, scales_2);
        product(TILE, VP, C, normed_2, C, 1, table->head_t, logits);
        if (all_logits) {
            for (int i = 0; i < n; i++)
                memcpy(all_logits + (int64_t)asked[i] * VP, logits + i * VP, sizeof(float) * VP);
            continue;
        }

        // cross-entropy
        memset(logits + n * VP, 0, sizeof(float) * (TILE - n) * VP);
        for (int i = 0; i < n; i++) {
            float *z = logits + i * VP, most = z[0], total = 0;
            const int target = queries[i].text[queries[i].last + 1];
            for (int v = 1; v < V; v++) most = fmaxf(most, z[v]);
            if (wrong) {  // of equals the first would be written
                int written = 0;
                while (written < V - 1 && z[written] < most) written++;
                wrong[asked[i]] = written != target;
            }
            const float of_target = z[target] - most;
            for (int v = 0; v < VP; v++) {
                z[v] = v < V ? expf(z[v] - most) : 0.0f;
                total += z[v];
            }
            loss += logf(total) - of_target;
            if (losses) losses[asked[i]] = logf(total) - of_target;
            for (int v = 0; v < VP; v++) z[v] *= weight / total;
            z[target] -= weight;
        }

        if (!sums) continue;

        // all the way back
        matmul(VP, C, TILE, logits, 1, VP, normed_2, sums->head);
        product(TILE, C, VP, logits, VP, 1, table->head, d_normed);
        memset(d_x, 0, sizeof d_x);
        add_norm_gradient(TILE, normed_2, scales_2, d_normed, d_x);
        matmul(C, H, TILE, d_x, 1, C, active, sums->down);
        product(TILE, H, C, d_x, C, 1, weights->down, d_hidden);
        for (int i = 0; i < TILE * H; i++)
            d_hidden[i] *= below[i] + hidden[i] * 0.39894228f * expf(-0.5f * hidden[i] * hidden[i]);
        matmul(H, C, TILE, d_hidden, 1, H, normed, sums->up);
        product(TILE, C, H, d_hidden, H, 1, weights->up, d_normed);
        add_norm_gradient(TILE, normed, scales, d_normed, d_x);
        matmul(C, C, TILE, d_x, 1, C, y, sums->out);
        product(TILE, C, C, d_x, C, 1, table->out, d_normed);  // of y
        add_attention_gradient(table, R, n, queries, y, inverses, d_x, d_normed, d_pairs, sums);
    }
    return loss;
}

// From the gradients of what is in the table, `all_sums`, to those of the weights.
static void finish(const Thread *me, int T, const Table *table, float *all_sums, const Weights *d_weights) {
    const int R = T * V, padded = up_to_height(R);
    const int64_t size = sums_size(T);
    uintptr_t place = (uintptr_t)all_sums;
    const Sums sums = sums_at(&place, T);  // the first thread's come to be everybody's
    const int end = share(me, sums.normed - all_sums, 1);
    for (int other = 1; other < me->count; other++)
        for (int i = share(me, sums.normed - all_sums, 0); i < end; i++) all_sums[i] += all_sums[other * size + i];
    meet(me);

    const float *d_each[3] = {sums.query, sums.key, sums.value};
    if (me->number == 0) {
        for (int m = 0; m < 3; m++) product(C, C, padded, d_each[m], 1, C, table->normed, sums.qkv + m * C * C);
        for (int i = 0; i < C; i++)
            for (int m = 0; m < 3; m++)
                memcpy(d_weights->qkv + (m * C + i) * C, sums.qkv + (m * C + side_by_side(i)) * C, sizeof(float) * C);
        memcpy(d_weights->up, sums.up, sizeof(float) * H * C);
        memcpy(d_weights->down, sums.down, sizeof(float) * C * H);
    }
    if (me->number == me->count - 1) {
        for (int m = 0; m < 3; m++)
            (m ? matmul : product)(padded, C, C, d_each[m], C, 1, table->qkv + m * C * C, sums.normed);
        add_norm_gradient(R, table->normed, table->scales, sums.normed, sums.rows);
        memset(d_weights->token, 0, sizeof(float) * V * C);
        memset(d_weights->position, 0, sizeof(float) * T * C);
        memset(d_weights->head, 0, sizeof(float) * V * C);  // it may be the token's
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++) {
                d_weights->token[r % V * C + c] += sums.rows[r * C + c];
                d_weights->position[r / V * C + c] += sums.rows[r * C + c];
            }
        for (int i = 0; i < C; i++)
            for (int j = 0; j < C; j++) d_weights->out[i * C + j] = sums.out[i * C + side_by_side(j)];
        for (int i = 0; i < V * C; i++) d_weights->head[i] += sums.head[i];
    }
    meet(me);
}

// -----------------------------------------------------------------------------
// the optimizers

typedef struct {
    float *weight, *gradient, *mean;  // (rows, columns), or their transpose; the gradient's running mean
    int rows, columns, is_transposed; // of the mean, which has no more rows than columns; the others'
    float scale;                      // of the update
} Matrix;

typedef struct {
    float *weight, *gradient, *mean, *mean_square;
    int size;
    float weight_decay;
} Other;

typedef struct {  // see optim.py
    int num_matrices, num_others, num_iterations, adam_steps;  // the last: taken before
    const Matrix *matrices;
    const Other *others;
    float muon_rate, momentum, muon_weight_decay, coefficients[3];
    float adam_rate, betas[2], epsilon;
} Optimizers;

// Muon's step for the matrices, of which this thread takes each count-th. Sizes are multiples of LANES.
static void muon(const Thread *me, const Optimizers *how, float rate) {
    static _Thread_local Room matrices;
    const float momentum = how->momentum, kept = 1 - rate * how->muon_weight_decay, *coefficients = how->coefficients;
    for (const Matrix *m = how->matrices + me->number; m < how->matrices + how->num_matrices; m += me->count) {
        const int rows = m->rows, columns = m->columns, size = rows * columns;
        float *lying = room(&matrices, sizeof(float) * (3 * size + 2 * rows * rows)), *x = lying + size;
        float *next = x + size, *gram = next + size, *polynomial = gram + rows * rows, square = 0;
        if (m->is_transposed) transpose(columns, rows, m->gradient, lying);
        else memcpy(lying, m->gradient, sizeof(float) * size);
        for (int i = 0; i < size; i++) {
            m->mean[i] += (1 - momentum) * (lying[i] - m->mean[i]);
            lying[i] += momentum * (m->mean[i] - lying[i]);
            square += lying[i] * lying[i];
        }
        const float length = sqrtf(square) + 1e-7f;
        for (int i = 0; i < size; i++) lying[i] /= length;

        // The iteration on the transpose, whose Gram matrix needs no transposing. What is both a factor and a term is
        // rounded in both, as the terms nearly cancel what that does to the factors.
        transpose(rows, columns, lying, x);
        for (int k = 0; k < how->num_iterations; k++) {
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
        for (int i = 0; i < size; i++) m->weight[i] = kept * m->weight[i] - amount * update[i];
    }
}

// AdamW's step for this thread's share of each of the other weights; `step` counts from 1.
static void adamw(const Thread *me, const Optimizers *how, float rate, int step) {
    const float beta_1 = how->betas[0], beta_2 = how->betas[1];
    const float amount = rate / (1 - powf(beta_1, step)), root = sqrtf(1 - powf(beta_2, step));
    for (const Other *o = how->others; o < how->others + how->num_others; o++) {
        const float kept = 1 - rate * o->weight_decay;
        for (int i = share(me, o->size, 0); i < share(me, o->size, 1); i++) {
            const float g = o->gradient[i];
            o->mean[i] += (1 - beta_1) * (g - o->mean[i]);
            o->mean_square[i] = beta_2 * o->mean_square[i] + (1 - beta_2) * g * g;
            o->weight[i] = kept * o->weight[i] - amount * o->mean[i] / (sqrtf(o->mean_square[i]) / root + how->epsilon);
        }
    }
}

// -----------------------------------------------------------------------------
// what kernel.py calls

// Fill a table of table_size floats.
void prepare(int number, int count, Meeting *meeting, int T, const Weights *weights, uintptr_t table) {
    const Table made = table_at(&table, T);
    fill_table(&(Thread){number, count, meeting}, T, 0, NULL, weights, &made);
}

// Texts (B, T) to the logits (B, T - first, VP) of the characters after positions first.. .
void logits(int number, int count, int T, int first, int64_t B, const uint8_t *texts, const Weights *weights,
            uintptr_t table, float *found) {
    const Table made = table_at(&table, T);
    examples(&(Thread){number, count, NULL}, T, first, B, texts, T, 0, weights, &made, found, NULL, NULL, NULL);
}

// Texts (B, T + 1) to the losses (B, T - first) of the characters after positions first.. , and whether another
// character would have been written.
void examine(int number, int count, int T, int first, int64_t B, const uint8_t *texts, const Weights *weights,
             uintptr_t table, float *losses, uint8_t *wrong) {
    const Table made = table_at(&table, T);
    examples(&(Thread){number, count, NULL}, T, first, B, texts, T + 1, 0, weights, &made, NULL, losses, wrong, NULL);
}

// Take `steps` steps, one on each of texts (steps, B, T + 1), with rates that are `factors` (steps,) times the highest;
// learned are the characters after positions first.. . Returned is this thread's part of the sum of the last batch's
// losses. `space` holds table_size floats, and sums_size for each thread.
double train(int number, int count, Meeting *meeting, int T, int first, int64_t B, int steps, const uint8_t *texts,
             const float *factors, const Weights *weights, const Weights *gradients, const Optimizers *how,
             uintptr_t space) {
    const Thread me = {number, count, meeting};
    float *all_sums = (float *)space + table_size(T), *own = all_sums + number * sums_size(T);
    uintptr_t place = (uintptr_t)own;
    const Table table = table_at(&space, T);
    const Sums sums = sums_at(&place, T);
    const float weight = 1.0f / (B * (T - first));
    double loss = 0;
    for (int step = 0; step < steps && !atomic_load(&meeting->abandoned); step++) {
        const uint8_t *batch = texts + step * B * (T + 1);
        memset(own, 0, sizeof(float) * (sums.normed - own));
        fill_table(&me, T, B, batch, weights, &table);
        loss = examples(&me, T, first, B, batch, T + 1, weight, weights, &table, NULL, NULL, NULL, &sums);
        meet(&me);
        finish(&me, T, &table, all_sums, gradients);
        muon(&me, how, factors[step] * how->muon_rate);
        adamw(&me, how, factors[step] * how->adam_rate, how->adam_steps + step + 1);
        meet(&me);
    }
    return loss;
}
