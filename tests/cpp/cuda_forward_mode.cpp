// Compares the forward-mode operators of the CUDA library, emulated on the host, with the CPU's:
// they have no Python door of their own. Prints the largest difference of each, relative to the
// result.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "roi_align.h"
#include "roi_pool.h"

using namespace roidl;

namespace {

std::mt19937 random_bits(7);

template <class T>
std::vector<T> numbers(int64_t count) {
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = static_cast<T>(normal(random_bits));
  return values;
}

template <class T>
Tensor tensor_of(std::vector<T>& values, std::initializer_list<int64_t> shape, bool on_cuda) {
  Tensor tensor;
  tensor.data = values.data();
  tensor.device = {on_cuda ? abi::kDLCUDA : abi::kDLCPU, 0};
  tensor.dtype = std::is_same_v<T, int32_t> ? kInt32 : sizeof(T) == 8 ? kFloat64 : kFloat32;
  for (const int64_t size : shape) tensor.shape[tensor.ndim++] = size;
  for (int64_t i = tensor.ndim - 1, step = 1; i >= 0; step *= tensor.shape[i--])
    tensor.strides[i] = step;
  return tensor;
}

// What run(on_cuda, out) writes there, on both devices.
template <class T, class Run>
void compare(const char* name, int64_t count, Run&& run) {
  std::vector<T> expected(static_cast<size_t>(count)), got(static_cast<size_t>(count), T(77));
  run(false, expected);
  run(true, got);
  double largest = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::fmax(largest, std::fabs(static_cast<double>(expected[i])));
    difference = std::fmax(difference, std::fabs(static_cast<double>(got[i] - expected[i])));
  }
  std::printf("%s %d %g\n", name, static_cast<int>(sizeof(T)), difference / largest);
}

constexpr int64_t N = 2, C = 5, H = 21, W = 34, K = 7, PH = 3, PW = 4;
constexpr int64_t kCells = N * C * H * W, kBins = K * C * PH * PW;

template <class T>
void compare_all(bool adaptive, bool aligned) {
  std::vector<T> input = numbers<T>(kCells), tangent = numbers<T>(kCells), grad = numbers<T>(kBins);
  std::vector<T> boxes(K * 5), direction = numbers<T>(K * 5);
  std::uniform_real_distribution<double> place(-4, 30);
  for (int64_t k = 0; k < K; ++k) {
    boxes[k * 5] = static_cast<T>(k % N);
    for (int j = 1; j < 5; ++j)
      boxes[k * 5 + j] = static_cast<T>(place(random_bits) + (j > 2 ? 6 : 0));
  }
  const auto map = [&](std::vector<T>& values, bool cuda) {
    return tensor_of(values, {N, C, H, W}, cuda);
  };
  const auto pooled = [&](auto& values, bool cuda) {
    return tensor_of(values, {K, C, PH, PW}, cuda);
  };
  const auto rows = [&](std::vector<T>& values, bool cuda) {
    return tensor_of(values, {K, 5}, cuda);
  };
  const auto align = [&](int mode, bool cuda) {
    const int64_t samples = adaptive ? 0 : 2;
    return make_roi_align("test", {PH, PW, 0.75, samples, samples, aligned, mode, 0},
                          map(input, cuda), rows(boxes, cuda), nullptr);
  };
  for (int mode = 0; mode < 3; ++mode)
    compare<T>("roi_align_jvp", kBins, [&](bool cuda, std::vector<T>& out) {
      auto problem = align(mode, cuda);
      const Tensor features = map(input, cuda);
      roi_align_jvp(problem, map(tangent, cuda), rows(boxes, cuda), &features, pooled(out, cuda));
    });
  compare<T>("roi_align_jvp_boxes", kBins, [&](bool cuda, std::vector<T>& out) {
    auto problem = align(0, cuda);
    roi_align_jvp_boxes(problem, map(input, cuda), rows(boxes, cuda), rows(direction, cuda),
                        pooled(out, cuda));
  });
  compare<T>("roi_align_jvp_boxes_backward", kCells, [&](bool cuda, std::vector<T>& out) {
    auto problem = align(0, cuda);
    roi_align_jvp_boxes_backward(problem, pooled(grad, cuda), rows(boxes, cuda),
                                 rows(direction, cuda), map(out, cuda));
  });
  for (int mode = 0; mode < 2; ++mode)
    compare<T>("roi_pool_jvp", kBins, [&](bool cuda, std::vector<T>& out) {
      auto problem = make_roi_pool("test", {PH, PW, 0.75, mode, 0}, map(input, cuda),
                                   rows(boxes, cuda), nullptr);
      std::vector<int32_t> cells(kBins);
      const Tensor argmax = pooled(cells, cuda);
      std::vector<T> values(kBins);
      if (mode == 0)
        roi_pool_forward(problem, map(input, cuda), rows(boxes, cuda), pooled(values, cuda),
                         &argmax);
      roi_pool_jvp(problem, map(tangent, cuda), rows(boxes, cuda), mode == 0 ? &argmax : nullptr,
                   pooled(out, cuda));
    });
}

}  // namespace

int main() {
  for (const bool adaptive : {false, true})
    for (const bool aligned : {false, true}) {
      compare_all<float>(adaptive, aligned);
      compare_all<double>(adaptive, aligned);
    }
}
