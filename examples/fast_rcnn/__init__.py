"""Fast R-CNN on real images, in PyTorch, TensorFlow and JAX over the same RoIAlign and RoIPool.

    python -m examples.fast_rcnn --framework torch --pool align

Data, boxes, losses' targets, evaluation and pictures are NumPy and shared; `torch_model`,
`tensorflow_model` and `jax_model` each hold one framework's network, losses and optimiser.
docs/fast_rcnn.md walks through it.
"""
