#!/usr/bin/env bash
# Builds the core and tests/cpp/operators.cpp for aarch64 and runs them under qemu-user. Needs
# Debian's g++-aarch64-linux-gnu and qemu-user. Usage: tests/cpp/aarch64.sh [BUILD-FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-$(mktemp -d)}
flags=(-O2 -std=c++17 -Wall -Wextra -Werror -Isrc)
aarch64-linux-gnu-g++ "${flags[@]}" -ffp-contract=fast -fno-math-errno \
  -DROIDL_ISA=baseline -DROIDL_VECTOR_BYTES=16 -c src/cpu/kernels.cpp -o "$build/kernels.o"
mapfile -t sources < <(find src src/cpu -maxdepth 1 -name '*.cpp' ! -name kernels.cpp)
aarch64-linux-gnu-g++ "${flags[@]}" -ffp-contract=off "${sources[@]}" tests/cpp/operators.cpp \
  "$build/kernels.o" -static -pthread -ldl -o "$build/operators"
qemu-aarch64 "$build/operators"
