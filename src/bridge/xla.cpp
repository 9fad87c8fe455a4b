// The operators as XLA custom calls: one FFI handler each, by the C interface alone.
//
// Operands come in the order: what is differentiated along, boxes, batch_indices if there are any.
// Attributes are the parameters, by the names of visit_fields. The result of a backward tells the
// shape of the input.
#include <algorithm>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>

#include "abi/xla_ffi.h"
#include "cpu/parallel.h"
#include "roi_align.h"
#include "roi_pool.h"

namespace roidl {

namespace {

namespace xla = abi::xla;

// Where the buffers of a call are.
constexpr abi::DLDevice kHost{abi::kDLCPU, 0};

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

// One call as XLA hands it over.
class Call {
 public:
  Call(const char* op, const xla::CallFrame& frame, abi::DLDevice device)
      : op_(op), frame_(frame), device_(device) {}

  const char* op() const { return op_; }

  Tensor operand(int64_t index, const char* name) const {
    if (index >= frame_.args.size) missing("operand", name);
    return read_buffer(op_, name, frame_.args.args[index], device_);
  }
  Tensor result(int64_t index, const char* name) const {
    if (index >= frame_.rets.size) missing("result", name);
    return read_buffer(op_, name, frame_.rets.rets[index], device_);
  }
  bool has_operand(int64_t index) const { return index < frame_.args.size; }
  bool has_result(int64_t index) const { return index < frame_.rets.size; }

  template <class Params>
  Params params() const {
    Params params{};
    visit_fields(params, [&](const char* name, auto& field) { read(name, field); });
    return params;
  }

 private:
  [[noreturn]] void missing(const char* what, const char* name) const {
    fail(ErrorKind::runtime, op_, "the XLA custom call has no ", what, " ", name);
  }

  template <class T>
  void read(const std::string_view name, T& field) const {
    const xla::Attrs& attrs = frame_.attrs;
    for (int64_t i = 0; i < attrs.size; ++i) {
      const xla::ByteSpan& span = *attrs.names[i];
      if (std::string_view(span.ptr, span.len) != name || attrs.types[i] != xla::kScalar) continue;
      const auto* scalar = static_cast<const xla::Scalar*>(attrs.attrs[i]);
      if constexpr (std::is_same_v<T, bool>) {
        if (scalar->dtype == xla::kPred) return void(field = *static_cast<bool*>(scalar->value));
      } else if (visit_number(*scalar, [&](auto value) { field = static_cast<T>(value); })) {
        return;
      }
    }
    missing("attribute", std::string(name).c_str());
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

  const char* op_;
  const xla::CallFrame& frame_;
  abi::DLDevice device_;
};

// Boxes and, perhaps, their batch indices: the last operands of every call.
struct BoxOperands {
  BoxOperands(const Call& call, int64_t first)
      : boxes(call.operand(first, "boxes")), indexed(call.has_operand(first + 1)) {
    if (indexed) batch_indices = call.operand(first + 1, "batch_indices");
  }
  const Tensor* indices() const { return indexed ? &batch_indices : nullptr; }

