// Copies the boxes and the arrays that go with them, and checks the values of the copy.
#include "checked_boxes.h"

#include <cstring>

#include "device_library.h"
#include "floating_point.h"
#include "pyramid.h"

namespace roidl {

namespace {

constexpr int kAxes = 3;

// An array of the caller, as the fields of the problem that locate its elements. An axis along
// which it is broadcast is copied once and stays broadcast.
struct Array {
  const char** data;
  int64_t item_bytes;
  struct Axis {
    int64_t size;
    int64_t* stride;
  } axes[kAxes];

  int64_t distinct(int axis) const { return *axes[axis].stride == 0 ? 1 : axes[axis].size; }
  size_t bytes() const {
    if (*data == nullptr) return 0;
    return static_cast<size_t>(distinct(0) * distinct(1) * distinct(2) * item_bytes);
  }
};

void copy_bytes(char* to, const char* from, int64_t bytes) {
  switch (bytes) {
    case 4:
      std::memcpy(to, from, 4);
      break;
    case 8:
      std::memcpy(to, from, 8);
      break;
    default:
      std::memcpy(to, from, static_cast<size_t>(bytes));
  }
}

// Copies the elements to `to` in C order, and makes the problem read them there.
void move(const Array& array, char* to) {
  const char* const from = *array.data;
  *array.data = to;
  int64_t size[kAxes], step[kAxes], stride = 1, together = array.item_bytes;
  bool dense = true;
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    size[axis] = array.distinct(axis);
    step[axis] = *array.axes[axis].stride * array.item_bytes;
    if (step[axis] != 0) *array.axes[axis].stride = stride;
    stride *= size[axis];
    dense &= size[axis] == 1 || step[axis] == together;
    if (!dense) continue;
    together *= size[axis];
    size[axis] = 1;
  }
  for (int64_t i = 0; i < size[0]; ++i)
    for (int64_t j = 0; j < size[1]; ++j)
      for (int64_t k = 0; k < size[2]; ++k, to += together)
        copy_bytes(to, from + i * step[0] + j * step[1] + k * step[2], together);
}

}  // namespace

void CheckedBoxes::copy(Problem& problem, Boxes* tangent) {
  Boxes& boxes = problem.boxes;
  Levels& levels = problem.levels;
  int64_t once = 0;  // the stride of an absent axis
  const int64_t images = boxes.by_position ? problem.images : 1;
  const int64_t columns = boxes.has_index_column ? 5 : 4;
  const auto rows = [&](Boxes& like) {
    return Array{&like.data,
                 like.dtype.bits / 8,
                 {{images, &like.image_stride},
                  {boxes.per_image, &like.row_stride},
                  {columns, &like.column_stride}}};
  };
  const Array arrays[] = {
      rows(boxes),
      {&boxes.indices,
       boxes.indices_dtype.bits / 8,
       {{1, &once}, {1, &once}, {boxes.count, &boxes.indices_stride}}},
      {&boxes.counts,
       boxes.counts_dtype.bits / 8,
       {{1, &once}, {1, &once}, {problem.images, &boxes.counts_stride}}},
      {&levels.given,
       levels.dtype.bits / 8,
       {{1, &once}, {images, &levels.image_stride}, {boxes.per_image, &levels.row_stride}}},
      rows(tangent != nullptr ? *tangent : boxes)};
  const int count = tangent != nullptr ? 5 : 4;
  size_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += arrays[i].bytes();
  if (bytes > kSmall) large_.reset(new char[bytes]);
  char* to = bytes > kSmall ? large_.get() : small_;
  for (int i = 0; i < count; ++i) {
    const size_t taken = arrays[i].bytes();
    if (taken > 0) move(arrays[i], to);
    to += taken;
  }
}

CheckedBoxes::CheckedBoxes(Problem& problem, Boxes* tangent) {
  const FloatingPoint mode;
  const bool readable =
      problem.device.device_type == abi::kDLCPU || problem.device.device_type == abi::kDLCUDAHost;
  if (readable) {
    // No kernel reads the boxes if there is nothing to compute.
    if (problem.rois > 0 && problem.channels > 0) copy(problem, tangent);
    check_box_values(problem.op, problem.boxes, problem.images);
    check_level_values(problem);
  } else if (checks_on_device(problem)) {
    check_device_values(problem, *cuda_library());
  }
}

}  // namespace roidl
