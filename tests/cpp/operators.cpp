// The operators without Python, for machines that have none: results against the definition in
// double precision, gradients by adjointness. Prints what failed; exits with the number of
// failures.
#include <cfenv>
#include <cmath>
#include <cstdio>
#include <locale>
#include <random>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "geometry.h"
#include "run.h"

namespace {

using roidl::AlignMode;
using roidl::Layout;
using roidl::Op;
using roidl::PoolMode;
using roidl::Tensor;

constexpr int64_t N = 2, C = 21, H = 23, W = 30, K = 40, P = 3, Q = 4;
constexpr double kScale = 0.5;

int failures = 0;

void expect(bool holds, const char* what, double got, double allowed) {
  if (holds) return;
  ++failures;
  std::printf("FAILED %s: %g, allowed %g\n", what, got, allowed);
}

// A contiguous array of the shape [a, channels, h, w], its channels first or last in memory.
template <class T>
struct Array {
  std::vector<T> values;
  Tensor tensor;

  Array(const Array&) = delete;  // the tensor points into the values
  Array(roidl::abi::DLDataType dtype, Layout layout, int64_t a, int64_t channels, int64_t h,
        int64_t w)
      : values(static_cast<size_t>(a * channels * h * w)) {
    const bool first = layout == Layout::nchw;
    const int64_t shape[] = {a, first ? channels : h, first ? h : w, first ? w : channels};
    tensor.data = values.data();
    tensor.dtype = dtype;
    tensor.ndim = 4;
    int64_t stride = 1;
    for (int i = 3; i >= 0; --i) {
      tensor.shape[i] = shape[i];
      tensor.strides[i] = stride;
      stride *= shape[i];
    }
    axes = first ? std::vector<int>{0, 1, 2, 3} : std::vector<int>{0, 3, 1, 2};
  }
  T& at(int64_t a, int64_t c, int64_t y, int64_t x) {
    const int64_t* s = tensor.strides;
    return values[a * s[axes[0]] + c * s[axes[1]] + y * s[axes[2]] + x * s[axes[3]]];
  }
  std::vector<int> axes;
};

template <class T>
struct Case {
  roidl::abi::DLDataType dtype;
  Layout layout;
  Array<T> input, grad, out, grad_input;
  std::vector<float> boxes;
  Tensor boxes_tensor;

  Case(roidl::abi::DLDataType dtype, Layout layout)
      : dtype(dtype),
        layout(layout),
        input(dtype, layout, N, C, H, W),
        grad(dtype, layout, K, C, P, Q),
        out(dtype, layout, K, C, P, Q),
        grad_input(dtype, layout, N, C, H, W),
        boxes(K * 5) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> uniform(-8, 70);
    for (T& value : input.values) value = T(normal(random));
    for (T& value : grad.values) value = T(normal(random));
    for (int64_t k = 0; k < K; ++k) {
      boxes[5 * k] = static_cast<float>(k % N);
      for (int j = 1; j < 5; ++j) boxes[5 * k + j] = uniform(random);
    }
    boxes_tensor.data = boxes.data();
    boxes_tensor.dtype = roidl::kFloat32;
    boxes_tensor.ndim = 2;
    boxes_tensor.shape[0] = K;
    boxes_tensor.shape[1] = boxes_tensor.strides[0] = 5;
    boxes_tensor.strides[1] = 1;
  }
};

template <class T>
double dot(Array<T>& a, Array<T>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values.size(); ++i)
    sum += static_cast<double>(a.values[i]) * static_cast<double>(b.values[i]);
  return sum;
}

template <class T>
double interpolate(Case<T>& problem, int64_t n, int64_t c, float y, float x) {
  if (y < -1 || y > H || x < -1 || x > W) return 0;
  const roidl::Bilinear<float> v = roidl::bilinear(y, H), h = roidl::bilinear(x, W);
  const auto value = [&](int64_t row, int64_t column) {
    return static_cast<double>(problem.input.at(n, c, row, column));
  };
  const auto along = [&](int64_t row) {
    return double{h.weight_low} * value(row, h.low) + double{h.weight_high} * value(row, h.high);
  };
  return double{v.weight_low} * along(v.low) + double{v.weight_high} * along(v.high);
}

