// Shape functions: what TensorFlow may know of a result before there is one.
#pragma once
#include "bridge/tensorflow_call.h"

namespace roidl::bridge {

class ShapeHandle {
 public:
  ShapeHandle() : handle_(api.TF_NewShapeHandle()) {}
  explicit ShapeHandle(tf::ShapeHandle* made) : handle_(made) {}
  ~ShapeHandle() { api.TF_DeleteShapeHandle(handle_); }
  ShapeHandle(const ShapeHandle&) = delete;
  ShapeHandle& operator=(const ShapeHandle&) = delete;
  operator tf::ShapeHandle*() { return handle_; }

 private:
  tf::ShapeHandle* handle_;
};

// Steps of shape inference; after the first that fails, the others do nothing.
class Inference {
 public:
  Inference(tf::ShapeContext* context, tf::Status* status) : context_(context), status_(status) {}

  void input(int i, ShapeHandle& shape) {
    if (ok()) api.TF_ShapeInferenceContextGetInput(context_, i, shape, status_);
  }
  void with_rank(ShapeHandle& shape, int64_t rank) {
    if (ok()) api.TF_ShapeInferenceContextWithRank(context_, shape, rank, shape, status_);
  }
  void part(ShapeHandle& shape, int64_t start, int64_t end, ShapeHandle& result) {
    if (ok()) api.TF_ShapeInferenceContextSubshape(context_, shape, start, end, result, status_);
  }
  void append(ShapeHandle& shape, ShapeHandle& more) {
    if (ok()) api.TF_ShapeInferenceContextConcatenateShapes(context_, shape, more, shape, status_);
  }
  void output(int i, ShapeHandle& shape) {
    if (ok()) api.TF_ShapeInferenceContextSetOutput(context_, i, shape, status_);
  }
  void unknown_outputs() {
    if (ok()) api.TF_ShapeInferenceContextSetUnknownShape(context_, status_);
  }
  bool rank_is_known(ShapeHandle& shape) {
    return ok() && api.TF_ShapeInferenceContextRankKnown(context_, shape) != 0;
  }
  // The size of an axis; -1 where it is not known.
  int64_t size(ShapeHandle& shape, int64_t axis) {
    if (!ok()) return -1;
    tf::DimensionHandle* size = api.TF_NewDimensionHandle();
    api.TF_ShapeInferenceContextDim(context_, shape, axis, size);
    const bool known = api.TF_DimensionHandleValueKnown(size) != 0;
    const int64_t value = known ? api.TF_DimensionHandleValue(size) : -1;
    api.TF_DeleteDimensionHandle(size);
    return value;
  }
  // A shape of one axis of this size; of an unknown one if it is -1.
  ShapeHandle axis(int64_t size) {
    return ShapeHandle(api.TF_ShapeInferenceContextVectorFromSize(context_, size));
  }
  bool ok() const { return api.TF_GetCode(status_) == tf::kOk; }

 private:
  tf::ShapeContext* context_;
  tf::Status* status_;
};

// The shape of the input that stands at `like`.
template <int like>
void infer_like(tf::ShapeContext* context, tf::Status* status) {
  Inference infer(context, status);
  ShapeHandle shape;
  infer.input(like, shape);
  infer.output(0, shape);
}

// The shapes of the maps, the first of which is the input at `first`, as many as there are outputs.
template <int first>
void infer_maps(tf::ShapeContext* context, tf::Status* status) {
  Inference infer(context, status);
  for (int i = 0; i < kMaxMaps && infer.ok(); ++i) {
    ShapeHandle shape;
    infer.input(first + i, shape);
    infer.output(i, shape);
  }
  api.TF_SetStatus(status, tf::kOk, "");  // there was no further output
}

// [K, PH, PW, C] and so on, of the boxes and the grid, the first of all inputs, and the map at
// `map`. Where every bin has channels of its own, the map has as many times more.
template <int map, bool channels_per_bin, int outputs>
void infer_pooled(tf::ShapeContext* context, tf::Status* status) {
  Inference infer(context, status);
  ShapeHandle features, rows, bins, channels, pooled;
  infer.input(map, features);
  infer.with_rank(features, 4);
  infer.input(0, rows);
  infer.input(1, bins);
  if (!infer.rank_is_known(rows) || !infer.rank_is_known(bins)) return infer.unknown_outputs();
  infer.with_rank(bins, 3);
  infer.part(rows, 0, -1, pooled);
  const bool channels_first = infer.size(bins, 0) == 0;
  const int64_t first = channels_first ? 1 : 0;
  infer.part(bins, first, first + 2, bins);
  const auto append_channels = [&] {
    const int64_t place = channels_first ? 1 : 3;
    if (!channels_per_bin) {
      infer.part(features, place, place + 1, channels);
      return infer.append(pooled, channels);
    }
    const int64_t count = infer.size(features, place);
    const int64_t height = infer.size(bins, 0), width = infer.size(bins, 1);
    const bool known = count >= 0 && height > 0 && width > 0;
    ShapeHandle divided = infer.axis(known ? count / (height * width) : -1);
    infer.append(pooled, divided);
  };
  if (channels_first) append_channels();
  infer.append(pooled, bins);
  if (!channels_first) append_channels();
  for (int i = 0; i < outputs; ++i) infer.output(i, pooled);
}

// The index of the map of every box: the boxes' shape without the coordinates.
inline void infer_levels(tf::ShapeContext* context, tf::Status* status) {
  Inference infer(context, status);
  ShapeHandle rows, levels;
  infer.input(0, rows);
  if (!infer.rank_is_known(rows)) return infer.unknown_outputs();
  infer.part(rows, 0, -1, levels);
  infer.output(0, levels);
}

}  // namespace roidl::bridge
