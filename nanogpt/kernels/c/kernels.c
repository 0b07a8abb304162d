// What a training step does between its matrix products, forward and backward, each in one pass over the data, and
// whole blocks with their products.
//
// Numbers are float32. Tensors named "half_or_float" are bfloat16 where `half` is set: what products read and write.
// Work is divided into rows or heads, each computed by one thread, and sums over rows are added in PARTS fixed parts in
// a fixed order, so the number of threads changes no bit, but of a BLAS's products. Threads are torch's own: parallel()
// calls GOMP_parallel, whose address comes from the OpenMP library that torch has loaded: no second pool competes
// for the cores.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define PARTS 64
#define LONGEST_HEAD 256

// As many numbers as a register has: gcc keeps longer vectors in memory, and a step takes twice as long (AVX2)
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

// ---- threads

typedef void (*Body)(const void *job, int64_t begin, int64_t end, int64_t thread);
typedef struct { Body body; const void *job; int64_t count; } Shared;

static void (*run_parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void), (*thread_count)(void);

EXPORT void set_threads(void *parallel, void *number, void *count) {
    run_parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))parallel;
    thread_number = (int (*)(void))number;
    thread_count = (int (*)(void))count;
}

static void share(void *pointer) {
    const Shared *shared = pointer;
    int64_t thread = thread_number(), threads = thread_count(), count = shared->count;
    int64_t begin = count * thread / threads, end = count * (thread + 1) / threads;
    if (begin < end) shared->body(shared->job, begin, end, thread);
}

// body(job, begin, end, thread) for parts of 0 .. count - 1, on `threads` at most (0: all of the pool); `numbers`: how
// many are read or written in all
static void parallel(Body body, const void *job, int64_t count, int64_t numbers, int64_t threads) {
    Shared shared = {body, job, count};
    if (count > 1 && numbers > 8192) run_parallel(share, &shared, threads, 0);
    else if (count) body(job, 0, count, 0);
}

// ---- several numbers at once

INLINE Lanes all(float x) { return x - (Lanes){}; }  // 0 + x would be an addition each time: it makes 0 of -0
INLINE Lanes pick(Integers mask, Lanes yes, Lanes no) {
    return (Lanes)(((Integers)yes & mask) | ((Integers)no & ~mask));
}
INLINE Lanes first(Lanes x, int64_t count) {  // zeros after the first `count`
    Integers at;
    for (int i = 0; i < LANES; ++i) at[i] = i;
    return pick(at < (int32_t)count, x, (Lanes){});
}
INLINE Lanes larger(Lanes a, Lanes b) { return pick(a > b, a, b); }
INLINE Lanes smaller(Lanes a, Lanes b) { return pick(a < b, a, b); }
INLINE Lanes of_halves(Halves x) { return (Lanes)(__builtin_convertvector(x, Bits) << 16); }
INLINE Halves to_halves(Lanes x) {  // to the nearest, ties to even; NaN stays NaN
#ifdef __AVX512BF16__
    return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
    Bits bits = (Bits)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Bits nan = (Bits)(x != x);
    return __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), Halves);
#endif
}

// numbers[at .. at + LANES - 1], zeros from `count` on
INLINE Lanes load(const void *numbers, int64_t at, int64_t count, int half) {
    if (at + LANES <= count) {
        if (half) return of_halves(*(const Halves *)((const uint16_t *)numbers + at));
        return *(const Lanes *)((const float *)numbers + at);
    }
    size_t left = count - at;
    if (half) {
        Halves some = {};
        memcpy(&some, (const uint16_t *)numbers + at, left * 2);
        return of_halves(some);
    }
    Lanes some = {};
    memcpy(&some, (const float *)numbers + at, left * 4);
    return some;
}
INLINE void store(void *numbers, int64_t at, int64_t count, int half, Lanes x) {
    size_t left = count - at < LANES ? count - at : LANES;
    if (half) {
        Halves halves = to_halves(x);
        if (left == LANES) *(Halves *)((uint16_t *)numbers + at) = halves;
        else memcpy((uint16_t *)numbers + at, &halves, left * 2);
    } else if (left == LANES) *(Lanes *)((float *)numbers + at) = x;
    else memcpy((float *)numbers + at, &x, left * 4);
}
INLINE const void *row_of(const void *numbers, int64_t at, int half) {
    return half ? (const void *)((const uint16_t *)numbers + at) : (const void *)((const float *)numbers + at);
}
INLINE float sum_of(Lanes x) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    return x[0];
}
INLINE float largest_of(Lanes x) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    return x[0];
}
// The statements for each `j` of LANES numbers of `width`; load(x, j, end, half) and store() ask nothing in the loop
#define EACH(j, end, width, ...) { \
    int64_t j = 0; \
    for (; j + LANES <= (width); j += LANES) { const int64_t end = j + LANES; __VA_ARGS__ } \
    if (j < (width)) { const int64_t end = (width); __VA_ARGS__ } \
}

// e^x within 1 unit in the last place or two: 2^n times a polynomial of what is left, at most ln(2)/2.
INLINE Lanes exponential(Lanes x) {
    x = smaller(larger(x, all(-87.3f)), all(88.3f));  // NaN becomes -87.3: is_nan() asks before, where it matters
    Lanes shifted = x * 1.44269504f + 12582912.f;  // adding 1.5 * 2^23 rounds to a whole number
    Lanes n = shifted - 12582912.f;
    Lanes r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    Lanes p = all(1.98756915e-4f);
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345190e-3f;
    p = p * r + 4.16657960e-2f;
    p = p * r + 1.66666655e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.f;
    return p * (Lanes)(((Bits)shifted - (Bits)all(12582912.f) + 127) << 23);
}
INLINE Lanes keep_nan(Lanes x, Lanes y) { return pick(x == x, y, x); }  // y, but NaN where x is
INLINE Lanes reciprocal(Lanes x) {  // of normal numbers, within 1 unit in the last place
#ifdef __AVX512F__
    Lanes near = (Lanes)_mm512_rcp14_ps((__m512)x);  // a division takes as long as ten products
    return near * (2.f - x * near);
#else
    return 1.f / x;
#endif
}
INLINE Lanes sigmoid(Lanes x) { return keep_nan(x, reciprocal(1.f + exponential(-x))); }
// The error function within one unit in the last place: Norbert Juffa's two polynomials.
INLINE Lanes error_function(Lanes x) {
    Lanes size = (Lanes)((Bits)x & 0x7fffffff), square = x * x;
    Lanes r = all(-1.72853470e-5f) * size + 3.83197126e-4f, u = all(-3.88396438e-3f) * size + 2.42546219e-2f;
    r = r * square + u;
    r = r * size - 1.06777877e-1f;
    r = r * size - 6.34846687e-1f;
    r = r * size - 1.28717512e-1f;
    r = r * size - size;
    Lanes far = 1.f - exponential(r);
    far = (Lanes)((Bits)far | ((Bits)x & 0x80000000));
    r = all(-5.96761703e-4f);
    r = r * square + 4.99119423e-3f;
    r = r * square - 2.67681349e-2f;
    r = r * square + 1.12819925e-1f;
    r = r * square - 3.76125336e-1f;
    r = r * square + 1.28379166e-1f;
    return keep_nan(x, pick(size > 0.927734375f, far, r * x + x));
}

// out[0 .. width - 1] = the sum of PARTS rows, in their order
static void add_parts(const float *parts, int64_t width, float *out) {
    EACH(j, end, width,
        Lanes sum = {};
        for (int part = 0; part < PARTS; ++part) sum += load(parts + part * width, j, end, 0);
        store(out, j, end, 0, sum);
    )
}

// ---- x + delta + bias

typedef struct { const float *x; const void *delta; const float *bias; float *out; int64_t width; int half; } Addition;

INLINE void add_rows(const Addition *job, int64_t begin, int64_t end, int half) {
    for (int64_t i = begin; i < end; ++i) {
        const float *x = job->x + i * job->width;
        const void *delta = row_of(job->delta, i * job->width, half);
        float *out = job->out + i * job->width;
        EACH(j, stop, job->width,
            Lanes a = load(x, j, stop, 0) + load(delta, j, stop, half);
            if (job->bias) a += load(job->bias, j, stop, 0);
            store(out, j, stop, 0, a);
        )
    }
}
static void add_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    const Addition *addition = job;
    (void)thread;
    if (addition->half) add_rows(addition, begin, end, 1);
    else add_rows(addition, begin, end, 0);
}
// x, out (rows, width); delta half_or_float; bias (width) or NULL
EXPORT void add(const float *x, const void *delta, const float *bias, float *out, int64_t rows, int64_t width,
                int half) {
    Addition job = {x, delta, bias, out, width, half};
    parallel(add_body, &job, rows, 2 * rows * width, 0);
}

