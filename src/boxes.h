// Boxes: the place of the K boxes in memory, for each form of boxes that the API accepts.
#pragma once
#include <cstdint>
#include <cstring>

#include "tensor.h"

namespace roidl {

template <class T>
struct Box {
  int64_t image;
  T x1, y1, x2, y2;
};

struct Boxes {
  const char* data = nullptr;
  abi::DLDataType dtype{};
  int64_t count = 0;
  int64_t per_image = 0;     // L of [N, L, 4]; otherwise count
  int64_t image_stride = 0;  // strides in elements
  int64_t row_stride = 0;
  int64_t column_stride = 0;
  bool has_index_column = false;  // [K, 5]
  bool by_position = false;       // [N, L, 4]: row k belongs to image k / L
  const char* indices = nullptr;  // batch_indices; NULL: the image follows from the form
  abi::DLDataType indices_dtype{};
  int64_t indices_stride = 0;
  const char* counts = nullptr;  // of [N, L, 4]: how many rows of an image are boxes; NULL: all
  abi::DLDataType counts_dtype{};
  int64_t counts_stride = 0;
};

// Describes boxes of any form; `indices` and `counts` may be null.
Boxes describe_boxes(const char* op, const Tensor& boxes, const Tensor* indices,
                     const Tensor* counts, int64_t images);

// An array of the boxes' shape: a direction for every box.
Boxes describe_like_boxes(const Boxes& boxes, const Tensor& tensor);

// Checks an array [L, 4] of a list of boxes, which has one per image; `index` is its place in the
// list.
void check_listed_boxes(const char* op, const Tensor& boxes, int64_t index);
// Fails for a list of boxes on a device: the front end joins those by their own library, if it can.
void check_listed_on_host(const char* op, const Tensor& boxes);
void check_list_length(const char* op, int64_t length, int64_t images);
// Writes the rows of [L, 4] in CPU memory to rows [L][4], and `image` to indices [L].
template <class T>
void join_boxes(const Tensor& boxes, int32_t image, T* rows, int32_t* indices);

// Writes `rows` [K][4], the gradients to x1, y1, x2 and y2, to `out` (CPU memory only), which has a
// float type and the shape of the boxes. The batch column becomes 0.
void store_box_gradients(const Boxes& boxes, const double* rows, const Tensor& out);

// Under an adapter's vmap, images of many examples lie one after the other. The index of an image
// that its example does not have is passed as kNoImage - index, unless its size is kMostEncoded or
// more; a number that is not whole is passed as kNoImage.
constexpr int64_t kNoImage = -(int64_t{1} << 30), kMostEncoded = int64_t{1} << 29;

// Reads every row (CPU memory only) and fails at the first whose image does not exist or whose
// coordinates are not finite.
void check_box_values(const char* op, const Boxes& boxes, int64_t images);

template <class T>
ROIDL_HOST_DEVICE_CALL T load_number(const char* address, abi::DLDataType dtype) {
  T value{};
  const auto read = [&](auto type) {
    using Element = typename decltype(type)::type;
#ifdef __CUDA_ARCH__
    // One load: the host has checked the alignment (check_aligned_on_device).
    const Element element = *reinterpret_cast<const Element*>(address);
#else
    Element element;
    std::memcpy(&element, address, sizeof element);
#endif
    value = static_cast<T>(element);
  };
  if (!visit_float(dtype, read)) visit_integer(dtype, read);
  return value;
}

// The index column holds numbers of any type: 0.7, NaN and 1e30 are no index of an image.
ROIDL_HOST_DEVICE inline int64_t whole_index(double value) {
  if (!(value >= 0 && value < 0x1p62)) return -1;
  const int64_t index = static_cast<int64_t>(value);
  return static_cast<double>(index) == value ? index : -1;
}

// Padding rows, which fill up [N, L, 4], hold no box: their results are zero.
ROIDL_HOST_DEVICE inline bool is_padding(const Boxes& boxes, int64_t k) {
  if (boxes.counts == nullptr) return false;
  const int64_t image = k / boxes.per_image;
  const char* count = boxes.counts + image * boxes.counts_stride * (boxes.counts_dtype.bits / 8);
  return k - image * boxes.per_image >= load_number<int64_t>(count, boxes.counts_dtype);
}

template <class T>
ROIDL_HOST_DEVICE Box<T> load_box(const Boxes& boxes, int64_t k) {
  const int64_t bytes = boxes.dtype.bits / 8;
  const int64_t image = boxes.by_position ? k / boxes.per_image : 0;
  const char* row =
      boxes.data +
      (image * boxes.image_stride + (k - image * boxes.per_image) * boxes.row_stride) * bytes;
  const auto column = [&](int j) {
    return load_number<T>(row + j * boxes.column_stride * bytes, boxes.dtype);
  };
  const int first = boxes.has_index_column ? 1 : 0;
  Box<T> box{0, column(first), column(first + 1), column(first + 2), column(first + 3)};
  if (boxes.has_index_column)
    box.image = whole_index(load_number<double>(row, boxes.dtype));
  else if (boxes.indices != nullptr)
    box.image = load_number<int64_t>(
        boxes.indices + k * boxes.indices_stride * (boxes.indices_dtype.bits / 8),
        boxes.indices_dtype);
  else if (boxes.by_position)
    box.image = image;
  return box;
}

}  // namespace roidl
