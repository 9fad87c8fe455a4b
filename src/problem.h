// Problem: the checked maps, boxes and pooled grid that every pooling operator works on. Plain
// data, so that a CPU kernel takes it by reference and a CUDA kernel by value.
#pragma once
#include <cstdint>

#include "boxes.h"
#include "tensor.h"

namespace roidl {

enum class Layout : int32_t { nchw = 0, nhwc = 1 };

// The most levels of a pyramid: detectors have fewer. Operators on one map use maps[0].
inline constexpr int kMaxMaps = 8;

// The most bins along an axis: beyond it, float32 does not have every integer.
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

// One array, or one for every level of a pyramid: an input, or a gradient to it.
struct Maps {
  int count = 0;
  const Tensor* tensors[kMaxMaps] = {};

  Maps() = default;
  Maps(const Tensor& one) : count(1), tensors{&one} {}
  Maps(const Tensor* one_or_null) : count(one_or_null != nullptr), tensors{one_or_null} {}
  Maps(const char* op, const Tensor* first, int64_t count);
  bool empty() const { return count == 0; }
};

// How boxes are assigned to one of several maps.
struct Pyramid {
  double scales[kMaxMaps] = {};
  double canonical_scale = 224;
  double canonical_level = 4;
  const Tensor* levels = nullptr;  // the index of every box's map; null: by the box's size
  const Tensor* counts = nullptr;  // of [N, L, 4]: how many rows of an image are boxes
};

// The checked assignment of boxes to maps, as kernels read it.
struct Levels {
  const char* given = nullptr;
  abi::DLDataType dtype{};
  int64_t image_stride = 0, row_stride = 0;
  double canonical_scale = 0, canonical_level = 0;
  double lowest = 0, highest = 0;
};

// The purpose for which an entry of a device's table is called.
enum class Pass : int32_t {
  estimate,  // returns the most memory that it may take, where the device is not known
  measure,   // returns how much it takes on the problem's device
  load,      // loads its kernels, so that a graph that captures them finds them loaded
  run,
};

// Device memory that the kernels of one call use besides its arrays: one piece, of the measured
// size.
struct Workspace {
  char* data = nullptr;
  int64_t bytes = 0, taken = 0;

  // NULL if all of it is taken, and always while it is measured.
  char* take(int64_t wanted) {
    taken += wanted;
    return taken <= bytes ? data + (taken - wanted) : nullptr;
  }
};

// Lends such memory: the allocator of the arrays' library.
struct Lender {
  // Called at most once per call, before any kernel starts. Returns NULL if there is no memory to
  // lend.
  char* (*lend)(void* library, int64_t bytes) = nullptr;
  void* library = nullptr;
};

struct Problem {
  const char* op = "";
  Layout layout = Layout::nchw;
  int64_t images = 0, channels = 0, rois = 0;
  int64_t pooled_channels = 0;  // channels of the result: the map's, or one bin's share of them
  int64_t output_height = 0, output_width = 0;
  abi::DLDevice device{};
  void* stream = nullptr;  // on CUDA: the cudaStream_t to run on; NULL is the legacy default stream
  bool may_wait = true;    // on CUDA: whether the host may wait for a check of values
  Lender lender;           // on CUDA: without one, kernels allocate their workspace
  Pass pass = Pass::run;
  Workspace* workspace = nullptr;  // on CUDA: of this pass
  abi::DLDataType dtype{};
  bool double_coordinates = false;
  int num_maps = 0;
  Map maps[kMaxMaps];
  Levels levels;
  Boxes boxes;
  PooledView pooled;
  PooledView argmax;      // int32: y * W + x of the maximum, -1 for an empty bin; may be unset
  Tensor boxes_gradient;  // the gradient to the boxes, in their shape
  Boxes boxes_tangent;    // a direction for every box
  int64_t* wrong_cell = nullptr;  // receives an argmax that is not a cell
};

// Box k and the index of its map. Of a padding row, for which `exists` is false, no box is read.
template <class T>
struct PlacedBox {
  bool exists;
  int map;
  Box<T> box;
};

int64_t level_of(const Problem& problem, int64_t k);  // pyramid.h

template <class T>
PlacedBox<T> place_box(const Problem& problem, int64_t k);

void describe_arrays(Problem& problem, bool channels_per_bin, double scale, const Maps& input,
                     const Tensor& boxes, const Tensor* indices, const Pyramid* pyramid);

// Fills in everything but the buffers. `params` are those of any family; `input` may lack data if
// only its shape is known; `indices` may be null, and so may `pyramid` if there is one map.
template <class Params>
void describe_problem(Problem& problem, const char* op, bool channels_per_bin, const Params& params,
                      const Maps& input, const Tensor& boxes, const Tensor* indices,
                      const Pyramid* pyramid) {
  problem.op = op;
  problem.layout = static_cast<Layout>(params.layout);
  problem.output_height = params.output_height;
  problem.output_width = params.output_width;
  describe_arrays(problem, channels_per_bin, params.spatial_scale, input, boxes, indices, pyramid);
}

Shape pooled_shape(const Problem& problem);
Shape input_shape(const Problem& problem, int map = 0);

// Whether a result for every bin, or a gradient to the maps, has no elements. Then no box is read:
// there may be billions of them, all at the same address. (A gradient that has elements is set to
// zero if there are no boxes.)
bool has_no_results(const Problem& problem);
bool has_no_gradient(const Problem& problem);

// Checks a buffer against the problem and returns its view.
PooledView attach_pooled(const Problem& problem, const char* name, const Tensor& tensor,
                         abi::DLDataType dtype);
// Checks the buffers of all maps and stores their views in the member `view` of each map.
void attach_maps(Problem& problem, const char* name, const Maps& maps, MapView Map::* view);

// Checks a tensor that has a number for every coordinate of the boxes.
void check_like_boxes(const Problem& problem, const char* name, const Tensor& tensor,
                      const Tensor& boxes);

// check_written: a written array must not overlap itself, nor any of `others`.
struct Named {
  const char* name;
  Maps arrays;
};
void check_written(const Problem& problem, const Named& written, const Named* others, int count);

template <class T>
PlacedBox<T> place_box(const Problem& problem, int64_t k) {
  if (is_padding(problem.boxes, k)) return {false, 0, {k / problem.boxes.per_image, 0, 0, 0, 0}};
  const Box<T> box = load_box<T>(problem.boxes, k);
  return {true, problem.num_maps == 1 ? 0 : static_cast<int>(level_of(problem, k)), box};
}

}  // namespace roidl