// ---- dropout: what is dropped follows from a number's place and the seed, so that no memory has to keep it

typedef struct { const void *x; const float *bias; void *y; int64_t width; uint64_t seed; float share; int half; } Drop;

INLINE Bits mixed(Bits x) {  // every bit of x decides every bit: Wellons's lowbias32
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}
INLINE void drop_rows(const Drop *job, int64_t begin, int64_t end, int half) {
    uint32_t low = (uint32_t)job->seed, high = (uint32_t)(job->seed >> 32), dropped = job->share * 4294967296.;
    float scale = 1.f / (1.f - job->share);
    Bits places;
    for (int i = 0; i < LANES; ++i) places[i] = i;
    for (int64_t i = begin; i < end; ++i) {
        const void *x = row_of(job->x, i * job->width, half);
        void *y = (void *)row_of(job->y, i * job->width, half);
        EACH(j, stop, job->width,
            Bits drawn = mixed(mixed((places + (uint32_t)(i * job->width + j)) ^ low) ^ high);
            Lanes a = load(x, j, stop, half);
            if (job->bias) a += load(job->bias, j, stop, 0);
            store(y, j, stop, half, pick((Integers)(drawn >= dropped), a * scale, (Lanes){}));
        )
    }
}
static void drop_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    const Drop *drop = job;
    (void)thread;
    if (drop->half) drop_rows(drop, begin, end, 1);
    else drop_rows(drop, begin, end, 0);
}
// y (rows, width) = 0 for a `share` of the numbers, (x + bias) / (1 - share) for the others; both half_or_float, bias
// may be NULL, y may be x
EXPORT void drop(const void *x, const float *bias, void *y, int64_t rows, int64_t width, int64_t seed, float share,
                 int half) {
    Drop job = {x, bias, y, width, (uint64_t)seed, share, half};
    parallel(drop_body, &job, rows, 2 * rows * width, 0);
}

// ---- norms: y = (x - mean) * inverse * weight + bias, of LayerNorm; of RMSNorm the mean and the bias are left out

typedef struct {
    const float *x; const void *delta; const float *delta_bias; float *sum; const float *weight, *bias; float eps;
    void *y; float *mean, *inverse; int64_t rows, width; int half;
} Norm;

INLINE void norm_rows(const Norm *job, int64_t begin, int64_t end, int half) {
    int64_t width = job->width;
    const float *weight = job->weight, *bias = job->bias, *delta_bias = job->delta_bias;
    for (int64_t i = begin; i < end; ++i) {
        const float *x = job->x + i * width;
        Lanes total = {}, squares = {};
        if (job->delta) {
            const void *delta = row_of(job->delta, i * width, half);
            float *sum = job->sum + i * width;
            EACH(j, stop, width,
                Lanes a = load(x, j, stop, 0) + load(delta, j, stop, half);
                if (delta_bias) a += load(delta_bias, j, stop, 0);
                store(sum, j, stop, 0, a);
                total += a;
                squares += a * a;
            )
            x = sum;
        } else {
            EACH(j, stop, width,
                Lanes a = load(x, j, stop, 0);
                total += a;
                squares += a * a;
            )
        }
        float mean = 0, square = sum_of(squares);
        if (job->mean) {
            job->mean[i] = mean = sum_of(total) / width;
            squares = (Lanes){};
            EACH(j, stop, width,
                Lanes a = load(x, j, stop, 0) - mean;
                if (stop - j < LANES) a = first(a, stop - j);
                squares += a * a;
            )
            square = sum_of(squares);
        }
        float inverse = job->inverse[i] = 1.f / sqrtf(square / width + job->eps);
        void *y = (void *)row_of(job->y, i * width, half);
        EACH(j, stop, width,
            Lanes a = (load(x, j, stop, 0) - mean) * inverse;
            if (weight) a *= load(weight, j, stop, 0);
            if (bias) a += load(bias, j, stop, 0);
            store(y, j, stop, half, a);
        )
    }
}
static void norm_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    const Norm *norm = job;
    (void)thread;
    if (norm->half) norm_rows(norm, begin, end, 1);
    else norm_rows(norm, begin, end, 0);
}
// y (rows, width) half_or_float of x, or, with delta half_or_float, of sum = x + delta + delta_bias. delta_bias,
// weight, bias, mean: may be NULL.
EXPORT void norm_forward(const float *x, const void *delta, const float *delta_bias, float *sum, const float *weight,
                         const float *bias, float eps, void *y, float *mean, float *inverse, int64_t rows,
                         int64_t width, int half) {
    Norm job = {x, delta, delta_bias, sum, weight, bias, eps, y, mean, inverse, rows, width, half};
    parallel(norm_body, &job, rows, 2 * rows * width, 0);
}

typedef struct {
    const void *grad_y; const float *x, *mean, *inverse, *weight, *grad_sum; float *grad_x; void *grad_x_half;
    float *weight_parts, *bias_parts; int64_t rows, width; int half;
} NormBackward;

// With u = (x - mean) * inverse: grad_x = (w dy - mean(w dy) - u mean(w dy u)) * inverse
INLINE void norm_backward_parts(const NormBackward *job, int64_t begin, int64_t end, int half) {
    int64_t width = job->width;
    const float *weight = job->weight;
    for (int64_t part = begin; part < end; ++part) {
        float *of_weight = job->weight_parts + part * width;
        float *of_bias = job->bias_parts ? job->bias_parts + part * width : NULL;
        memset(of_weight, 0, width * sizeof(float));
        if (of_bias) memset(of_bias, 0, width * sizeof(float));
        int64_t last = job->rows * (part + 1) / PARTS;
        for (int64_t i = job->rows * part / PARTS; i < last; ++i) {
            const void *grad_y = row_of(job->grad_y, i * width, half);
            const float *x = job->x + i * width, *grad_sum = job->grad_sum ? job->grad_sum + i * width : NULL;
            float *grad_x = job->grad_x + i * width;
            uint16_t *grad_x_half = job->grad_x_half ? (uint16_t *)job->grad_x_half + i * width : NULL;
            float mean = job->mean ? job->mean[i] : 0.f, inverse = job->inverse[i];
            Lanes along = {}, level = {};
            EACH(j, stop, width,
                Lanes dy = load(grad_y, j, stop, half), u = (load(x, j, stop, 0) - mean) * inverse;
                store(of_weight, j, stop, 0, load(of_weight, j, stop, 0) + dy * u);
                if (of_bias) store(of_bias, j, stop, 0, load(of_bias, j, stop, 0) + dy);
                if (weight) dy *= load(weight, j, stop, 0);
                along += dy * u;
                level += dy;
            )
            float share = sum_of(along) / width, shift = job->mean ? sum_of(level) / width : 0.f;
            EACH(j, stop, width,
                Lanes dy = load(grad_y, j, stop, half), u = (load(x, j, stop, 0) - mean) * inverse;
                if (weight) dy *= load(weight, j, stop, 0);
                Lanes gradient = (dy - shift - u * share) * inverse;
                if (grad_sum) gradient += load(grad_sum, j, stop, 0);
                store(grad_x, j, stop, 0, gradient);
                if (grad_x_half) store(grad_x_half, j, stop, 1, gradient);
            )
        }
    }
}
static void norm_backward_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    const NormBackward *norm = job;
    (void)thread;
    if (norm->half) norm_backward_parts(norm, begin, end, 1);
    else norm_backward_parts(norm, begin, end, 0);
}
// grad_y half_or_float; x: what was normalised. To grad_x comes grad_sum, where it is given; grad_x_half, where it is
// given, is the same in bfloat16. scratch: 2 * PARTS * width. grad_bias, mean: NULL for RMSNorm.
EXPORT void norm_backward(const void *grad_y, const float *x, const float *mean, const float *inverse,
                          const float *weight, const float *grad_sum, float *grad_x, void *grad_x_half,
                          float *grad_weight, float *grad_bias, float *scratch, int64_t rows, int64_t width, int half) {
    float *bias_parts = grad_bias ? scratch + PARTS * width : NULL;
    NormBackward job = {grad_y, x, mean, inverse, weight, grad_sum, grad_x, grad_x_half,
                        scratch, bias_parts, rows, width, half};
    parallel(norm_backward_body, &job, PARTS, 3 * rows * width, 0);
    if (grad_weight) add_parts(scratch, width, grad_weight);
    if (grad_bias) add_parts(bias_parts, width, grad_bias);
}

// ---- sums of columns: the gradient of a bias

typedef struct { const void *x; float *parts; int64_t rows, width; int half; } Columns;

