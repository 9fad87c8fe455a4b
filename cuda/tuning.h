// Numbers of the kernels that were chosen by counting; benchmarks/variants.py measures others.
#pragma once

// RoIs of a tile whose bins are in shared memory together, at most.
#ifndef ROIDL_TUNE_MOST_AT_ONCE
#define ROIDL_TUNE_MOST_AT_ONCE 8
#endif

// Gradients that a lane loads together.
#ifndef ROIDL_TUNE_STAGED
#define ROIDL_TUNE_STAGED 4
#endif

// Columns of a tile that a warp sums up, of 16; it has 32 cells.
#ifndef ROIDL_TUNE_PATCH_COLUMNS
#define ROIDL_TUNE_PATCH_COLUMNS 2
#endif

// Blocks for every multiprocessor from which on the tiles of the averages' gradients are wide.
#ifndef ROIDL_TUNE_WIDE_TILES
#define ROIDL_TUNE_WIDE_TILES 8
#endif

// Blocks that share a multiprocessor: of the averages' gradients in float32, in half types, and of
// RoIPool's maxima.
#ifndef ROIDL_TUNE_GATHERS
#define ROIDL_TUNE_GATHERS 4
#endif
#ifndef ROIDL_TUNE_HALF_GATHERS
#define ROIDL_TUNE_HALF_GATHERS 3
#endif
#ifndef ROIDL_TUNE_POOL_GATHERS
#define ROIDL_TUNE_POOL_GATHERS 3
#endif
