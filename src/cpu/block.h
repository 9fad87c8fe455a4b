// Block: one cache line of accumulators, computed on in whatever vectors the instruction set has.
// Everything here has internal linkage: the file is compiled once per instruction set.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "../dtype.h"
#include "kernels.h"

namespace roidl::cpu {
namespace {

inline constexpr int kVectorBytes = ROIDL_VECTOR_BYTES;

template <class A>
struct Native {
  typedef A Vector __attribute__((vector_size(kVectorBytes)));
  typedef A Loose __attribute__((vector_size(kVectorBytes), aligned(alignof(A)), may_alias));
  static constexpr int lanes = kVectorBytes / static_cast<int>(sizeof(A));
};

template <class A>
inline constexpr int kLanes = kBlockBytes / static_cast<int>(sizeof(A));
inline constexpr int kVectors = kBlockBytes / kVectorBytes;
// Accumulators that fit in the registers beside what they are made of.
inline constexpr int kUnroll = kVectors >= 4 ? 2 : 8 / kVectors;

template <class A>
struct Block {
  using Vector = typename Native<A>::Vector;
  Vector v[kVectors];
};

template <class A>
ROIDL_INLINE Block<A> load(const A* address) {
  Block<A> block;
  const auto* vectors = reinterpret_cast<const typename Native<A>::Loose*>(address);
  for (int i = 0; i < kVectors; ++i) block.v[i] = vectors[i];
  return block;
}

template <class A>
ROIDL_INLINE void store(A* address, const Block<A>& block) {
  auto* vectors = reinterpret_cast<typename Native<A>::Loose*>(address);
  for (int i = 0; i < kVectors; ++i) vectors[i] = block.v[i];
}

template <class A>
ROIDL_INLINE Block<A> fill(A value) {
  Block<A> block;
  for (int i = 0; i < kVectors; ++i) block.v[i] = value - typename Native<A>::Vector{};
  return block;
}

template <class A>
ROIDL_INLINE void add_product(Block<A>& sum, A weight, const Block<A>& values) {
  for (int i = 0; i < kVectors; ++i) sum.v[i] += weight * values.v[i];
}

template <class A>
ROIDL_INLINE Block<A> difference(const Block<A>& a, const Block<A>& b) {
  Block<A> block;
  for (int i = 0; i < kVectors; ++i) block.v[i] = a.v[i] - b.v[i];
  return block;
}

template <class A>
ROIDL_INLINE Block<A> operator*(A weight, const Block<A>& values) {
  Block<A> product;
  for (int i = 0; i < kVectors; ++i) product.v[i] = weight * values.v[i];
  return product;
}

// The product rounded by itself, whatever the instruction set: nothing makes one step of it and of
// a sum that follows. The kernels are compiled so that all other sums are.
template <class A>
ROIDL_INLINE Block<A> rounded_product(A weight, const Block<A>& values) {
  Block<A> product = weight * values;
  for (int i = 0; i < kVectors; ++i) {
#if defined(__x86_64__)
    __asm__("" : "+v"(product.v[i]));
#elif defined(__aarch64__)
    __asm__("" : "+w"(product.v[i]));
#else
    __asm__("" : "+m"(product.v[i]));
#endif
  }
  return product;
}

template <class A>
ROIDL_INLINE Block<A> operator+(const Block<A>& a, const Block<A>& b) {
  Block<A> sum;
  for (int i = 0; i < kVectors; ++i) sum.v[i] = a.v[i] + b.v[i];
  return sum;
}

// Accumulators where they are all that is at work: half of 32 registers, or of 16.
inline constexpr int kManyBlocks = kVectors == 1 ? 16 : kUnroll;

// The sums of kRowsTogether rows of bins over one block of a column lie side by side.
template <class A>
inline constexpr int64_t kSumsStride = kSumsLines * kLanes<A>;

// The compiler would rather keep the address of everything that lies behind it.
template <class A>
ROIDL_INLINE const A* one_address(const A* address) {
  __asm__("" : "+r"(address));
  return address;
}

// How many units one step takes, as a type.
template <int Count>
struct Steps {
  static constexpr int value = Count;
};

// Calls body(Steps<Count>{}, i) over [0, count) in steps of at most Most.
template <int Most = kUnroll, class Body>
ROIDL_INLINE void unrolled(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + Most <= count; i += Most) body(Steps<Most>{}, i);
  if constexpr (Most > 4) {
    // 7 rows are what detectors have: one step instead of three.
    if (count - i == 7) return body(Steps<7>{}, i);
    if (count - i >= 4) body(Steps<4>{}, i), i += 4;
  }
  if constexpr (Most > 2)
    if (count - i >= 2) body(Steps<2>{}, i), i += 2;
  for (; i < count; ++i) body(Steps<1>{}, i);
}

// Calls body(Steps<count>{}) for the one count in [Low, High] that it is.
template <int Low, int High, class Body>
ROIDL_INLINE void counted(int64_t count, Body&& body) {
  if constexpr (Low == High) {
    body(Steps<Low>{});
  } else {
    constexpr int middle = (Low + High) / 2;
    if (count <= middle)
      counted<Low, middle>(count, body);
    else
      counted<middle + 1, High>(count, body);
  }
}

// As unrolled, with a single step for what is left at the end.
template <int Most, class Body>
ROIDL_INLINE void unrolled_whole(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + Most <= count; i += Most) body(Steps<Most>{}, i);
  if (i < count) counted<1, Most - 1>(count - i, [&](auto steps) { body(steps, i); });
}