INLINE void column_parts(const Columns *job, int64_t begin, int64_t end, int half) {
    for (int64_t part = begin; part < end; ++part) {
        int64_t width = job->width, from = job->rows * part / PARTS, last = job->rows * (part + 1) / PARTS;
        EACH(j, stop, width,
            Lanes sum = {};
            for (int64_t i = from; i < last; ++i) sum += load(row_of(job->x, i * width, half), j, stop, half);
            store(job->parts + part * width, j, stop, 0, sum);
        )
    }
}
static void column_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    const Columns *columns = job;
    (void)thread;
    if (columns->half) column_parts(columns, begin, end, 1);
    else column_parts(columns, begin, end, 0);
}
// x (rows, width) half_or_float -> out (width). scratch: PARTS * width.
EXPORT void column_sums(const void *x, float *out, float *scratch, int64_t rows, int64_t width, int half) {
    Columns job = {x, scratch, rows, width, half};
    parallel(column_body, &job, PARTS, rows * width, 0);
    add_parts(scratch, width, out);
}

// ---- activations: the way there finds the slopes as well, so that the way back has products alone

enum { GELU, GELU_ERF, RELU2, SWIGLU };

typedef struct {
    void *hidden; const float *bias; const void *grad_y; void *out; float *parts; int64_t rows, width; int kind, half;
} Activation;

#define ROOT 0.797884561f  // sqrt(2 / pi)
#define CUBIC 0.044715f

// The activation of x; its slope there, to *slope
INLINE Lanes activated(Lanes x, int kind, Lanes *slope) {
    if (kind == GELU) {  // 0.5 x (1 + tanh(u)) = x sigmoid(2u)
        Lanes square = x * x, s = sigmoid(2.f * ROOT * (x + CUBIC * square * x)), y = x * s;
        *slope = s + y * (1.f - s) * (2.f * ROOT * (1.f + 3.f * CUBIC * square));
        return y;
    }
    if (kind == GELU_ERF) {
        Lanes share = 0.5f * (1.f + error_function(x * 0.707106781f));
        *slope = share + x * exponential(-0.5f * x * x) * 0.398942280f;
        return x * share;
    }
    Lanes positive = keep_nan(x, larger(x, all(0.f)));
    *slope = 2.f * positive;
    return positive * positive;
}
INLINE void activate_rows(const Activation *job, int64_t begin, int64_t end, int kind, int half) {
    int64_t width = job->width, wide = kind == SWIGLU ? 2 * width : width;
    const float *bias = job->bias, *up_bias = bias ? bias + width : NULL;
    for (int64_t i = begin; i < end; ++i) {
        void *x = (void *)row_of(job->hidden, i * wide, half), *up = (void *)row_of(x, width, half);
        void *y = (void *)row_of(job->out, i * width, half);
        EACH(j, stop, width,
            Lanes a = load(x, j, stop, half), slope;
            if (bias) a += load(bias, j, stop, 0);
            if (kind == SWIGLU) {
                Lanes b = load(up, j, stop, half), s = sigmoid(a), silu = a * s;
                if (bias) b += load(up_bias, j, stop, 0);
                slope = b * (s + silu * (1.f - s));
                store(up, j, stop, half, silu);
                a = silu * b;
            } else a = activated(a, kind, &slope);
            store(x, j, stop, half, slope);
            store(y, j, stop, half, a);
        )
    }
}
INLINE void activate_back_parts(const Activation *job, int64_t begin, int64_t end, int half) {
    int64_t width = job->width, wide = job->kind == SWIGLU ? 2 * width : width;
    for (int64_t part = begin; part < end; ++part) {
        float *sums = job->parts ? job->parts + part * wide : NULL;
        int64_t last = job->rows * (part + 1) / PARTS;
        if (sums) memset(sums, 0, wide * sizeof(float));
        for (int64_t i = job->rows * part / PARTS; i < last; ++i) {
            const void *grad_y = row_of(job->grad_y, i * width, half);
            for (int64_t k = 0; k < wide; k += width) {
                const void *slopes = row_of(job->hidden, i * wide + k, half);
                void *grad_x = (void *)row_of(job->out, i * wide + k, half);
                EACH(j, stop, width,
                    Lanes gradient = load(grad_y, j, stop, half) * load(slopes, j, stop, half);
                    if (sums) store(sums + k, j, stop, 0, load(sums + k, j, stop, 0) + gradient);
                    store(grad_x, j, stop, half, gradient);
                )
            }
        }
    }
}
static void activate_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    const Activation *activation = job;
    (void)thread;
    switch (2 * activation->kind + !!activation->half) {
        case 2 * GELU: activate_rows(activation, begin, end, GELU, 0); break;
        case 2 * GELU + 1: activate_rows(activation, begin, end, GELU, 1); break;
        case 2 * GELU_ERF: activate_rows(activation, begin, end, GELU_ERF, 0); break;
        case 2 * GELU_ERF + 1: activate_rows(activation, begin, end, GELU_ERF, 1); break;
        case 2 * RELU2: activate_rows(activation, begin, end, RELU2, 0); break;
        case 2 * RELU2 + 1: activate_rows(activation, begin, end, RELU2, 1); break;
        case 2 * SWIGLU: activate_rows(activation, begin, end, SWIGLU, 0); break;
        case 2 * SWIGLU + 1: activate_rows(activation, begin, end, SWIGLU, 1); break;
    }
}
static void activate_back_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    const Activation *activation = job;
    (void)thread;
    if (activation->half) activate_back_parts(activation, begin, end, 1);
    else activate_back_parts(activation, begin, end, 0);
}
// hidden (rows, width), of SWIGLU (rows, 2 * width): gate and up; y (rows, width). All half_or_float. bias: NULL, or as
// wide as hidden, where hidden comes without. The slopes by hidden take its place.
EXPORT void activation_forward(void *hidden, const float *bias, void *y, int64_t rows, int64_t width, int kind,
                               int half) {
    Activation job = {.hidden = hidden, .bias = bias, .out = y, .rows = rows, .width = width, .kind = kind,
                      .half = half};
    parallel(activate_body, &job, rows, 3 * rows * width, 0);
}
// grad_bias: NULL, or as wide as slopes. scratch: PARTS times that.
EXPORT void activation_backward(const void *grad_y, const void *slopes, void *grad_hidden, float *grad_bias,
                                float *scratch, int64_t rows, int64_t width, int kind, int half) {
    Activation job = {.hidden = (void *)slopes, .grad_y = grad_y, .out = grad_hidden,
                      .parts = grad_bias ? scratch : NULL, .rows = rows, .width = width, .kind = kind, .half = half};
    parallel(activate_back_body, &job, PARTS, 5 * rows * width, 0);
    if (grad_bias) add_parts(scratch, kind == SWIGLU ? 2 * width : width, grad_bias);
}

// ---- products of small matrices

static int64_t more(int64_t a, int64_t b) { return a > b ? a : b; }

#define ROUND(count, to) (((count) + (to) - 1) / (to) * (to))
#if defined(__AVX512F__)
#define TILE_ROWS 8  // 8 x 2 sums, 2 of b: 18 of 32 registers
#else
#define TILE_ROWS 4  // 4 x 2 sums, 2 of b: 10 of 16
#endif
#define TILE_LANES 2

typedef uint32_t Word __attribute__((may_alias));

// sum + a b; of `pairs`, two numbers of bfloat16 in each place, both products
INLINE Lanes more_of(Lanes sum, const float *a, Lanes b, int pairs) {
    (void)pairs;
#ifdef __AVX512BF16__
    if (pairs) return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(*(const Word *)a - (Bits){}), (__m512bh)b);
#endif
    return sum + all(*a) * b;
}
// `pairs`: of a and b; c is then bfloat16 where `half` is set
INLINE void tile(int lanes, int64_t depth, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row,
                 float *c, int64_t c_row, int add, int pairs, int half) {
    Lanes sums[TILE_ROWS][TILE_LANES];
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < lanes; ++j) sums[i][j] = add ? *(Lanes *)(c + i * c_row + j * LANES) : (Lanes){};
    for (int64_t k = 0; k < depth; ++k) {
        Lanes of_b[TILE_LANES];
#pragma GCC unroll 2
        for (int j = 0; j < lanes; ++j) of_b[j] = *(const Lanes *)(b + k * b_row + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < TILE_ROWS; ++i)
#pragma GCC unroll 2
            for (int j = 0; j < lanes; ++j)
                sums[i][j] = more_of(sums[i][j], a + i * a_row + k * a_step, of_b[j], pairs);
    }
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < lanes; ++j)
            if (half) *(Halves *)((uint16_t *)c + i * c_row + j * LANES) = to_halves(sums[i][j]);
            else *(Lanes *)(c + i * c_row + j * LANES) = sums[i][j];
}

