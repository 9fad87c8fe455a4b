// The C API of TensorFlow for operators and kernels, declared from its public headers (tensorflow/c
// ops.h, kernels.h, tf_tensor.h, tf_status.h; stable since 2.4, used from 2.18 on).
// tests/cpp/abi_tensorflow.cpp compiles these declarations against the official ones.
#pragma once
#include <cstddef>
#include <cstdint>

namespace roidl::abi::tf {

enum DataType : int32_t {
  kFloat = 1,
  kDouble = 2,
  kInt32 = 3,
  kUint8 = 4,
  kInt16 = 5,
  kInt8 = 6,
  kInt64 = 9,
  kBfloat16 = 14,
  kUint16 = 17,
  kHalf = 19,
  kUint32 = 22,
  kUint64 = 23
};

enum Code : int32_t {
  kOk = 0,
  kInvalidArgument = 3,
  kResourceExhausted = 8,
  kUnimplemented = 12,
  kInternal = 13
};

// Opaque types, used by address only.
struct Status;
struct Tensor;
struct OpDefinition;
struct KernelBuilder;
struct KernelConstruction;
struct KernelContext;
struct ShapeContext;
struct ShapeHandle;
struct DimensionHandle;

struct AllocatorAttributes {
  size_t struct_size;
  unsigned char on_host;
};

struct Functions {
  Status* (*TF_NewStatus)();
  void (*TF_DeleteStatus)(Status*);
  void (*TF_SetStatus)(Status*, Code, const char* message);
  Code (*TF_GetCode)(const Status*);
  const char* (*TF_Message)(const Status*);

  DataType (*TF_TensorType)(const Tensor*);
  int (*TF_NumDims)(const Tensor*);
  int64_t (*TF_Dim)(const Tensor*, int axis);
  void* (*TF_TensorData)(const Tensor*);
  void (*TF_DeleteTensor)(Tensor*);

  OpDefinition* (*TF_NewOpDefinitionBuilder)(const char* name);
  void (*TF_OpDefinitionBuilderAddAttr)(OpDefinition*, const char* spec);
  void (*TF_OpDefinitionBuilderAddInput)(OpDefinition*, const char* spec);
  void (*TF_OpDefinitionBuilderAddOutput)(OpDefinition*, const char* spec);
  void (*TF_OpDefinitionBuilderSetShapeInferenceFunction)(OpDefinition*,
                                                          void (*)(ShapeContext*, Status*));
  void (*TF_RegisterOpDefinition)(OpDefinition*, Status*);  // takes ownership of the definition

  ShapeHandle* (*TF_NewShapeHandle)();
  void (*TF_DeleteShapeHandle)(ShapeHandle*);
  DimensionHandle* (*TF_NewDimensionHandle)();
  void (*TF_DeleteDimensionHandle)(DimensionHandle*);
  void (*TF_ShapeInferenceContextGetInput)(ShapeContext*, int, ShapeHandle*, Status*);
  void (*TF_ShapeInferenceContextSetOutput)(ShapeContext*, int, ShapeHandle*, Status*);
  void (*TF_ShapeInferenceContextSetUnknownShape)(ShapeContext*, Status*);
  int (*TF_ShapeInferenceContextRankKnown)(ShapeContext*, ShapeHandle*);
  void (*TF_ShapeInferenceContextWithRank)(ShapeContext*, ShapeHandle*, int64_t rank, ShapeHandle*,
                                           Status*);
  void (*TF_ShapeInferenceContextSubshape)(ShapeContext*, ShapeHandle*, int64_t start, int64_t end,
                                           ShapeHandle*, Status*);
  void (*TF_ShapeInferenceContextConcatenateShapes)(ShapeContext*, ShapeHandle*, ShapeHandle*,
                                                    ShapeHandle*, Status*);
  ShapeHandle* (*TF_ShapeInferenceContextVectorFromSize)(ShapeContext*, size_t size);
  void (*TF_ShapeInferenceContextDim)(ShapeContext*, ShapeHandle*, int64_t axis, DimensionHandle*);
  int (*TF_DimensionHandleValueKnown)(DimensionHandle*);
  int64_t (*TF_DimensionHandleValue)(DimensionHandle*);

