"""Producers with false or extreme fields, for `bad_calls`, in the place of every array."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from producers import (
    DELETER,
    EXPORT,
    ExchangeAPI,
    ExchangeProducer,
    NumpyArray,
    OldProducer,
    Producer,
    new_capsule,
)

Spoiler = Callable[[NumpyArray], Any]


class Shapeless(Producer):
    def __init__(self, array: NumpyArray) -> None:
        super().__init__(array)
        del self.shape, self.dtype


class Twice(Producer):
    """Returns the same capsule for every export."""

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsules[0] if self.capsules else super().__dlpack__()


def _used_twice(array: NumpyArray) -> Twice:
    producer = Twice(array)
    np.from_dlpack(producer)
    return producer


# Subclasses of NumPy's arrays ---------------------------------------------------------------------


class Refusing(np.ndarray[Any, Any]):
    """Refuses DLPack, so that NumPy's interface is used."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("no")


def _saying(array: NumpyArray, **lies: Any) -> NumpyArray:
    class Saying(Refusing):
        def __getattribute__(self, name: str) -> Any:
            return lies[name] if name in lies else super().__getattribute__(name)

    return array.view(Saying)


def _of_dimensions(ndim: int) -> Spoiler:
    return lambda a: _saying(a, ndim=ndim, shape=(1,) * max(ndim, 0), strides=(4,) * max(ndim, 0))


# Exchange APIs ------------------------------------------------------------------------------------


@EXPORT  # type: ignore[untyped-decorator]
def _nothing(producer: Any, out: Any) -> int:
    return 0


@EXPORT  # type: ignore[untyped-decorator]
def _failure(producer: Any, out: Any) -> int:
    return -1


@EXPORT  # type: ignore[untyped-decorator]
def _another_failure(producer: Any, out: Any) -> int:
    return 7


_KEPT: list[Any] = []  # a capsule borrows its name and what it points to


def _api(
    export: Any, borrow: Any = None, major: int = 1, name: bytes = b"dlpack_exchange_api"
) -> Any:
    api = ExchangeAPI(major=major, minor=3, export=export)
    if borrow is not None:
        api.others[1] = ctypes.cast(borrow, ctypes.c_void_p).value
    _KEPT.extend((api, name))
    return new_capsule(ctypes.addressof(api), name, None)


def _with_api(api: Any) -> Spoiler:
    class Exchanging(Producer):
        __dlpack_c_exchange_api__: ClassVar[Any] = api

    return Exchanging


EXCHANGE_APIS: dict[str, Spoiler] = {
    "that is empty": _with_api(_api(EXPORT(0))),
    "that only borrows": _with_api(_api(EXPORT(0), _nothing)),
    "that makes nothing": _with_api(_api(_nothing)),
    "that lends nothing": _with_api(_api(_nothing, _nothing)),
    "that fails without a word": _with_api(_api(_failure)),
    "that lends without a word": _with_api(_api(_failure, _failure)),
    "that fails in its own way": _with_api(_api(_another_failure, _another_failure)),
    "of version 2": _with_api(_api(_nothing, major=2)),
    "of another name": _with_api(_api(_nothing, name=b"dlpack_exchange_ap")),
    "that is a number": _with_api(7),
    "that is None": _with_api(None),
}

# Fields of the structs ----------------------------------------------------------------------------

HUGE = (2**58, 2**62, -(2**62), 2**63 - 1, -(2**63), 2**61 + 1)


def _stretched(axis: int, stride: int, kind: type[Producer] = Producer) -> Spoiler:
    def spoil(array: NumpyArray) -> Producer:
        strides = [step // array.itemsize for step in array.strides]
        strides[axis] = stride
        # The distance between the first and the last of two elements.
        return kind(array, strides=tuple(strides))

    return spoil


FIELDS: dict[str, Spoiler] = {
    "version 2": lambda a: Producer(a, major=2),
    "version 0": lambda a: Producer(a, major=0),
    "NULL": lambda a: Producer(a, data=None),
    "NULL, legacy": lambda a: OldProducer(a, data=None),
    "NULL, exchanged": lambda a: ExchangeProducer(a, data=None),
    "NULL and an offset": lambda a: Producer(a, data=None, byte_offset=64),
    "no deleter": lambda a: Producer(a, deleter=DELETER(0)),
    "no shape": lambda a: Producer(a, shape=None),
    "no strides": lambda a: Producer(a, strides=None),
    "no shape and no strides": lambda a: OldProducer(a, shape=None, strides=None),
    "-1 dimensions": lambda a: OldProducer(a, ndim=-1),
    "-2**31 dimensions": lambda a: ExchangeProducer(a, ndim=-(2**31)),
    "65 dimensions": lambda a: Producer(a, ndim=65),
    "a billion dimensions": lambda a: OldProducer(a, ndim=10**9),
    "negative sizes": lambda a: ExchangeProducer(a, shape=(-4,) * a.ndim),
    "the smallest sizes": lambda a: Producer(a, shape=(-(2**63),) * a.ndim),
    "sizes beyond memory": lambda a: Producer(a, shape=(2**62,) * a.ndim),
    "sizes whose product is 0": lambda a: Producer(a, shape=(2**32,) * a.ndim),
    "nothing of huge rows": lambda a: Producer(a, shape=(0,) + (2**62,) * (a.ndim - 1)),
    "elements of no bits": lambda a: Producer(a, bits=0),
    "elements of 7 bits": lambda a: Producer(a, bits=7),
    "elements of 255 bits": lambda a: Producer(a, bits=255),
    "elements of many lanes": lambda a: Producer(a, lanes=4),
    "elements of no lanes": lambda a: Producer(a, lanes=0),
    "an unknown dtype": lambda a: Producer(a, code=200),
    "an offset of almost everything": lambda a: Producer(a, byte_offset=2**64 - 4),
    "an offset of half of everything": lambda a: Producer(a, byte_offset=2**63, data=2**63),
    "at the end of all addresses": lambda a: Producer(a, data=2**64 - 4),
    "on xpu": lambda a: Producer(a, device_type=14),  # not CUDA, which might be present
    "on no device": lambda a: Producer(a, device_type=0),
    "on a negative device": lambda a: Producer(a, device_type=-1),
    "backwards beyond address 0": _stretched(0, -(2**58)),
} | {
    f"a stride of {stride} along axis {axis}": _stretched(axis, stride)
    for stride in HUGE
    for axis in (0, -1)
}

UNTRUE: dict[str, Spoiler] = (
    {
        "a producer without attributes": Shapeless,
        "a capsule that is given twice": _used_twice,
        "a subclass of 70 dimensions": _of_dimensions(70),
        "a subclass of 10000 dimensions": _of_dimensions(10000),
        "a subclass of -1 dimensions": _of_dimensions(-1),
        "a subclass of no itemsize": lambda a: _saying(a, itemsize=0),
        "a subclass of another itemsize": lambda a: _saying(a, itemsize=10**6),
        "a subclass of another dtype": lambda a: _saying(a, dtype=np.dtype(np.float64)),
        "a subclass of other sizes": lambda a: _saying(a, shape=(10**6,) * a.ndim),
        "a subclass of other strides": lambda a: _saying(a, strides=(10**9,) * a.ndim),
        "a subclass without strides": lambda a: _saying(a, strides=None),
        "a subclass elsewhere": lambda a: _saying(a, __array_interface__={"data": (64, False)}),
        "a subclass that is nowhere": lambda a: _saying(a, __array_interface__={}, ctypes=None),
    }
    | {f"an exchange API {name}": spoil for name, spoil in EXCHANGE_APIS.items()}
    | FIELDS
)