// c (rows, columns) = a (rows, depth) b (depth, columns), or what is there plus it. Number (i, k) of a is at
// a[i * a_row + k * a_step]. rows is a multiple of TILE_ROWS, columns of LANES.
static __attribute__((noinline)) void multiply(int64_t rows, int64_t columns, int64_t depth, const float *a,
                                               int64_t a_row, int64_t a_step, const float *b, int64_t b_row, float *c,
                                               int64_t c_row, int add) {
    int64_t j = 0;
    for (; j + TILE_LANES * LANES <= columns; j += TILE_LANES * LANES)
        for (int64_t i = 0; i < rows; i += TILE_ROWS)
            tile(TILE_LANES, depth, a + i * a_row, a_row, a_step, b + j, b_row, c + i * c_row + j, c_row, add, 0, 0);
    for (; j < columns; j += LANES)
        for (int64_t i = 0; i < rows; i += TILE_ROWS)
            tile(1, depth, a + i * a_row, a_row, a_step, b + j, b_row, c + i * c_row + j, c_row, add, 0, 0);
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Integers){__VA_ARGS__})
#endif
#define EXCHANGE(h, low, high) \
    for (int i = 0; i < LANES; ++i) \
        if (!(i & h)) { \
            Lanes a = x[i], b = x[i + h]; \
            x[i] = low; \
            x[i + h] = high; \
        }

// x, LANES rows of a square, to its columns
INLINE void turn_over(Lanes *x) {
#if LANES == 16
#pragma GCC unroll 16
    EXCHANGE(8, SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
             SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#pragma GCC unroll 16
    EXCHANGE(4, SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
             SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
#pragma GCC unroll 16
    EXCHANGE(2, SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
             SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#pragma GCC unroll 16
    EXCHANGE(1, SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
             SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#elif LANES == 8
#pragma GCC unroll 8
    EXCHANGE(4, SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11), SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#pragma GCC unroll 8
    EXCHANGE(2, SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13), SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15))
#pragma GCC unroll 8
    EXCHANGE(1, SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14), SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15))
#else
#pragma GCC unroll 4
    EXCHANGE(2, SHUFFLE(a, b, 0, 1, 4, 5), SHUFFLE(a, b, 2, 3, 6, 7))
#pragma GCC unroll 4
    EXCHANGE(1, SHUFFLE(a, b, 0, 4, 2, 6), SHUFFLE(a, b, 1, 5, 3, 7))
#endif
}
// from (rows, columns), multiples of LANES, its rows `from_row` apart, to (columns, rows)
static __attribute__((noinline)) void transpose(const float *from, int64_t rows, int64_t columns, int64_t from_row,
                                                float *to) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t c = 0; c < columns; c += LANES) {
            Lanes x[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) x[i] = *(const Lanes *)(from + (r + i) * from_row + c);
            turn_over(x);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) *(Lanes *)(to + (c + i) * rows + r) = x[i];
        }
}

// ---- products of large matrices

#define PANEL (TILE_LANES * LANES)  // columns of b at once
#define DEPTH 768  // rows of them: 512 rows, 768 x 3,072: 68 ms there and back; with 256, for the nearest cache, 74
#define CHUNK 768  // rows of a at once: with 192 the same take 73 ms

typedef struct {  // number (i, k) of a is at a[i * a_row + k * a_step], (k, j) of b at b[k * b_row + j * b_step]
    const float *a; int64_t a_row, a_step; const float *b; int64_t b_row, b_step; float *c;
    int64_t rows, columns, depth;
} Product;

// Rows first .. first + depth - 1 of columns j .. j + width - 1 of b, to panel (depth, PANEL), zeros after them
static void pack(const Product *job, int64_t first, int64_t depth, int64_t j, int64_t width, float *panel) {
    const float *b = job->b + first * job->b_row + j * job->b_step;
    if (job->b_row == 1 && width == PANEL && depth % LANES == 0)
        transpose(b, PANEL, depth, job->b_step, panel);
    else
        for (int64_t k = 0; k < depth; ++k, panel += PANEL, b += job->b_row) {
            if (job->b_step == 1 && width == PANEL) memcpy(panel, b, sizeof(float) * PANEL);
            else for (int64_t i = 0; i < PANEL; ++i) panel[i] = i < width ? b[i * job->b_step] : 0;
        }
}
// Each number of c is one sum, in the order of the depth, whichever way it is computed
static void product_body(const void *pointer, int64_t begin, int64_t end, int64_t thread) {
    const Product *job = pointer;
    float panel[DEPTH * PANEL] __attribute__((aligned(64)));
    int64_t a_row = job->a_row, a_step = job->a_step, columns = job->columns;
    int64_t last = end * TILE_ROWS < job->rows ? end * TILE_ROWS : job->rows;
    (void)thread;
    for (int64_t top = begin * TILE_ROWS; top < last; top += CHUNK)
        for (int64_t k = 0; k < job->depth; k += DEPTH)
            for (int64_t j = 0; j < columns; j += PANEL) {
                int64_t rows = last - top < CHUNK ? last - top : CHUNK;
                int64_t depth = job->depth - k < DEPTH ? job->depth - k : DEPTH;
                int64_t width = columns - j < PANEL ? columns - j : PANEL;
                int64_t whole = width % LANES ? 0 : rows / TILE_ROWS * TILE_ROWS;
                const float *a = job->a + top * a_row + k * a_step;
                float *c = job->c + top * columns + j;
                pack(job, k, depth, j, width, panel);
                multiply(whole, width, depth, a, a_row, a_step, panel, PANEL, c, columns, k > 0);
                for (int64_t i = whole; i < rows; ++i)
                    for (int64_t lane = 0; lane < width; lane += LANES) {
                        Lanes sum = k ? load(c + i * columns, lane, width, 0) : (Lanes){};
                        for (int64_t d = 0; d < depth; ++d)
                            sum += all(a[i * a_row + d * a_step]) * *(Lanes *)(panel + d * PANEL + lane);
                        store(c + i * columns, lane, width, 0, sum);
                    }
            }
}
// ---- the same in bfloat16, added in float32, two numbers at once

// Whoever calls sees to it that rows and columns of weights are multiples of LANES, no more of these than LONGEST_DEPTH
// columns, and other rows multiples of TILE_ROWS
#define LONGEST_DEPTH 3072
#define STRIP 128  // rows of a, where it is packed as well

// c (rows, width) from so many rows of a and a panel, `depth` pairs each: bfloat16, or float32 to which is added
static __attribute__((noinline)) void multiply_pairs(int64_t rows, int64_t width, int64_t depth, const float *a,
                                                     int64_t a_row, int64_t a_step, const float *panel, void *c,
                                                     int64_t c_row, int add, int half) {
    for (int64_t i = 0; i < rows; i += TILE_ROWS, a += TILE_ROWS * a_row) {
        float *to = (float *)row_of(c, i * c_row, half);
        switch (2 * (width == PANEL) + half) {
            case 0: tile(1, depth, a, a_row, a_step, panel, PANEL, to, c_row, add, 1, 0); break;
            case 1: tile(1, depth, a, a_row, a_step, panel, PANEL, to, c_row, 0, 1, 1); break;
            case 2: tile(2, depth, a, a_row, a_step, panel, PANEL, to, c_row, add, 1, 0); break;
            case 3: tile(2, depth, a, a_row, a_step, panel, PANEL, to, c_row, 0, 1, 1); break;
        }
    }
}
INLINE Bits pair_up(Halves low, Halves high) {
    return __builtin_convertvector(low, Bits) | __builtin_convertvector(high, Bits) << 16;
}
// `width` columns of numbers (depth, columns) bfloat16, its rows `row` apart, to a panel of pairs (depth / 2, PANEL)
static void pack_halves(const uint16_t *numbers, int64_t row, int64_t depth, int64_t width, float *panel) {
    for (int64_t k = 0; k < depth; k += 2, panel += PANEL, numbers += 2 * row)
        for (int64_t j = 0; j < width; j += LANES)
            *(Bits *)(panel + j) = pair_up(*(const Halves *)(numbers + j), *(const Halves *)(numbers + row + j));
}
// The same of float32, which is (columns, depth) in memory where it is `across`
static void pack_weight(const float *numbers, int64_t row, int across, int64_t depth, int64_t width, float *panel) {
    float some[LANES * PANEL] __attribute__((aligned(64)));
    for (int64_t k = 0; k < depth; k += LANES) {
        const float *from = across ? some : numbers + k * row;
        int64_t apart = across ? width : row;
        if (across) transpose(numbers + k, width, LANES, row, some);
        for (int64_t i = 0; i < LANES; i += 2, panel += PANEL)
            for (int64_t j = 0; j < width; j += LANES)
                *(Bits *)(panel + j) = pair_up(to_halves(*(const Lanes *)(from + i * apart + j)),
                                               to_halves(*(const Lanes *)(from + (i + 1) * apart + j)));
    }
}
typedef struct { const uint16_t *a; const void *b; int across; void *c; int64_t rows, columns, depth; } HalfProduct;

