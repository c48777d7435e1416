// What a training step does between its matrix products, fused and for one thread: norms, GELU, attention, dropout, loss.
//
// Each function works on one member's row-major arrays and names its shapes. T is float or bf16; all arithmetic is fp32.
// Loops are written for the compiler's vectoriser; `omp simd` alone allows sums to be reordered. parts/ says the
// same in torch and is held against this file by the tests.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using i64 = int64_t;

struct bf16 { uint16_t bits; };

inline float as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline uint32_t as_bits(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }

inline float load(float x) { return x; }
inline float load(bf16 x) { return as_float(uint32_t(x.bits) << 16); }
inline void store(float& to, float x) { to = x; }
inline void store(bf16& to, float x) {  // round to nearest even; a NaN stays one
    uint32_t bits = as_bits(x), rounded = bits + 0x7fff + ((bits >> 16) & 1);
    to.bits = uint16_t(x == x ? rounded >> 16 : 0x7fc0);
}

#include "vectors.hpp"

// e^x for x <= 0, to 2 units in the last place: 2^n by the exponent bits, the rest by a polynomial. F is float or a vector.
template <class F>
inline F exp_nonpositive(F x) {
    x = x < -87.0f ? -87.0f : x;  // this way round a NaN stays one
    const F shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * as_float((as_bits(shifted) << 23) + 0x3f800000u);
}