template <class A>
struct IndexOf;
template <>
struct IndexOf<float> {
  using type = int32_t;
};
template <>
struct IndexOf<double> {
  using type = int64_t;
};
// The integer as wide as A: what comparisons of blocks of A yield.
template <class A>
using Index = typename IndexOf<A>::type;

template <class A>
struct IndexBlock {
  typename Native<Index<A>>::Vector v[kVectors];
  Index<A> lane(int c) const { return v[c / Native<A>::lanes][c % Native<A>::lanes]; }
};

template <class A>
ROIDL_INLINE IndexBlock<A> load_index(const Index<A>* address) {
  IndexBlock<A> block;
  const auto* vectors = reinterpret_cast<const typename Native<Index<A>>::Loose*>(address);
  for (int i = 0; i < kVectors; ++i) block.v[i] = vectors[i];
  return block;
}

template <class A>
ROIDL_INLINE void store_index(Index<A>* address, const IndexBlock<A>& block) {
  auto* vectors = reinterpret_cast<typename Native<Index<A>>::Loose*>(address);
  for (int i = 0; i < kVectors; ++i) vectors[i] = block.v[i];
}

// Swaps, in rows i and i + Step, the off-diagonal halves of every 2 Step lanes; within the pieces
// of 16 bytes that a processor shuffles fastest.
template <class A, int Step>
ROIDL_INLINE void transpose_step(typename Native<A>::Vector* rows) {
  constexpr int n = Native<A>::lanes, piece = 16 / static_cast<int>(sizeof(A));
  typename Native<Index<A>>::Vector low{}, high{};
  for (int j = 0; j < n; ++j) {
    low[j] = (j & Step) ? n + j - Step : j;
    high[j] = (j & Step) ? n + j : j + Step;
  }
  for (int i = 0; i < piece; ++i) {
    if (i & Step) continue;
    const auto a = rows[i], b = rows[i + Step];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + Step] = __builtin_shuffle(a, b, high);
  }
}