  Tensor boxes;
  bool indexed;
  Tensor batch_indices;
};

// ---- the operators -----------------------------------------------------------------------------

RoiAlignProblem align_problem(const Call& call, const Tensor& input, const BoxOperands& b) {
  return make_roi_align(call.op(), call.params<RoiAlignParams>(), input, b.boxes, b.indices());
}

void align_forward(const Call& call) {
  const Tensor input = call.operand(0, "input");
  const BoxOperands b(call, 1);
  RoiAlignProblem problem = align_problem(call, input, b);
  roi_align_forward(problem, input, b.boxes, call.result(0, "out"));
}

// The max modes look at the input; it follows the gradient or the tangent.
bool needs_input(const Call& call) {
  return call.params<RoiAlignParams>().mode != static_cast<int32_t>(AlignMode::avg);
}

void align_backward(const Call& call) {
  const bool two = needs_input(call);
  const Tensor grad_input = call.result(0, "out");
  const Tensor input = two ? call.operand(1, "input") : Tensor{};
  const BoxOperands b(call, two ? 2 : 1);
  RoiAlignProblem problem = align_problem(call, grad_input, b);
  roi_align_backward(problem, call.operand(0, "grad_output"), b.boxes, two ? &input : nullptr,
                     grad_input);
}

void align_backward_boxes(const Call& call) {
  const Tensor input = call.operand(1, "input");
  const BoxOperands b(call, 2);
  RoiAlignProblem problem = align_problem(call, input, b);
  roi_align_backward_boxes(problem, call.operand(0, "grad_output"), input, b.boxes,
                           call.result(0, "grad_boxes"));
}

void align_jvp(const Call& call) {
  const bool two = needs_input(call);
  const Tensor tangent = call.operand(0, "input_tangent");
  const Tensor input = two ? call.operand(1, "input") : Tensor{};
  const BoxOperands b(call, two ? 2 : 1);
  RoiAlignProblem problem = align_problem(call, tangent, b);
  roi_align_jvp(problem, tangent, b.boxes, two ? &input : nullptr, call.result(0, "out"));
}

void align_jvp_boxes(const Call& call) {
  const Tensor input = call.operand(0, "input");
  const BoxOperands b(call, 2);
  RoiAlignProblem problem = align_problem(call, input, b);
  roi_align_jvp_boxes(problem, input, b.boxes, call.operand(1, "boxes_tangent"),
                      call.result(0, "out"));
}

void align_jvp_boxes_backward(const Call& call) {
  const Tensor grad_input = call.result(0, "out");
  const BoxOperands b(call, 2);
  RoiAlignProblem problem = align_problem(call, grad_input, b);
  roi_align_jvp_boxes_backward(problem, call.operand(0, "grad_output"), b.boxes,
                               call.operand(1, "boxes_tangent"), grad_input);
}

RoiPoolProblem pool_problem(const Call& call, const Tensor& input, const BoxOperands& b) {
  return make_roi_pool(call.op(), call.params<RoiPoolParams>(), input, b.boxes, b.indices());
}

// The mode max has an argmax: it may be asked for, and the derivatives need it, as the operand that
// follows the gradient or the tangent.
bool has_argmax(const Call& call) {
  return call.params<RoiPoolParams>().mode == static_cast<int32_t>(PoolMode::max);
}

void pool_forward(const Call& call) {
  const Tensor input = call.operand(0, "input");
  const BoxOperands b(call, 1);
  RoiPoolProblem problem = pool_problem(call, input, b);
  const bool two = has_argmax(call) && call.has_result(1);
  const Tensor argmax = two ? call.result(1, "argmax") : Tensor{};
  roi_pool_forward(problem, input, b.boxes, call.result(0, "out"), two ? &argmax : nullptr);
}

void pool_backward(const Call& call) {
  const bool two = has_argmax(call);
  const Tensor grad_input = call.result(0, "out");
  const Tensor argmax = two ? call.operand(1, "argmax") : Tensor{};
  const BoxOperands b(call, two ? 2 : 1);
  RoiPoolProblem problem = pool_problem(call, grad_input, b);
  roi_pool_backward(problem, call.operand(0, "grad_output"), b.boxes, two ? &argmax : nullptr,
                    grad_input);
}

void pool_jvp(const Call& call) {
  const bool two = has_argmax(call);
  const Tensor tangent = call.operand(0, "input_tangent");
  const Tensor argmax = two ? call.operand(1, "argmax") : Tensor{};
  const BoxOperands b(call, two ? 2 : 1);
  RoiPoolProblem problem = pool_problem(call, tangent, b);
  roi_pool_jvp(problem, tangent, b.boxes, two ? &argmax : nullptr, call.result(0, "out"));
}

// ---- the doors ---------------------------------------------------------------------------------

// XLA's threads wait while one of them is here, so ours may be as many; 1 where it has no pool.
int threads_of(const xla::CallFrame& frame) {
  const xla::Api& api = *frame.api;
  constexpr size_t kNeeded =
      offsetof(xla::Api, ThreadPool_NumThreads) + sizeof(api.ThreadPool_NumThreads);
  if (api.struct_size < kNeeded) return 1;
  int64_t threads = 1;
  xla::NumThreadsArgs args{sizeof args, nullptr, frame.ctx, &threads};
  xla::Failure* const failure = api.ThreadPool_NumThreads(&args);
  if (failure == nullptr) return static_cast<int>(std::min<int64_t>(threads, INT32_MAX));
  xla::ErrorDestroyArgs destroy{sizeof destroy, nullptr, failure};
  api.Error_Destroy(&destroy);
  return 1;
}

xla::ErrorCode code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::value:
    case ErrorKind::type:
      return xla::kInvalidArgument;
    case ErrorKind::unsupported:
      return xla::kUnimplemented;
    case ErrorKind::runtime:
      break;
  }
  return xla::kInternal;
}

xla::Failure* failure(const xla::CallFrame& frame, xla::ErrorCode code, const char* message) {
  xla::ErrorCreateArgs args{sizeof args, nullptr, message, code};
  return frame.api->Error_Create(&args);
}

// A runtime asks every handler for its version first. What is used here is in all of them, so the
// answer is the runtime's own.
bool answer_metadata(const xla::CallFrame& frame) {
  if (frame.extension_start == nullptr || frame.extension_start->type != xla::kMetadata)
    return false;
  auto* extension = reinterpret_cast<xla::MetadataExtension*>(frame.extension_start);
  xla::Metadata& metadata = *extension->metadata;
  metadata.api_version.major_version = frame.api ? frame.api->api_version.major_version : 0;
  metadata.api_version.minor_version = frame.api ? frame.api->api_version.minor_version : 1;
  metadata.traits = xla::kCommandBufferCompatible;
  return true;
}

xla::Failure* handle(const char* op, void (*run)(const Call&), const xla::CallFrame* frame,
                     abi::DLDevice device) noexcept {
  if (answer_metadata(*frame) || frame->stage != xla::kExecute) return nullptr;
  try {
    const cpu::ThreadLimit limit(threads_of(*frame));
    run(Call(op, *frame, device));
    return nullptr;
  } catch (const Error& error) {
    return failure(*frame, code_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return failure(*frame, xla::kResourceExhausted, "roidl: out of memory");
  } catch (const std::exception& error) {
    return failure(*frame, xla::kInternal, error.what());
  } catch (...) {
    return failure(*frame, xla::kInternal, "roidl: unknown error");
  }
}

}  // namespace

}  // namespace roidl

