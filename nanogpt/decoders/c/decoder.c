/* A GPT's forward pass over tokens of several texts, each with its own cache of keys and values.

Portable C11 with the vector types of GCC and clang and with POSIX threads; no intrinsics. What makes it fast:
- A matrix lies in panels of PANEL rows, [panel][column][row]: a product reads it front to back, and the sums of a
  panel's rows are the lanes of two vectors, so that nothing is summed across a vector.
- The same kernel multiplies one token (bound by memory) and up to TILE tokens (bound by arithmetic). Keys and values
  lie in panels too, so attention is two such products.
- The caller's thread goes through the layers; others help. The work of each phase is cut into units that whoever runs
  takes; nobody waits for a thread that the system has set aside, unless it holds a unit. At barriers, which all have
  to reach, two threads on a busy machine were 90 times slower than one. Helpers sleep between calls.

Matrices are float32, or int8 in blocks of BLOCK columns with one float32 scale a row and block; activations are
float32 in both. */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define TILE 12 /* tokens at once: 24 sums, 2 weights and a number fill 32 registers */
#elif defined(__AVX__)
#define LANES 8
#define TILE 6 /* 16 registers */
#else
#define LANES 4
#define TILE 12 /* NEON has 32 registers */
#endif
#define PANEL (2 * LANES)
#define BLOCK 32       /* columns that share a scale; as nanogpt.weights.quantization */
#define CHUNK 64       /* tokens that pass through the layers together */
#define HUGE_PAGE (2u << 20)
#define UNITS 4        /* of a phase for each thread, at most */
#define UNIT 16384     /* weights of a unit, at least: 1 us of reading them. Steps of micro in which two threads computed
                          took 36 us with 2 units in a phase, 41 with 8 */
#define SPINS 2000     /* of waiting for a helper's unit before other processes may run */
#define IDLE_SPINS 20000 /* between calls before a helper sleeps: about the time that drawing a token takes */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum { LAYERNORM, RMSNORM };
enum { GELU, GELU_ERF, RELU2, SWIGLU };
enum { QKV, OUTPUT, UP, DOWN, GATE, HEAD, MATRICES };
enum { ASK, ATTEND, ANSWER, EXPAND, CONTRACT, PREDICT, PHASES }; /* of a layer; the last is behind them all */
enum { ATTENTION_NORM, ATTENTION_NORM_BIAS, FEEDFORWARD_NORM, FEEDFORWARD_NORM_BIAS, Q_NORM, K_NORM, VECTORS };

typedef struct {
    int rows, columns;     /* columns: a multiple of BLOCK for int8, filled with zeros */
    float *numbers;        /* [panel][column][PANEL] */
    int32_t *quantized;    /* [panel][4 columns][PANEL], four int8 in a number; one of the two is there */
    float *scales;         /* [panel][block][PANEL], divided by 2^24 */
    float *bias;           /* (rows up to a whole panel), zeros without one */
} Matrix;

typedef struct {
    Matrix matrices[MATRICES];
    const float *vectors[VECTORS]; /* 0: absent */
} Layer;

typedef struct {
    int n_layer, n_head, n_kv_head, head_dim, n_embd, ffn_dim, vocab_size, block_size, norm, activation;
} Shape;

typedef struct {
    float *normed, *weights, *scores, *queries;
    int normed_in; /* the phase that `normed` is of */
} Scratch; /* of a thread */

typedef struct {
    int count;             /* tokens, at most CHUNK, those of a text next to each other */
    const int64_t *tokens;
    const int32_t *texts, *places;
    float *const *keys, *const *values; /* by text */
    int wanted;
    const int32_t *which;  /* of the tokens */
    float *logits;         /* (wanted, vocab_size) */
    int starts[CHUNK + 1], runs; /* where each text's tokens begin */
} Job;

typedef struct Model Model;

typedef struct {
    Model *model;
    int id;
} Worker;