// One bin by the definition, over the float32 positions of its samples.
template <class T>
double align_bin(Case<T>& problem, int64_t k, int64_t c, int64_t p, int64_t q, bool max,
                 int64_t ratio) {
  const float* box = &problem.boxes[5 * k];
  const float scale = static_cast<float>(kScale);
  auto y = roidl::align_axis(box[2], box[4], scale, false, P, ratio);
  auto x = roidl::align_axis(box[1], box[3], scale, false, Q, ratio);
  double sum = 0, best = -INFINITY;
  for (int64_t i = 0; i < y.grid; ++i)
    for (int64_t j = 0; j < x.grid; ++j) {
      const double value =
          interpolate(problem, static_cast<int64_t>(box[0]), c, roidl::sample_position(y, p, i),
                      roidl::sample_position(x, q, j));
      sum += value;
      best = std::fmax(best, value);
    }
  return max ? best : sum / static_cast<double>(y.grid * x.grid);
}

roidl::AnyProblem describe(Op op, const roidl::AnyParams& params, const Tensor& map,
                           const Tensor& boxes) {
  const roidl::Operator& row = roidl::operator_of(op);
  return roidl::describe(row, row.name, params, map, boxes, nullptr, nullptr);
}

template <class T>
void run(Op op, const roidl::AnyParams& params, const Case<T>& given, const roidl::Arrays& arrays) {
  roidl::AnyProblem problem = describe(op, params, given.input.tensor, given.boxes_tensor);
  roidl::run(roidl::operator_of(op), problem, given.boxes_tensor, arrays);
}

template <class T>
void test_align(const char* name, Case<T>& problem, AlignMode mode, int64_t ratio,
                double rounding) {
  const roidl::RoiAlignParams params{P,
                                     Q,
                                     kScale,
                                     ratio,
                                     ratio,
                                     false,
                                     static_cast<int32_t>(mode),
                                     static_cast<int32_t>(problem.layout)};
  run(Op::roi_align, params, problem, {{problem.input.tensor}, {problem.out.tensor}});
  double error = 0, largest = 0;
  for (int64_t k = 0; k < K; ++k)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t p = 0; p < P; ++p)
        for (int64_t q = 0; q < Q; ++q) {
          const double value = align_bin(problem, k, c, p, q, mode == AlignMode::max, ratio);
          largest = std::fmax(largest, std::fabs(value));
          error =
              std::fmax(error, std::fabs(value - static_cast<double>(problem.out.at(k, c, p, q))));
        }
  expect(largest > 0.1 && error <= rounding * largest, name, error, rounding * largest);

  // <G, A x> = <A^T G, x>: for the maximum too, at the samples that won.
  run(Op::roi_align_backward, params, problem,
      {{problem.grad.tensor, problem.input.tensor}, {problem.grad_input.tensor}});
  const double here = dot(problem.grad, problem.out),
               there = dot(problem.grad_input, problem.input);
  const double allowed = 40 * rounding * std::sqrt(static_cast<double>(K * C * P * Q));
  expect(std::fabs(here - there) <= allowed, name, here - there, allowed);
}

