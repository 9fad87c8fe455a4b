// Boxes: describes each form of boxes, and checks their values.
#include "boxes.h"

#include <cmath>

#include "check.h"
#include "floating_point.h"
#include "interrupt.h"

namespace roidl {

namespace {

void check_type(const char* op, const Tensor& boxes) {
  if (!is_float(boxes.dtype) && !is_integer(boxes.dtype))
    fail(ErrorKind::type, op, "boxes must be of a float or integer type, got ", boxes.dtype);
}

}  // namespace

void check_listed_boxes(const char* op, const Tensor& boxes, int64_t index) {
  if (boxes.ndim != 2 || boxes.shape[1] != 4)
    fail(ErrorKind::value, op, "boxes[", index, "] must have shape [L, 4], got ", shape_of(boxes));
  check_type(op, boxes);
}

void check_listed_on_host(const char* op, const Tensor& boxes) {
  const int32_t device = boxes.device.device_type;
  if (device != abi::kDLCPU && device != abi::kDLCUDAHost)
    fail(ErrorKind::unsupported, op, "not implemented for lists of boxes on device ", boxes.device);
}

void check_list_length(const char* op, int64_t length, int64_t images) {
  if (length != images)
    fail(ErrorKind::value, op, "a list of boxes must have one array per image (", images, "), got ",
         length);
}

template <class T>
void join_boxes(const Tensor& boxes, int32_t image, T* rows, int32_t* indices) {
  const FloatingPoint mode;
  const char* data = static_cast<const char*>(boxes.data);
  for (int64_t i = 0; i < boxes.shape[0]; ++i) {
    for (int64_t j = 0; j < 4; ++j)
      rows[4 * i + j] = load_number<T>(
          data + (i * boxes.strides[0] + j * boxes.strides[1]) * boxes.item_bytes(), boxes.dtype);
    indices[i] = image;
  }
}

template void join_boxes(const Tensor&, int32_t, float*, int32_t*);
template void join_boxes(const Tensor&, int32_t, double*, int32_t*);

Boxes describe_boxes(const char* op, const Tensor& tensor, const Tensor* indices,
                     const Tensor* counts, int64_t images) {
  check_type(op, tensor);
  check_aligned_on_device(op, "boxes", tensor);
  const auto wrong_shape = [&](const char* expected, const char* hint = "") {
    fail(ErrorKind::value, op, "boxes must have shape ", expected, ", got ", shape_of(tensor),
         hint);
  };
  Boxes boxes;
  boxes.data = static_cast<const char*>(tensor.data);
  boxes.dtype = tensor.dtype;
  if (indices != nullptr) {
    if (tensor.ndim != 2 || tensor.shape[1] != 4) wrong_shape("[K, 4] with batch_indices");
    if (!is_integer(indices->dtype))
      fail(ErrorKind::type, op, "batch_indices must be of an integer type, got ", indices->dtype);
    check_shape(op, "batch_indices", *indices, Shape{1, {tensor.shape[0]}});
    check_aligned_on_device(op, "batch_indices", *indices);
    boxes.indices = static_cast<const char*>(indices->data);
    boxes.indices_dtype = indices->dtype;
    boxes.indices_stride = indices->strides[0];
  } else if (tensor.ndim == 3) {
    if (tensor.shape[0] != images || tensor.shape[2] != 4) {
      const Shape expected{3, {images, tensor.shape[1], 4}};
      fail(ErrorKind::value, op, "boxes must have shape ", expected,
           " when they are grouped by image, got ", shape_of(tensor));
    }
    boxes.by_position = true;
  } else if (tensor.ndim == 2 && tensor.shape[1] == 5) {
    boxes.has_index_column = true;
  } else if (tensor.ndim != 2 || tensor.shape[1] != 4) {
    wrong_shape("[K, 5]");
  } else if (images != 1 && tensor.shape[0] > 0) {
    wrong_shape("[K, 5]", "; boxes of shape [K, 4] need batch_indices unless there is one image");
  }
  const int row = tensor.ndim - 2;
  boxes.per_image = tensor.shape[row];
  boxes.count = boxes.by_position ? images * boxes.per_image : boxes.per_image;
  boxes.image_stride = boxes.by_position ? tensor.strides[0] : 0;
  boxes.row_stride = tensor.strides[row];
  boxes.column_stride = tensor.strides[row + 1];
  if (counts != nullptr) {
    if (!boxes.by_position) wrong_shape("[N, L, 4] with counts");
    if (!is_integer(counts->dtype))
      fail(ErrorKind::type, op, "counts must be of an integer type, got ", counts->dtype);
    check_shape(op, "counts", *counts, Shape{1, {images}});
    check_aligned_on_device(op, "counts", *counts);
    boxes.counts = static_cast<const char*>(counts->data);
    boxes.counts_dtype = counts->dtype;
    boxes.counts_stride = counts->strides[0];
  }
  return boxes;
}

Boxes describe_like_boxes(const Boxes& boxes, const Tensor& tensor) {
  Boxes like = boxes;
  const int row = tensor.ndim - 2;
  like.data = static_cast<const char*>(tensor.data);
  like.dtype = tensor.dtype;
  like.image_stride = boxes.by_position ? tensor.strides[0] : 0;
  like.row_stride = tensor.strides[row];
  like.column_stride = tensor.strides[row + 1];
  return like;
}

void store_box_gradients(const Boxes& boxes, const double* rows, const Tensor& out) {
  const int row_axis = out.ndim - 2;
  const int64_t columns = out.shape[row_axis + 1];
  char* data = static_cast<char*>(out.data);
  visit_float(out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    for (int64_t k = 0; k < boxes.count; ++k) {
      const int64_t image = k / boxes.per_image, row = k % boxes.per_image;
      const int64_t first =
          (boxes.by_position ? image * out.strides[0] : 0) + row * out.strides[row_axis];
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t coordinate = j - (columns - 4);
        const T value(coordinate < 0 ? 0.0 : rows[4 * k + coordinate]);
        std::memcpy(data + (first + j * out.strides[row_axis + 1]) * out.item_bytes(), &value,
                    sizeof value);
      }
    }
  });
}