// A vector of pieces of 16 bytes that lie `stride` apart: cheaper than to load whole vectors and to
// move the pieces between them.
template <class A>
ROIDL_INLINE typename Native<A>::Vector load_pieces(const A* from, int64_t stride) {
#if ROIDL_VECTOR_BYTES == 64
  const auto piece = [&](int i) {
    return _mm_loadu_ps(reinterpret_cast<const float*>(from + i * stride));
  };
  __m512 pieces = _mm512_castps128_ps512(piece(0));
  pieces = _mm512_insertf32x4(pieces, piece(1), 1);
  pieces = _mm512_insertf32x4(pieces, piece(2), 2);
  pieces = _mm512_insertf32x4(pieces, piece(3), 3);
  return bit_cast<typename Native<A>::Vector>(pieces);
#elif ROIDL_VECTOR_BYTES == 32
  const auto piece = [&](int i) {
    return _mm_loadu_ps(reinterpret_cast<const float*>(from + i * stride));
  };
  return bit_cast<typename Native<A>::Vector>(
      _mm256_insertf128_ps(_mm256_castps128_ps256(piece(0)), piece(1), 1));
#else
  static_cast<void>(stride);
  return *reinterpret_cast<const typename Native<A>::Loose*>(from);
#endif
}

// A square of native vectors: to[j * to_stride + i] = from[i * from_stride + j].
template <class A>
ROIDL_INLINE void transpose_square(const A* from, int64_t from_stride, A* to, int64_t to_stride) {
  constexpr int n = Native<A>::lanes, piece = 16 / static_cast<int>(sizeof(A));
#pragma GCC unroll 8
  for (int j = 0; j < n; j += piece) {
    typename Native<A>::Vector rows[piece];
    for (int i = 0; i < piece; ++i)
      rows[i] = load_pieces(from + i * from_stride + j, piece * from_stride);
    transpose_step<A, 1>(rows);
    if constexpr (piece > 2) transpose_step<A, 2>(rows);
    for (int i = 0; i < piece; ++i)
      *reinterpret_cast<typename Native<A>::Loose*>(to + (j + i) * to_stride) = rows[i];
  }
}

// Any rectangle: to[j * to_stride + i] = from[i * from_stride + j], i < rows, j < columns.
template <class A>
inline void transpose(const A* from, int64_t from_stride, int64_t rows, int64_t columns, A* to,
                      int64_t to_stride) {
  constexpr int n = Native<A>::lanes;
  const int64_t whole_rows = rows / n * n, whole_columns = columns / n * n;
  for (int64_t j = 0; j < whole_columns; j += n)
    for (int64_t i = 0; i < whole_rows; i += n)
      transpose_square(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
  for (int64_t j = whole_columns; j < columns; ++j)
    for (int64_t i = 0; i < whole_rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
  for (int64_t i = whole_rows; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

// Copies to memory that is not read soon, past the caches: the line is not fetched before it is
// written, and what the caches hold stays. A line that is only partly covered is stored as usual.
template <class T>
inline void stream(T* to, const T* from, int64_t count) {
#if defined(__x86_64__)
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  char* target = reinterpret_cast<char*>(to);
  const char* source = reinterpret_cast<const char*>(from);
  const int64_t misaligned = reinterpret_cast<intptr_t>(target) % kBlockBytes;
  int64_t at = misaligned == 0 ? 0 : kBlockBytes - misaligned;
  if (at > bytes) at = bytes;
  if (at > 0) std::memcpy(target, source, at);
  for (; at + kBlockBytes <= bytes; at += kBlockBytes)
    for (int part = 0; part < kBlockBytes; part += kVectorBytes) {
#if ROIDL_VECTOR_BYTES == 64
      _mm512_stream_si512(reinterpret_cast<__m512i*>(target + at), _mm512_loadu_si512(source + at));
#elif ROIDL_VECTOR_BYTES == 32
      _mm256_stream_si256(reinterpret_cast<__m256i*>(target + at + part),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + at + part)));
#else
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + at + part),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at + part)));
#endif
    }
  if (at < bytes) std::memcpy(target + at, source + at, bytes - at);
#else
  std::memcpy(to, from, count * sizeof(T));
#endif
}

// Makes streamed stores visible before whatever the thread does next.
inline void end_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace roidl::cpu
