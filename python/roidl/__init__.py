"""RoIAlign and RoIPool, forward and backward, for any array that speaks DLPack."""

from ._arrays import (
    assign_levels,
    multiscale_roi_align,
    multiscale_roi_align_backward,
    multiscale_roi_align_backward_boxes,
    multiscale_roi_pool,
    multiscale_roi_pool_backward,
    roi_align,
    roi_align_backward,
    roi_align_backward_boxes,
    roi_pool,
    roi_pool_backward,
)
from ._info import (
    __version__,
    build_info,
    get_check_boxes,
    get_num_threads,
    set_check_boxes,
    set_num_threads,
)

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
    "roi_align",
    "roi_align_backward",
    "roi_align_backward_boxes",
    "roi_pool",
    "roi_pool_backward",
    "set_check_boxes",
    "set_num_threads",
]
