// The operators as XLA custom calls: an FFI handler for each, by the C interface alone.
//
// Operands come in the order: the operator's reads, as the catalogue has them, without those that
// only a maximum needs where the mode is the average; boxes; batch_indices, levels and counts, each
// if there are any. Several maps are as many operands, one after the other, and as many results.
// Attributes are the parameters, by the names of visit_fields, and the catalogue's version;
// xla_call.h has those of several maps. Results tell the shape of maps that are made.
#include <algorithm>
#include <new>
#include <string_view>
#include <utility>

#include "abi/xla_ffi.h"
#include "cpu/parallel.h"
#include "pyramid.h"
#include "run.h"
#include "xla_call.h"

namespace roidl {

namespace {

namespace xla = abi::xla;

// ---- the operators -----------------------------------------------------------------------------

// The arrays of a call, where the C++ structs that point to them find them.
struct Operands {
  MapList reads[kMaxReads], writes[kMaxWrites];

  Arrays arrays() const {
    Arrays arrays;
    for (int i = 0; i < kMaxReads; ++i) arrays.reads[i] = reads[i];
    for (int i = 0; i < kMaxWrites; ++i) arrays.writes[i] = writes[i];
    return arrays;
  }
};

void run_operator(const Operator& op, const Call& call) {
  const AnyParams params = call.params(op.family);
  const bool average = is_average(op, params);
  Operands operands;
  int64_t next = 0;
  for (int i = 0; i < op.num_reads(); ++i) {
    const Read& read = op.reads[i];
    if (average && read.need == Need::of_maximum) continue;
    operands.reads[i] = call.operands(next, read.role, read.name);
    next += operands.reads[i].count;
  }
  const BoxOperands boxes(call, next);
  int64_t made = 0;
  for (int i = 0; i < op.num_writes(); ++i) {
    const Write& write = op.writes[i];
    // A runtime that wants two results of each call gets a second one that is not asked for.
    if (write.optional && (average || !call.has_result(made))) continue;
    operands.writes[i] = call.results(made, write.role, write.name);
    made += operands.writes[i].count;
  }
  const int read_maps = op.find_read(Role::maps);
  const MapList& maps = op.makes_maps() ? operands.writes[0] : operands.reads[read_maps];
  AnyProblem problem;
  describe(problem, op, call.op(), params, maps, boxes.boxes, boxes.indices(), boxes.pyramid());
  call.place(base_of(problem));
  run(op, problem, boxes.boxes, operands.arrays());
}

// The map of every box. vmap puts more dimensions in front: they are so many more rows.
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

// ---- the handlers
// ---------------------------------------------------------------------------------

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

// The number of an operator, or of the rule that finds a box's map, which is none of the catalogue.
constexpr int kLevels = kNumOperators, kNumHandlers = kNumOperators + 1;

const char* name_of(int handler) {
  return handler == kLevels ? "assign_levels" : kOperators[handler].name;
}

xla::Failure* execute(int handler, const xla::CallFrame* frame, Place place) noexcept {
  try {
    const Call call(name_of(handler), *frame, place);
    if (handler == kLevels)
      levels(call);
    else
      run_operator(kOperators[handler], call);
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

template <int handler>
xla::Failure* on_cpu(const xla::CallFrame* frame) noexcept {
  if (answer_metadata(*frame) || frame->stage != xla::kExecute) return nullptr;
  const cpu::ThreadLimit limit(threads_of(*frame));
  return execute(handler, frame, Place());
}

// XLA may capture what is executed in a graph, and initializes before that.
template <int handler>
xla::Failure* on_cuda(const xla::CallFrame* frame) noexcept {
  const bool executes = frame->stage == xla::kExecute;
  if (answer_metadata(*frame) || !(executes || frame->stage == xla::kInitialize)) return nullptr;
  xla::StreamGetArgs args{sizeof args, nullptr, frame->ctx, nullptr};
  if (xla::Failure* const failure = frame->api->Stream_Get(&args)) return failure;
  const Pass pass = executes ? Pass::run : Pass::load;
  return execute(handler, frame, Place{true, args.stream, device_ordinal_of(*frame), pass});
}

using Handler = xla::Failure* (*)(const xla::CallFrame*);

template <int... handler>
Handler find_handler(bool cuda, const std::string_view name,
                     std::integer_sequence<int, handler...>) {
  Handler found = nullptr;
  (...,
   (name == name_of(handler) ? void(found = cuda ? on_cuda<handler> : on_cpu<handler>) : void()));
  return found;
}

}  // namespace

}  // namespace roidl

// The handler of an operator on a platform, "cpu" or "cuda"; NULL where there is none.
extern "C" __attribute__((visibility("default"))) void* roidl_xla_handler(const char* platform,
                                                                          const char* op) {
  using namespace roidl;
  const bool cuda = std::string_view(platform) == "cuda";
  const auto all = std::make_integer_sequence<int, kNumHandlers>{};
  return reinterpret_cast<void*>(find_handler(cuda, op, all));
}
