// A custom call as XLA hands it over: its operands, its results and its attributes.
#pragma once
#include <string>
#include <string_view>
#include <type_traits>

#include "abi/xla_ffi.h"
#include "device_library.h"
#include "run.h"

namespace roidl {

namespace {

namespace xla = abi::xla;

abi::DLDataType dtype_of(xla::DataType type) {
  switch (type) {
    case xla::kPred:
      return {6, 8, 1};  // DLPack's bool
    case xla::kS8:
      return {abi::kDLInt, 8, 1};
    case xla::kS16:
      return {abi::kDLInt, 16, 1};
    case xla::kS32:
      return {abi::kDLInt, 32, 1};
    case xla::kS64:
      return {abi::kDLInt, 64, 1};
    case xla::kU8:
      return {abi::kDLUInt, 8, 1};
    case xla::kU16:
      return {abi::kDLUInt, 16, 1};
    case xla::kU32:
      return {abi::kDLUInt, 32, 1};
    case xla::kU64:
      return {abi::kDLUInt, 64, 1};
    case xla::kF16:
      return kFloat16;
    case xla::kBF16:
      return kBfloat16;
    case xla::kF32:
      return kFloat32;
    case xla::kF64:
      return kFloat64;
    case xla::kC64:
      return {5, 64, 1};  // DLPack's complex
    case xla::kC128:
      return {5, 128, 1};
  }
  return {255, 8, 1};  // the core says that it is none of ours
}

Tensor read_buffer(const char* op, const char* name, void* address, abi::DLDevice device) {
  const auto* buffer = static_cast<const xla::Buffer*>(address);
  abi::DLTensor source{};
  source.data = buffer->data;
  source.device = device;
  source.dtype = dtype_of(buffer->dtype);
  source.ndim = static_cast<int32_t>(buffer->rank);
  source.shape = buffer->dims;  // in C order: our lowering asks for no other
  return read_dltensor(source, op, name);
}

// Where the buffers of a call are, and what it is for.
struct Place {
  bool is_cuda = false;
  void* stream = nullptr;
  int32_t ordinal = -1;  // of the device, where the runtime tells it
  Pass pass = Pass::run;
  abi::DLDevice device{abi::kDLCPU, 0};
};

// What XLA lends for kernels to use besides the buffers.
struct Lent {
  char* data = nullptr;
  int64_t bytes = 0;
};

// What input, its tangent or its gradient are: one buffer, or one for every level of a pyramid.
struct MapList {
  Tensor tensors[kMaxMaps];
  int64_t count = 0;

