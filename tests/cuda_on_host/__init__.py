"""The CUDA kernels, compiled for a CPU and executed by a machine that checks what they do."""
