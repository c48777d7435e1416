// Causal attention under dropout, one head after the other, so that all of a head stays in the cache. Included by
// kernels.cpp; its legend and helpers hold here too. A sequence's T queries are taken ROWS at a time against the keys they
// may see; sums are kept in registers over tiles of ROWS x 2 vectors of W floats, hence arrays padded with zeros to whole
// vectors: P is D padded, J is T padded, and one vector more, so that rows of powers of two do not fall on the same places of
// the cache. Products are of fp32.

constexpr i64 ROWS = W / 2;

inline i64 padded(i64 n) { return (n + W - 1) / W * W; }

// c = a b: [ROWS, K] by [K, n], of which n is N vectors; rows of each are `lda`, `ldb` and `ldc` apart.
template <int N>
void tile(i64 K, const float* a, i64 lda, const float* b, i64 ldb, float* c, i64 ldc) {
    vec sum[ROWS][N] = {};
    for (i64 k = 0; k < K; k++)
        for (i64 r = 0; r < ROWS; r++)
            for (int v = 0; v < N; v++) sum[r][v] += a[r * lda + k] * load_vec(b + k * ldb + v * W);
    for (i64 r = 0; r < ROWS; r++)
        for (int v = 0; v < N; v++) store(c + r * ldc + v * W, sum[r][v]);
}

inline void multiply_rows(i64 K, i64 n, const float* a, i64 lda, const float* b, i64 ldb, float* c, i64 ldc) {
    i64 j = 0;
    for (; j + 2 * W <= n; j += 2 * W) tile<2>(K, a, lda, b + j, ldb, c + j, ldc);
    if (j < n) tile<1>(K, a, lda, b + j, ldb, c + j, ldc);
}

// c += a^T b: [n, ROWS] by [ROWS, P], of which N vectors.
template <int N>
void outer_tile(i64 n, const float* a, i64 lda, const float* b, i64 ldb, float* c, i64 ldc) {
    vec row[ROWS][N];
    for (i64 r = 0; r < ROWS; r++)
        for (int v = 0; v < N; v++) row[r][v] = load_vec(b + r * ldb + v * W);
    for (i64 j = 0; j < n; j++)
        for (int v = 0; v < N; v++) {
            vec sum = load_vec(c + j * ldc + v * W);
            for (i64 r = 0; r < ROWS; r++) sum += a[r * lda + j] * row[r][v];
            store(c + j * ldc + v * W, sum);
        }
}

inline void add_outer(i64 n, i64 P, const float* a, i64 lda, const float* b, i64 ldb, float* c, i64 ldc) {
    i64 p = 0;
    for (; p + 2 * W <= P; p += 2 * W) outer_tile<2>(n, a, lda, b + p, ldb, c + p, ldc);
    if (p < P) outer_tile<1>(n, a, lda, b + p, ldb, c + p, ldc);
}

// The places of a head's queries, keys and values in a row of H + 2 K heads, K of which are keys', and its shape.
struct Heads {
    i64 B, T, H, K, D, window, P, J, width, kept;
    Heads(i64 B_, i64 T_, i64 H_, i64 K_, i64 D_, i64 window_)
        : B(B_), T(T_), H(H_), K(K_), D(D_), window(window_), P(padded(D_)), J(padded(T_) + W), width((H_ + 2 * K_) * D_), kept((T_ + 15) / 16 * 16) {}
    i64 key(i64 h) const { return (H + h / (H / K)) * D; }
    i64 value(i64 h) const { return key(h) + K * D; }
    i64 rows() const { return (T + ROWS - 1) / ROWS * ROWS; }
    i64 from(i64 i) const { return i < window ? 0 : (i - window + 1) / W * W; }       // the first column row i needs
    i64 until(i64 i) const { return padded(i + ROWS < T ? i + ROWS : T); }            // after the last of rows from i on
};

// A head's T rows, `width` apart, to fp32 rows of P; and to P rows of J, transposed.
template <class T>
void unpack(const Heads& s, const T* from, i64 width, float* to) {
    for (i64 t = 0; t < s.T; t++)
        for (i64 d = 0; d < s.D; d++) to[t * s.P + d] = load(from[t * width + d]);
}
template <class T>
void transpose(const Heads& s, const T* from, float* to) {
    for (i64 t = 0; t < s.T; t++)
        for (i64 d = 0; d < s.D; d++) to[d * s.J + t] = load(from[t * s.width + d]);
}
template <class T>
void pack(const Heads& s, i64 rows, const float* from, i64 width, T* to) {
    for (i64 t = 0; t < rows; t++)
        for (i64 d = 0; d < s.D; d++) store(to[t * width + d], from[t * s.P + d]);
}

// Row i's softmax over the columns from `from` until `until`, of which it may see those up to i and within the window; in
// place under dropout, whose elements are numbered from `index`, and as it is to `probs`, where that is given.
template <class T>
void softmax_row(const Heads& s, i64 i, i64 from, i64 until, float scale, const Mask& mask, uint32_t index, float* e, T* probs) {
    // Counted from 2^31 on, so that the column before the first is less than it.
    const uint32_t zero = 0x80000000u, last = zero + uint32_t(i), before = last - uint32_t(s.window < s.T ? s.window : s.T);
    const vec none = vec{} - INFINITY;
    vec tops = none, sums = {};
    for (i64 j = from; j < until; j += W) {
        const uvec column = counted_from(zero + uint32_t(j));
        const vec x = ((column <= last) & (column > before)) ? load_vec(e + j) * scale : none;
        tops = tops < x ? x : tops;
        store(e + j, x);
    }
    const float top = largest_of(tops);
    for (i64 j = from; j < until; j += W) {
        const uvec column = counted_from(zero + uint32_t(j));
        const vec x = ((column <= last) & (column > before)) ? exp_nonpositive(load_vec(e + j) - top) : vec{};
        sums += x;
        store(e + j, x);
    }
    const float share = 1.0f / sum_of(sums);
    for (i64 j = from; j < until; j += W) {
        const vec p = load_vec(e + j) * share;
        if (probs) store(probs + j, p);
        store(e + j, mask.drops() ? p * mask(counted_from(index + uint32_t(j))) : p);
    }
}