  operator Maps() const {
    Maps maps;
    maps.count = static_cast<int>(count);
    for (int i = 0; i < maps.count; ++i) maps.tensors[i] = &tensors[i];
    return maps;
  }
};

// Operators on several maps have the attributes maps, scale0, scale1 and so on, canonical_scale,
// canonical_level, and levels and counts, which are true where there are such operands.
class Call {
 public:
  Call(const char* op, const xla::CallFrame& frame, Place place)
      : op_(op), frame_(frame), place_(place), num_results_(frame.rets.size) {
    has_pyramid_ = find("maps", maps_);
    if (has_pyramid_ && op != std::string_view("assign_levels")) op_ = "multiscale_" + op_;
    check_version();
    if (maps_ < 1 || maps_ > kMaxMaps) missing("attribute", "maps");
    if (place.is_cuda) {
      const abi::DLDevice current = current_cuda_device(op_.c_str());
      place_.device = {abi::kDLCUDA, place.ordinal < 0 ? current.device_id : place.ordinal};
      find_workspace();
    }
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const char* op() const { return op_.c_str(); }
  int maps() const { return static_cast<int>(maps_); }
  bool has_pyramid() const { return has_pyramid_; }
  void* stream() const { return place_.stream; }
  Pass pass() const { return place_.pass; }

  Tensor operand(int64_t index, const char* name) const {
    if (index >= frame_.args.size) missing("operand", name);
    return read_buffer(op(), name, frame_.args.args[index], place_.device);
  }
  Tensor result(int64_t index, const char* name) const {
    if (index >= num_results_) missing("result", name);
    return read_buffer(op(), name, frame_.rets.rets[index], place_.device);
  }
  int64_t num_operands() const { return frame_.args.size; }
  bool has_result(int64_t index) const { return index < num_results_; }

  // Says where a problem runs. A program of XLA waits for nothing, as a graph of CUDA may have to
  // repeat it; nor does it allocate: a graph that does could not be part of another one.
  void place(Problem& problem) const {
    if (!place_.is_cuda) return;
    problem.stream = place_.stream;
    problem.may_wait = false;
    problem.pass = place_.pass;
    problem.lender = {[](void* lent, int64_t bytes) {
                        return static_cast<const Lent*>(lent)->bytes >= bytes
                                   ? static_cast<const Lent*>(lent)->data
                                   : nullptr;
                      },
                      &lent_};
  }

  // As many arrays as there are maps where the role is theirs, else one.
  MapList operands(int64_t first, Role role, const char* name) const {
    MapList list;
    for (; list.count < count_of(role); ++list.count)
      list.tensors[list.count] = operand(first + list.count, name);
    return list;
  }
  MapList results(int64_t first, Role role, const char* name) const {
    MapList list;
    for (; list.count < count_of(role); ++list.count)
      list.tensors[list.count] = result(first + list.count, name);
    return list;
  }

  AnyParams params(Family family) const {
    AnyParams params = params_of(family);
    visit_params(params, [&](const char* name, auto& field) { read(name, field); });
    return params;
  }
  bool flag(const char* name) const {
    bool value = false;
    read(name, value);
    return value;
  }
  // Without levels and counts, which are operands.
  Pyramid pyramid() const {
    static const char* const names[kMaxMaps] = {"scale0", "scale1", "scale2", "scale3",
                                                "scale4", "scale5", "scale6", "scale7"};
    Pyramid pyramid;
    for (int64_t i = 0; i < maps_; ++i) read(names[i], pyramid.scales[i]);
    read("canonical_scale", pyramid.canonical_scale);
    read("canonical_level", pyramid.canonical_level);
    return pyramid;
  }

 private:
  int64_t count_of(Role role) const { return role == Role::maps ? maps_ : 1; }

  void check_version() const {
    int64_t version = 0;
    if (!find("catalogue", version) || version != kCatalogueVersion)
      fail(ErrorKind::value, op(), "this program was made by another version of roidl (catalogue ",
           version, ", here ", kCatalogueVersion, "); export it again");
  }

  // On CUDA, a result of bytes that comes last.
  void find_workspace() {
    if (num_results_ == 0) return;
    const auto& last = *static_cast<const xla::Buffer*>(frame_.rets.rets[num_results_ - 1]);
    if (last.dtype != xla::kU8 || last.rank != 1) return;
    --num_results_;
    lent_ = {static_cast<char*>(last.data), last.dims[0]};
  }

  [[noreturn]] void missing(const char* what, const char* name) const {
    fail(ErrorKind::runtime, op(), "the XLA custom call has no ", what, " ", name);
  }

  template <class T>
  void read(const char* name, T& field) const {
    if (!find(name, field)) missing("attribute", name);
  }

  template <class T>
  bool find(const std::string_view name, T& field) const {
    const xla::Attrs& attrs = frame_.attrs;
    for (int64_t i = 0; i < attrs.size; ++i) {
      const xla::ByteSpan& span = *attrs.names[i];
      if (std::string_view(span.ptr, span.len) != name || attrs.types[i] != xla::kScalar) continue;
      const auto* scalar = static_cast<const xla::Scalar*>(attrs.attrs[i]);
      if constexpr (std::is_same_v<T, bool>) {
        if (scalar->dtype != xla::kPred) return false;
        field = *static_cast<bool*>(scalar->value);
        return true;
      } else {
        return visit_number(*scalar, [&](auto value) { field = static_cast<T>(value); });
      }
    }
    return false;
  }

  template <class F>
  static bool visit_number(const xla::Scalar& scalar, F&& f) {
    switch (scalar.dtype) {
      case xla::kF64:
        return f(*static_cast<double*>(scalar.value)), true;
      case xla::kS64:
        return f(*static_cast<int64_t*>(scalar.value)), true;
      default:
        return false;
    }
  }

  std::string op_;  // as the user calls it
  const xla::CallFrame& frame_;
  Place place_;
  int64_t num_results_;  // without the workspace
  mutable Lent lent_;
  int64_t maps_ = 1;
  bool has_pyramid_ = false;
};

// Boxes and what may come with them: the last operands of every call.
class BoxOperands {
 public:
  BoxOperands(const Call& call, int64_t first)
      : boxes(call.operand(first, "boxes")), has_pyramid_(call.has_pyramid()) {
    const bool has_levels = has_pyramid_ && call.flag("levels");
    const bool has_counts = has_pyramid_ && call.flag("counts");
    int64_t next = first + 1;
    indexed_ = call.num_operands() - next > int{has_levels} + int{has_counts};
    if (indexed_) indices_ = call.operand(next++, "batch_indices");
    if (has_pyramid_) pyramid_ = call.pyramid();
    if (has_levels) levels_ = call.operand(next++, "levels");
    if (has_counts) counts_ = call.operand(next, "counts");
    if (has_levels) pyramid_.levels = &levels_;
    if (has_counts) pyramid_.counts = &counts_;
  }
  BoxOperands(const BoxOperands&) = delete;
  BoxOperands& operator=(const BoxOperands&) = delete;

  const Tensor* indices() const { return indexed_ ? &indices_ : nullptr; }
  const Pyramid* pyramid() const { return has_pyramid_ ? &pyramid_ : nullptr; }

  const Tensor boxes;

 private:
  bool indexed_ = false, has_pyramid_;
  Tensor indices_, levels_, counts_;
  Pyramid pyramid_;
};

}  // namespace

}  // namespace roidl
