// y = x W^T (+ bias) for few rows x: weights are streamed from memory once, whatever the number of rows.
//
// Every output is one dot product whose order of additions depends on K alone, not on the number of rows or threads: a
// row's result is the same bits in every batch.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, OUTPUTS = 6;  // 6 x 4 accumulators of 32 registers
#else
constexpr int LANES = 8, OUTPUTS = 3;  // 3 x 4 of 16
#endif
constexpr int ROWS = 4;
constexpr int64_t SMALL = 1 << 15;  // weights for which waking threads costs more than it gains

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }

inline Vector load(const c10::BFloat16* p) {
  typedef uint16_t Half __attribute__((vector_size(LANES * 2), aligned(2)));
  typedef uint32_t Whole __attribute__((vector_size(LANES * 4)));
  auto bits = __builtin_convertvector(*reinterpret_cast<const Half*>(p), Whole) << 16;
  return (Vector)bits;  // the same bits
}

inline Vector load(const int8_t* p) {
#if defined(__AVX512F__)
  auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Vector>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#else
  typedef int8_t Byte __attribute__((vector_size(LANES), aligned(1)));
  typedef int16_t Short __attribute__((vector_size(LANES * 2)));
  typedef int32_t Whole __attribute__((vector_size(LANES * 4)));
  auto shorts = __builtin_convertvector(*reinterpret_cast<const Byte*>(p), Short);  // at once it is done one by one
  return __builtin_convertvector(__builtin_convertvector(shorts, Whole), Vector);
#endif
}

// N outputs of R rows; meanwhile every `stride`-th row of the next weights, from row `first`, comes into the cache.
template <int N, int R, typename W>
inline void products(const W* w, const float* x, int64_t K, float* y, int64_t ldy, const W* next, int first, int stride) {
  Vector sum[N][R] = {};
  int64_t k = 0;
  for (; k + LANES <= K; k += LANES) {
    if (next && k * sizeof(W) % 64 == 0)
      for (int n = first; n < N; n += stride) __builtin_prefetch(next + n * K + k, 0, 2);
    Vector row[R];
    for (int r = 0; r < R; ++r) row[r] = load(x + r * K + k);
    for (int n = 0; n < N; ++n) {
      Vector weights = load(w + n * K + k);
      for (int r = 0; r < R; ++r) sum[n][r] += weights * row[r];
    }
  }
  for (int n = 0; n < N; ++n)
    for (int r = 0; r < R; ++r) {
      float total = 0;
      for (int64_t rest = k; rest < K; ++rest) total += static_cast<float>(w[n * K + rest]) * x[r * K + rest];
      alignas(64) float lanes[LANES];
      std::memcpy(lanes, &sum[n][r], sizeof(lanes));
#pragma GCC unroll 4
      for (int half = LANES / 2; half; half /= 2)
#pragma GCC ivdep
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
      y[r * ldy + n] = total + lanes[0];
    }
}

// N outputs of all rows, in groups of up to ROWS.
template <int N, typename W>
inline void outputs(const W* w, const float* x, int64_t rows, int64_t K, float* y, int64_t ldy, const W* next) {
  int stride = (rows + ROWS - 1) / ROWS, group = 0;
  for (int64_t r = 0; r < rows; r += ROWS, ++group) {
    const float* from = x + r * K;
    float* to = y + r * ldy;
    switch (std::min<int64_t>(rows - r, ROWS)) {
      case 1: products<N, 1>(w, from, K, to, ldy, next, group, stride); break;
      case 2: products<N, 2>(w, from, K, to, ldy, next, group, stride); break;
      case 3: products<N, 3>(w, from, K, to, ldy, next, group, stride); break;
      default: products<N, 4>(w, from, K, to, ldy, next, group, stride);
    }
  }
}

template <typename W>
void stream(const W* w, const float* x, int64_t rows, int64_t K, int64_t N, float* y) {
  int64_t blocks = (N + OUTPUTS - 1) / OUTPUTS;
  at::parallel_for(0, blocks, std::max<int64_t>(1, SMALL / (OUTPUTS * K)), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      int64_t n = block * OUTPUTS;
      if (n + OUTPUTS <= N) {
        bool more = block + 1 < end && n + 2 * OUTPUTS <= N;
        outputs<OUTPUTS>(w + n * K, x, rows, K, y + n, N, more ? w + (n + OUTPUTS) * K : nullptr);
      } else {
        for (; n < N; ++n) outputs<1, W>(w + n * K, x, rows, K, y + n, N, nullptr);
      }
    }
  });
}

// x [..., K], weight [N, K] in float, bfloat16 or int8 (then with a scale [N]), bias [N]: [..., N] in x's type.
at::Tensor few_rows(
    const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& scale,
    const std::optional<at::Tensor>& bias) {
  int64_t N = weight.size(0), K = weight.size(1);
  TORCH_CHECK(x.size(-1) == K && K > 0 && weight.is_contiguous(), "few_rows: x ", x.sizes(), ", weight ", weight.sizes());
  at::Tensor rows = x.to(at::kFloat).contiguous();
  auto shape = x.sizes().vec();
  shape.back() = N;
  at::Tensor y = at::empty(shape, rows.options());
  auto run = [&](auto* w) {
    stream(w, rows.const_data_ptr<float>(), rows.numel() / K, K, N, y.mutable_data_ptr<float>());
  };
  switch (weight.scalar_type()) {
    case at::kFloat: run(weight.const_data_ptr<float>()); break;
    case at::kBFloat16: run(weight.const_data_ptr<c10::BFloat16>()); break;
    case at::kChar: run(weight.const_data_ptr<int8_t>()); break;
    default: TORCH_CHECK(false, "few_rows: weights are ", weight.scalar_type(), "; float, bfloat16 and int8 have a kernel");
  }
  if (scale) y.mul_(*scale);
  if (bias) y.add_(*bias);
  return y.to(x.scalar_type());
}

}  // namespace

TORCH_LIBRARY(jam, library) { library.def("few_rows(Tensor x, Tensor weight, Tensor? scale, Tensor? bias) -> Tensor"); }
TORCH_LIBRARY_IMPL(jam, CPU, library) { library.impl("few_rows", few_rows); }
