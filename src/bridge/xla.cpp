// The operators as XLA custom calls: one FFI handler each, by the C interface alone.
//
// Operands come in the order: what is differentiated along, boxes, and if there are any
// batch_indices, levels and counts. Several maps are as many operands, one after the other, and as
// many results. Attributes are the parameters, by the names of visit_fields; xla_call.h has those
// of several maps. The result of a backward tells the shape of the input.
#include <algorithm>
#include <new>

#include "abi/xla_ffi.h"
#include "cpu/parallel.h"
#include "pyramid.h"
#include "roi_align.h"
#include "roi_pool.h"
#include "xla_call.h"

namespace roidl {

namespace {

namespace xla = abi::xla;

// ---- the operators -----------------------------------------------------------------------------

RoiAlignProblem align_problem(const Call& call, const Maps& input, const BoxOperands& b) {
  RoiAlignProblem problem = make_roi_align(call.op(), call.params<RoiAlignParams>(), input, b.boxes,
                                           b.indices(), b.pyramid());
  call.place(problem);
  return problem;
}

void align_forward(const Call& call) {
  const MapList input = call.map_operands(0, "input");
  const BoxOperands b(call, input.count);
  RoiAlignProblem problem = align_problem(call, input, b);
  roi_align_forward(problem, input, b.boxes, call.result(0, "out"));
}

// The max modes look at the input; it follows the gradient or the tangent.
bool needs_input(const Call& call) {
  return call.params<RoiAlignParams>().mode != static_cast<int32_t>(AlignMode::avg);
}

void align_backward(const Call& call) {
  const MapList grad_input = call.map_results("out");
  const MapList input = needs_input(call) ? call.map_operands(1, "input") : MapList{};
  const BoxOperands b(call, 1 + input.count);
  RoiAlignProblem problem = align_problem(call, grad_input, b);
  roi_align_backward(problem, call.operand(0, "grad_output"), b.boxes, input, grad_input);
}

void align_backward_boxes(const Call& call) {
  const MapList input = call.map_operands(1, "input");
  const BoxOperands b(call, 1 + input.count);
  RoiAlignProblem problem = align_problem(call, input, b);
  roi_align_backward_boxes(problem, call.operand(0, "grad_output"), input, b.boxes,
                           call.result(0, "grad_boxes"));
}

void align_jvp(const Call& call) {
  const MapList tangent = call.map_operands(0, "input_tangent");
  const MapList input = needs_input(call) ? call.map_operands(tangent.count, "input") : MapList{};
  const BoxOperands b(call, tangent.count + input.count);
  RoiAlignProblem problem = align_problem(call, tangent, b);
  roi_align_jvp(problem, tangent, b.boxes, input, call.result(0, "out"));
}

void align_jvp_boxes(const Call& call) {
  const MapList input = call.map_operands(0, "input");
  const BoxOperands b(call, input.count + 1);
  RoiAlignProblem problem = align_problem(call, input, b);
  roi_align_jvp_boxes(problem, input, b.boxes, call.operand(input.count, "boxes_tangent"),
                      call.result(0, "out"));
}

void align_jvp_boxes_backward(const Call& call) {
  const MapList grad_input = call.map_results("out");
  const BoxOperands b(call, 2);
  RoiAlignProblem problem = align_problem(call, grad_input, b);
  roi_align_jvp_boxes_backward(problem, call.operand(0, "grad_output"), b.boxes,
                               call.operand(1, "boxes_tangent"), grad_input);
}

RoiPoolProblem pool_problem(const Call& call, const Maps& input, const BoxOperands& b) {
  RoiPoolProblem problem = make_roi_pool(call.op(), call.params<RoiPoolParams>(), input, b.boxes,
                                         b.indices(), b.pyramid());
  call.place(problem);
  return problem;
}

// The mode max has an argmax: it may be asked for, and the derivatives need it, as the operand that
// follows the gradient or the tangent.
bool has_argmax(const Call& call) {
  return call.params<RoiPoolParams>().mode == static_cast<int32_t>(PoolMode::max);
}

void pool_forward(const Call& call) {
  const MapList input = call.map_operands(0, "input");
  const BoxOperands b(call, input.count);
  RoiPoolProblem problem = pool_problem(call, input, b);
  const bool two = has_argmax(call) && call.has_result(1);
  const Tensor argmax = two ? call.result(1, "argmax") : Tensor{};
  roi_pool_forward(problem, input, b.boxes, call.result(0, "out"), two ? &argmax : nullptr);
}

void pool_backward(const Call& call) {
  const bool two = has_argmax(call);
  const MapList grad_input = call.map_results("out");
  const Tensor argmax = two ? call.operand(1, "argmax") : Tensor{};
  const BoxOperands b(call, two ? 2 : 1);
  RoiPoolProblem problem = pool_problem(call, grad_input, b);
  roi_pool_backward(problem, call.operand(0, "grad_output"), b.boxes, two ? &argmax : nullptr,
                    grad_input);
}

void pool_jvp(const Call& call) {
  const bool two = has_argmax(call);
  const MapList tangent = call.map_operands(0, "input_tangent");
  const Tensor argmax = two ? call.operand(tangent.count, "argmax") : Tensor{};
  const BoxOperands b(call, tangent.count + (two ? 1 : 0));
  RoiPoolProblem problem = pool_problem(call, tangent, b);
  roi_pool_jvp(problem, tangent, b.boxes, two ? &argmax : nullptr, call.result(0, "out"));
}

// vmap puts more dimensions in front: they are so many more rows.
void levels(const Call& call) {
  Tensor boxes = call.operand(0, "boxes");
  while (boxes.ndim > 2) {
    boxes.shape[1] *= boxes.shape[0];
    --boxes.ndim;
    std::copy(boxes.shape + 1, boxes.shape + 1 + boxes.ndim, boxes.shape);
    std::copy(boxes.strides + 1, boxes.strides + 1 + boxes.ndim, boxes.strides);
  }
  assign_levels(call.op(), call.pyramid(), call.maps(), boxes,
                static_cast<int32_t*>(call.result(0, "levels").data), call.stream(),
                /*may_wait=*/false, call.pass());
}

// ---- the doors ---------------------------------------------------------------------------------

// Asks the runtime for what not every one tells; false where it does not.
template <class Args>
bool ask(const xla::Api& api, xla::Failure* (*xla::Api::*function)(Args*), Args& args) {
  const auto* const field = reinterpret_cast<const char*>(&(api.*function));
  const auto needed = field + sizeof(api.*function) - reinterpret_cast<const char*>(&api);
  if (api.struct_size < static_cast<size_t>(needed)) return false;
  xla::Failure* const failure = (api.*function)(&args);
  if (failure == nullptr) return true;
  xla::ErrorDestroyArgs destroy{sizeof destroy, nullptr, failure};
  api.Error_Destroy(&destroy);
  return false;
}

// XLA's threads wait while one of them is here, so ours may be as many; 1 where it has no pool.
int threads_of(const xla::CallFrame& frame) {
  int64_t threads = 1;
  xla::NumThreadsArgs args{sizeof args, nullptr, frame.ctx, &threads};
  const bool told = ask(*frame.api, &xla::Api::ThreadPool_NumThreads, args);
  return told ? static_cast<int>(std::min<int64_t>(threads, INT32_MAX)) : 1;
}

// -1 where the runtime does not tell it.
int32_t device_ordinal_of(const xla::CallFrame& frame) {
  xla::DeviceOrdinalGetArgs args{sizeof args, nullptr, frame.ctx, -1};
  return ask(*frame.api, &xla::Api::DeviceOrdinal_Get, args) ? args.device_ordinal : -1;
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

// `op` is what the operator on several maps is called.
xla::Failure* execute(const char* op, void (*run)(const Call&), const xla::CallFrame* frame,
                      Place place) noexcept {
  try {
    run(Call(op, *frame, place));
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

xla::Failure* on_cpu(const char* op, void (*run)(const Call&),
                     const xla::CallFrame* frame) noexcept {
  if (answer_metadata(*frame) || frame->stage != xla::kExecute) return nullptr;
  const cpu::ThreadLimit limit(threads_of(*frame));
  return execute(op, run, frame, Place());
}

// XLA may capture what is executed in a graph, and initializes before that.
xla::Failure* on_cuda(const char* op, void (*run)(const Call&),
                      const xla::CallFrame* frame) noexcept {
  const bool executes = frame->stage == xla::kExecute;
  if (answer_metadata(*frame) || !(executes || frame->stage == xla::kInitialize)) return nullptr;
  xla::StreamGetArgs args{sizeof args, nullptr, frame->ctx, nullptr};
  if (xla::Failure* const failure = frame->api->Stream_Get(&args)) return failure;
  const Pass pass = executes ? Pass::run : Pass::load;
  return execute(op, run, frame, Place{true, args.stream, device_ordinal_of(*frame), pass});
}

}  // namespace

}  // namespace roidl

// Declared in a C linkage block, so that Python finds them by name: roidl_<platform>_<operator>.
#define ROIDL_HANDLER(platform, name, op, run)                                                \
  __attribute__((visibility("default"))) roidl::abi::xla::Failure* roidl_##platform##_##name( \
      const roidl::abi::xla::CallFrame* frame) {                                              \
    return roidl::on_##platform(op, roidl::run, frame);                                       \
  }
#define ROIDL_HANDLERS(name, op, run) \
  ROIDL_HANDLER(cpu, name, op, run)   \
  ROIDL_HANDLER(cuda, name, op, run)

extern "C" {

ROIDL_HANDLERS(roi_align, "multiscale_roi_align", align_forward)
ROIDL_HANDLERS(roi_align_backward, "multiscale_roi_align_backward", align_backward)
ROIDL_HANDLERS(roi_align_backward_boxes, "multiscale_roi_align_backward_boxes",
               align_backward_boxes)
ROIDL_HANDLERS(roi_align_jvp, "multiscale_roi_align_jvp", align_jvp)
ROIDL_HANDLERS(roi_align_jvp_boxes, "multiscale_roi_align_jvp_boxes", align_jvp_boxes)
ROIDL_HANDLERS(roi_align_jvp_boxes_backward, "multiscale_roi_align_jvp_boxes_backward",
               align_jvp_boxes_backward)
ROIDL_HANDLERS(roi_pool, "multiscale_roi_pool", pool_forward)
ROIDL_HANDLERS(roi_pool_backward, "multiscale_roi_pool_backward", pool_backward)
ROIDL_HANDLERS(roi_pool_jvp, "multiscale_roi_pool_jvp", pool_jvp)
ROIDL_HANDLERS(assign_levels, "assign_levels", levels)

}  // extern "C"
