// Compiled by tests/test_tensorflow_graphs.py: src/abi/tensorflow.h declares TensorFlow's C
// functions as the official headers do, or this is no C++.
#include <tensorflow/c/kernels.h>
#include <tensorflow/c/ops.h>
#include <tensorflow/c/tf_datatype.h>
#include <tensorflow/c/tf_status.h>
#include <tensorflow/c/tf_tensor.h>

#include <cstddef>
#include <type_traits>

#include "abi/tensorflow.h"

namespace ours = roidl::abi::tf;

// What passes for the other in the C calling convention: pointers for pointers, functions for
// functions that agree in turn, and numbers of one size and sign.
template <class Ours, class Theirs>
struct Agree : std::bool_constant<sizeof(Ours) == sizeof(Theirs) &&
                                  std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
                                  (std::is_enum_v<Ours> || std::is_enum_v<Theirs> ||
                                   std::is_signed_v<Ours> == std::is_signed_v<Theirs>)> {};

template <>
struct Agree<void, void> : std::true_type {};

template <class R, class... A, class S, class... B>
struct Agree<R (*)(A...), S (*)(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) == sizeof...(B))
      return Agree<R, S>::value && (Agree<A, B>::value && ...);
    else
      return false;
  }();
};

#define SAME_FUNCTION(name) \
  static_assert(Agree<decltype(ours::Functions::name), decltype(&::name)>::value, #name)
#define SAME_VALUE(our_name, name) \
  static_assert(static_cast<int>(ours::our_name) == static_cast<int>(::name), #name)

SAME_FUNCTION(TF_NewStatus);
SAME_FUNCTION(TF_DeleteStatus);
SAME_FUNCTION(TF_SetStatus);
SAME_FUNCTION(TF_GetCode);
SAME_FUNCTION(TF_Message);
SAME_FUNCTION(TF_TensorType);
SAME_FUNCTION(TF_NumDims);
SAME_FUNCTION(TF_Dim);
SAME_FUNCTION(TF_TensorData);
SAME_FUNCTION(TF_DeleteTensor);
SAME_FUNCTION(TF_NewOpDefinitionBuilder);
SAME_FUNCTION(TF_OpDefinitionBuilderAddAttr);
SAME_FUNCTION(TF_OpDefinitionBuilderAddInput);
SAME_FUNCTION(TF_OpDefinitionBuilderAddOutput);
SAME_FUNCTION(TF_OpDefinitionBuilderSetShapeInferenceFunction);
SAME_FUNCTION(TF_RegisterOpDefinition);
SAME_FUNCTION(TF_NewShapeHandle);
SAME_FUNCTION(TF_DeleteShapeHandle);
SAME_FUNCTION(TF_NewDimensionHandle);
SAME_FUNCTION(TF_DeleteDimensionHandle);
SAME_FUNCTION(TF_ShapeInferenceContextGetInput);
SAME_FUNCTION(TF_ShapeInferenceContextSetOutput);
SAME_FUNCTION(TF_ShapeInferenceContextSetUnknownShape);
SAME_FUNCTION(TF_ShapeInferenceContextRankKnown);
SAME_FUNCTION(TF_ShapeInferenceContextWithRank);
SAME_FUNCTION(TF_ShapeInferenceContextSubshape);
SAME_FUNCTION(TF_ShapeInferenceContextConcatenateShapes);
SAME_FUNCTION(TF_ShapeInferenceContextDim);
SAME_FUNCTION(TF_DimensionHandleValueKnown);
SAME_FUNCTION(TF_DimensionHandleValue);
SAME_FUNCTION(TF_NewKernelBuilder);
SAME_FUNCTION(TF_RegisterKernelBuilder);
SAME_FUNCTION(TF_KernelBuilder_HostMemory);
SAME_FUNCTION(TF_OpKernelConstruction_GetAttrInt64);
SAME_FUNCTION(TF_OpKernelConstruction_GetAttrSize);
SAME_FUNCTION(TF_OpKernelConstruction_GetAttrString);
SAME_FUNCTION(TF_OpKernelConstruction_Failure);
SAME_FUNCTION(TF_OpKernelContext_Failure);
SAME_FUNCTION(TF_GetInput);
SAME_FUNCTION(TF_AllocateTemp);
SAME_FUNCTION(TF_AllocateOutput);

static_assert(sizeof(ours::AllocatorAttributes) == sizeof(::TF_AllocatorAttributes) &&
              offsetof(ours::AllocatorAttributes, on_host) ==
                  offsetof(::TF_AllocatorAttributes, on_host));

SAME_VALUE(kFloat, TF_FLOAT);
SAME_VALUE(kDouble, TF_DOUBLE);
SAME_VALUE(kInt32, TF_INT32);
SAME_VALUE(kUint8, TF_UINT8);
SAME_VALUE(kInt16, TF_INT16);
SAME_VALUE(kInt8, TF_INT8);
SAME_VALUE(kInt64, TF_INT64);
SAME_VALUE(kBfloat16, TF_BFLOAT16);
SAME_VALUE(kUint16, TF_UINT16);
SAME_VALUE(kHalf, TF_HALF);
SAME_VALUE(kUint32, TF_UINT32);
SAME_VALUE(kUint64, TF_UINT64);
SAME_VALUE(kOk, TF_OK);
SAME_VALUE(kInvalidArgument, TF_INVALID_ARGUMENT);
SAME_VALUE(kResourceExhausted, TF_RESOURCE_EXHAUSTED);
SAME_VALUE(kUnimplemented, TF_UNIMPLEMENTED);
SAME_VALUE(kInternal, TF_INTERNAL);