struct Model {
    Shape shape;
    float eps;
    const float *table, *positions, *cos, *sin, *final_norm, *final_norm_bias;
    Layer *layers;
    Matrix head;
    float *x, *qkv, *attended, *hidden; /* (CHUNK, ...) */
    int threads, active; /* active: of them, in this call */
    Scratch *scratch;
    Job job;
    pthread_t *handles;
    Worker *workers;
    pid_t process;
    /* What there is to do, in one number so that a unit is taken in one step: layer * PHASES + phase << 32, the next
       unit << 16, units. A number that comes back in a later call stands for the same work of that call. */
    _Alignas(64) _Atomic uint64_t open; /* on a cache line of its own: all threads write it */
    _Alignas(64) atomic_int finished;   /* units of this phase */
    _Alignas(64) atomic_int phase, calls, sleeping, stop; /* phase: how many so far */
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void *aligned(size_t size) {
    void *memory = 0;
    size_t unit = size >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
    if (posix_memalign(&memory, unit, size ? size : unit)) return 0;
#ifdef __linux__
    if (unit == HUGE_PAGE) madvise(memory, size, MADV_HUGEPAGE); /* fewer misses of the address cache */
#endif
    return memory;
}

static inline int panels_of(int rows) { return (rows + PANEL - 1) / PANEL; }

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- products ---- */

/* out (count, PANEL) = x (count, columns), rows `stride` apart, times one panel; `count` is a constant where inlined. */
static inline __attribute__((always_inline)) void multiply_tile(
    const int count, const float *restrict panel, int columns, const float *restrict x, size_t stride,
    const float *restrict start, float *restrict out) {
    vec sums[TILE][2];
    for (int n = 0; n < count; n++) {
        sums[n][0] = start ? *(const vec *)start : (vec){0};
        sums[n][1] = start ? *(const vec *)(start + LANES) : (vec){0};
    }
    for (int k = 0; k < columns; k++, panel += PANEL) {
        vec first = *(const vec *)panel, second = *(const vec *)(panel + LANES);
        for (int n = 0; n < count; n++) {
            float factor = x[n * stride + k];
            sums[n][0] += factor * first;
            sums[n][1] += factor * second;
        }
    }
    for (int n = 0; n < count; n++) {
        *(vec *)(out + n * PANEL) = sums[n][0];
        *(vec *)(out + n * PANEL + LANES) = sums[n][1];
    }
}

/* One token: four columns at a time, each with sums of its own, because an addition waits for the one before it. */
static void multiply_one(const float *restrict panel, int columns, const float *restrict x,
                         const float *restrict start, float *restrict out) {
    vec sums[4][2] = {{{0}}};
    if (start) sums[0][0] = *(const vec *)start, sums[0][1] = *(const vec *)(start + LANES);
    int k = 0;
    for (; k + 4 <= columns; k += 4, panel += 4 * PANEL)
        for (int j = 0; j < 4; j++) {
            sums[j][0] += x[k + j] * *(const vec *)(panel + j * PANEL);
            sums[j][1] += x[k + j] * *(const vec *)(panel + j * PANEL + LANES);
        }
    for (; k < columns; k++, panel += PANEL) {
        sums[0][0] += x[k] * *(const vec *)panel;
        sums[0][1] += x[k] * *(const vec *)(panel + LANES);
    }
    *(vec *)out = (sums[0][0] + sums[1][0]) + (sums[2][0] + sums[3][0]);
    *(vec *)(out + LANES) = (sums[0][1] + sums[1][1]) + (sums[2][1] + sums[3][1]);
}

/* The j-th int8 of each number, times 2^24: its place in the top byte is a float exactly, so widening takes two cheap
   instructions that every processor has. */
static inline __attribute__((always_inline)) vec widened(ints four, const int j) {
    const ints top = (ints){0} + (int32_t)0xff000000;
    if (j == 0) return __builtin_convertvector(four << 24, vec);
    if (j == 3) return __builtin_convertvector(four & top, vec);
    return __builtin_convertvector(four << (24 - 8 * j) & top, vec);
}

static void multiply_one_int8(const int32_t *restrict panel, const float *restrict scales, int columns,
                              const float *restrict x, const float *restrict start, float *restrict out) {
    vec low = *(const vec *)start, high = *(const vec *)(start + LANES);
    for (int b = 0; b < columns / BLOCK; b++, scales += PANEL) {
        vec sums[4][2] = {{{0}}};
        for (int k = 0; k < BLOCK; k += 4, panel += PANEL, x += 4) {
            ints first = *(const ints *)panel, second = *(const ints *)(panel + LANES);
            sums[0][0] += x[0] * widened(first, 0), sums[0][1] += x[0] * widened(second, 0);
            sums[1][0] += x[1] * widened(first, 1), sums[1][1] += x[1] * widened(second, 1);
            sums[2][0] += x[2] * widened(first, 2), sums[2][1] += x[2] * widened(second, 2);
            sums[3][0] += x[3] * widened(first, 3), sums[3][1] += x[3] * widened(second, 3);
        }
        low += *(const vec *)scales * ((sums[0][0] + sums[1][0]) + (sums[2][0] + sums[3][0]));
        high += *(const vec *)(scales + LANES) * ((sums[0][1] + sums[1][1]) + (sums[2][1] + sums[3][1]));
    }
    *(vec *)out = low;
    *(vec *)(out + LANES) = high;
}

/* Up to TILE tokens, `start` in every row; how many were taken. */
static int multiply_some(int count, const float *panel, int columns, const float *x, size_t stride, const float *start,
                         float *out) {
#define TAKE(n) \
    if (count >= n) { \
        multiply_tile(n, panel, columns, x, stride, start, out); \
        return n; \
    }
#if TILE == 12
    TAKE(12)
    TAKE(8)
#else
    TAKE(6)
#endif
    TAKE(4)
    TAKE(3)
    TAKE(2)
#undef TAKE
    multiply_one(panel, columns, x, start, out);
    return 1;
}

static const float *dequantized(const Matrix *m, int panel, float *numbers) {
    const int32_t *values = m->quantized + (size_t)panel * m->columns / 4 * PANEL;
    const float *scales = m->scales + (size_t)panel * (m->columns / BLOCK) * PANEL;
    for (int k = 0; k < m->columns; k += 4, values += PANEL)
        for (int half = 0; half < PANEL; half += LANES) {
            vec scale = *(const vec *)(scales + k / BLOCK * PANEL + half);
            ints four = *(const ints *)(values + half);
            float *to = numbers + k * PANEL + half;
            *(vec *)to = scale * widened(four, 0), *(vec *)(to + PANEL) = scale * widened(four, 1);
            *(vec *)(to + 2 * PANEL) = scale * widened(four, 2), *(vec *)(to + 3 * PANEL) = scale * widened(four, 3);
        }
    return numbers;
}

/* y (count, rows) = x (count, columns) times the panels first..last of a matrix, plus bias; `add`: added to y. */
static void multiply(const Matrix *m, int first, int last, int count, const float *x, size_t x_stride, float *y,
                     size_t y_stride, int add, float *weights) {
    _Alignas(64) float out[TILE * PANEL];
    for (int p = first; p < last; p++) {
        const float *panel = m->numbers + (size_t)p * m->columns * PANEL, *bias = m->bias + p * PANEL;
        int row = p * PANEL, rows = m->rows - row < PANEL ? m->rows - row : PANEL;
        if (m->quantized && count > 1) panel = dequantized(m, p, weights);
        for (int n = 0, taken; n < count; n += taken) {
            if (m->quantized && count == 1) {
                taken = 1;
                multiply_one_int8(m->quantized + (size_t)p * m->columns / 4 * PANEL,
                                  m->scales + (size_t)p * (m->columns / BLOCK) * PANEL, m->columns, x, bias, out);
            } else {
                taken = multiply_some(count - n, panel, m->columns, x + n * x_stride, x_stride, bias, out);
            }
            for (int i = 0; i < taken; i++) {
                float *to = y + (n + i) * y_stride + row;
                const float *from = out + i * PANEL;
                if (add)
                    for (int r = 0; r < rows; r++) to[r] += from[r];
                else
                    for (int r = 0; r < rows; r++) to[r] = from[r];
            }
        }
    }
}

/* ---- element by element ---- */

/* e^x to about 1e-7 of it (Cephes' expf); NaN stays NaN. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* the nearest whole number */
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    union { int32_t bits; float power; } two = {((int32_t)n + 127) * (1 << 23)};
    return p * two.power;
}

