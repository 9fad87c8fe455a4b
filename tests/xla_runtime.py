"""A minimal runtime for XLA's handlers: the C structs of a call, in ctypes.

The declarations are those of src/abi/xla_ffi.h, which tests/cpp/abi_xla_ffi.cpp compares with the
official header.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from roidl._bridge import bridge
from roidl._operators import VERSION

NumpyArray = npt.NDArray[Any]


class Version(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class Metadata(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("version", Version),
        ("traits", ctypes.c_uint32),
    ]


class MetadataExtension(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(Metadata)),
    ]


class ErrorCreate(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


class StreamGet(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    ]


class OrdinalGet(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("ordinal", ctypes.c_int32),
    ]


CREATE_ERROR = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(ErrorCreate))
GET_STREAM = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(StreamGet))
GET_ORDINAL = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(OrdinalGet))


class Api(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("version", Version),
        ("internal", ctypes.c_void_p),
        ("create_error", CREATE_ERROR),
        ("others", ctypes.c_void_p * 3),
        ("get_stream", GET_STREAM),
        ("more", ctypes.c_void_p * 12),
        ("get_ordinal", GET_ORDINAL),  # from API 0.3 on
    ]


class Buffer(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    ]


class Scalar(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("value", ctypes.c_void_p)]


class ByteSpan(ctypes.Structure):
    _fields_ = [("characters", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class Arrays(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
    ]


class Attributes(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
    ]


class Frame(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(MetadataExtension)),
        ("api", ctypes.POINTER(Api)),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("operands", Arrays),
        ("results", Arrays),
        ("attributes", Attributes),
    ]


METADATA, INITIALIZE, EXECUTE = 1, 2, 3
SCALAR = 3
DTYPES = {"bool": 1, "int32": 4, "int64": 5, "uint8": 6, "float32": 11, "float64": 12}
UNIMPLEMENTED, INTERNAL = 12, 13
CAPTURABLE = 1
OURS, THEIRS, STREAM = 0x1234, 0x5678, 0x9ABC  # arbitrary addresses, which are only compared


def _pointers(structs: Sequence[Any], kept: list[Any]) -> int | None:
    """The address of an array of pointers to the structs; `kept` owns all of it."""
    if not structs:
        return None
    array = (ctypes.c_void_p * len(structs))(*map(ctypes.addressof, structs))
    kept += [structs, array]
    return ctypes.addressof(array)


def _arrays(arrays: Sequence[NumpyArray], kept: list[Any]) -> Arrays:
    buffers = []
    for array in arrays:
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        kept.append(dims)
        dtype = DTYPES[array.dtype.name]
        buffers.append(
            Buffer(ctypes.sizeof(Buffer), None, dtype, array.ctypes.data, array.ndim, dims)
        )
    return Arrays(ctypes.sizeof(Arrays), None, len(buffers), None, _pointers(buffers, kept))


def _attributes(attributes: Mapping[str, Any], kept: list[Any]) -> Attributes:
    names, scalars = [], []
    for name, value in attributes.items():
        number = np.asarray(value)
        kept.append(number)
        names.append(ByteSpan(name.encode(), len(name)))
        scalars.append(Scalar(DTYPES[number.dtype.name], number.ctypes.data))
    types = (ctypes.c_int * len(names))(*[SCALAR] * len(names))
    kept.append(types)
    return Attributes(
        ctypes.sizeof(Attributes), None, len(names), ctypes.addressof(types),
        _pointers(names, kept), _pointers(scalars, kept),
    )  # fmt: skip


class Runtime:
    """The runtime that a handler calls: returns a stream or an error, and records errors as text.

    Without an `ordinal` the runtime does not report its device.
    """

    version = (0, 77)

    def __init__(self, stream_fails: bool = False, ordinal: int | None = None) -> None:
        self.errors: list[tuple[int, str]] = []

        def create_error(arguments: Any) -> int:
            told = arguments.contents
            self.errors.append((told.code, told.message.decode()))
            return OURS

        def get_stream(arguments: Any) -> int | None:
            arguments.contents.stream = STREAM
            return THEIRS if stream_fails else None

        def get_ordinal(arguments: Any) -> None:
            arguments.contents.ordinal = ordinal

        version = Version(ctypes.sizeof(Version), None, *self.version)
        self._api = Api(
            Api.more.offset if ordinal is None else ctypes.sizeof(Api), None, version, None,
            CREATE_ERROR(create_error), (ctypes.c_void_p * 3)(), GET_STREAM(get_stream),
            (ctypes.c_void_p * 12)(), GET_ORDINAL(get_ordinal),
        )  # fmt: skip

    def call(
        self,
        name: str,
        stage: int = EXECUTE,
        extension: Any = None,
        operands: Sequence[NumpyArray] = (),
        results: Sequence[NumpyArray] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Call a handler; return its error or None. Attributes are NumPy scalars or bool."""
        _, platform, op = name.split("_", 2)
        look_up = ctypes.CDLL(bridge("xla")).roidl_xla_handler
        look_up.restype = ctypes.c_void_p
        handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
            look_up(platform.encode(), op.encode())
        )
        kept: list[Any] = []
        given = {"catalogue": np.int64(VERSION), **(attributes or {})}
        frame = Frame(
            ctypes.sizeof(Frame), extension, ctypes.pointer(self._api), None, stage,
            _arrays(operands, kept), _arrays(results, kept), _attributes(given, kept),
        )  # fmt: skip
        answer: int | None = handler(ctypes.addressof(frame))
        return answer

    def metadata(self, name: str) -> Metadata:
        """A handler's metadata, written to a struct with other values."""
        asked = Metadata(ctypes.sizeof(Metadata), Version(ctypes.sizeof(Version), None, 5, 5), 0)
        extension = MetadataExtension(
            ctypes.sizeof(MetadataExtension), METADATA, None, ctypes.pointer(asked)
        )
        assert self.call(name, extension=ctypes.pointer(extension)) is None
        return asked
