// W numbers that are computed with at once, by the vector types of GCC and Clang. Included by kernels.cpp.

#ifdef __AVX512F__
constexpr i64 W = 16;
#else
constexpr i64 W = 8;
#endif
typedef float vec __attribute__((vector_size(4 * W)));
typedef uint32_t uvec __attribute__((vector_size(4 * W)));
typedef uint16_t half_vec __attribute__((vector_size(2 * W)));
typedef float quarter __attribute__((vector_size(16)));
inline vec as_float(uvec bits) { return vec(bits); }
inline uvec as_bits(vec x) { return uvec(x); }

template <class V, class T>
inline V copied(const T* from) {  // arrays lie anywhere
    V x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
inline vec load_vec(const float* x) { return copied<vec>(x); }
inline vec load_vec(const bf16* x) { return vec(__builtin_convertvector(copied<half_vec>(x), uvec) << 16); }
inline void store(float* to, vec x) { std::memcpy(to, &x, sizeof x); }
inline void store(bf16* to, vec x) {
    const uvec bits = uvec(x), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = uvec{} + 0x7fc0;
    const half_vec half = __builtin_convertvector(x == x ? rounded : nan, half_vec);
    std::memcpy(to, &half, sizeof half);
}
inline uvec counted_from(uint32_t first) {
#ifdef __AVX512F__
    return uvec{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + first;
#else
    return uvec{0, 1, 2, 3, 4, 5, 6, 7} + first;
#endif
}
inline quarter part(const vec& x, i64 first) { return copied<quarter>(reinterpret_cast<const char*>(&x) + 4 * first); }
inline float sum_of(vec x) {
    quarter q = part(x, 0);
    for (i64 l = 4; l < W; l += 4) q += part(x, l);
    return (q[0] + q[1]) + (q[2] + q[3]);
}
inline float largest_of(vec x) {
    quarter q = part(x, 0);
    for (i64 l = 4; l < W; l += 4) q = q < part(x, l) ? part(x, l) : q;
    const float a = q[0] < q[1] ? q[1] : q[0], b = q[2] < q[3] ? q[3] : q[2];
    return a < b ? b : a;
}
