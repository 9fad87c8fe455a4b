# The compiled core's functions; see src/_core.pyx.
from collections.abc import Callable, Sequence
from inspect import Signature
from typing import Any

from ._params import Pyramid

_Allocate = Callable[[tuple[int, ...], str], Any]

def run(
    op: str,
    params: tuple[Any, ...],
    boxes: Any,
    batch_indices: Any,
    allocate: _Allocate,
    device: Any,
    out: Any,
    arguments: tuple[Any, ...],
    pyramid: Pyramid | None,
) -> Any: ...
def assign_levels(
    op: bytes,
    boxes: Any,
    pyramid: Pyramid,
    allocate: _Allocate | None = None,
    device: Any = None,
) -> Any: ...
def run_operator(
    op: str,
    params: tuple[Any, ...],
    reads: list[Any],
    boxes: Any,
    batch_indices: Any,
    map_shapes: Sequence[Any] | None,
    writes: list[Any],
    threads: int,
    pyramid: Pyramid | None = None,
) -> None: ...

class Shortcut:
    def __init__(
        self,
        op: str,
        signature: Signature,
        kind: type,
        make: Callable[[tuple[int, ...], tuple[int, ...], Any], Any] | None,
        dtypes: dict[str, Any],
        choices: dict[str, dict[str, int]],
        limit: Callable[[], int] | None = None,
        altered: Callable[[Any], bool] | None = None,
    ) -> None: ...
    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall | None: ...
    def backward(
        self,
        params: tuple[Any, ...],
        grad_output: Any,
        boxes: Any,
        batch_indices: Any,
        other: Any,
        map_shape: tuple[int, int, int, bool],
    ) -> Any: ...

class BoundCall:
    input: Any
    boxes: Any
    batch_indices: Any
    return_argmax: bool
    is_average: bool
    def run(self, with_argmax: bool = False) -> Any: ...
    def params(self) -> tuple[Any, ...]: ...
    def map_shape(self) -> tuple[int, int, int, bool]: ...

_Metadata = tuple[Sequence[int], str]  # shape, name of the dtype

def result_shape(
    op: str,
    params: dict[str, Any] | tuple[Any, ...],
    input: _Metadata | list[_Metadata],
    boxes: _Metadata,
    batch_indices: _Metadata | None,
    pyramid: Pyramid | None = None,
) -> tuple[int, ...]: ...
def cuda_workspace(
    op: str,
    entry: str,
    params: dict[str, Any] | tuple[Any, ...],
    input: _Metadata | list[_Metadata],
    boxes: _Metadata,
    batch_indices: _Metadata | None,
    pyramid: Pyramid | None = None,
) -> int: ...
def check_array(op: str, name: str, value: Any) -> None: ...
def check_box_list(op: str, boxes: list[_Metadata], images: int) -> None: ...
def catalogue() -> tuple[int, list[Any], list[Any]]: ...
def answering_signals(function: Callable[..., Any], *args: Any) -> Any: ...
def rounded(array: Any, dtype: str) -> Any: ...
def get_num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def get_check_boxes() -> bool: ...
def set_check_boxes(check: bool) -> None: ...
def cuda_info() -> tuple[bool, str | None, str]: ...
def instruction_set_name() -> str: ...
def is_stress_build() -> bool: ...