static void by_weight_body(const void *pointer, int64_t begin, int64_t end, int64_t thread) {
    const HalfProduct *job = pointer;
    float panel[LONGEST_DEPTH / 2 * PANEL] __attribute__((aligned(64)));
    int64_t first = begin * TILE_ROWS, rows = end * TILE_ROWS - first, columns = job->columns, depth = job->depth;
    (void)thread;
    for (int64_t j = 0; j < columns; j += PANEL) {
        int64_t width = columns - j < PANEL ? columns - j : PANEL;
        const float *b = (const float *)job->b + (job->across ? j * depth : j);
        pack_weight(b, job->across ? depth : columns, job->across, depth, width, panel);
        multiply_pairs(rows, width, depth / 2, (const float *)(job->a + first * depth), depth / 2, 1, panel,
                       (uint16_t *)job->c + first * columns + j, columns, 0, 1);
    }
}
static void of_weight_body(const void *pointer, int64_t begin, int64_t end, int64_t thread) {
    const HalfProduct *job = pointer;
    float panel[DEPTH / 2 * PANEL] __attribute__((aligned(64))), of_a[DEPTH / 2 * STRIP] __attribute__((aligned(64)));
    int64_t last = end * LANES, columns = job->columns;
    (void)thread;
    for (int64_t top = begin * LANES; top < last; top += STRIP)
        for (int64_t k = 0; k < job->depth; k += DEPTH) {
            int64_t depth = job->depth - k < DEPTH ? job->depth - k : DEPTH;
            int64_t rows = last - top < STRIP ? last - top : STRIP;
            for (int64_t i = 0; i < rows; i += PANEL)
                pack_halves(job->a + k * job->rows + top + i, job->rows, depth, rows - i < PANEL ? rows - i : PANEL,
                            of_a + i * (DEPTH / 2));
            for (int64_t j = 0; j < columns; j += PANEL) {
                int64_t width = columns - j < PANEL ? columns - j : PANEL;
                pack_halves((const uint16_t *)job->b + k * columns + j, columns, depth, width, panel);
                for (int64_t i = 0; i < rows; i += PANEL)
                    multiply_pairs(rows - i < PANEL ? rows - i : PANEL, width, depth / 2, of_a + i * (DEPTH / 2), 1,
                                   PANEL, panel, (float *)job->c + (top + i) * columns + j, columns, k > 0, 0);
            }
        }
}

// Whether products, of bfloat16 where `half` is set, have the instructions that they were measured with
EXPORT int product_is_fast(int half) {
    (void)half;
#ifdef __AVX512BF16__
    return 1;
#else
    return LANES == 16 && !half;
#endif
}
// c (rows, columns) = a (rows, depth) b (depth, columns), wherever their numbers are
EXPORT void product(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row, int64_t b_step,
                    float *c, int64_t rows, int64_t columns, int64_t depth) {
    Product job = {a, a_row, a_step, b, b_row, b_step, c, rows, columns, depth};
    if (!depth) memset(c, 0, sizeof(float) * rows * columns);
    parallel(product_body, &job, ROUND(rows, TILE_ROWS) / TILE_ROWS, rows * columns, 0);
}

// ---- causal attention, with the norm of queries and keys and the rotation of positions

#define BLOCK 16  // queries at once; with 32 attention takes 4 to 8 % longer (64 and 128 positions)

typedef struct {
    const void *heads;  // (B, T, n_head + 2 n_kv_head, D) half_or_float: queries, keys, values, yet without `bias`
    const float *bias;  // (n_head + 2 n_kv_head, D), or NULL
    const float *q_weight, *k_weight, *cos, *sin;  // (D), (D), (T, D) twice; each pair may be NULL
    void *y;  // (B, T, n_head, D) half_or_float
    float *logs;  // (B, n_head, T): log of the sum of a query's exponentials
    const void *grad_y;
    void *grad_heads;
    float *weight_parts;  // (B, n_kv_head, 2, D): of each task, the gradients of q_weight and k_weight
    float *scratch;
    int64_t scratch_size, B, T, n_head, n_kv_head, D;
    float eps;
    int half;
} Attention;

// Numbers d .. d + LANES - 1 of a head's vector x + bias (D)
INLINE Lanes biased(const void *x, const float *bias, int64_t d, int64_t D, int half) {
    Lanes a = load(x, d, D, half);
    if (bias) a += load(bias, d, D, 0);
    return a;
}

// 1 / rms of a head's vector (D), or 1
INLINE float inverse_of(const Attention *job, const void *x, const float *bias, int64_t D, int half) {
    if (!job->q_weight) return 1.f;
    Lanes squares = {};
    for (int64_t d = 0; d < D; d += LANES) {
        Lanes a = biased(x, bias, d, D, half);
        squares += a * a;
    }
    return 1.f / sqrtf(sum_of(squares) / D + job->eps);
}

// x (D) to out (D), each coordinate and the one half of D further turned by `position`; back: by `sign` -1
INLINE void rotate(const Attention *job, const float *x, int64_t position, int64_t D, float sign, float *out) {
    int64_t middle = D / 2;
    const float *cos = job->cos + position * D, *sin = job->sin + position * D;
    if (middle % LANES == 0)
        for (int64_t d = 0; d < middle; d += LANES) {
            Lanes low = load(x, d, D, 0), high = load(x, d + middle, D, 0);
            store(out, d, D, 0, low * load(cos, d, D, 0) + sign * high * load(sin, d, D, 0));
            store(out, d + middle, D, 0, high * load(cos, d + middle, D, 0) + sign * low * load(sin, d + middle, D, 0));
        }
    else {
        for (int64_t d = 0; d < middle; ++d) out[d] = x[d] * cos[d] + sign * x[d + middle] * sin[d];
        for (int64_t d = middle; d < D; ++d) out[d] = x[d] * cos[d] + sign * x[d - middle] * sin[d];
    }
}

// A query or key x (D) at `position`, normalised, times `scale` and rotated, to out (D)
INLINE void turn(const Attention *job, const void *x, const float *bias, const float *weight, int64_t position,
                 float scale, float *out, int64_t D, int half) {
    float normed[LONGEST_HEAD], inverse = inverse_of(job, x, bias, D, half) * scale;
    for (int64_t d = 0; d < D; d += LANES) {
        Lanes a = biased(x, bias, d, D, half) * inverse;
        if (weight) a *= load(weight, d, D, 0);
        store(job->cos ? normed : out, d, D, 0, a);
    }
    if (job->cos) rotate(job, normed, position, D, 1.f, out);
}

// The way back: from the gradient (D) of what turn() gave to grad_x (D) half_or_float; of_weight (D) gets its share
INLINE void turn_back(const Attention *job, const void *x, const float *bias, const float *weight, int64_t position,
                      float scale, const float *gradient, void *grad_x, float *of_weight, int64_t D, int half) {
    float turned[LONGEST_HEAD];
    if (job->cos) {
        rotate(job, gradient, position, D, -1.f, turned);
        gradient = turned;
    }
    if (!weight) {
        for (int64_t d = 0; d < D; d += LANES) store(grad_x, d, D, half, scale * load(gradient, d, D, 0));
        return;
    }
    float inverse = inverse_of(job, x, bias, D, half);
    Lanes along = {};
    for (int64_t d = 0; d < D; d += LANES) {
        Lanes u = biased(x, bias, d, D, half) * inverse, product = scale * load(gradient, d, D, 0) * u;
        store(of_weight, d, D, 0, load(of_weight, d, D, 0) + product);
        along += product * load(weight, d, D, 0);
    }
    float share = sum_of(along) / D;
    for (int64_t d = 0; d < D; d += LANES) {
        Lanes u = biased(x, bias, d, D, half) * inverse;
        store(grad_x, d, D, half, (scale * load(gradient, d, D, 0) * load(weight, d, D, 0) - u * share) * inverse);
    }
}

// Widths of heads that are usual are known to the compiler: a third faster
#define FOR_EACH_WIDTH(function) \
    const Attention *attention = job; \
    switch (2 * attention->D + !!attention->half) { \
        case 64: function(attention, begin, end, thread, 32, 0); break; \
        case 65: function(attention, begin, end, thread, 32, 1); break; \
        case 128: function(attention, begin, end, thread, 64, 0); break; \
        case 129: function(attention, begin, end, thread, 64, 1); break; \
        default: \
            if (attention->half) function(attention, begin, end, thread, attention->D, 1); \
            else function(attention, begin, end, thread, attention->D, 0); \
    }

