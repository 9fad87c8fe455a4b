// Shape functions: what TensorFlow may know of a result before there is one.
#pragma once
#include "bridge/tensorflow_call.h"

namespace roidl::bridge {

class ShapeHandle {
 public:
  ShapeHandle() : handle_(api.TF_NewShapeHandle()) {}
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
  bool is_zero(ShapeHandle& shape, int64_t axis) {
    if (!ok()) return false;
    tf::DimensionHandle* size = api.TF_NewDimensionHandle();
    api.TF_ShapeInferenceContextDim(context_, shape, axis, size);
    const bool zero = api.TF_DimensionHandleValueKnown(size) && !api.TF_DimensionHandleValue(size);
    api.TF_DeleteDimensionHandle(size);
    return zero;
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
// `map`.
template <int map, int outputs = 1>
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
  if (infer.is_zero(bins, 0)) {
    infer.part(features, 1, 2, channels);
    infer.part(bins, 1, 3, bins);
    infer.append(pooled, channels);
    infer.append(pooled, bins);
  } else {
    infer.part(features, 3, 4, channels);
    infer.part(bins, 0, 2, bins);
    infer.append(pooled, bins);
    infer.append(pooled, channels);
  }
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
