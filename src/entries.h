// The functions that compute the operators, which have the same names on every device: a line for
// each row of the catalogue.
#pragma once
#include "backend.h"
#include "ps_roi_align.h"
#include "ps_roi_pool.h"
#include "roi_align.h"
#include "roi_pool.h"

// Expands X(operator, type of its problems, function) for each.
#define ROIDL_ENTRIES(X)                                                                 \
  X(roi_align, RoiAlignProblem, roi_align_forward)                                       \
  X(roi_align_backward, RoiAlignProblem, roi_align_backward)                             \
  X(roi_align_backward_boxes, RoiAlignProblem, roi_align_backward_boxes)                 \
  X(roi_align_jvp, RoiAlignProblem, roi_align_jvp)                                       \
  X(roi_align_jvp_boxes, RoiAlignProblem, roi_align_jvp_boxes)                           \
  X(roi_align_jvp_boxes_backward, RoiAlignProblem, roi_align_jvp_boxes_backward)         \
  X(roi_pool, RoiPoolProblem, roi_pool_forward)                                          \
  X(roi_pool_backward, RoiPoolProblem, roi_pool_backward)                                \
  X(roi_pool_jvp, RoiPoolProblem, roi_pool_jvp)                                          \
  X(ps_roi_align, PsRoiAlignProblem, ps_roi_align_forward)                               \
  X(ps_roi_align_backward, PsRoiAlignProblem, ps_roi_align_backward)                     \
  X(ps_roi_align_backward_boxes, PsRoiAlignProblem, ps_roi_align_backward_boxes)         \
  X(ps_roi_align_jvp_boxes, PsRoiAlignProblem, ps_roi_align_jvp_boxes)                   \
  X(ps_roi_align_jvp_boxes_backward, PsRoiAlignProblem, ps_roi_align_jvp_boxes_backward) \
  X(ps_roi_pool, PsRoiPoolProblem, ps_roi_pool_forward)                                  \
  X(ps_roi_pool_backward, PsRoiPoolProblem, ps_roi_pool_backward)

// Within a device's namespace: its functions, and the table of them.
#define ROIDL_DECLARE_ENTRY(op, ProblemType, function) void function(const ProblemType& problem);
#define ROIDL_DECLARE_ENTRIES ROIDL_ENTRIES(ROIDL_DECLARE_ENTRY)
#define ROIDL_FILL_ENTRY(op, ProblemType, function) backend[Op::op] = entry<ProblemType, function>;
#define ROIDL_FILL_ENTRIES(backend) ROIDL_ENTRIES(ROIDL_FILL_ENTRY)
