// The checks of validation, each with its error. They need metadata only, never the data.
#pragma once
#include <cstdint>

#include "tensor.h"

namespace roidl {

struct Extent {  // the bytes that a tensor's elements span
  const char* begin;
  const char* end;
};

Extent extent_of(const Tensor& tensor);

void check_float(const char* op, const char* name, const Tensor& tensor);
void check_aligned(const char* op, const char* name, const Tensor& tensor);
// For boxes and the arrays that go with them: CUDA's kernels load each element in one instruction;
// the CPU copies them first.
void check_aligned_on_device(const char* op, const char* name, const Tensor& tensor);
void check_same_dtype(const char* op, const char* name, const Tensor& tensor,
                      abi::DLDataType expected, const char* as);
void check_shape(const char* op, const char* name, const Tensor& tensor, const Shape& expected);
void check_same_device(const char* op, const char* name, const Tensor& tensor,
                       abi::DLDevice device);
// A written tensor must not overlap itself, nor any tensor that is read.
void check_distinct_elements(const char* op, const char* name, const Tensor& tensor);
void check_no_overlap(const char* op, const char* name, const Tensor& written,
                      const char* other_name, const Tensor& other);
void check_count(const char* op, const char* name, int64_t value, int64_t most);
// Samples per bin along the axes; 0 or less is adaptive.
void check_sampling(const char* op, int64_t height, int64_t width);

// Returns the number of elements, or throws an Error if they cannot be addressed.
int64_t count_elements(const char* op, const Shape& shape);

}  // namespace roidl
