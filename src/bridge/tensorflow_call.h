// One call of a kernel as TensorFlow makes it: its tensors as the core's, in the order in which
// every node has them.
#pragma once
#include "bridge/tensorflow_attributes.h"
#include "bridge/tensorflow_status.h"
#include "problem.h"
#include "tensor.h"

namespace roidl::bridge {

struct TypePair {
  tf::DataType theirs;
  abi::DLDataType ours;
};
inline constexpr TypePair kTypes[] = {
    {tf::kFloat, kFloat32},
    {tf::kDouble, kFloat64},
    {tf::kHalf, kFloat16},
    {tf::kBfloat16, kBfloat16},
    {tf::kInt8, {abi::kDLInt, 8, 1}},
    {tf::kInt16, {abi::kDLInt, 16, 1}},
    {tf::kInt32, kInt32},
    {tf::kInt64, {abi::kDLInt, 64, 1}},
    {tf::kUint8, {abi::kDLUInt, 8, 1}},
    {tf::kUint16, {abi::kDLUInt, 16, 1}},
    {tf::kUint32, {abi::kDLUInt, 32, 1}},
    {tf::kUint64, {abi::kDLUInt, 64, 1}},
};

// The tensors of one call; TensorFlow's hold on their memory ends with it.
class Call {
 public:
  Call(const char* op, tf::KernelContext* context) : op_(op), context_(context) {}
  ~Call() {
    while (count_ > 0) api.TF_DeleteTensor(held_[--count_]);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const char* op() const { return op_; }

  // Runs the core's operator, all outputs being there.
  template <class Run>
  void run(const Problem&, Run&& run) {
    run();
  }

  Tensor input(int i) {
    tf::Tensor* tensor = nullptr;
    api.TF_GetInput(context_, i, &tensor, status_);
    return view(hold(tensor));
  }

  Tensor output(int i, abi::DLDataType dtype, const Shape& shape) {
    const TypePair* pair = kTypes;
    while (pair->ours != dtype) ++pair;  // a type of an input, or int32
    size_t bytes = dtype.bits / 8;
    for (int axis = 0; axis < shape.ndim; ++axis) bytes *= shape.size[axis];
    return view(hold(
        api.TF_AllocateOutput(context_, i, pair->theirs, shape.size, shape.ndim, bytes, status_)));
  }

 private:
  tf::Tensor* hold(tf::Tensor* tensor) {
    if (tensor != nullptr) held_[count_++] = tensor;
    status_.check(op_);
    return tensor;
  }

  Tensor view(const tf::Tensor* tensor) const {
    const tf::DataType type = api.TF_TensorType(tensor);
    int64_t shape[kMaxDims] = {};
    abi::DLTensor source{};
    for (const TypePair& pair : kTypes)
      if (pair.theirs == type) source.dtype = pair.ours;
    source.data = api.TF_TensorData(tensor);
    source.device = {abi::kDLCPU, 0};
    source.ndim = api.TF_NumDims(tensor);
    source.shape = shape;
    for (int axis = 0; axis < source.ndim && axis < kMaxDims; ++axis)
      shape[axis] = api.TF_Dim(tensor, axis);
    return read_dltensor(source, op_, "an array");
  }

  const char* op_;
  tf::KernelContext* context_;
  Status status_;
  // Inputs and outputs that a node has: twice the maps in, one for each out, and less than 8 more.
  static constexpr int kMost = 3 * kMaxMaps + 8;
  tf::Tensor* held_[kMost];
  int count_ = 0;
};

template <class Params>
Params with_grid(Params params, const Call& call, const Tensor& grid) {
  if (grid.ndim != 3) fail(ErrorKind::value, call.op(), "grid must have 3 dimensions");
  const bool channels_first = grid.shape[0] == 0;
  params.layout = static_cast<int32_t>(channels_first ? Layout::nchw : Layout::nhwc);
  params.output_height = grid.shape[channels_first ? 1 : 0];
  params.output_width = grid.shape[channels_first ? 2 : 1];
  return params;
}

// One array for every map: the features, a tangent or a gradient of them.
class MapList {
 public:
  explicit MapList(const char* op) : op_(op) {}
  void append(const Tensor& tensor) { tensors_[count_++] = tensor; }
  operator Maps() const { return Maps(op_, tensors_, count_); }
  abi::DLDataType dtype() const { return tensors_[0].dtype; }

 private:
  const char* op_;
  Tensor tensors_[kMaxMaps];
  int64_t count_ = 0;
};

// The inputs of a node: boxes, grid, what is the operator's own, the maps, and lists of no or one
// tensor: batch_indices, levels and counts.
template <class AttributesType>
class Inputs {
 public:
  Inputs(Call& call, const AttributesType& attributes)
      : boxes(call.input(0)),
        params(with_grid(attributes.params, call, call.input(1))),
        call_(call),
        attributes_(attributes),
        pyramid_(attributes.pyramid) {}
  Inputs(const Inputs&) = delete;
  Inputs& operator=(const Inputs&) = delete;

  Tensor own() { return call_.input(next_++); }
  MapList maps() {
    MapList list(call_.op());
    for (int i = 0; i < attributes_.maps; ++i) list.append(own());
    return list;
  }

  // The last to be read: make_roi_align or make_roi_pool.
  template <class Problem>
  Problem problem(const Maps& input,
                  Problem (*make)(const char*, const typename AttributesType::Params&, const Maps&,
                                  const Tensor&, const Tensor*, const Pyramid*)) {
    const Tensor* indices = optional(attributes_.num_indices, indices_);
    pyramid_.levels = optional(attributes_.num_levels, levels_);
    pyramid_.counts = optional(attributes_.num_counts, counts_);
    return make(call_.op(), params, input, boxes, indices,
                attributes_.has_pyramid ? &pyramid_ : nullptr);
  }

  const Tensor boxes;
  const typename AttributesType::Params params;

 private:
  const Tensor* optional(int64_t count, Tensor& tensor) {
    if (count == 0) return nullptr;
    tensor = own();
    return &tensor;
  }

  Call& call_;
  const AttributesType& attributes_;
  int next_ = 2;
  Tensor indices_, levels_, counts_;
  Pyramid pyramid_;
};

}  // namespace roidl::bridge
