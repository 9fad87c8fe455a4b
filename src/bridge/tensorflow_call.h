// One call of a kernel as TensorFlow makes it: its tensors as the core's, its attributes as a
// struct of parameters, and the core's errors as a status.
#pragma once
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <type_traits>
#include <vector>

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
  Status status;
  const auto tell = [&](const char* message) {
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
    for (tf::Tensor* tensor : held_) api.TF_DeleteTensor(tensor);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const char* op() const { return op_; }
  int inputs() const { return api.TF_NumInputs(context_); }
  int outputs() const { return api.TF_NumOutputs(context_); }

  Tensor input(int i) {
    tf::Tensor* tensor = nullptr;
    Status status;
    api.TF_GetInput(context_, i, &tensor, status);
    status.check(op_);
    held_.push_back(tensor);
    return view(tensor);
  }

  Tensor output(int i, abi::DLDataType dtype, const Shape& shape) {
    const TypePair* pair = kTypes;
    while (pair->ours != dtype) ++pair;  // a type of an input, or int32
    size_t bytes = dtype.bits / 8;
    for (int axis = 0; axis < shape.ndim; ++axis) bytes *= shape.size[axis];
    Status status;
    tf::Tensor* tensor =
        api.TF_AllocateOutput(context_, i, pair->theirs, shape.size, shape.ndim, bytes, status);
    if (tensor != nullptr) held_.push_back(tensor);
    status.check(op_);
    return view(tensor);
  }

 private:
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
  std::vector<tf::Tensor*> held_;
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

// The attributes of a node are the fields of a struct of parameters by their names. Those that the
// shape of a result depends on are not among them: a shape function cannot read attributes. They
// are the shape of the input `grid`, [PH, PW, 0], or [0, PH, PW] when channels come first.
inline bool is_of_grid(const char* name) {
  for (const char* other : {"output_height", "output_width", "layout"})
    if (std::strcmp(name, other) == 0) return true;
  return false;
}

struct ReadAttribute {
  tf::KernelConstruction* construction;

  template <class Field>
  void operator()(const char* name, Field& field) const {
    if (is_of_grid(name)) return;
    Status status;
    if constexpr (std::is_same_v<Field, bool>) {
      unsigned char value = 0;
      api.TF_OpKernelConstruction_GetAttrBool(construction, name, &value, status);
      field = value != 0;
    } else {
      int64_t value = 0;
      api.TF_OpKernelConstruction_GetAttrInt64(construction, name, &value, status);
      if constexpr (std::is_same_v<Field, double>)
        field = bit_cast<double>(value);  // TensorFlow's own float attributes are float32
      else
        field = static_cast<Field>(value);
    }
    status.check("roidl");
  }
};

struct DeclareAttribute {
  tf::OpDefinition* definition;

  template <class Field>
  void operator()(const char* name, Field&) const {
    if (is_of_grid(name)) return;
    const char* type = std::is_same_v<Field, bool> ? ": bool" : ": int";
    api.TF_OpDefinitionBuilderAddAttr(definition, (std::string(name) + type).c_str());
  }
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

}  // namespace roidl::bridge