void check_box_values(const char* op, const Boxes& boxes, int64_t images) {
  static const char* const names[] = {"x1", "y1", "x2", "y2"};
  for (int64_t n = 0; boxes.counts != nullptr && n < images; ++n) {
    const int64_t count = load_number<int64_t>(
        boxes.counts + n * boxes.counts_stride * (boxes.counts_dtype.bits / 8), boxes.counts_dtype);
    if (count < 0 || count > boxes.per_image)
      fail(ErrorKind::value, op, "counts must be in [0, ", boxes.per_image, "], but image ", n,
           " has ", count);
  }
  for (int64_t k = 0; k < boxes.count; ++k) {
    if (k % kRowsPerInterrupt == kRowsPerInterrupt - 1) check_interrupt();
    if (is_padding(boxes, k)) continue;
    const Box<double> box = load_box<double>(boxes, k);
    const double coordinates[] = {box.x1, box.y1, box.x2, box.y2};
    for (int j = 0; j < 4; ++j)
      if (!std::isfinite(coordinates[j]))
        fail(ErrorKind::value, op, "boxes must be finite, but ", names[j], " of row ", k, " is ",
             coordinates[j]);
    if (box.image >= 0 && box.image < images) continue;
    if (boxes.indices != nullptr) {
      const int64_t of_example = kNoImage - box.image;
      if (of_example == 0)
        fail(ErrorKind::value, op, "the batch index of row ", k, " is no whole number");
      if (std::abs(of_example) < kMostEncoded)
        fail(ErrorKind::value, op, "the batch index of row ", k, " is ", of_example,
             ", but must be that of an image of its own example");
    }
    const auto refuse = [&](const auto& index) {
      fail(ErrorKind::value, op, "the batch index of row ", k, " is ", index,
           ", but must be a whole number in [0, ", images, ")");
    };
    if (!boxes.has_index_column || box.image >= 0) refuse(box.image);
    refuse(load_number<double>(boxes.data + k * boxes.row_stride * (boxes.dtype.bits / 8),
                               boxes.dtype));
  }
}

}  // namespace roidl