INLINE void attend(const Attention *job, int64_t begin, int64_t end, int64_t thread, int64_t D, int half) {
    int64_t T = job->T, row = (job->n_head + 2 * job->n_kv_head) * D, group = job->n_head / job->n_kv_head;
    int64_t long_T = ROUND(T, BLOCK), long_D = ROUND(D, LANES);
    float *keys = job->scratch + thread * job->scratch_size;  // (long_T, long_D), then transposed
    float *transposed = keys + long_T * long_D, *values = transposed + long_T * long_D;
    float *queries = values + long_T * long_D, *mixed = queries + BLOCK * long_D, *scores = mixed + BLOCK * long_D;
    float scale = 1.f / sqrtf(D);
    memset(keys, 0, 3 * long_T * long_D * sizeof(float));
    memset(queries, 0, 2 * BLOCK * long_D * sizeof(float));
    for (int64_t task = begin; task < end; ++task) {
        int64_t b = task / job->n_kv_head, shared = task % job->n_kv_head;
        const void *window = row_of(job->heads, b * T * row, half);
        const float *key_bias = job->bias ? job->bias + (job->n_head + shared) * D : NULL;
        const float *value_bias = key_bias ? key_bias + job->n_kv_head * D : NULL;
        for (int64_t t = 0; t < T; ++t) {
            const void *key = row_of(window, t * row + (job->n_head + shared) * D, half);
            const void *value = row_of(key, job->n_kv_head * D, half);
            turn(job, key, key_bias, job->k_weight, t, 1.f, keys + t * long_D, D, half);
            for (int64_t d = 0; d < D; d += LANES)
                store(values + t * long_D, d, D, 0, biased(value, value_bias, d, D, half));
        }
        transpose(keys, long_T, long_D, long_D, transposed);
        for (int64_t head = shared * group; head < (shared + 1) * group; ++head) {
            float *logs = job->logs + (b * job->n_head + head) * T;
            const float *query_bias = job->bias ? job->bias + head * D : NULL;
            for (int64_t first = 0; first < T; first += BLOCK) {
                int64_t count = T - first < BLOCK ? T - first : BLOCK, seen = ROUND(first + count, LANES);
                int64_t rows = ROUND(count, TILE_ROWS);
                for (int64_t i = 0; i < count; ++i)
                    turn(job, row_of(window, (first + i) * row + head * D, half), query_bias, job->q_weight, first + i,
                         scale, queries + i * long_D, D, half);
                multiply(rows, seen, D, queries, long_D, 1, transposed, long_T, scores, long_T, 0);
                for (int64_t i = 0; i < count; ++i) {
                    float *s = scores + i * long_T;
                    int64_t own = first + i + 1;
                    for (int64_t j = own; j < ROUND(own, LANES); ++j) s[j] = -INFINITY;
                    Lanes most = all(-INFINITY), sum = {};
                    for (int64_t j = 0; j < own; j += LANES) most = larger(*(Lanes *)(s + j), most);
                    float top = largest_of(most);
                    for (int64_t j = 0; j < own; j += LANES) {
                        Lanes a = *(Lanes *)(s + j) - top;
                        Lanes e = pick(a < -87.f, (Lanes){}, keep_nan(a, exponential(a)));
                        *(Lanes *)(s + j) = e;
                        sum += e;
                    }
                    for (int64_t j = ROUND(own, LANES); j < seen; ++j) s[j] = 0;
                    float total = sum_of(sum), by = 1.f / total;
                    logs[first + i] = top + logf(total);
                    for (int64_t j = 0; j < own; j += LANES) *(Lanes *)(s + j) *= by;
                }
                multiply(rows, long_D, first + count, scores, long_T, 1, values, long_D, mixed, long_D, 0);
                for (int64_t i = 0; i < count; ++i) {
                    void *y = (void *)row_of(job->y, ((b * T + first + i) * job->n_head + head) * D, half);
                    for (int64_t d = 0; d < D; d += LANES) store(y, d, D, half, load(mixed + i * long_D, d, D, 0));
                }
            }
        }
    }
}
static void attend_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    FOR_EACH_WIDTH(attend)
}

INLINE void attend_back(const Attention *job, int64_t begin, int64_t end, int64_t thread, int64_t D, int half) {
    int64_t T = job->T, row = (job->n_head + 2 * job->n_kv_head) * D, group = job->n_head / job->n_kv_head;
    int64_t long_T = ROUND(T, BLOCK), long_D = ROUND(D, LANES), all_of = long_T * long_D;
    float *keys = job->scratch + thread * job->scratch_size, *keys_across = keys + all_of;
    float *values = keys_across + all_of, *values_across = values + all_of;
    float *grad_keys = values_across + all_of, *grad_values = grad_keys + all_of;
    float *queries = grad_values + all_of, *grad_mixed = queries + BLOCK * long_D;
    float *grad_queries = grad_mixed + BLOCK * long_D, *weights = grad_queries + BLOCK * long_D;
    float *grad_scores = weights + BLOCK * long_T;
    float scale = 1.f / sqrtf(D);
    memset(keys, 0, 6 * all_of * sizeof(float));
    memset(queries, 0, 3 * BLOCK * long_D * sizeof(float));
    for (int64_t task = begin; task < end; ++task) {
        int64_t b = task / job->n_kv_head, shared = task % job->n_kv_head;
        const void *window = row_of(job->heads, b * T * row, half);
        const float *key_bias = job->bias ? job->bias + (job->n_head + shared) * D : NULL;
        const float *value_bias = key_bias ? key_bias + job->n_kv_head * D : NULL;
        void *grad_window = (void *)row_of(job->grad_heads, b * T * row, half);
        float *of_q = job->weight_parts + task * 2 * D, *of_k = of_q + D;
        memset(of_q, 0, 2 * D * sizeof(float));
        memset(grad_keys, 0, 2 * all_of * sizeof(float));
        for (int64_t t = 0; t < T; ++t) {
            const void *key = row_of(window, t * row + (job->n_head + shared) * D, half);
            const void *value = row_of(key, job->n_kv_head * D, half);
            turn(job, key, key_bias, job->k_weight, t, 1.f, keys + t * long_D, D, half);
            for (int64_t d = 0; d < D; d += LANES)
                store(values + t * long_D, d, D, 0, biased(value, value_bias, d, D, half));
        }
        transpose(keys, long_T, long_D, long_D, keys_across);
        transpose(values, long_T, long_D, long_D, values_across);
        for (int64_t head = shared * group; head < (shared + 1) * group; ++head) {
            const float *logs = job->logs + (b * job->n_head + head) * T;
            const float *query_bias = job->bias ? job->bias + head * D : NULL;
            for (int64_t first = 0; first < T; first += BLOCK) {
                int64_t count = T - first < BLOCK ? T - first : BLOCK, seen = ROUND(first + count, LANES);
                int64_t rows = ROUND(count, TILE_ROWS);
                for (int64_t i = 0; i < count; ++i) {
                    turn(job, row_of(window, (first + i) * row + head * D, half), query_bias, job->q_weight, first + i,
                         scale, queries + i * long_D, D, half);
                    const void *given = row_of(job->grad_y, ((b * T + first + i) * job->n_head + head) * D, half);
                    for (int64_t d = 0; d < D; d += LANES)
                        store(grad_mixed + i * long_D, d, D, 0, load(given, d, D, half));
                }
                multiply(rows, seen, D, queries, long_D, 1, keys_across, long_T, weights, long_T, 0);
                multiply(rows, seen, D, grad_mixed, long_D, 1, values_across, long_T, grad_scores, long_T, 0);
                for (int64_t i = 0; i < rows; ++i) {
                    float *w = weights + i * long_T, *g = grad_scores + i * long_T;
                    int64_t own = i < count ? first + i + 1 : 0;
                    float log = i < count ? logs[first + i] : 0.f;
                    Lanes along = {};
                    for (int64_t j = own; j < ROUND(own, LANES); ++j) w[j] = -INFINITY;
                    for (int64_t j = 0; j < own; j += LANES) {
                        Lanes a = *(Lanes *)(w + j) - log;
                        Lanes e = pick(a < -87.f, (Lanes){}, keep_nan(a, exponential(a)));
                        *(Lanes *)(w + j) = e;
                        along += e * *(Lanes *)(g + j);
                    }
                    float share = sum_of(along);
                    for (int64_t j = 0; j < own; j += LANES)
                        *(Lanes *)(g + j) = *(Lanes *)(w + j) * (*(Lanes *)(g + j) - share);
                    for (int64_t j = ROUND(own, LANES); j < seen; ++j) w[j] = g[j] = 0;
                }
                multiply(rows, long_D, first + count, grad_scores, long_T, 1, keys, long_D, grad_queries, long_D, 0);
                // queries have the scale in them, so their products with grad_scores need no other
                multiply(seen, long_D, count, grad_scores, 1, long_T, queries, long_D, grad_keys, long_D, 1);
                multiply(seen, long_D, count, weights, 1, long_T, grad_mixed, long_D, grad_values, long_D, 1);
                for (int64_t i = 0; i < count; ++i) {
                    int64_t at = (first + i) * row + head * D;
                    turn_back(job, row_of(window, at, half), query_bias, job->q_weight, first + i, scale,
                              grad_queries + i * long_D, (void *)row_of(grad_window, at, half), of_q, D, half);
                }
            }
        }
        for (int64_t t = 0; t < T; ++t) {
            int64_t at = t * row + (job->n_head + shared) * D;
            turn_back(job, row_of(window, at, half), key_bias, job->k_weight, t, 1.f, grad_keys + t * long_D,
                      (void *)row_of(grad_window, at, half), of_k, D, half);
            void *grad_value = (void *)row_of(grad_window, at + job->n_kv_head * D, half);
            for (int64_t d = 0; d < D; d += LANES)
                store(grad_value, d, D, half, load(grad_values + t * long_D, d, D, 0));
        }
    }
}
static void attend_back_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    FOR_EACH_WIDTH(attend_back)
}