static float sum_of(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

static float sum(const float *x, int width) {
    vec sums = {0};
    int i = 0;
    for (; i + LANES <= width; i += LANES) sums += *(const vec *)(x + i);
    float total = sum_of(sums);
    for (; i < width; i++) total += x[i];
    return total;
}

static float sum_of_squares(const float *x, int width) {
    vec sums = {0};
    int i = 0;
    for (; i + LANES <= width; i += LANES) sums += *(const vec *)(x + i) * *(const vec *)(x + i);
    float total = sum_of(sums);
    for (; i < width; i++) total += x[i] * x[i];
    return total;
}

static void rms_norm(const float *x, const float *weight, float eps, int width, float *y) {
    float scale = 1.0f / sqrtf(sum_of_squares(x, width) / width + eps);
    for (int i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
}

static void layer_norm(const float *x, const float *weight, const float *bias, float eps, int width, float *y) {
    float mean = sum(x, width) / width;
    for (int i = 0; i < width; i++) y[i] = x[i] - mean;
    float scale = 1.0f / sqrtf(sum_of_squares(y, width) / width + eps);
    for (int i = 0; i < width; i++) y[i] = y[i] * scale * weight[i] + (bias ? bias[i] : 0.0f);
}

static void norm(const Model *m, const float *x, const float *weight, const float *bias, float *y) {
    if (m->shape.norm == RMSNORM) rms_norm(x, weight, m->eps, m->shape.n_embd, y);
    else layer_norm(x, weight, bias, m->eps, m->shape.n_embd, y);
}

/* hidden[from..to) becomes its activation; with SwiGLU that of `gate`, times it. */
static void activate(int kind, float *hidden, const float *gate, int from, int to) {
    switch (kind) {
    case SWIGLU:
        for (int i = from; i < to; i++) hidden[i] *= gate[i] / (1.0f + exponential(-gate[i]));
        break;
    case GELU: /* 0.5 g (1 + tanh(u)) = g / (1 + e^(-2u)) */
        for (int i = from; i < to; i++) {
            float g = hidden[i];
            hidden[i] = g / (1.0f + exponential(-1.5957691216f * (g + 0.044715f * g * g * g)));
        }
        break;
    case GELU_ERF:
        for (int i = from; i < to; i++) hidden[i] *= 0.5f * (1.0f + erff(hidden[i] * 0.70710678f));
        break;
    case RELU2:
        for (int i = from; i < to; i++) hidden[i] = hidden[i] < 0.0f ? 0.0f : hidden[i] * hidden[i];
        break;
    }
}

/* ---- attention ---- */

static void rotate(const Model *m, float *x, int place) {
    int half = m->shape.head_dim / 2;
    const float *cos = m->cos + (size_t)place * half, *sin = m->sin + (size_t)place * half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

static void prepare_head(const Model *m, const float *weight, float *x, int place) {
    if (weight) rms_norm(x, weight, m->eps, m->shape.head_dim, x);
    if (m->cos) rotate(m, x, place);
}

/* Scores of places 0..place become weights that sum to 1 when divided by what is returned; those up to `end`, zero.
   There is room for whole panels, so it takes whole vectors. */
static float softmax(float *scores, int place, int end) {
    int width = (place + LANES) / LANES * LANES;
    for (int t = place + 1; t < width; t++) scores[t] = -1e30f;
    float tops[LANES], top;
    for (int i = 0; i < LANES; i++) tops[i] = scores[i];
    for (int t = LANES; t < width; t += LANES)
        for (int i = 0; i < LANES; i++) tops[i] = scores[t + i] > tops[i] ? scores[t + i] : tops[i];
    top = tops[0];
    for (int i = 1; i < LANES; i++) top = tops[i] > top ? tops[i] : top;
    for (int t = 0; t < width; t += LANES)
        for (int i = 0; i < LANES; i++) scores[t + i] = exponential(scores[t + i] - top);
    for (int t = place + 1, last = end > width ? end : width; t < last; t++) scores[t] = 0.0f;
    return sum(scores, width);
}

/* The tokens from..to of one text, key/value head g: their keys and values go into the cache, their queries attend.
   The cache of a head: keys [panel of places][head_dim][PANEL], values [panel of head_dim][place][PANEL]. */
static void attend(Model *m, int layer, int g, int from, int to, Scratch *scratch) {
    const Shape *s = &m->shape;
    const Job *job = &m->job;
    const int D = s->head_dim, group = s->n_head / s->n_kv_head, text = job->texts[from];
    const size_t width = (size_t)(s->n_head + 2 * s->n_kv_head) * D;
    const size_t held = (size_t)panels_of(s->block_size) * PANEL, head = (size_t)layer * s->n_kv_head + g;
    float *keys = job->keys[text] + head * held * D, *values = job->values[text] + head * held * panels_of(D) * PANEL;
    for (int n = from; n < to; n++) {
        int place = job->places[n];
        float *k = m->qkv + n * width + (s->n_head + g) * D;
        const float *v = m->qkv + n * width + (s->n_head + s->n_kv_head + g) * D;
        prepare_head(m, m->layers[layer].vectors[K_NORM], k, place);
        float *column = keys + (size_t)(place / PANEL) * D * PANEL + place % PANEL;
        for (int d = 0; d < D; d++) column[d * PANEL] = k[d];
        for (int d = 0; d < D; d++) values[((size_t)(d / PANEL) * held + place) * PANEL + d % PANEL] = v[d];
    }
    const int at_once = group < TILE ? TILE / group : 1;
    const float scale = 1.0f / sqrtf((float)D);
    _Alignas(64) float out[TILE * PANEL];
    for (int begin = from; begin < to; begin += at_once) {
        int tokens = to - begin < at_once ? to - begin : at_once, count = tokens * group;
        int end = job->places[begin + tokens - 1] + 1;
        for (int i = 0; i < count; i++) {
            int n = begin + i / group;
            float *q = m->qkv + n * width + (g * group + i % group) * D, *query = scratch->queries + i * D;
            prepare_head(m, m->layers[layer].vectors[Q_NORM], q, job->places[n]);
            for (int d = 0; d < D; d++) query[d] = q[d] * scale;
        }
        for (int p = 0; p < panels_of(end); p++)
            for (int i = 0, taken; i < count; i += taken) {
                const float *panel = keys + (size_t)p * D * PANEL;
                taken = multiply_some(count - i, panel, D, scratch->queries + i * D, D, 0, out);
                for (int j = 0; j < taken; j++)
                    memcpy(scratch->scores + (i + j) * held + p * PANEL, out + j * PANEL, sizeof(float) * PANEL);
            }
        float sums[count];
        for (int i = 0; i < count; i++)
            sums[i] = softmax(scratch->scores + i * held, job->places[begin + i / group], end);
        for (int p = 0; p < panels_of(D); p++)
            for (int i = 0, taken; i < count; i += taken) {
                const float *panel = values + p * held * PANEL, *weights = scratch->scores + i * held;
                taken = multiply_some(count - i, panel, end, weights, held, 0, out);
                for (int j = 0; j < taken; j++) {
                    int h = g * group + (i + j) % group, n = begin + (i + j) / group;
                    float *to_head = m->attended + (size_t)n * s->n_head * D + h * D + p * PANEL;
                    const float *mixed = out + j * PANEL, share = 1.0f / sums[i + j];
                    if (D - p * PANEL >= PANEL)
                        for (int d = 0; d < PANEL; d++) to_head[d] = mixed[d] * share;
                    else
                        for (int d = 0; d < D - p * PANEL; d++) to_head[d] = mixed[d] * share;
                }
            }
    }
}

/* ---- threads ---- */

typedef struct {
    int from, to;
} Range;

static Range part(int total, int unit, int units) {
    return (Range){(int)((int64_t)total * unit / units), (int)((int64_t)total * (unit + 1) / units)};
}

/* The norms of all tokens before a product, each thread for itself: cheaper than a phase of their own. */
static const float *normed(Model *m, Scratch *scratch, const float *weight, const float *bias, int count,
                           const int32_t *which) {
    int phase = atomic_load_explicit(&m->phase, memory_order_relaxed), E = m->shape.n_embd;
    if (scratch->normed_in != phase)
        for (int n = 0; n < count; n++)
            norm(m, m->x + (size_t)(which ? which[n] : n) * E, weight, bias, scratch->normed + (size_t)n * E);
    scratch->normed_in = phase;
    return scratch->normed;
}

static int items_of(const Model *m, int layer, int phase) {
    const Matrix *matrices = m->layers[layer].matrices;
    switch (phase) {
    case ASK: return panels_of(matrices[QKV].rows);
    case ATTEND: return m->shape.n_kv_head * m->job.runs;
    case ANSWER: return panels_of(matrices[OUTPUT].rows);
    case EXPAND: return panels_of(matrices[UP].rows);
    case CONTRACT: return panels_of(matrices[DOWN].rows);
    default: return panels_of(m->head.rows);
    }
}

/* How long an item of a phase takes, in weights that one token reads meanwhile. */
static int64_t size_of_item(const Model *m, int layer, int phase) {
    const Matrix *matrices = m->layers[layer].matrices;
    const int64_t of_panel = m->job.count < 8 ? PANEL : PANEL * (int64_t)m->job.count / 4;
    switch (phase) {
    case ASK: return of_panel * matrices[QKV].columns;
    case ATTEND: return 2 * (int64_t)m->job.places[0] * m->shape.head_dim;
    case ANSWER: return of_panel * matrices[OUTPUT].columns;
    case EXPAND: return of_panel * (matrices[UP].columns + (matrices[GATE].rows ? matrices[GATE].columns : 0));
    case CONTRACT: return of_panel * matrices[DOWN].columns;
    default: return of_panel * m->head.columns;
    }
}

/* Into how many units a phase is cut: the same number for each thread, at most UNITS, as far as there are items. */
static int units_of(const Model *m, int layer, int phase) {
    const int items = items_of(m, layer, phase), threads = m->active;
    const int64_t each = items * size_of_item(m, layer, phase) / UNIT / threads;
    const int units = threads * (int)(each < 1 ? 1 : each < UNITS ? each : UNITS);
    return units < items ? units : items;
}

/* One unit of a phase. */
static void work(Model *m, int layer_number, int phase, int unit, int units, Scratch *scratch) {
    const Shape *s = &m->shape;
    const Job *job = &m->job;
    Layer *layer = m->layers + layer_number;
    const Matrix *matrices = layer->matrices, *up = matrices + UP, *gate = matrices + GATE;
    const float *const *vectors = layer->vectors, *x;
    const int E = s->n_embd, N = job->count, D = s->head_dim;
    const size_t F = s->ffn_dim;
    float *gates = m->hidden + CHUNK * F, *weights = scratch->weights;
    Range r = part(items_of(m, layer_number, phase), unit, units);
    switch (phase) {
    case ASK:
        x = normed(m, scratch, vectors[ATTENTION_NORM], vectors[ATTENTION_NORM_BIAS], N, 0);
        multiply(matrices + QKV, r.from, r.to, N, x, E, m->qkv, (size_t)(s->n_head + 2 * s->n_kv_head) * D, 0, weights);
        break;
    case ATTEND:
        for (int item = r.from; item < r.to; item++) {
            int run = item / s->n_kv_head;
            attend(m, layer_number, item % s->n_kv_head, job->starts[run], job->starts[run + 1], scratch);
        }
        break;
    case ANSWER:
        multiply(matrices + OUTPUT, r.from, r.to, N, m->attended, (size_t)s->n_head * D, m->x, E, 1, weights);
        break;
    case EXPAND:
        x = normed(m, scratch, vectors[FEEDFORWARD_NORM], vectors[FEEDFORWARD_NORM_BIAS], N, 0);
        multiply(up, r.from, r.to, N, x, E, m->hidden, F, 0, weights);
        if (gate->rows) multiply(gate, r.from, r.to, N, x, E, gates, F, 0, weights);
        for (int n = 0, to = r.to * PANEL < up->rows ? r.to * PANEL : up->rows; n < N; n++)
            activate(s->activation, m->hidden + n * F, gates + n * F, r.from * PANEL, to);
        break;
    case CONTRACT:
        multiply(matrices + DOWN, r.from, r.to, N, m->hidden, F, m->x, E, 1, weights);
        break;
    case PREDICT:
        x = normed(m, scratch, m->final_norm, m->final_norm_bias, job->wanted, job->which);
        multiply(&m->head, r.from, r.to, job->wanted, x, E, job->logits, s->vocab_size, 0, weights);
        break;
    }
}

/* Take one unit that is open and do it; whether there was one. */
static int help(Model *m, Scratch *scratch) {
    uint64_t open = atomic_load_explicit(&m->open, memory_order_acquire);
    int unit, units;
    do {
        unit = open >> 16 & 0xffff, units = open & 0xffff;
        if (unit >= units) return 0;
    } while (!atomic_compare_exchange_weak_explicit(&m->open, &open, open + (1 << 16), memory_order_acq_rel,
                                                    memory_order_acquire));
    int place = (int)(open >> 32);
    work(m, place / PHASES, place % PHASES, unit, units, scratch);
    atomic_fetch_add_explicit(&m->finished, 1, memory_order_release);
    return 1;
}

static void run_phase(Model *m, int layer, int phase) {
    atomic_fetch_add_explicit(&m->phase, 1, memory_order_relaxed);
    if (m->active == 1) {
        work(m, layer, phase, 0, 1, m->scratch);
        return;
    }
    int units = units_of(m, layer, phase);
    atomic_store_explicit(&m->finished, 0, memory_order_relaxed);
    atomic_store_explicit(&m->open, (uint64_t)(layer * PHASES + phase) << 32 | units, memory_order_release);
    while (help(m, m->scratch)) continue;
    for (int spins = 0; atomic_load_explicit(&m->finished, memory_order_acquire) < units; spins++)
        if (spins < SPINS) pause_briefly();
        else sched_yield();
}

/* m->job, from the first layer to the last. */
static void run(Model *m) {
    const Job *job = &m->job;
    const int E = m->shape.n_embd;
    for (int n = 0; n < job->count; n++) {
        const float *token = m->table + (size_t)job->tokens[n] * E;
        const float *place = m->positions ? m->positions + (size_t)job->places[n] * E : 0;
        for (int i = 0; i < E; i++) m->x[(size_t)n * E + i] = token[i] + (place ? place[i] : 0.0f);
    }
    for (int layer = 0; layer < m->shape.n_layer; layer++)
        for (int phase = ASK; phase <= CONTRACT; phase++) run_phase(m, layer, phase);
    if (job->wanted) run_phase(m, 0, PREDICT);
}

static void *serve(void *argument) {
    Worker *worker = argument;
    Model *m = worker->model;
    for (int idle = 0; !atomic_load_explicit(&m->stop, memory_order_relaxed);) {
        int calls = atomic_load(&m->calls);
        if (help(m, m->scratch + worker->id)) {
            idle = 0;
        } else if (idle++ < IDLE_SPINS) {
            pause_briefly();
        } else {
            pthread_mutex_lock(&m->lock);
            atomic_fetch_add(&m->sleeping, 1);
            while (atomic_load(&m->calls) == calls) pthread_cond_wait(&m->wake, &m->lock);
            atomic_fetch_sub(&m->sleeping, 1);
            pthread_mutex_unlock(&m->lock);
            idle = 0;
        }
    }
    return 0;
}

static void wake_helpers(Model *m) {
    atomic_fetch_add(&m->calls, 1);
    if (!atomic_load(&m->sleeping)) return;
    pthread_mutex_lock(&m->lock);
    pthread_cond_broadcast(&m->wake);
    pthread_mutex_unlock(&m->lock);
}

static void stop_threads(Model *m) {
    if (m->threads > 1 && m->process == getpid()) { /* they are not in the copy that fork() makes of a process */
        atomic_store(&m->stop, 1);
        wake_helpers(m);
        for (int i = 1; i < m->threads; i++) pthread_join(m->handles[i], 0);
    }
    for (int i = 0; i < m->threads; i++) {
        free(m->scratch[i].normed), free(m->scratch[i].weights), free(m->scratch[i].scores);
        free(m->scratch[i].queries);
    }
    free(m->scratch), free(m->handles), free(m->workers);
    m->scratch = 0, m->handles = 0, m->workers = 0, m->threads = 0;
    m->process = 0; /* there are no helpers to wait for, if the next ones cannot be started */
}

static int largest(int a, int b) { return a > b ? a : b; }

/* 0, or -1 where memory or threads are short; the model then has fewer. */
int set_threads(Model *m, int threads) {
    const Shape *s = &m->shape;
    stop_threads(m);
    m->scratch = calloc(threads, sizeof(Scratch)), m->handles = calloc(threads, sizeof(pthread_t));
    m->workers = calloc(threads, sizeof(Worker));
    if (!m->scratch || !m->handles || !m->workers) return -1;
    int columns = largest(largest(s->n_embd, s->ffn_dim), s->n_head * s->head_dim) + BLOCK;
    size_t queries = largest(TILE, s->n_head / s->n_kv_head), held = (size_t)panels_of(s->block_size) * PANEL;
    for (int i = 0; i < threads; i++) {
        Scratch *scratch = m->scratch + i;
        scratch->normed = aligned(sizeof(float) * CHUNK * (s->n_embd + BLOCK));
        scratch->weights = aligned(sizeof(float) * columns * PANEL);
        scratch->scores = aligned(sizeof(float) * queries * held);
        scratch->queries = aligned(sizeof(float) * queries * s->head_dim);
        m->threads = i + 1;
        if (!scratch->normed || !scratch->weights || !scratch->scores || !scratch->queries) return -1;
        memset(scratch->normed, 0, sizeof(float) * CHUNK * (s->n_embd + BLOCK));
    }
    m->process = getpid();
    atomic_store(&m->stop, 0), atomic_store(&m->open, 0);
    for (int i = 1; i < threads; i++) {
        m->workers[i] = (Worker){m, i};
        if (pthread_create(m->handles + i, 0, serve, m->workers + i)) {
            m->threads = i;
            return -1;
        }
    }
    return 0;
}

/* ---- the interface ---- */

int panel(void) { return PANEL; }

Model *create(const int32_t *shape, float eps) {
    Model *m = aligned(sizeof(Model));
    if (!m) return 0;
    memset(m, 0, sizeof(Model));
    memcpy(&m->shape, shape, sizeof(Shape));
    const Shape *s = &m->shape;
    m->eps = eps;
    m->layers = calloc(s->n_layer, sizeof(Layer));
    m->x = aligned(sizeof(float) * CHUNK * s->n_embd);
    m->qkv = aligned(sizeof(float) * CHUNK * (s->n_head + 2 * s->n_kv_head) * s->head_dim);
    m->attended = aligned(sizeof(float) * (CHUNK * s->n_head * s->head_dim + BLOCK));
    m->hidden = aligned(sizeof(float) * (2 * (size_t)CHUNK * s->ffn_dim + BLOCK));
    pthread_mutex_init(&m->lock, 0), pthread_cond_init(&m->wake, 0);
    if (m->hidden) memset(m->hidden, 0, sizeof(float) * (2 * (size_t)CHUNK * s->ffn_dim + BLOCK));
    if (m->attended) memset(m->attended, 0, sizeof(float) * (CHUNK * s->n_head * s->head_dim + BLOCK));
    return m->layers && m->x && m->qkv && m->attended && m->hidden ? m : 0;
}

static void discard(Matrix *matrix) {
    free(matrix->numbers), free(matrix->quantized), free(matrix->scales), free(matrix->bias);
}

void destroy(Model *m) {
    stop_threads(m);
    for (int l = 0; l < m->shape.n_layer; l++)
        for (int i = 0; i < MATRICES; i++) discard(m->layers[l].matrices + i);
    discard(&m->head);
    free(m->layers), free(m->x), free(m->qkv), free(m->attended), free(m->hidden);
    pthread_mutex_destroy(&m->lock), pthread_cond_destroy(&m->wake);
    free(m);
}

/* The caller keeps what it points to. 0 stands for what a model does not have. */
void put_tables(Model *m, const float *table, const float *positions, const float *cos, const float *sin,
                const float *final_norm, const float *final_norm_bias) {
    m->table = table, m->positions = positions, m->cos = cos, m->sin = sin;
    m->final_norm = final_norm, m->final_norm_bias = final_norm_bias;
}

void put_vector(Model *m, int layer, int which, const float *vector) { m->layers[layer].vectors[which] = vector; }

static Matrix *empty_matrix(Model *m, int layer, int which, int rows, int columns, const float *bias) {
    Matrix *matrix = which == HEAD ? &m->head : m->layers[layer].matrices + which;
    matrix->rows = rows, matrix->columns = columns;
    matrix->bias = calloc((size_t)panels_of(rows) * PANEL, sizeof(float));
    if (matrix->bias && bias) memcpy(matrix->bias, bias, sizeof(float) * rows);
    return matrix->bias ? matrix : 0;
}

/* A copy of weight[r * row_stride + c * column_stride], in panels. 0, or -1 where memory is short. */
int put_matrix(Model *m, int layer, int which, int rows, int columns, const float *weight, int64_t row_stride,
               int64_t column_stride, const float *bias) {
    Matrix *matrix = empty_matrix(m, layer, which, rows, columns, bias);
    if (!matrix) return -1;
    float *to = matrix->numbers = aligned(sizeof(float) * panels_of(rows) * PANEL * columns);
    if (!to) return -1;
    for (int p = 0; p < panels_of(rows); p++)
        for (int c = 0; c < columns; c++)
            for (int r = p * PANEL; r < (p + 1) * PANEL; r++)
                *to++ = r < rows ? weight[r * row_stride + c * column_stride] : 0.0f;
    return 0;
}

/* The same of int8 values (rows, columns) and scales (rows, blocks). */
int put_int8(Model *m, int layer, int which, int rows, int columns, const int8_t *values, const float *scales,
             const float *bias) {
    int blocks = (columns + BLOCK - 1) / BLOCK;
    Matrix *matrix = empty_matrix(m, layer, which, rows, blocks * BLOCK, bias);
    if (!matrix) return -1;
    int8_t *to = aligned((size_t)panels_of(rows) * PANEL * blocks * BLOCK);
    float *scale = matrix->scales = aligned(sizeof(float) * panels_of(rows) * PANEL * blocks);
    matrix->quantized = (int32_t *)to;
    if (!to || !scale) return -1;
    for (int p = 0; p < panels_of(rows); p++) {
        for (int k = 0; k < blocks * BLOCK; k += 4)
            for (int r = p * PANEL; r < (p + 1) * PANEL; r++)
                for (int j = 0; j < 4; j++) {
                    int c = k + (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? j : 3 - j);
                    *to++ = r < rows && c < columns ? values[(size_t)r * columns + c] : 0;
                }
        for (int b = 0; b < blocks; b++)
            for (int r = p * PANEL; r < (p + 1) * PANEL; r++)
                *scale++ = r < rows ? scales[(size_t)r * blocks + b] * 0x1p-24f : 0.0f;
    }
    return 0;
}

/* tokens (count,), those of a text next to each other and in order, at `places` of `texts`, whose caches are keys[text]
   and values[text]; logits (wanted, vocab_size) behind those whose numbers stand in `which`, in ascending order.
   threads: at most as many as set_threads() started; one leaves the others asleep. 0, or -1 for a token that the vocabulary does not have. */
int forward(Model *m, int threads, int count, const int64_t *tokens, const int32_t *texts, const int32_t *places,
             float *const *keys, float *const *values, int wanted, const int32_t *which, float *logits) {
    int32_t within[CHUNK];
    if (m->process != getpid()) m->threads = 1; /* fork() copies no threads */
    m->active = threads < m->threads ? threads : m->threads;
    if (m->active > 1) wake_helpers(m);
    for (int n = 0; n < count; n++)
        if (tokens[n] < 0 || tokens[n] >= m->shape.vocab_size) return -1;
    for (int begin = 0; begin < count; begin += CHUNK) {
        int some = count - begin < CHUNK ? count - begin : CHUNK;
        Job *job = &m->job;
        *job = (Job){.count = some, .tokens = tokens + begin, .texts = texts + begin, .places = places + begin,
                     .keys = keys, .values = values, .which = within, .logits = logits};
        for (; job->wanted < wanted && which[job->wanted] < begin + some; job->wanted++)
            within[job->wanted] = which[job->wanted] - begin;
        which += job->wanted, wanted -= job->wanted, logits += (size_t)job->wanted * m->shape.vocab_size;
        for (int n = 0; n < some; n++)
            if (!n || job->texts[n] != job->texts[n - 1]) job->starts[job->runs++] = n;
        job->starts[job->runs] = some;
        run(m);
    }
    return 0;
}
