"""The operators as modules, with torchvision's constructors, attributes and `repr`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .._operators import FAMILIES, Family
from .._params import align_params, choices_of, pool_params
from .._shapes import check_params
from ._front import PAIRS, PUBLIC
from ._library import LIBRARY

roi_align, roi_pool = PUBLIC["roi_align"], PUBLIC["roi_pool"]

# torch.jit.script cannot read the functions, but calls what the dispatcher has: these operators are
# the functions, so that a scripted module checks and computes what the module does. A number stands
# for a pair (int[2]), and whatever kind of number an attribute is goes through (Scalar).


def plain(value: Any) -> Any:
    """Python's own numbers, of NumPy's or of tensors: TorchScript reads no others."""
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    return value.item() if hasattr(value, "item") else value


def as_list(rois: torch.Tensor | list[torch.Tensor]) -> tuple[list[torch.Tensor], bool]:
    """What a schema has a word for, and whether it was a list."""
    if isinstance(rois, torch.Tensor):
        return [rois], False
    return rois, True


def define_for_scripts(schema: str, function: Callable[..., Any]) -> None:
    """Let scripted modules call a function by its name in the schema."""
    LIBRARY.define(schema)
    LIBRARY.impl(schema.partition("(")[0], function, "CompositeImplicitAutograd")


def _options(family: Family) -> dict[str, str]:
    """The arguments of a public function after the input and the boxes, and their types in schemas;
    layouts are for arrays of others."""
    options, words = {}, choices_of(family.name)
    for name, _ in family.fields:
        start, _, axis = name.rpartition("_")
        if axis == "height":
            options[PAIRS[start]] = "int[2]"
        elif axis != "width" and name != "layout":
            options[name] = "str" if name in words else "Scalar"
    return options


def _define_function(family: Family) -> None:
    options, function = _options(family), PUBLIC[family.name]

    def scripted(input: Any, rois: list[Any], is_list: bool, *given: Any) -> Any:
        named = dict(zip(options, given, strict=True))
        return function(input, rois if is_list else rois[0], **named)

    typed = ["Tensor input", "Tensor[] rois", "bool is_list"]
    typed += [f"{kind} {name}" for name, kind in options.items()]
    define_for_scripts(f"scripted_{family.name}({', '.join(typed)}) -> Tensor", scripted)


for _family in FAMILIES.values():
    _define_function(_family)


class RoIAlign(nn.Module):  # type: ignore[misc]
    """`roi_align` as a module, in the place of ``torchvision.ops.RoIAlign``.

    Parameters
    ----------
    output_size, spatial_scale, sampling_ratio, aligned, mode
        As for `roi_align`; all are attributes, may be changed, and are then checked by the call.

    Examples
    --------
    >>> import torch
    >>> from roidl.torch import RoIAlign
    >>> pool = RoIAlign(7, spatial_scale=1 / 16, sampling_ratio=2)
    >>> pool(torch.rand(1, 256, 50, 50), [torch.tensor([[0.0, 0, 320, 320]])]).shape
    torch.Size([1, 256, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int] | list[int],
        spatial_scale: float,
        sampling_ratio: int | tuple[int, int] | list[int],
        aligned: bool = False,
        *,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        options = output_size, spatial_scale, sampling_ratio, aligned, mode
        params = align_params("roi_align", *options, "NCHW")
        check_params("roi_align", params)
        self.output_size = plain(output_size)
        self.spatial_scale = plain(spatial_scale)
        self.sampling_ratio = plain(sampling_ratio)
        self.aligned = params.aligned
        self.mode = mode

    def forward(self, input: torch.Tensor, rois: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """Pool features [N, C, H, W] at boxes [K, 5], or at a list of N tensors [L, 4]."""
        if torch.jit.is_scripting():
            listed, is_list = as_list(rois)
            return torch.ops.roidl.scripted_roi_align(
                input,
                listed,
                is_list,
                self.output_size,
                self.spatial_scale,
                self.sampling_ratio,
                self.aligned,
                self.mode,
            )
        return roi_align(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            mode=self.mode,
        )

    def extra_repr(self) -> str:
        mode = "" if self.mode == "avg" else f", mode={self.mode}"
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}{mode}"
        )


class RoIPool(nn.Module):  # type: ignore[misc]
    """`roi_pool` as a module, in the place of ``torchvision.ops.RoIPool``.

    Parameters
    ----------
    output_size, spatial_scale, mode
        As for `roi_pool`; all are attributes, may be changed, and are then checked by the call.

    Examples
    --------
    >>> import torch
    >>> from roidl.torch import RoIPool
    >>> pool = RoIPool(7, spatial_scale=1 / 16)
    >>> pool(torch.rand(1, 256, 50, 50), [torch.tensor([[0.0, 0, 320, 320]])]).shape
    torch.Size([1, 256, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int] | list[int],
        spatial_scale: float,
        *,
        mode: str = "max",
    ) -> None:
        super().__init__()
        check_params("roi_pool", pool_params("roi_pool", output_size, spatial_scale, mode, "NCHW"))
        self.output_size = plain(output_size)
        self.spatial_scale = plain(spatial_scale)
        self.mode = mode

    def forward(self, input: torch.Tensor, rois: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """Pool features [N, C, H, W] at boxes [K, 5], or at a list of N tensors [L, 4]."""
        if torch.jit.is_scripting():
            listed, is_list = as_list(rois)
            return torch.ops.roidl.scripted_roi_pool(
                input,
                listed,
                is_list,
                self.output_size,
                self.spatial_scale,
                self.mode,
            )
        return roi_pool(input, rois, self.output_size, self.spatial_scale, mode=self.mode)

    def extra_repr(self) -> str:
        mode = "" if self.mode == "max" else f", mode={self.mode}"
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}{mode}"