// Numbers of scratch that attention needs for each of its `threads`
EXPORT int64_t attention_scratch(int64_t T, int64_t D) {
    int64_t long_T = ROUND(T, BLOCK), long_D = ROUND(D, LANES);
    return 6 * long_T * long_D + 3 * BLOCK * long_D + 2 * BLOCK * long_T + LANES;
}
EXPORT void attention_forward(const void *heads, const float *bias, const float *q_weight, const float *k_weight,
                              float eps, const float *cos, const float *sin, void *y, float *logs, float *scratch,
                              int64_t threads, int64_t B, int64_t T, int64_t n_head, int64_t n_kv_head, int64_t D,
                              int half) {
    Attention job = {.heads = heads, .bias = bias, .q_weight = q_weight, .k_weight = k_weight, .cos = cos, .sin = sin,
                     .y = y, .logs = logs, .scratch = scratch, .scratch_size = attention_scratch(T, D), .B = B, .T = T,
                     .n_head = n_head, .n_kv_head = n_kv_head, .D = D, .eps = eps, .half = half};
    parallel(attend_body, &job, B * n_kv_head, B * n_head * T * (T + D), threads);
}
// weight_parts (B * n_kv_head, 2, D) is scratch, too; grad_weights (2, D): of queries and keys
EXPORT void attention_backward(const void *grad_y, const void *heads, const float *bias, const float *q_weight,
                               const float *k_weight, float eps, const float *cos, const float *sin, float *logs,
                               void *grad_heads, float *grad_weights, float *weight_parts, float *scratch,
                               int64_t threads, int64_t B, int64_t T, int64_t n_head, int64_t n_kv_head, int64_t D,
                               int half) {
    Attention job = {.heads = heads, .bias = bias, .q_weight = q_weight, .k_weight = k_weight, .cos = cos, .sin = sin,
                     .logs = logs, .grad_y = grad_y, .grad_heads = grad_heads, .weight_parts = weight_parts,
                     .scratch = scratch, .scratch_size = attention_scratch(T, D), .B = B, .T = T, .n_head = n_head,
                     .n_kv_head = n_kv_head, .D = D, .eps = eps, .half = half};
    parallel(attend_back_body, &job, B * n_kv_head, B * n_head * T * (T + D), threads);
    if (!q_weight) return;
    for (int64_t d = 0; d < 2 * D; ++d) {
        float sum = 0;
        for (int64_t task = 0; task < B * n_kv_head; ++task) sum += weight_parts[task * 2 * D + d];
        grad_weights[d] = sum;
    }
}

// ---- a whole block: all of the above in one call for each pass

typedef struct {
    int64_t B, T, width, n_head, n_kv_head, head_width, ffn_width, activation, centred, threads, half;
    const float *norm1, *shift1, *qkv, *qkv_bias, *q_norm, *k_norm, *output, *output_bias, *norm2, *shift2, *up,
        *up_bias, *down, *down_bias, *cos, *sin;  // matrices as torch's linear maps have them; what is lacking is NULL
    int64_t seeds[2];  // of what is dropped of attention's share, which is 0 in most trainings, and the feed-forward's
    float share, eps;
} Block;
typedef struct {  // of parameters; NULL where none is wanted
    float *norm1, *shift1, *qkv, *qkv_bias, *q_norm, *k_norm, *output, *output_bias, *norm2, *shift2, *up, *up_bias,
        *down, *down_bias;
} Gradients;
typedef struct {  // from the forward to the backward pass
    void *first, *projected, *mixed, *second, *slopes, *active;  // half_or_float
    float *mean1, *inverse1, *logs, *middle, *mean2, *inverse2;
} Kept;
typedef struct { void *hidden, *normed, *given, *dropped; float *middle, *of_norms, *heads, *parts; } Scratch;

static void (*sgemm)(const char *, const char *, const int *, const int *, const int *, const float *, const float *,
                     const int *, const float *, const int *, const float *, float *, const int *);

// sgemm_ of a BLAS with integers of 32 bits, or NULL: product() is used
EXPORT void set_blas(void *function) { *(void **)&sgemm = function; }

// c (rows, columns) = a b. a is (rows, depth) or, `across`, (depth, rows) in memory; b likewise. In bfloat16 a is, and
// either b is a weight of float32 and c bfloat16, or a is across and c float32
static void times(int half, const void *a, int a_across, const void *b, int b_across, void *c, int64_t rows,
                  int64_t columns, int64_t depth) {
    if (half) {
        HalfProduct job = {a, b, b_across, c, rows, columns, depth};
        if (a_across) parallel(of_weight_body, &job, rows / LANES, rows * columns, 0);
        else parallel(by_weight_body, &job, rows / TILE_ROWS, rows * columns, 0);
    } else if (sgemm) {
        int m = columns, n = rows, k = depth, b_row = b_across ? k : m, a_row = a_across ? n : k;  // it has columns first
        float one = 1, zero = 0;
        sgemm(b_across ? "T" : "N", a_across ? "T" : "N", &m, &n, &k, &one, b, &b_row, a, &a_row, &zero, c, &m);
    } else
        product(a, a_across ? 1 : depth, a_across ? rows : 1, b, b_across ? 1 : columns, b_across ? depth : 1, c, rows,
                columns, depth);
}
static float *take(float **memory, int64_t numbers, int half) {
    float *taken = *memory;
    *memory += ROUND(half ? numbers / 2 : numbers, LANES);
    return taken;
}
static int64_t heads_width(const Block *b) { return (b->n_head + 2 * b->n_kv_head) * b->head_width; }
static int64_t up_width(const Block *b) { return b->activation == SWIGLU ? 2 * b->ffn_width : b->ffn_width; }

