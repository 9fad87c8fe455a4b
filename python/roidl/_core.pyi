# The compiled core's functions; see src/_core.pyx.
from collections.abc import Callable, Sequence
from typing import Any

_Allocate = Callable[[tuple[int, ...], str], Any]

def roi_align(
    params: dict[str, Any],
    boxes: Any,
    batch_indices: Any,
    allocate: _Allocate,
    device: Any,
    out: Any,
    input: Any,
) -> Any: ...
def roi_align_backward(
    params: dict[str, Any],
    boxes: Any,
    batch_indices: Any,
    allocate: _Allocate,
    device: Any,
    out: Any,
    grad_output: Any,
    input_shape: Sequence[int],
    input: Any,
) -> Any: ...
def roi_align_backward_boxes(
    params: dict[str, Any],
    boxes: Any,
    batch_indices: Any,
    allocate: _Allocate,
    device: Any,
    out: None,
    grad_output: Any,
    input: Any,
) -> tuple[Any, list[tuple[int, ...]], bool]: ...
def roi_pool(
    params: dict[str, Any],
    boxes: Any,
    batch_indices: Any,
    allocate: _Allocate,
    device: Any,
    out: Any,
    input: Any,
    return_argmax: bool,
) -> Any: ...
def roi_pool_backward(
    params: dict[str, Any],
    boxes: Any,
    batch_indices: Any,
    allocate: _Allocate,
    device: Any,
    out: Any,
    grad_output: Any,
    argmax: Any,
    input_shape: Sequence[int],
) -> Any: ...

_Metadata = tuple[Sequence[int], str]  # shape, name of the dtype

def result_shape(
    op: str,
    params: dict[str, Any],
    input: _Metadata,
    boxes: _Metadata,
    batch_indices: _Metadata | None,
) -> tuple[int, ...]: ...
def check_box_list(op: str, boxes: list[_Metadata], images: int) -> None: ...
def param_fields() -> dict[str, tuple[str, ...]]: ...
def get_num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def get_check_boxes() -> bool: ...
def set_check_boxes(check: bool) -> None: ...
def cuda_info() -> tuple[bool, str | None, str]: ...
def instruction_set_name() -> str: ...
