"""What the layers of Keras share: the order of axes, boxes, shapes that are known in part."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import keras

from .._params import Params, Pyramid
from .._shapes import Metadata, check_known, check_known_list, known_result

Tensor = Any
Shape = tuple[int | None, ...]

# Whose functions a backend's tensors are passed to.
ADAPTERS = {"tensorflow": ".tensorflow", "torch": ".torch", "jax": ".jax", "numpy": "._dispatch"}
LAYOUTS = {"channels_last": "NHWC", "channels_first": "NCHW"}


def _adapter() -> Any:
    backend = keras.backend.backend()
    if backend not in ADAPTERS:
        known = ", ".join(ADAPTERS)
        raise NotImplementedError(
            f"roidl.keras: not implemented for the backend '{backend}', only for {known}"
        )
    return importlib.import_module(ADAPTERS[backend], "roidl")


def as_pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _name(kind: str) -> str:
    """A new name like Keras's own, but that RoI is one word: roi_align, roi_align_1, ..."""
    borders = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    words = re.sub(borders, "_", kind.replace("RoI", "Roi")).lower()
    count = keras.backend.get_uid(words) - 1
    return f"{words}_{count}" if count else words


def metadata(tensor: Tensor) -> Metadata:
    return tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype)


class Layer(keras.layers.Layer):  # type: ignore[misc]
    """What all layers share: the order of axes, boxes and their shapes."""

    op: str
    params: Params

    def __init__(self, output_size: Any, data_format: Any, **kwargs: Any) -> None:
        kwargs["name"] = kwargs.get("name") or _name(type(self).__name__)
        # Boxes keep their type: a coordinate of 2049 is none of float16's. The features are cast.
        super().__init__(autocast=False, **kwargs)
        self.output_size = as_pair(output_size)
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in LAYOUTS:
            names = ", ".join(map(repr, LAYOUTS))
            raise ValueError(f"{self.op}: data_format must be one of {names}, got {data_format!r}")
        # Keras compiles with XLA by default; TensorFlow's operators of ours are none of XLA's.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    @property
    def layout(self) -> str:
        return LAYOUTS[self.data_format]

    def _options(self) -> dict[str, Any]:
        """The arguments of the function, and of the layer."""
        return {"output_size": self.output_size}

    def _function(self) -> Any:
        return getattr(_adapter(), self.op)

    def _pair(self, input: Any, boxes: Any) -> Sequence[Any]:
        """The first two arguments, also where they came as a list, as many layers take theirs."""
        if boxes is not None:
            return input, boxes
        if isinstance(input, (list, tuple)) and len(input) == 2:
            return input
        raise TypeError(f"{self.op}: a layer is called with (input, boxes) or ([input, boxes])")

    def _features(self, array: Tensor) -> Metadata:
        """As they are computed with. Integers are not cast: the operator refuses them."""
        shape, own = metadata(array)
        return shape, self.compute_dtype if keras.backend.is_float_dtype(own) else own

    def _cast(self, features: Any) -> Any:
        if isinstance(features, (list, tuple)):
            return [self._cast(each) for each in features]
        return keras.ops.cast(features, self._features(features)[1])

    def _output_spec(
        self,
        maps: Sequence[Tensor],
        boxes: Any,
        batch_indices: Tensor | None,
        pyramid: Pyramid | None = None,
    ) -> Any:
        """The result, if what is known of the shapes fits together."""
        features = [self._features(each) for each in maps]
        first = features[0][0]
        if isinstance(boxes, (list, tuple)):
            images = first[0] if len(first) == 4 else None
            check_known_list(self.op, [metadata(part) for part in boxes], images)
            counts = [part.shape[0] for part in boxes]
            rows: Metadata = ((None if None in counts else sum(counts), 4), "float32")
            indices: Metadata | None = ((rows[0][0],), "int32")
        else:
            rows = metadata(boxes)
            indices = None if batch_indices is None else metadata(batch_indices)
        check_known(self.op, self.params, features, rows, indices, pyramid)
        shape = known_result(self.op, self.params, first, rows[0])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _output_shape(self, first: Shape, boxes: Any) -> Shape:
        """The shape of the result, of those of the first map and of the boxes."""
        if isinstance(boxes[0], (list, tuple)):
            counts = [part[0] for part in boxes]
            boxes = (None if None in counts else sum(counts), 4)
        return known_result(self.op, self.params, first, boxes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._options(), "data_format": self.data_format}


class PoolingLayer(Layer):
    """What the layers on one map share."""

    def __init__(
        self, output_size: Any, spatial_scale: float, data_format: Any, **kwargs: Any
    ) -> None:
        super().__init__(output_size, data_format, **kwargs)
        self.spatial_scale = spatial_scale

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "spatial_scale": self.spatial_scale}

    def call(
        self, input: Tensor, boxes: Tensor = None, batch_indices: Tensor | None = None
    ) -> Tensor:
        input, boxes = self._pair(input, boxes)
        options = {"layout": self.layout, "batch_indices": batch_indices}
        return self._function()(self._cast(input), boxes, **self._options(), **options)

    def compute_output_spec(
        self, input: Tensor, boxes: Tensor = None, batch_indices: Tensor | None = None
    ) -> Any:
        input, boxes = self._pair(input, boxes)
        return self._output_spec([input], boxes, batch_indices)

    def compute_output_shape(
        self, input_shape: Any, boxes_shape: Any = None, batch_indices_shape: Any = None
    ) -> Shape:
        return self._output_shape(*self._pair(input_shape, boxes_shape))
