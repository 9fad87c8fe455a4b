// The entries of CUDA's backend table, and what else the library tells about its devices.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../src/roi_align.h"
#include "../src/roi_pool.h"

namespace roidl::cuda {

void roi_align_forward(const RoiAlignProblem& problem);
void roi_align_backward(const RoiAlignProblem& problem);
void roi_align_backward_boxes(const RoiAlignProblem& problem);
void roi_align_jvp(const RoiAlignProblem& problem);
void roi_align_jvp_boxes(const RoiAlignProblem& problem);
void roi_align_jvp_boxes_backward(const RoiAlignProblem& problem);
void roi_pool_forward(const RoiPoolProblem& problem);
void roi_pool_backward(const RoiPoolProblem& problem);
void roi_pool_jvp(const RoiPoolProblem& problem);
void assign_levels(const Problem& problem, int32_t* levels);

// The same for the max modes of RoIAlign.
void roi_align_max_forward(const RoiAlignProblem& problem);
void roi_align_max_backward(const RoiAlignProblem& problem);
void roi_align_max_jvp(const RoiAlignProblem& problem);

// Null if there is a device to run on, else CUDA's reason why there is none.
const char* why_unusable();
int32_t current_device(const Problem& problem);
// Memory of the problem's device, in the order of its stream.
char* allocate(const Problem& problem, int64_t bytes);
void release(const Problem& problem, char* memory);
// Waits for all that the problem's device has been given to do, on whatever stream.
void wait(const Problem& problem);
// Copies memory of the problem's device to the host, and waits for it.
void read(const Problem& problem, void* to, const void* from, size_t bytes);

}  // namespace roidl::cuda