template <class T>
void test_pool(const char* name, Case<T>& problem, PoolMode mode, double rounding) {
  const roidl::RoiPoolParams params{P, Q, kScale, static_cast<int32_t>(mode),
                                    static_cast<int32_t>(problem.layout)};
  Array<int32_t> argmax(roidl::kInt32, problem.layout, K, C, P, Q);
  const Tensor* cells = mode == PoolMode::max ? &argmax.tensor : nullptr;
  run(Op::roi_pool, params, problem, {{problem.input.tensor}, {problem.out.tensor, cells}});
  double error = 0;
  for (int64_t k = 0; k < K; ++k) {
    const float* box = &problem.boxes[5 * k];
    const auto y = roidl::pool_axis(box[2], box[4], static_cast<float>(kScale), P);
    const auto x = roidl::pool_axis(box[1], box[3], static_cast<float>(kScale), Q);
    for (int64_t c = 0; c < C; ++c)
      for (int64_t p = 0; p < P; ++p)
        for (int64_t q = 0; q < Q; ++q) {
          const roidl::Bin rows = roidl::pool_bin(y, p, H), columns = roidl::pool_bin(x, q, W);
          double sum = 0, best = -INFINITY;
          int64_t count = 0;
          for (int64_t i = rows.begin; i < rows.end; ++i)
            for (int64_t j = columns.begin; j < columns.end; ++j, ++count) {
              const auto value =
                  static_cast<double>(problem.input.at(static_cast<int64_t>(box[0]), c, i, j));
              sum += value;
              best = std::fmax(best, value);
            }
          const double expected = count == 0              ? 0
                                  : mode == PoolMode::max ? best
                                                          : sum / static_cast<double>(count);
          error = std::fmax(error,
                            std::fabs(expected - static_cast<double>(problem.out.at(k, c, p, q))));
        }
  }
  const double budget = mode == PoolMode::max ? 0 : 5 * rounding;
  expect(error <= budget, name, error, budget);

  run(Op::roi_pool_backward, params, problem,
      {{problem.grad.tensor, cells}, {problem.grad_input.tensor}});
  const double here = dot(problem.grad, problem.out),
               there = dot(problem.grad_input, problem.input);
  const double allowed = 40 * rounding * std::sqrt(static_cast<double>(K * C * P * Q));
  expect(std::fabs(here - there) <= allowed, name, here - there, allowed);
}

template <class T>
void test_dtype(const char* name, roidl::abi::DLDataType dtype, double rounding) {
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    Case<T> problem(dtype, layout);
    test_align(name, problem, AlignMode::avg, 2, rounding);
    test_align(name, problem, AlignMode::avg, 0, rounding);
    test_align(name, problem, AlignMode::max, 2, rounding);
    test_pool(name, problem, PoolMode::max, rounding);
    test_pool(name, problem, PoolMode::avg, rounding);
  }
}

// A process's locale may group digits, and its threads may round and flush as they like: neither
// is seen in a sentence or a result.
void test_state() {
  struct Groups : std::numpunct<char> {
    char do_thousands_sep() const override { return '.'; }
    char do_decimal_point() const override { return ','; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Groups));
  Array<float> x(roidl::kFloat32, Layout::nchw, 1, 1, 4, 4000);
  Array<float> y(roidl::kFloat32, Layout::nchw, 1, 1, 2, 2);
  std::string sentence;
  std::vector<float> boxes{0, 0.3f, 0.3f, 3777.7f, 3.1f};
  Tensor rows;
  rows.data = boxes.data();
  rows.dtype = roidl::kFloat32;
  rows.ndim = 2;
  rows.shape[0] = 1, rows.shape[1] = 5, rows.strides[0] = 5, rows.strides[1] = 1;
  try {
    roidl::RoiAlignParams params{2, 2, -0.5, 2, 2, true, 0, 0};
    describe(Op::roi_align, params, x.tensor, rows);
  } catch (const roidl::Error& error) {
    sentence = error.what();
  }
  std::locale::global(before);
  expect(sentence == "roi_align: spatial_scale must be positive and finite, got -0.5",
         sentence.c_str(), 0, 0);
  for (size_t i = 0; i < x.values.size(); ++i) x.values[i] = 0.1f * static_cast<float>(i % 97);
  std::vector<float> expected;
  for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    roidl::RoiAlignParams params{2, 2, 0.7, 3, 3, true, 0, 0};
    std::fesetround(mode);
    roidl::AnyProblem problem = describe(Op::roi_align, params, x.tensor, rows);
    roidl::run(roidl::operator_of(Op::roi_align), problem, rows, {{x.tensor}, {y.tensor}});
    expect(std::fegetround() == mode, "the rounding mode is put back", mode, 0);
    std::fesetround(FE_TONEAREST);
    if (expected.empty()) expected = y.values;
    expect(y.values == expected, "the same bits in rounding mode", mode, 0);
  }
}

}  // namespace

int main() {
  test_state();
  for (const int threads : {1, 3}) {
    roidl::cpu::set_num_threads(threads);
    test_dtype<float>("float32", roidl::kFloat32, 1e-6);
    test_dtype<roidl::float16>("float16", roidl::kFloat16, 1e-3);
    test_dtype<roidl::bfloat16>("bfloat16", roidl::kBfloat16, 8e-3);
  }
  std::printf("%s: %d failures\n", roidl::cpu::instruction_set().name, failures);
  return failures;
}
