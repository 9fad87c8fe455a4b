// The entries of the CPU's backend table.
#pragma once
#include "../ps_roi_align.h"
#include "../ps_roi_pool.h"
#include "../roi_align.h"
#include "../roi_pool.h"

namespace roidl::cpu {

void roi_align_forward(const RoiAlignProblem& problem);
void roi_align_backward(const RoiAlignProblem& problem);
void roi_align_backward_boxes(const RoiAlignProblem& problem);
void roi_align_jvp(const RoiAlignProblem& problem);
void roi_align_jvp_boxes(const RoiAlignProblem& problem);
void roi_align_jvp_boxes_backward(const RoiAlignProblem& problem);
void roi_pool_forward(const RoiPoolProblem& problem);
void roi_pool_backward(const RoiPoolProblem& problem);
void roi_pool_jvp(const RoiPoolProblem& problem);
void ps_roi_align_forward(const PsRoiAlignProblem& problem);
void ps_roi_align_backward(const PsRoiAlignProblem& problem);
void ps_roi_align_backward_boxes(const PsRoiAlignProblem& problem);
void ps_roi_align_jvp_boxes(const PsRoiAlignProblem& problem);
void ps_roi_align_jvp_boxes_backward(const PsRoiAlignProblem& problem);
void ps_roi_pool_forward(const PsRoiPoolProblem& problem);
void ps_roi_pool_backward(const PsRoiPoolProblem& problem);
void assign_levels(const Problem& problem, int32_t* levels);

}  // namespace roidl::cpu
