"""RoIAlign and RoIPool, forward and backward, for any array that speaks DLPack."""

from ._dispatch import PUBLIC
from ._info import (
    __version__,
    build_info,
    get_check_boxes,
    get_num_threads,
    set_check_boxes,
    set_num_threads,
)

assign_levels = PUBLIC["assign_levels"]
multiscale_roi_align = PUBLIC["multiscale_roi_align"]
multiscale_roi_align_backward = PUBLIC["multiscale_roi_align_backward"]
multiscale_roi_align_backward_boxes = PUBLIC["multiscale_roi_align_backward_boxes"]
multiscale_roi_pool = PUBLIC["multiscale_roi_pool"]
multiscale_roi_pool_backward = PUBLIC["multiscale_roi_pool_backward"]
ps_roi_align = PUBLIC["ps_roi_align"]
ps_roi_align_backward = PUBLIC["ps_roi_align_backward"]
ps_roi_align_backward_boxes = PUBLIC["ps_roi_align_backward_boxes"]
ps_roi_pool = PUBLIC["ps_roi_pool"]
ps_roi_pool_backward = PUBLIC["ps_roi_pool_backward"]
roi_align = PUBLIC["roi_align"]
roi_align_backward = PUBLIC["roi_align_backward"]
roi_align_backward_boxes = PUBLIC["roi_align_backward_boxes"]
roi_pool = PUBLIC["roi_pool"]
roi_pool_backward = PUBLIC["roi_pool_backward"]

__all__ = [
    "__version__",
    "assign_levels",
    "build_info",
    "get_check_boxes",
    "get_num_threads",
    "multiscale_roi_align",
    "multiscale_roi_align_backward",
    "multiscale_roi_align_backward_boxes",
    "multiscale_roi_pool",
    "multiscale_roi_pool_backward",
    "ps_roi_align",
    "ps_roi_align_backward",
    "ps_roi_align_backward_boxes",
    "ps_roi_pool",
    "ps_roi_pool_backward",
    "roi_align",
    "roi_align_backward",
    "roi_align_backward_boxes",
    "roi_pool",
    "roi_pool_backward",
    "set_check_boxes",
    "set_num_threads",
]