  KernelBuilder* (*TF_NewKernelBuilder)(const char* op, const char* device,
                                        void* (*create)(KernelConstruction*),
                                        void (*compute)(void*, KernelContext*),
                                        void (*destroy)(void*));
  // Takes ownership of the builder.
  void (*TF_RegisterKernelBuilder)(const char* name, KernelBuilder*, Status*);
  void (*TF_KernelBuilder_HostMemory)(KernelBuilder*, const char* input_or_output);
  void (*TF_OpKernelConstruction_GetAttrInt64)(KernelConstruction*, const char* name, int64_t*,
                                               Status*);
  void (*TF_OpKernelConstruction_GetAttrSize)(KernelConstruction*, const char* name,
                                              int32_t* list_size, int32_t* total_size, Status*);
  void (*TF_OpKernelConstruction_GetAttrString)(KernelConstruction*, const char* name, char*,
                                                size_t max_length, Status*);
  void (*TF_OpKernelConstruction_Failure)(KernelConstruction*, Status*);
  void (*TF_OpKernelContext_Failure)(KernelContext*, Status*);
  void (*TF_GetInput)(KernelContext*, int, Tensor**, Status*);
  Tensor* (*TF_AllocateTemp)(KernelContext*, DataType, const int64_t* dims, int num_dims,
                             AllocatorAttributes*, Status*);
  Tensor* (*TF_AllocateOutput)(KernelContext*, int, DataType, const int64_t* dims, int num_dims,
                               size_t bytes, Status*);
};

// Calls visit(name, function) for each function: they are looked up and compared by these names.
template <class Visit>
void visit_functions(Functions& functions, Visit&& visit) {
  Functions& f = functions;
  visit("TF_NewStatus", f.TF_NewStatus);
  visit("TF_DeleteStatus", f.TF_DeleteStatus);
  visit("TF_SetStatus", f.TF_SetStatus);
  visit("TF_GetCode", f.TF_GetCode);
  visit("TF_Message", f.TF_Message);
  visit("TF_TensorType", f.TF_TensorType);
  visit("TF_NumDims", f.TF_NumDims);
  visit("TF_Dim", f.TF_Dim);
  visit("TF_TensorData", f.TF_TensorData);
  visit("TF_DeleteTensor", f.TF_DeleteTensor);
  visit("TF_NewOpDefinitionBuilder", f.TF_NewOpDefinitionBuilder);
  visit("TF_OpDefinitionBuilderAddAttr", f.TF_OpDefinitionBuilderAddAttr);
  visit("TF_OpDefinitionBuilderAddInput", f.TF_OpDefinitionBuilderAddInput);
  visit("TF_OpDefinitionBuilderAddOutput", f.TF_OpDefinitionBuilderAddOutput);
  visit("TF_OpDefinitionBuilderSetShapeInferenceFunction",
        f.TF_OpDefinitionBuilderSetShapeInferenceFunction);
  visit("TF_RegisterOpDefinition", f.TF_RegisterOpDefinition);
  visit("TF_NewShapeHandle", f.TF_NewShapeHandle);
  visit("TF_DeleteShapeHandle", f.TF_DeleteShapeHandle);
  visit("TF_NewDimensionHandle", f.TF_NewDimensionHandle);
  visit("TF_DeleteDimensionHandle", f.TF_DeleteDimensionHandle);
  visit("TF_ShapeInferenceContextGetInput", f.TF_ShapeInferenceContextGetInput);
  visit("TF_ShapeInferenceContextSetOutput", f.TF_ShapeInferenceContextSetOutput);
  visit("TF_ShapeInferenceContextSetUnknownShape", f.TF_ShapeInferenceContextSetUnknownShape);
  visit("TF_ShapeInferenceContextRankKnown", f.TF_ShapeInferenceContextRankKnown);
  visit("TF_ShapeInferenceContextWithRank", f.TF_ShapeInferenceContextWithRank);
  visit("TF_ShapeInferenceContextSubshape", f.TF_ShapeInferenceContextSubshape);
  visit("TF_ShapeInferenceContextConcatenateShapes", f.TF_ShapeInferenceContextConcatenateShapes);
  visit("TF_ShapeInferenceContextVectorFromSize", f.TF_ShapeInferenceContextVectorFromSize);
  visit("TF_ShapeInferenceContextDim", f.TF_ShapeInferenceContextDim);
  visit("TF_DimensionHandleValueKnown", f.TF_DimensionHandleValueKnown);
  visit("TF_DimensionHandleValue", f.TF_DimensionHandleValue);
  visit("TF_NewKernelBuilder", f.TF_NewKernelBuilder);
  visit("TF_RegisterKernelBuilder", f.TF_RegisterKernelBuilder);
  visit("TF_KernelBuilder_HostMemory", f.TF_KernelBuilder_HostMemory);
  visit("TF_OpKernelConstruction_GetAttrInt64", f.TF_OpKernelConstruction_GetAttrInt64);
  visit("TF_OpKernelConstruction_GetAttrSize", f.TF_OpKernelConstruction_GetAttrSize);
  visit("TF_OpKernelConstruction_GetAttrString", f.TF_OpKernelConstruction_GetAttrString);
  visit("TF_OpKernelConstruction_Failure", f.TF_OpKernelConstruction_Failure);
  visit("TF_OpKernelContext_Failure", f.TF_OpKernelContext_Failure);
  visit("TF_GetInput", f.TF_GetInput);
  visit("TF_AllocateTemp", f.TF_AllocateTemp);
  visit("TF_AllocateOutput", f.TF_AllocateOutput);
}

}  // namespace roidl::abi::tf
