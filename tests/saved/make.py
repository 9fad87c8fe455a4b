"""Makes the saved programs of this folder anew: `python tests/saved/make.py`.

They are made once for each kCatalogueVersion; what was saved before has to load from then on.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from roidl._operators import OPERATORS  # noqa: E402
from saved_programs import ALIGN, BOXES, FEATURES, POOL, SCALES  # noqa: E402


def for_jax() -> None:
    import jax
    import jax.export
    import jax.numpy as jnp

    from roidl.jax import roi_align

    def gradient(features: Any, boxes: Any) -> Any:
        return jax.value_and_grad(lambda x: (roi_align(x, boxes, **ALIGN) ** 2).sum())(features)

    # No paths of the machine that it is made on.
    jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*/")
    allowed = [jax.export.DisabledSafetyCheck.custom_call(f"roidl_{op}") for op in OPERATORS]
    export = jax.export.export(jax.jit(gradient), disabled_checks=allowed)
    exported = export(jnp.asarray(FEATURES), jnp.asarray(BOXES))
    (HERE / "roi_align.jax").write_bytes(exported.serialize())


def for_tensorflow() -> None:
    import tensorflow as tf

    from roidl import tensorflow as ops

    class Model(tf.Module):  # type: ignore[misc]
        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec([None, None, None, None], tf.float32),
                tf.TensorSpec([None, 5], tf.float32),
            ]
        )
        def __call__(self, features: Any, boxes: Any) -> Any:
            aligned = ops.roi_align(features, boxes, layout="NCHW", **ALIGN)
            pooled = ops.roi_pool(features, boxes, layout="NCHW", **POOL)
            maps = [features, features[:, :, ::2, ::2]]
            size = ALIGN["output_size"]
            several = ops.multiscale_roi_align(maps, boxes, size, SCALES, layout="NCHW")
            return aligned, pooled, several

    shutil.rmtree(HERE / "saved_model", ignore_errors=True)
    tf.saved_model.save(Model(), str(HERE / "saved_model"))


def for_torch() -> None:
    import torch

    from roidl.torch import RoIAlign, RoIPool

    class Head(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.align = RoIAlign(
                ALIGN["output_size"], ALIGN["spatial_scale"], ALIGN["sampling_ratio"], True
            )
            self.pool = RoIPool(POOL["output_size"], POOL["spatial_scale"])

        def forward(self, x: torch.Tensor, boxes: torch.Tensor) -> Any:
            return self.align(x, boxes), self.pool(x, boxes)

    example = torch.from_numpy(FEATURES), torch.from_numpy(BOXES)
    torch.jit.script(Head()).save(str(HERE / "head.torchscript"))
    _without_sources(HERE / "head.torchscript")
    exported = torch.export.export(Head(), example)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(exported, HERE / "head.pt2")


def for_keras() -> None:
    import keras

    from roidl.keras import RoIAlign

    features = keras.Input(FEATURES.shape[1:])
    boxes = keras.Input((None, 4))
    layer = RoIAlign(name="pool", data_format="channels_first", **ALIGN)
    keras.Model([features, boxes], layer(features, boxes)).save(HERE / "head.keras")


def _without_sources(archive: Path) -> None:
    """Leave out where each line of a TorchScript archive came from."""
    with zipfile.ZipFile(archive) as source:
        kept = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in kept.items():
            if not name.endswith(".debug_pkl"):
                target.writestr(name, content)


if __name__ == "__main__":
    for_jax()
    for_tensorflow()
    for_torch()
    for_keras()