inline float sigmoid(float x) {
    const float e = exp_nonpositive(-std::fabs(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// Standard normal distribution and density at x; erf after Abramowitz & Stegun 7.1.26, to 1.5e-7.
inline void normal(float x, float& below, float& density) {
    const float gauss = exp_nonpositive(-0.5f * x * x), t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * std::fabs(x));
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * gauss;
    below = x < 0.0f ? tail : 1.0f - tail;
    density = 0.39894228f * gauss;
}

// Dropout's multiplier of element i: see randomness.py. `limit` carries its sign bit flipped, as torch compares.
struct Mask {
    uint32_t key0, key1, limit;
    float scale;
    Mask(const uint32_t* key, const uint32_t* limit_, const float* scale_)
        : key0(key ? key[0] : 0), key1(key ? key[1] : 0), limit(key ? *limit_ ^ 0x80000000u : 0), scale(key ? *scale_ : 1.0f) {}
    bool drops() const { return limit != 0; }
    template <class U>  // uint32_t, or a vector of them
    auto operator()(U i) const {
        U x = i ^ key0;
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = ((x ^ (x >> 15)) ^ key1) * 0x846ca68bu;
        x ^= x >> 16;
        return x >= limit ? scale : 0.0f;
    }
};

#define MASK const uint32_t *key, const uint32_t *limit, const float *keep_scale, i64 first

// x = (token's row + position's row) times the mask, for B sequences of T tokens.
void embed(i64 B, i64 T, i64 C, const i64* tokens, const float* tokens_VxC, const float* positions_TxC, MASK, float* x) {
    const Mask mask(key, limit, keep_scale);
    for (i64 n = 0; n < B * T; n++) {
        const float *token = tokens_VxC + tokens[n] * C, *position = positions_TxC + n % T * C;
        const uint32_t at = uint32_t(first + n * C);
#pragma omp simd
        for (i64 c = 0; c < C; c++) x[n * C + c] = (token[c] + position[c]) * mask(at + uint32_t(c));
    }
}

void embed_backward(i64 B, i64 T, i64 C, const i64* tokens, const float* grad, MASK, float* tokens_VxC, float* positions_TxC) {
    const Mask mask(key, limit, keep_scale);
    for (i64 n = 0; n < B * T; n++) {
        float *token = tokens_VxC + tokens[n] * C, *position = positions_TxC + n % T * C;
        const uint32_t at = uint32_t(first + n * C);
#pragma omp simd
        for (i64 c = 0; c < C; c++) {
            const float g = grad[n * C + c] * mask(at + uint32_t(c));
            token[c] += g;
            position[c] += g;
        }
    }
}

// A norm that is not `centred` is an RMSNorm: it divides by the root mean square of x itself.
template <class T>
void add_norm(i64 N, i64 C, int centred, const float* x, const T* y, MASK, const float* weight, const float* bias, float* sum,
              T* normed, float* mean_N, float* rstd_N) {
    const Mask mask(key, limit, keep_scale);
    for (i64 n = 0; n < N; n++) {
        const float* in = x + n * C;
        if (y) {
            float* out = sum + n * C;
            const T* add = y + n * C;
            const uint32_t at = uint32_t(first + n * C);
            if (mask.drops()) {
#pragma omp simd
                for (i64 c = 0; c < C; c++) out[c] = in[c] + load(add[c]) * mask(at + uint32_t(c));
            } else {
#pragma omp simd
                for (i64 c = 0; c < C; c++) out[c] = in[c] + load(add[c]);
            }
            in = out;
        }
        float total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
        for (i64 c = 0; c < C; c++) total += in[c];
        const float mean = centred ? total / C : 0.0f;
#pragma omp simd reduction(+ : squares)
        for (i64 c = 0; c < C; c++) squares += (in[c] - mean) * (in[c] - mean);
        const float rstd = 1.0f / std::sqrt(squares / C + 1e-5f);
        T* out = normed + n * C;
        if (bias) {
#pragma omp simd
            for (i64 c = 0; c < C; c++) store(out[c], (in[c] - mean) * rstd * weight[c] + bias[c]);
        } else {
#pragma omp simd
            for (i64 c = 0; c < C; c++) store(out[c], (in[c] - mean) * rstd * weight[c]);
        }
        mean_N[n] = mean;
        rstd_N[n] = rstd;
    }
}

// Adds the norm's gradient to grad_x, the residual stream's; `dropped` becomes that of what was added to the stream there.
template <class T>
void norm_backward(i64 N, i64 C, int centred, const T* grad, const float* x, const float* mean_N, const float* rstd_N,
                   const float* weight, float* grad_x, float* grad_weight, float* grad_bias, T* dropped, MASK) {
    const Mask mask(key, limit, keep_scale);
    std::memset(grad_weight, 0, sizeof(float) * C);
    if (grad_bias) std::memset(grad_bias, 0, sizeof(float) * C);
    for (i64 n = 0; n < N; n++) {
        const T* g = grad + n * C;
        const float *in = x + n * C, mean = mean_N[n], rstd = rstd_N[n];
        float* out = grad_x + n * C;
        float sum = 0, sum_x = 0;
#pragma omp simd reduction(+ : sum, sum_x)
        for (i64 c = 0; c < C; c++) {
            const float gw = load(g[c]) * weight[c], normed = (in[c] - mean) * rstd;
            sum += gw;
            sum_x += gw * normed;
        }
        sum = centred ? sum / C : 0.0f;
        sum_x /= C;
#pragma omp simd
        for (i64 c = 0; c < C; c++) {
            const float gc = load(g[c]), normed = (in[c] - mean) * rstd;
            out[c] += rstd * (gc * weight[c] - sum - normed * sum_x);
            grad_weight[c] += gc * normed;
        }
        if (grad_bias) {
#pragma omp simd
            for (i64 c = 0; c < C; c++) grad_bias[c] += load(g[c]);
        }
        T* to = dropped + n * C;
        const uint32_t at = uint32_t(first + n * C);
        if (mask.drops()) {
#pragma omp simd
            for (i64 c = 0; c < C; c++) store(to[c], out[c] * mask(at + uint32_t(c)));
        } else {
#pragma omp simd
            for (i64 c = 0; c < C; c++) store(to[c], out[c]);
        }
    }
}

// The first `heads` heads of each of N rows, `width` long, in place: each divided by its root mean square where `rstd` is
// given, to keep the inverses, then rotated where `turn` is, which holds cosines and then sines, [T, D/2] each.
template <class T>
void norm_rotate(i64 N, i64 T_, i64 heads, i64 D, i64 width, const float* turn, T* x, float* rstd) {
    const i64 half = D / 2;
    for (i64 n = 0; n < N; n++) {
        const float *cosine = turn ? turn + n % T_ * half : nullptr, *sine = turn ? cosine + T_ * half : nullptr;
        for (i64 h = 0; h < heads; h++) {
            T* io = x + n * width + h * D;
            if (rstd) {
                float squares = 0;
#pragma omp simd reduction(+ : squares)
                for (i64 d = 0; d < D; d++) squares += load(io[d]) * load(io[d]);
                const float r = 1.0f / std::sqrt(squares / D + 1e-5f);
                rstd[n * heads + h] = r;
#pragma omp simd
                for (i64 d = 0; d < D; d++) store(io[d], load(io[d]) * r);
            }
            if (!turn) continue;
#pragma omp simd
            for (i64 d = 0; d < half; d++) {
                const float a = load(io[d]), b = load(io[half + d]);
                store(io[d], a * cosine[d] - b * sine[d]);
                store(io[half + d], b * cosine[d] + a * sine[d]);
            }
        }
    }
}

// `grad`, of the same shape, becomes the gradient of norm_rotate's argument, of which y is the result. A rotation keeps
// products, so that the norm's gradient can be taken among rotated heads and turned back.
template <class T>
void norm_rotate_backward(i64 N, i64 T_, i64 heads, i64 D, i64 width, const float* turn, const T* y, const float* rstd, T* grad) {
    const i64 half = D / 2;
    for (i64 n = 0; n < N; n++) {
        const float *cosine = turn ? turn + n % T_ * half : nullptr, *sine = turn ? cosine + T_ * half : nullptr;
        for (i64 h = 0; h < heads; h++) {
            T* g = grad + n * width + h * D;
            if (rstd) {
                const T* normed = y + n * width + h * D;
                const float r = rstd[n * heads + h];
                float product = 0;
#pragma omp simd reduction(+ : product)
                for (i64 d = 0; d < D; d++) product += load(g[d]) * load(normed[d]);
                product /= D;
#pragma omp simd
                for (i64 d = 0; d < D; d++) store(g[d], r * (load(g[d]) - load(normed[d]) * product));
            }
            if (!turn) continue;
#pragma omp simd
            for (i64 d = 0; d < half; d++) {
                const float a = load(g[d]), b = load(g[half + d]);
                store(g[d], a * cosine[d] + b * sine[d]);
                store(g[half + d], b * cosine[d] - a * sine[d]);
            }
        }
    }
}

#include "attention.hpp"

// y = GELU(x); with `slope`, GELU'(x) goes there, which may be x itself.
template <class T>
void gelu(i64 n, const T* x, T* y, T* slope) {
    if (slope) {
#pragma omp simd
        for (i64 i = 0; i < n; i++) {
            float below, density;
            const float at = load(x[i]);
            normal(at, below, density);
            store(y[i], at * below);
            store(slope[i], below + at * density);
        }
    } else {
#pragma omp simd
        for (i64 i = 0; i < n; i++) {
            float below, density;
            normal(load(x[i]), below, density);
            store(y[i], load(x[i]) * below);
        }
    }
}

template <class T>
void multiply(i64 n, const T* slope, T* grad) {
#pragma omp simd
    for (i64 i = 0; i < n; i++) store(grad[i], load(grad[i]) * load(slope[i]));
}

// y = SiLU(gate) * hidden of N rows, each the gate's F channels and then the hidden ones.
template <class T>
void swiglu(i64 N, i64 F, const T* x, T* y) {
    for (i64 n = 0; n < N; n++) {
        const T *gate = x + 2 * n * F, *hidden = gate + F;
#pragma omp simd
        for (i64 f = 0; f < F; f++) {
            const float at = load(gate[f]);
            store(y[n * F + f], at * sigmoid(at) * load(hidden[f]));
        }
    }
}

// x becomes the gradient of itself, from that of y.
template <class T>
void swiglu_backward(i64 N, i64 F, const T* grad, T* x) {
    for (i64 n = 0; n < N; n++) {
        T *gate = x + 2 * n * F, *hidden = gate + F;
#pragma omp simd
        for (i64 f = 0; f < F; f++) {
            const float at = load(gate[f]), share = sigmoid(at), g = load(grad[n * F + f]);
            store(gate[f], g * load(hidden[f]) * share * (1.0f + at * (1.0f - share)));
            store(hidden[f], g * at * share);
        }
    }
}

// Sum of the losses of N rows of logits_NxW, of which the first V count; with `scale` logits become its gradient.
template <class T>
double cross_entropy(i64 N, i64 W, i64 V, T* logits, const i64* targets, const float* scale) {
    std::vector<float> row(W);
    float* e = row.data();
    double total = 0;
    for (i64 n = 0; n < N; n++) {
        T* io = logits + n * W;
        float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
        for (i64 v = 0; v < V; v++) {
            e[v] = load(io[v]);
            top = top < e[v] ? e[v] : top;
        }
        const float hit = e[targets[n]] - top;
#pragma omp simd reduction(+ : sum)
        for (i64 v = 0; v < V; v++) {
            e[v] = exp_nonpositive(e[v] - top);
            sum += e[v];
        }
        total += std::log(sum) - hit;
        if (!scale) continue;
        const float share = *scale / sum;
#pragma omp simd
        for (i64 v = 0; v < V; v++) store(io[v], e[v] * share);
        store(io[targets[n]], (e[targets[n]] - sum) * share);
        std::memset(io + V, 0, sizeof(T) * (W - V));
    }
    return total;
}

template <class T>
void adamw(i64 n, float* p, float* m, float* v, const float* grad, T* shadow, float divisor, float lr, float beta1, float beta2,
           float eps, float decay, float updates) {
    const float step = lr / (1.0f - std::pow(beta1, updates)), root = 1.0f / std::sqrt(1.0f - std::pow(beta2, updates));
    const float kept = 1.0f - lr * decay, scale = 1.0f / divisor;
#pragma omp simd
    for (i64 i = 0; i < n; i++) {
        const float g = grad[i] * scale;
        m[i] = beta1 * m[i] + (1.0f - beta1) * g;
        v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
        p[i] = p[i] * kept - step * m[i] / (std::sqrt(v[i]) * root + eps);
    }
    if (shadow) {
#pragma omp simd
        for (i64 i = 0; i < n; i++) store(shadow[i], p[i]);
    }
}

}  // namespace

extern "C" {
void embed_fp32(i64 B, i64 T, i64 C, const i64* tokens, const float* tokens_VxC, const float* positions_TxC, MASK, float* x) {
    embed(B, T, C, tokens, tokens_VxC, positions_TxC, key, limit, keep_scale, first, x);
}
void embed_backward_fp32(i64 B, i64 T, i64 C, const i64* tokens, const float* grad, MASK, float* tokens_VxC,
                         float* positions_TxC) {
    embed_backward(B, T, C, tokens, grad, key, limit, keep_scale, first, tokens_VxC, positions_TxC);
}
}

#define EXPORT(T, SUFFIX)                                                                                                  \
    extern "C" {                                                                                                           \
    void add_norm_##SUFFIX(i64 N, i64 C, int centred, const float* x, const T* y, MASK, const float* weight, const float* bias,\
                           float* sum, T* normed, float* mean, float* rstd) {                                              \
        add_norm<T>(N, C, centred, x, y, key, limit, keep_scale, first, weight, bias, sum, normed, mean, rstd);            \
    }                                                                                                                      \
    void norm_backward_##SUFFIX(i64 N, i64 C, int centred, const T* grad, const float* x, const float* mean, const float* rstd,\
                                const float* weight, float* grad_x, float* grad_weight, float* grad_bias, T* dropped,      \
                                MASK) {                                                                                    \
        norm_backward<T>(N, C, centred, grad, x, mean, rstd, weight, grad_x, grad_weight, grad_bias, dropped, key, limit,  \
                         keep_scale, first);                                                                               \
    }                                                                                                                      \
    void norm_rotate_##SUFFIX(i64 N, i64 T_, i64 heads, i64 D, i64 width, const float* turn, T* x, float* rstd) {          \
        norm_rotate<T>(N, T_, heads, D, width, turn, x, rstd);                                                             \
    }                                                                                                                      \
    void norm_rotate_backward_##SUFFIX(i64 N, i64 T_, i64 heads, i64 D, i64 width, const float* turn, const T* y,          \
                                       const float* rstd, T* grad) {                                                       \
        norm_rotate_backward<T>(N, T_, heads, D, width, turn, y, rstd, grad);                                              \
    }                                                                                                                      \
    void swiglu_##SUFFIX(i64 N, i64 F, const T* x, T* y) { swiglu<T>(N, F, x, y); }                                        \
    void swiglu_backward_##SUFFIX(i64 N, i64 F, const T* grad, T* x) { swiglu_backward<T>(N, F, grad, x); }                \
    void attend_##SUFFIX(i64 B, i64 T_, i64 H, i64 K, i64 D, i64 window, float scale, const T* qkv, T* out, T* probs, MASK) {\
        attend<T>({B, T_, H, K, D, window}, scale, qkv, out, probs, key, limit, keep_scale, first);                        \
    }                                                                                                                      \
    void attend_backward_##SUFFIX(i64 B, i64 T_, i64 H, i64 K, i64 D, i64 window, float scale, const T* qkv, const T* probs,\
                                  const T* grad, T* grad_qkv, MASK) {                                                      \
        attend_backward<T>({B, T_, H, K, D, window}, scale, qkv, probs, grad, grad_qkv, key, limit, keep_scale, first);    \
    }                                                                                                                      \
    void gelu_##SUFFIX(i64 n, const T* x, T* y, T* slope) { gelu<T>(n, x, y, slope); }                                     \
    void multiply_##SUFFIX(i64 n, const T* slope, T* grad) { multiply<T>(n, slope, grad); }                                \
    double cross_entropy_##SUFFIX(i64 N, i64 W, i64 V, T* logits, const i64* targets, const float* scale) {                \
        return cross_entropy<T>(N, W, V, logits, targets, scale);                                                          \
    }                                                                                                                      \
    void adamw_##SUFFIX(i64 n, float* p, float* m, float* v, const float* grad, T* shadow, float divisor, float lr,        \
                        float beta1, float beta2, float eps, float decay, float updates) {                                 \
        adamw<T>(n, p, m, v, grad, shadow, divisor, lr, beta1, beta2, eps, decay, updates);                                \
    }                                                                                                                      \
    }

EXPORT(float, fp32)
EXPORT(bf16, bf16)
