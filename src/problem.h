// Problem: what every pooling operator works on, checked: maps, boxes, and the pooled grid.
// Plain data, so that a CPU kernel takes it by reference and a CUDA kernel by value.
#pragma once
#include <cstdint>

#include "boxes.h"
#include "tensor.h"

namespace roidl {

enum class Layout : int32_t { nchw = 0, nhwc = 1 };

// Eight levels of a pyramid are more than any detector has; operators on one map use maps[0].
inline constexpr int kMaxMaps = 8;

// Bins along an axis: float32 counts no further.
inline constexpr int64_t kMaxBins = 1 << 24;

// A view in the order N, C, H, W, whatever the order in memory; strides in elements.
struct MapView {
  void* data = nullptr;
  int64_t n = 0, c = 0, h = 0, w = 0;
};

struct Map {
  int64_t height = 0, width = 0;
  double scale = 1;
  MapView features;
  MapView tangent;
  MapView gradient;
};

// A view of [K, C, PH, PW], of [K, PH, PW, C], or of the same with [N, L] in place of K.
struct PooledView {
  void* data = nullptr;
  int64_t per_image = 0;  // L; row k lies at (k / L) * image + (k % L) * row
  int64_t image = 0, row = 0, c = 0, h = 0, w = 0;

  ROIDL_HOST_DEVICE int64_t offset(int64_t k) const {
    const int64_t n = per_image > 0 ? k / per_image : 0;
    return n * image + (k - n * per_image) * row;
  }
};

struct Problem {
  const char* op = "";
  Layout layout = Layout::nchw;
  int64_t images = 0, channels = 0, rois = 0;
  int64_t output_height = 0, output_width = 0;
  abi::DLDevice device{};
  void* stream = nullptr;  // on CUDA: the cudaStream_t to run on; NULL is the legacy default stream
  abi::DLDataType dtype{};
  bool double_coordinates = false;
  int num_maps = 0;
  Map maps[kMaxMaps];
  Boxes boxes;
  PooledView pooled;
};

void describe_arrays(Problem& problem, double scale, const Tensor& input, const Tensor& boxes,
                     const Tensor* indices);

// Fills in all but the buffers. `params` are any operator's; `input` may lack data when only its
// shape is known; `indices` may be null.
template <class Params>
void describe_problem(Problem& problem, const char* op, const Params& params, const Tensor& input,
                      const Tensor& boxes, const Tensor* indices) {
  problem.op = op;
  problem.layout = static_cast<Layout>(params.layout);
  problem.output_height = params.output_height;
  problem.output_width = params.output_width;
  describe_arrays(problem, params.spatial_scale, input, boxes, indices);
}

Shape pooled_shape(const Problem& problem);
Shape input_shape(const Problem& problem);

// Check a buffer against the problem and return its view.
PooledView attach_pooled(const Problem& problem, const char* name, const Tensor& tensor,
                         abi::DLDataType dtype);
MapView attach_map(const Problem& problem, const char* name, const Tensor& tensor);

// Check a tensor of numbers for every coordinate of the boxes.
void check_like_boxes(const Problem& problem, const char* name, const Tensor& tensor,
                      const Tensor& boxes);

// The last step before the kernels: what is written overlaps nothing, and on CPU the boxes hold
// numbers. `others` are the tensors that are read, named alike.
struct Named {
  const char* name;
  const Tensor* tensor;
};
void check_written(const Problem& problem, const Named& written,
                   std::initializer_list<Named> others);
void check_values(const Problem& problem);

}  // namespace roidl
