// One call of a kernel as TensorFlow makes it: its tensors as the core's, in the order in which
// every node has them.
#pragma once
#include <cstddef>

#include "bridge/tensorflow_attributes.h"
#include "bridge/tensorflow_status.h"
#include "device_library.h"
#include "run.h"
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
//
// On a GPU: TensorFlow's C API does not tell the stream of its own CUDA devices (TF_GetStream is
// for devices that were plugged in), and that stream does not wait for any other. So a call waits
// for the device before and after, and runs on the legacy default stream in between.
class Call {
 public:
  Call(const char* op, tf::KernelContext* context, bool on_gpu)
      : op_(op),
        context_(context),
        device_(on_gpu ? current_cuda_device(op) : abi::DLDevice{abi::kDLCPU, 0}) {}
  ~Call() {
    while (count_ > 0) api.TF_DeleteTensor(held_[--count_]);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const char* op() const { return op_; }

  // Runs the core's operator. All outputs are there: their memory may still be in use by what the
  // device has been given to do before.
  template <class Run>
  void run(Problem& problem, Run&& run) {
    problem.lender = {
        [](void* call, int64_t bytes) { return static_cast<Call*>(call)->lend(bytes); }, this};
    wait_around(problem, run);
  }

  // The same of what takes no memory besides its arrays.
  template <class Run>
  void wait_around(const Problem& problem, Run&& run) {
    if (device_.device_type == abi::kDLCPU) return run();
    const DeviceLibrary& library = *cuda_library();
    library.wait(problem);
    run();
    library.wait(problem);
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
    source.device = device_;
    source.ndim = api.TF_NumDims(tensor);
    source.shape = shape;
    for (int axis = 0; axis < source.ndim && axis < kMaxDims; ++axis)
      shape[axis] = api.TF_Dim(tensor, axis);
    return read_dltensor(source, op_, "an array");
  }

  // TensorFlow has most of a GPU's memory to itself, so what kernels need is asked of it. It may
  // still be in use by what the device has been given to do before.
  char* lend(int64_t bytes) {
    tf::AllocatorAttributes on_device{
        offsetof(tf::AllocatorAttributes, on_host) + sizeof(on_device.on_host), 0};
    tf::Tensor* memory =
        hold(api.TF_AllocateTemp(context_, tf::kUint8, &bytes, 1, &on_device, status_));
    Problem problem;
    problem.op = op_;
    problem.device = device_;
    cuda_library()->wait(problem);
    return static_cast<char*>(api.TF_TensorData(memory));
  }

  const char* const op_;
  tf::KernelContext* const context_;
  const abi::DLDevice device_;
  Status status_;
  // Twice the maps in, one for each out, and less than 8 more.
  static constexpr int kMost = 3 * kMaxMaps + 8;
  tf::Tensor* held_[kMost];
  int count_ = 0;
};

// The fields that the shape of the grid tells.
inline AnyParams with_grid(AnyParams params, const Call& call, const Tensor& grid) {
  if (grid.ndim != 3) fail(ErrorKind::value, call.op(), "grid must have 3 dimensions");
  const bool channels_first = grid.shape[0] == 0;
  std::visit(
      [&](auto& fields) {
        fields.layout = static_cast<int32_t>(channels_first ? Layout::nchw : Layout::nhwc);
        fields.output_height = grid.shape[channels_first ? 1 : 0];
        fields.output_width = grid.shape[channels_first ? 2 : 1];
      },
      params);
  return params;
}

// What a read or a write is: one tensor, or as many as there are maps.
class MapList {
 public:
  void append(const Tensor& tensor) { tensors_[count_++] = tensor; }
  Maps maps(const char* op) const { return Maps(op, tensors_, count_); }
  Maps if_any(const char* op) const { return count_ == 0 ? Maps() : maps(op); }

 private:
  Tensor tensors_[kMaxMaps];
  int64_t count_ = 0;
};

// What follows the reads among the inputs of a node: lists of no or one tensor.
class BoxLists {
 public:
  BoxLists(Call& call, const Attributes& attributes, int first)
      : call_(call), next_(first), pyramid_(attributes.pyramid) {
    indices = optional(attributes.num_indices, indices_);
    pyramid_.levels = optional(attributes.num_levels, levels_);
    pyramid_.counts = optional(attributes.num_counts, counts_);
    pyramid = attributes.has_pyramid ? &pyramid_ : nullptr;
  }
  BoxLists(const BoxLists&) = delete;
  BoxLists& operator=(const BoxLists&) = delete;

  const Tensor* indices;
  const Pyramid* pyramid;

 private:
  const Tensor* optional(int64_t count, Tensor& tensor) {
    if (count == 0) return nullptr;
    tensor = call_.input(next_++);
    return &tensor;
  }

  Call& call_;
  int next_;
  Tensor indices_, levels_, counts_;
  Pyramid pyramid_;
};

}  // namespace roidl::bridge
