// The CPU's backend table.
#include "../backend.h"

#include "backend.h"

namespace roidl {

const Backend cpu_backend = {"cpu",
                             cpu::roi_align_forward,
                             cpu::roi_align_backward,
                             cpu::roi_align_backward_boxes,
                             cpu::roi_align_jvp,
                             cpu::roi_align_jvp_boxes,
                             cpu::roi_align_jvp_boxes_backward,
                             cpu::roi_pool_forward,
                             cpu::roi_pool_backward,
                             cpu::roi_pool_jvp,
                             true};

}  // namespace roidl