// Declared in a C linkage block, so that Python finds them by name: roidl_<platform>_<operator>.
#define ROIDL_EXPORT __attribute__((visibility("default"))) roidl::abi::xla::Failure*
extern "C" {

using Frame = const roidl::abi::xla::CallFrame;

ROIDL_EXPORT roidl_cpu_roi_align(Frame* frame) {
  return roidl::handle("roi_align", roidl::align_forward, frame, roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_align_backward(Frame* frame) {
  return roidl::handle("roi_align_backward", roidl::align_backward, frame, roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_align_backward_boxes(Frame* frame) {
  return roidl::handle("roi_align_backward_boxes", roidl::align_backward_boxes, frame,
                       roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_align_jvp(Frame* frame) {
  return roidl::handle("roi_align_jvp", roidl::align_jvp, frame, roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_align_jvp_boxes(Frame* frame) {
  return roidl::handle("roi_align_jvp_boxes", roidl::align_jvp_boxes, frame, roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_align_jvp_boxes_backward(Frame* frame) {
  return roidl::handle("roi_align_jvp_boxes_backward", roidl::align_jvp_boxes_backward, frame,
                       roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_pool(Frame* frame) {
  return roidl::handle("roi_pool", roidl::pool_forward, frame, roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_pool_backward(Frame* frame) {
  return roidl::handle("roi_pool_backward", roidl::pool_backward, frame, roidl::kHost);
}
ROIDL_EXPORT roidl_cpu_roi_pool_jvp(Frame* frame) {
  return roidl::handle("roi_pool_jvp", roidl::pool_jvp, frame, roidl::kHost);
}

}  // extern "C"