static Kept keep(const Block *b, float **memory) {
    int64_t rows = b->B * b->T, mean = b->centred ? rows : 0;
    Kept kept;
    kept.first = take(memory, rows * b->width, b->half);
    kept.mean1 = take(memory, mean, 0);
    kept.inverse1 = take(memory, rows, 0);
    kept.projected = take(memory, rows * heads_width(b), b->half);
    kept.mixed = take(memory, rows * b->n_head * b->head_width, b->half);
    kept.logs = take(memory, rows * b->n_head, 0);
    kept.middle = take(memory, rows * b->width, 0);
    kept.second = take(memory, rows * b->width, b->half);
    kept.mean2 = take(memory, mean, 0);
    kept.inverse2 = take(memory, rows, 0);
    kept.slopes = take(memory, rows * up_width(b), b->half);
    kept.active = take(memory, rows * b->ffn_width, b->half);
    if (!b->centred) kept.mean1 = kept.mean2 = NULL;
    return kept;
}
// What the backward pass needs besides: `hidden` takes the gradients of the feed-forward, then of attention; `given` is
// `middle` as products read it
static Scratch lay_out(const Block *b, float **memory) {
    int64_t rows = b->B * b->T, ffn = b->ffn_width + (b->activation == SWIGLU ? up_width(b) : 0);
    int64_t mixed = b->n_head * b->head_width, widest = more(more(heads_width(b), up_width(b)), 2 * b->width);
    Scratch scratch;
    scratch.hidden = take(memory, rows * more(ffn, mixed + heads_width(b)), b->half);
    scratch.normed = take(memory, rows * b->width, b->half);
    scratch.middle = take(memory, rows * b->width, 0);
    scratch.given = b->half ? take(memory, rows * b->width, 1) : scratch.middle;
    scratch.dropped = b->share ? take(memory, rows * b->width, b->half) : NULL;
    scratch.of_norms = take(memory, (b->B * b->n_kv_head + 1) * 2 * b->head_width, 0);
    scratch.heads = take(memory, b->threads * attention_scratch(b->T, b->head_width), 0);
    scratch.parts = take(memory, PARTS * widest, 0);
    return scratch;
}
// Numbers that block_forward() keeps for block_backward(), and of the memory that each needs while it computes
EXPORT void block_sizes(const Block *b, int64_t *kept, int64_t *forward, int64_t *backward) {
    float *start = (float *)(intptr_t)64, *end = start;
    keep(b, &end);
    *kept = end - start;
    *forward = b->threads * attention_scratch(b->T, b->head_width) + (b->half ? b->B * b->T * b->width / 2 : 0);
    end = start;
    lay_out(b, &end);
    *backward = end - start;
}
// What a part of the block gives to the sum, its bias and dropout included; the bias is left to the sum where nothing is
// dropped. Returns the bias that is left.
static const float *drop_of(const Block *b, int part, void *given, const float *bias) {
    if (!b->share) return bias;
    drop(given, bias, given, b->B * b->T, b->width, b->seeds[part], b->share, b->half);
    return NULL;
}
// The gradient of that, in `dropped` where something is dropped
static const void *drop_back(const Block *b, int part, const void *gradient, void *dropped) {
    if (!b->share) return gradient;
    drop(gradient, NULL, dropped, b->B * b->T, b->width, b->seeds[part], b->share, b->half);
    return dropped;
}
// x, out (B T, width)
EXPORT void block_forward(const Block *b, const float *x, float *out, float *memory, float *scratch) {
    int64_t rows = b->B * b->T, width = b->width, ffn = b->ffn_width, heads = b->n_head * b->head_width;
    int half = b->half;
    Kept kept = keep(b, &memory);
    float *given = scratch + b->threads * attention_scratch(b->T, b->head_width);  // of products, bfloat16
    float *attended = half ? given : kept.middle, *fed = half ? given : out;
    norm_forward(x, NULL, NULL, NULL, b->norm1, b->shift1, b->eps, kept.first, kept.mean1, kept.inverse1, rows, width,
                 half);
    times(half, kept.first, 0, b->qkv, 1, kept.projected, rows, heads_width(b), width);
    attention_forward(kept.projected, b->qkv_bias, b->q_norm, b->k_norm, b->eps, b->cos, b->sin, kept.mixed, kept.logs,
                      scratch, b->threads, b->B, b->T, b->n_head, b->n_kv_head, b->head_width, half);
    times(half, kept.mixed, 0, b->output, 1, attended, rows, width, heads);
    const float *output_bias = drop_of(b, 0, attended, b->output_bias);
    norm_forward(x, attended, output_bias, kept.middle, b->norm2, b->shift2, b->eps, kept.second, kept.mean2,
                 kept.inverse2, rows, width, half);
    times(half, kept.second, 0, b->up, 1, kept.slopes, rows, up_width(b), width);
    activation_forward(kept.slopes, b->up_bias, kept.active, rows, ffn, b->activation, half);
    times(half, kept.active, 0, b->down, 1, fed, rows, width, ffn);
    const float *down_bias = drop_of(b, 1, fed, b->down_bias);
    add(kept.middle, fed, down_bias, out, rows, width, half);
}
// From the gradient (rows, out) of x weight^T + bias: those of weight and bias, where they are wanted, and of x
static void linear_back(int half, const void *gradient, const void *x, const float *weight, float *of_weight,
                        float *of_bias, void *of_x, int64_t rows, int64_t out, int64_t in, float *parts) {
    if (of_weight) times(half, gradient, 1, x, 0, of_weight, out, in, rows);
    if (of_bias) column_sums(gradient, of_bias, parts, rows, out, half);
    times(half, gradient, 0, weight, 0, of_x, rows, in, out);
}
// grad_given: grad_out half_or_float
EXPORT void block_backward(const Block *b, const float *x, float *memory, const float *grad_out, const void *grad_given,
                           float *grad_x, float *scratch, const Gradients *of) {
    int64_t rows = b->B * b->T, width = b->width, ffn = b->ffn_width, heads = b->n_head * b->head_width;
    int half = b->half;
    Kept kept = keep(b, &memory);
    Scratch s = lay_out(b, &scratch);
    void *grad_hidden = b->activation == SWIGLU ? (void *)row_of(s.hidden, rows * ffn, half) : s.hidden;
    void *grad_heads = (void *)row_of(s.hidden, rows * heads, half);
    float *grad_norms = s.of_norms + b->B * b->n_kv_head * 2 * b->head_width;
    const void *grad_fed = drop_back(b, 1, grad_given, s.dropped);
    linear_back(half, grad_fed, kept.active, b->down, of->down, of->down_bias, s.hidden, rows, width, ffn, s.parts);
    activation_backward(s.hidden, kept.slopes, grad_hidden, of->up_bias, s.parts, rows, ffn, b->activation, half);
    linear_back(half, grad_hidden, kept.second, b->up, of->up, NULL, s.normed, rows, up_width(b), width, s.parts);
    norm_backward(s.normed, kept.middle, kept.mean2, kept.inverse2, b->norm2, grad_out, s.middle, half ? s.given : NULL,
                  of->norm2, of->shift2, s.parts, rows, width, half);
    const void *grad_attended = drop_back(b, 0, s.given, s.dropped);
    linear_back(half, grad_attended, kept.mixed, b->output, of->output, of->output_bias, s.hidden, rows, width, heads,
                s.parts);
    attention_backward(s.hidden, kept.projected, b->qkv_bias, b->q_norm, b->k_norm, b->eps, b->cos, b->sin, kept.logs,
                       grad_heads, grad_norms, s.of_norms, s.heads, b->threads, b->B, b->T, b->n_head, b->n_kv_head,
                       b->head_width, half);
    if (of->q_norm) memcpy(of->q_norm, grad_norms, sizeof(float) * b->head_width);
    if (of->k_norm) memcpy(of->k_norm, grad_norms + b->head_width, sizeof(float) * b->head_width);
    linear_back(half, grad_heads, kept.first, b->qkv, of->qkv, of->qkv_bias, s.normed, rows, heads_width(b), width,
                s.parts);
    norm_backward(s.normed, x, kept.mean1, kept.inverse1, b->norm1, s.middle, grad_x, NULL, of->norm1, of->shift1,
                  s.parts, rows, width, half);
}

// ---- cross entropy, whose gradient takes the logits' place

typedef struct { void *logits; const int64_t *targets; float *losses; int64_t rows, width; int half; } Loss;

INLINE void loss_rows(const Loss *job, int64_t begin, int64_t end, int half) {
    int64_t width = job->width;
    for (int64_t i = begin; i < end; ++i) {
        void *logits = (void *)row_of(job->logits, i * width, half);
        int64_t target = job->targets[i];
        if (target < 0) {
            job->losses[i] = 0;
            memset(logits, 0, width * (half ? 2 : 4));
            continue;
        }
        Lanes most = all(-INFINITY), sum = {};
        int64_t whole = width / LANES * LANES;
        for (int64_t j = 0; j < whole; j += LANES) most = larger(load(logits, j, width, half), most);
        float top = largest_of(most);
        if (whole < width) {
            Lanes rest = load(logits, whole, width, half);
            for (int64_t j = whole; j < width; ++j) top = rest[j - whole] > top ? rest[j - whole] : top;
        }
        for (int64_t j = 0; j < whole; j += LANES) {
            Lanes a = load(logits, j, width, half) - top;
            sum += keep_nan(a, exponential(a));
        }
        float total = sum_of(sum);
        if (whole < width) {
            Lanes a = load(logits, whole, width, half) - top, e = keep_nan(a, exponential(a));
            for (int64_t j = whole; j < width; ++j) total += e[j - whole];
        }
        float of_target = load(logits, target / LANES * LANES, width, half)[target % LANES];
        float log = logf(total), by = 1.f / total;
        job->losses[i] = log - (of_target - top);
        for (int64_t j = 0; j < width; j += LANES) {
            Lanes a = load(logits, j, width, half) - top, p = keep_nan(a, exponential(a)) * by;
            if (target >= j && target < j + LANES) p[target - j] -= 1.f;
            store(logits, j, width, half, p);
        }
    }
}
static void loss_body(const void *job, int64_t begin, int64_t end, int64_t thread) {
    (void)thread;
    if (((const Loss *)job)->half) loss_rows(job, begin, end, 1);
    else loss_rows(job, begin, end, 0);
}
// logits (rows, width) half_or_float become softmax - one_hot(target); losses (rows) in nats. Negative targets: zeros.
EXPORT void cross_entropy(void *logits, const int64_t *targets, float *losses, int64_t rows, int64_t width, int half) {
    Loss job = {logits, targets, losses, rows, width, half};
    parallel(loss_body, &job, rows, 4 * rows * width, 0);
}
