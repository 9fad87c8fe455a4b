// The kernels for one instruction set: compiled several times, with ROIDL_ISA naming the set and
// ROIDL_VECTOR_BYTES the width of its registers.
#include "isa.h"
#include "kernels_forward.h"
#include "kernels_max.h"
#include "kernels_max_backward.h"
#include "kernels_pool.h"
#include "kernels_pool_backward.h"
#include "kernels_taps.h"
#include "kernels_taps_backward.h"

#define ROIDL_TEXT_OF(name) #name
#define ROIDL_TEXT(name) ROIDL_TEXT_OF(name)

namespace roidl::cpu {

namespace {

template <class T>
constexpr Kernels kernels_of() {
  return {taps_sweep<T>,  taps_forward<T>,   taps_backward<T>,
          taps_boxes<T>,  taps_jvp_boxes<T>, taps_jvp_boxes_backward<T>,
          max_forward<T>, max_backward<T>,   max_boxes<T>,
          max_jvp<T>,     pool_forward<T>,   pool_backward<T>};
}

}  // namespace

extern const InstructionSet ROIDL_ISA;
const InstructionSet ROIDL_ISA = {
    ROIDL_TEXT(ROIDL_ISA),
    kStress,
    {kernels_of<float16>(), kernels_of<bfloat16>(), kernels_of<float>(), kernels_of<double>()}};

}  // namespace roidl::cpu
