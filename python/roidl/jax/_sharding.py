"""How the operators are divided over devices.

Every operator acts on each channel alone and on each region alone: a device that has some of the
channels and some of the regions has all that it needs. What is summed over a divided axis (the
gradient to the features over the regions, the gradient to the boxes over the channels) takes one
all-reduce. Images may be divided where the boxes are grouped by image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from ._custom_call import call
from ._site import BOXES, COUNTS, INDICES, LEVELS, MAPS, Site
from ._versions import type_of, whole_like

Array = Any
Axes = tuple[str, ...]  # of the mesh
Factors = tuple[str, ...]  # one name per dimension of an array

# What may be divided, in the order of precedence where two want the same axis of the mesh.
DIVISIBLE = ("n", "c", "k")


def factors_of(site: Site, role: str) -> Factors:
    """A name for each dimension of an array; dimensions of one name are divided alike.

    n: images, if each has its own regions, else i; c: channels; k: regions; the rest: no more. Rows
    that are counted from the first, l, stay together, and so do the channels of a map where every
    bin has its own, m, and those of its result, o.
    """
    rows: Factors = ("n", "l" if site.has_counts else "k") if site.grouped else ("k",)
    if role == COUNTS:
        return ("n",)
    if role in (INDICES, LEVELS):
        return rows
    if role == BOXES:
        return (*rows, "j")
    per_bin = site.operator.family.channels_per_bin
    first, plane, channels = rows, ("y", "x"), "o" if per_bin else "c"
    if role == MAPS:
        first, plane = ("n" if site.grouped else "i",), ("h", "w")
        channels = "m" if per_bin else "c"
    return (*first, *plane, channels) if site.channels_last else (*first, channels, *plane)


def _axes(entry: Any) -> Axes:
    """An entry of a PartitionSpec as a tuple."""
    if entry is None:
        return ()
    return tuple(entry) if isinstance(entry, tuple) else (entry,)


def _division(site: Site, mesh: Any, arrays: Sequence[tuple[str, Any]]) -> dict[str, Axes]:
    """The axes of the mesh over which each factor is divided: as the first array that is has it."""
    division: dict[str, Axes] = {}
    known = [(role, array) for role, array in arrays if isinstance(array.sharding, NamedSharding)]
    for factor in DIVISIBLE:
        taken = {axis for axes in division.values() for axis in axes}
        for role, array in known:
            names = factors_of(site, role)
            if factor not in names:
                continue
            dimension = names.index(factor)
            axes = _axes(array.sharding.spec[dimension])
            parts = int(np.prod([mesh.shape[axis] for axis in axes]))
            # Parts of different sizes would be padded, and padding is no box.
            if parts > 1 and not taken & set(axes) and array.shape[dimension] % parts == 0:
                division[factor] = axes
                break
    return division


def _spec(site: Site, role: str, division: dict[str, Axes]) -> tuple[Axes | None, ...]:
    return tuple(division.get(factor) for factor in factors_of(site, role))


def _shardings(site: Site, mesh: Any, roles: Sequence[str], division: dict[str, Axes]) -> Any:
    specs = [_spec(site, role, division) for role in roles]
    return tuple(NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs)


def _local(site: Site, mesh: Any, division: dict[str, Axes]) -> Site:
    """What the operator is to one device."""
    parts = [
        int(np.prod([mesh.shape[axis] for axis in division.get(factor, ())], dtype=int))
        for factor in factors_of(site, MAPS)
    ]
    shapes = [
        tuple(size // part for size, part in zip(shape, parts, strict=True))
        for shape in site.input_shapes
    ]
    return site._replace(input_shapes=tuple(shapes))


def in_parts(site: Site, mesh: Any, bind: Callable[..., Any], operands: Sequence[Array]) -> Any:
    """Where types say how arrays are divided: each device's part, and what divides the results."""
    roles = site.operand_roles()
    types = [type_of(operand) for operand in operands]
    division = _division(site, mesh, list(zip(roles, types, strict=True)))
    specs = [PartitionSpec(*_spec(site, role, division)) for role in roles]
    parts: Any = jax.shard_map(
        lambda *parts: tuple(bind(_local(site, mesh, division), *parts)),
        mesh=mesh,
        in_specs=tuple(specs),
        out_specs=tuple(
            PartitionSpec(*_spec(site, role, division)) for role in site.result_roles()
        ),
    )
    reshard: Any = jax.sharding.reshard
    placed = [
        reshard(operand, NamedSharding(mesh, spec))
        for operand, spec in zip(operands, specs, strict=True)
    ]
    return list(parts(*placed))


def _partition(site: Site, mesh: Any, operands: Any, results: Any) -> Any:
    operand_roles, result_roles = site.operand_roles(), site.result_roles()
    if mesh.empty:
        whole = whole_like(results[0].sharding)
        return mesh, partial(call, site), (whole,) * len(results), (whole,) * len(operands)
    roles, shapes = (*operand_roles, *result_roles), (*operands, *results)
    division = _division(site, mesh, list(zip(roles, shapes, strict=True)))

    local = _local(site, mesh, division)
    kept = {factor for role in result_roles for factor in factors_of(site, role)}
    summed = tuple(axis for factor, axes in division.items() if factor not in kept for axis in axes)

    def lower(*parts: Array) -> tuple[Array, ...]:
        outs = call(local, *parts)
        return tuple(jax.lax.psum(out, summed) for out in outs) if summed else outs

    return (
        mesh,
        lower,
        _shardings(site, mesh, result_roles, division),
        _shardings(site, mesh, operand_roles, division),
    )


def _infer(site: Site, mesh: Any, operands: Any, results: Any) -> Any:
    # Nothing may be raised here: XLA would end the process.
    if mesh.empty:
        like = next(each.sharding for each in operands if each.sharding is not None)
        return (whole_like(like),) * len(results)
    division = _division(site, mesh, list(zip(site.operand_roles(), operands, strict=True)))
    return _shardings(site, mesh, site.result_roles(), division)


def _rule(site: Site, mesh: Any, operands: Any, results: Any) -> str:
    """The same for Shardy, in its notation."""

    def side(roles: Sequence[str]) -> str:
        arrays, maps = [], 0
        for role in roles:
            names = " ".join(factors_of(site, role))
            if role == MAPS:  # the maps of one slot differ in height and width
                which = maps % len(site.input_shapes)
                names, maps = names.replace("h", f"h{which}").replace("w", f"w{which}"), maps + 1
            arrays.append(names)
        return ", ".join(arrays)

    return f"{side(site.operand_roles())} -> {side(site.result_roles())}"


divisible_call = custom_partitioning(call, static_argnums=(0,))
divisible_call.def_partition(_partition, infer_sharding_from_operands=_infer, sharding_rule=_rule)
