// The memory order of results: dense, with the channels innermost if they are so in the map.
#pragma once
#include <cstdint>

#include "tensor.h"

namespace roidl {

// Whether the channels of a map [N, C, H, W] are neighbours in memory; torch/_shapes.py has the
// same rule. The stride of an axis of one element means nothing.
inline bool has_channels_last(const Tensor& map) {
  const int64_t *size = map.shape, *stride = map.strides;
  if (map.ndim != 4 || size[1] == 1 || (size[2] == 1 && size[3] == 1)) return false;
  return stride[1] < stride[size[3] == 1 ? 2 : 3];
}

// Computes the strides of a dense tensor. With channels_last, its last three axes are C, H, W and
// lie in memory as H, W, C.
inline void dense_strides(const Shape& shape, bool channels_last, int64_t* strides) {
  const int n = shape.ndim;
  int order[kMaxDims];
  for (int i = 0; i < n; ++i) order[i] = i;
  if (channels_last) {
    order[n - 3] = n - 2;
    order[n - 2] = n - 1;
    order[n - 1] = n - 3;
  }
  int64_t step = 1;
  for (int i = n - 1; i >= 0; --i) {
    strides[order[i]] = step;
    step *= shape.size[order[i]] > 0 ? shape.size[order[i]] : 1;
  }
}

}  // namespace roidl
