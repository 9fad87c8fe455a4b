// Numbers of the kernels that were chosen by counting; benchmarks/variants.py measures others.
#pragma once

// RoIs of a tile that are laid out in shared memory together, at most.
#ifndef ROIDL_TUNE_MOST_AT_ONCE
#define ROIDL_TUNE_MOST_AT_ONCE 8
#endif

// Channels of a RoI that a block takes, at most, where lanes run along rows.
#ifndef ROIDL_TUNE_SLAB
#define ROIDL_TUNE_SLAB 64
#endif
