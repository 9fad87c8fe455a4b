"""What JAX spells differently from version to version, or has no public name for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import jax
from jax._src import core, dispatch, sharding_impls
from jax.sharding import NamedSharding, PartitionSpec

Array = Any

type_of: Any = getattr(jax, "typeof", None)
if type_of is None:  # before JAX 0.6
    type_of = vars(core)["get_aval"]

# The compilers for CPU of 0.7.0 and before end the process when a program that joins arrays has a
# custom call as its root; one that returns a pair is followed by the choice of one.
CALLS_MUST_RETURN_PAIRS = jax.__version_info__ < (0, 8)

# In shard_map, arrays that one operator takes must vary over the same axes of the mesh. JAX 0.9 and
# later have the first name, 0.6 the second, and before that there was no such notion.
_unify: Any = getattr(core, "auto_insert_reshard", None) or getattr(
    core, "standard_insert_pvary", lambda *operands: operands
)


def varying_alike(operands: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(_unify(*operands))


def _mesh_and_type(types: Sequence[Any]) -> tuple[Any, Any]:
    """The mesh that one of the types names, and that type; or None and the first."""
    for each in types:
        mesh = getattr(getattr(each, "sharding", None), "mesh", None)
        if mesh is not None and not mesh.empty:
            return mesh, each
    return None, types[0]


def explicit_mesh(operands: Sequence[Array]) -> Any:
    """The mesh over which the types of the operands say how they are divided, or None."""
    mesh, _ = _mesh_and_type([type_of(operand) for operand in operands])
    return mesh if getattr(mesh, "explicit_axes", ()) else None  # as of JAX 0.7


def result_type(types: Sequence[Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """The type of a result of operands of some types."""
    mesh, like = _mesh_and_type(types)
    if mesh is None:
        return jax.core.ShapedArray(shape, dtype)
    # Of `like` it keeps over which axes of the mesh it varies, inside shard_map.
    sharding = NamedSharding(mesh, PartitionSpec())
    return like.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)


def whole_like(sharding: Any) -> Any:
    """Every device has all of an array; for devices that form no mesh with names of axes."""
    return sharding_impls.GSPMDSharding.get_replicated(sharding._device_assignment)


def register(primitive: Any) -> None:
    """Make a primitive known where JAX keeps lists of its own."""
    # As custom_partitioning's, which it becomes: without the devices it would see but one.
    dispatch.prim_requires_devices_during_lowering.add(primitive)
    if not hasattr(jax, "typeof"):
        rules = importlib.import_module("jax.experimental.shard_map")
        rules.register_standard_check(primitive)
        rules.register_standard_rewrite(primitive)
