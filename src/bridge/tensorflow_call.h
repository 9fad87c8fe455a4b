// One call of a kernel as TensorFlow makes it: its tensors as the core's, its attributes as a
// struct of parameters, and the core's errors as a status.
#pragma once
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <type_traits>

#include "abi/tensorflow.h"
#include "error.h"
#include "problem.h"
#include "tensor.h"

namespace roidl::bridge {

namespace tf = abi::tf;

extern tf::Functions api;  // filled in when the library is loaded

class Status {
 public:
  Status() : status_(api.TF_NewStatus()) {}
  ~Status() { api.TF_DeleteStatus(status_); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  operator tf::Status*() { return status_; }
  bool ok() const { return api.TF_GetCode(status_) == tf::kOk; }
  const char* message() const { return api.TF_Message(status_); }
  // What TensorFlow reports of its own calls.
  void check(const char* op) const {
    if (!ok()) fail(ErrorKind::runtime, op, message());
  }

 private:
  tf::Status* status_;
};

// Runs `body`; an error of any kind becomes the status and is passed to `report`. Nothing may cross
// a C interface.
template <class Body, class Report>
void guarded(Body&& body, Report&& report) {
  tf::Code code = tf::kInternal;
  const auto tell = [&](const char* message) {
    Status status;
    api.TF_SetStatus(status, code, message);
    report(status);
  };
  try {
    body();
  } catch (const Error& error) {
    switch (error.kind()) {
      case ErrorKind::value:
      case ErrorKind::type:
        code = tf::kInvalidArgument;
        break;
      case ErrorKind::unsupported:
        code = tf::kUnimplemented;
        break;
      case ErrorKind::runtime:
        break;
    }
    tell(error.what());
  } catch (const std::bad_alloc&) {
    code = tf::kResourceExhausted;
    tell("roidl: out of memory");
  } catch (const std::exception& error) {
    tell(error.what());
  } catch (...) {
    tell("roidl: unknown error");
  }
}

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
  int inputs() const { return api.TF_NumInputs(context_); }
  int outputs() const { return api.TF_NumOutputs(context_); }

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
  static constexpr int kMost = 8;  // inputs and outputs that an operator has
  tf::Tensor* held_[kMost];
  int count_ = 0;
};

// A tensor that may be left out: an input list of no or one element.
class Optional {
 public:
  Optional() = default;
  explicit Optional(const Tensor& tensor) : tensor_(tensor) {}
  const Tensor* get() const { return tensor_ ? &*tensor_ : nullptr; }

 private:
  std::optional<Tensor> tensor_;
};

// A node's parameters are one attribute, the list `params`: the fields of the struct in their order
// (every attribute of its own costs an eager call 0.4 us). Those that the shape of a result depends
// on are not among them: a shape function cannot read attributes. They are the shape of the input
// `grid`, [PH, PW, 0], or [0, PH, PW] when channels come first.
inline bool is_of_grid(const char* name) {
  for (const char* other : {"output_height", "output_width", "layout"})
    if (std::strcmp(name, other) == 0) return true;
  return false;
}

inline constexpr int kMostFields = 16;

template <class Params>
Params read_params(tf::KernelConstruction* construction) {
  Params params{};
  int64_t values[kMostFields] = {};
  int32_t count = 0, bytes = 0, next = 0;
  Status status;
  api.TF_OpKernelConstruction_GetAttrSize(construction, "params", &count, &bytes, status);
  status.check("roidl");
  visit_fields(params, [&](const char* name, auto&) { next += !is_of_grid(name); });
  if (count != next)
    fail(ErrorKind::value, "roidl", "a node has ", count, " parameters instead of ", next,
         ": it was made by another version of roidl");
  api.TF_OpKernelConstruction_GetAttrInt64List(construction, "params", values, count, status);
  status.check("roidl");
  next = 0;
  visit_fields(params, [&](const char* name, auto& field) {
    using Field = std::decay_t<decltype(field)>;
    if (is_of_grid(name)) return;
    const int64_t value = values[next++];
    if constexpr (std::is_same_v<Field, double>)
      field = bit_cast<double>(value);  // TensorFlow's own float attributes are float32
    else
      field = static_cast<Field>(value);
  });
  return params;
}

template <class Params>
Params with_grid(Params params, const Call& call, const Tensor& grid) {
  if (grid.ndim != 3) fail(ErrorKind::value, call.op(), "grid must have 3 dimensions");
  const bool channels_first = grid.shape[0] == 0;
  params.layout = static_cast<int32_t>(channels_first ? Layout::nchw : Layout::nhwc);
  params.output_height = grid.shape[channels_first ? 1 : 0];
  params.output_width = grid.shape[channels_first ? 2 : 1];
  return params;
}

}  // namespace roidl::bridge
