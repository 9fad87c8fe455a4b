#!/usr/bin/env bash
# The first day on a GPU in one command: build, smoke, tests, sanitizers, benchmark, variants.
#   benchmarks/first_gpu_day.sh OUT [--minutes 9] [--no-build] [--dry-run]
# PYTHON names the interpreter that has CuPy, PyTorch and JAX. docs/cuda.md says more.
set -euo pipefail
out=${1:?"usage: benchmarks/first_gpu_day.sh OUT [options]"}
shift
mkdir -p "$out"
out=$(realpath "$out")
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.first_gpu_day "$out" "$@"