// Probabilities go to probs_BxHxTxT, where it is given, up to the diagonal; its rows are `kept` apart (ROW_MULTIPLE in native_attention.py).
template <class T>
void attend(const Heads& s, float scale, const T* qkv, T* out, T* probs, MASK) {
    const Mask mask(key, limit, keep_scale);
    std::vector<float> scratch(s.rows() * s.P + s.P * s.J + s.J * s.P + ROWS * s.J + ROWS * s.P);
    float *q = scratch.data(), *k_t = q + s.rows() * s.P, *v = k_t + s.P * s.J, *e = v + s.J * s.P, *y = e + ROWS * s.J;
    for (i64 g = 0; g < s.B * s.H; g++) {
        const i64 b = g / s.H, h = g % s.H;
        const T* row = qkv + b * s.T * s.width;
        unpack(s, row + h * s.D, s.width, q);
        transpose(s, row + s.key(h), k_t);
        unpack(s, row + s.value(h), s.width, v);
        for (i64 i = 0; i < s.T; i += ROWS) {
            const i64 from = s.from(i), until = s.until(i), rows = i + ROWS < s.T ? ROWS : s.T - i;
            multiply_rows(s.D, until - from, q + i * s.P, s.P, k_t + from, s.J, e + from, s.J);
            for (i64 r = 0; r < rows; r++) {
                const i64 row = g * s.T + i + r;
                softmax_row(s, i + r, from, until, scale, mask, uint32_t(first + row * s.T), e + r * s.J,
                            probs ? probs + row * s.kept : nullptr);
            }
            multiply_rows(until - from, s.P, e + from, s.J, v + from * s.P, s.P, y, s.P);
            pack(s, rows, y, s.H * s.D, out + (b * s.T + i) * s.H * s.D + h * s.D);
        }
    }
}

// The gradient of qkv from that of attend's result; heads that share keys add to the same.
template <class T>
void attend_backward(const Heads& s, float scale, const T* qkv, const T* probs, const T* grad, T* grad_qkv, MASK) {
    const Mask mask(key, limit, keep_scale);
    const i64 whole = s.rows() * s.P, keys = s.J * s.P, block = ROWS * s.J, shared = s.H / s.K;
    std::vector<float> scratch(2 * whole + 4 * keys + 2 * block + ROWS * s.P);
    float *q = scratch.data(), *g = q + whole, *k = g + whole, *v_t = k + keys, *grad_k = v_t + keys, *grad_v = grad_k + keys;
    float *dropped = grad_v + keys, *e = dropped + block, *y = e + block;
    for (i64 head = 0; head < s.B * s.H; head++) {
        const i64 b = head / s.H, h = head % s.H;
        const T *row = qkv + b * s.T * s.width, *grad_row = grad + b * s.T * s.H * s.D + h * s.D;
        T* to = grad_qkv + b * s.T * s.width;
        unpack(s, row + h * s.D, s.width, q);
        unpack(s, grad_row, s.H * s.D, g);
        if (h % shared == 0) {
            unpack(s, row + s.key(h), s.width, k);
            transpose(s, row + s.value(h), v_t);
            std::memset(grad_k, 0, sizeof(float) * 2 * keys);
        }
        for (i64 i = 0; i < s.T; i += ROWS) {
            const i64 from = s.from(i), until = s.until(i), rows = i + ROWS < s.T ? ROWS : s.T - i;
            multiply_rows(s.D, until - from, g + i * s.P, s.P, v_t + from, s.J, e + from, s.J);
            for (i64 r = 0; r < ROWS; r++) {
                float *d = dropped + r * s.J, *slope = e + r * s.J;
                if (r >= rows) {
                    std::memset(d + from, 0, sizeof(float) * (until - from));
                    std::memset(slope + from, 0, sizeof(float) * (until - from));
                    continue;
                }
                const i64 place = head * s.T + i + r;
                const uint32_t index = uint32_t(first + place * s.T);
                const T* p = probs + place * s.kept;
                vec sums = {};
                for (i64 j = from; j < until; j += W) {
                    const vec kept = mask.drops() ? mask(counted_from(index + uint32_t(j))) : vec{} + 1.0f;
                    const vec left = load_vec(p + j) * kept, g_left = load_vec(slope + j);
                    sums += g_left * left;
                    store(d + j, left);
                    store(slope + j, g_left * kept);
                }
                const float sum = sum_of(sums);
                for (i64 j = from; j < until; j += W) store(slope + j, (load_vec(slope + j) - sum) * load_vec(p + j) * scale);
            }
            add_outer(until - from, s.P, dropped + from, s.J, g + i * s.P, s.P, grad_v + from * s.P, s.P);
            add_outer(until - from, s.P, e + from, s.J, q + i * s.P, s.P, grad_k + from * s.P, s.P);
            multiply_rows(until - from, s.P, e + from, s.J, k + from * s.P, s.P, y, s.P);
            pack(s, rows, y, s.width, to + i * s.width + h * s.D);
        }
        if ((h + 1) % shared == 0) {
            pack(s, s.T, grad_k, s.width, to + s.key(h));
            pack(s, s.T, grad_v, s.width, to + s.value(h));
        }
    }
}
