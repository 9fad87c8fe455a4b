// The constants of the kernels that were chosen by counting and that only a device can confirm:
// each can be set on the compiler's command line.
#pragma once

// Variants that only a measurement can justify; docs/notes/cuda_measuring.md says what decides
// each. 0 disables a variant and removes its kernels from the build.

// The plan in the block (BlockPlan, BoxGeometry): the most blocks per multiprocessor for which each
// block itself finds what the plan kernel would.
#ifndef ROIDL_TUNE_BLOCK_PLANS
#define ROIDL_TUNE_BLOCK_PLANS 1
#endif
// The order kernel (order.cuh): the fewest RoIs that are ordered by position.
#ifndef ROIDL_TUNE_ORDERED_ROIS
#define ROIDL_TUNE_ORDERED_ROIS 256
#endif
// The overlap kernel (overlaps.cuh): the fewest RoIs whose overlaps with tiles it finds.
#ifndef ROIDL_TUNE_OVERLAP_ROIS
#define ROIDL_TUNE_OVERLAP_ROIS 256
#endif
// Wide tiles (average_gradient.cuh): the fewest wide tiles per multiprocessor.
#ifndef ROIDL_TUNE_WIDE_TILES
#define ROIDL_TUNE_WIDE_TILES 8
#endif

// The averages by rows (rows.cuh): channels of a unit, in values of 32 bits; items of a warp in
// shared memory, at most 128; RoIs and channels of a block (a power of two, and a multiple of a
// unit's); blocks that share a multiprocessor.
#ifndef ROIDL_TUNE_ROWS_CHANNELS
#define ROIDL_TUNE_ROWS_CHANNELS 8
#endif
#ifndef ROIDL_TUNE_ROWS_ITEMS
#define ROIDL_TUNE_ROWS_ITEMS 112
#endif
#ifndef ROIDL_TUNE_ROWS_ROIS
#define ROIDL_TUNE_ROWS_ROIS 32
#endif
#ifndef ROIDL_TUNE_ROWS_SLAB
#define ROIDL_TUNE_ROWS_SLAB 8
#endif
#ifndef ROIDL_TUNE_ROWS_MIN_BLOCKS
#define ROIDL_TUNE_ROWS_MIN_BLOCKS 3
#endif

// RoIPool's maxima by rows (pool_max.cuh): the same constants.
#ifndef ROIDL_TUNE_POOL_MAX_CHANNELS
#define ROIDL_TUNE_POOL_MAX_CHANNELS 4
#endif
#ifndef ROIDL_TUNE_POOL_MAX_ROIS
#define ROIDL_TUNE_POOL_MAX_ROIS 16
#endif
#ifndef ROIDL_TUNE_POOL_MAX_SLAB
#define ROIDL_TUNE_POOL_MAX_SLAB 8
#endif
#ifndef ROIDL_TUNE_POOL_MAX_MIN_BLOCKS
#define ROIDL_TUNE_POOL_MAX_MIN_BLOCKS 3
#endif

// Gradients to the input (gather.cuh): the most chunks of bins in shared memory at the same time;
// gradients that a lane has in flight.
#ifndef ROIDL_TUNE_GATHER_CHUNKS
#define ROIDL_TUNE_GATHER_CHUNKS 8
#endif
#ifndef ROIDL_TUNE_GATHER_LOADS
#define ROIDL_TUNE_GATHER_LOADS 4
#endif

// Gradients of the averages (average_gradient.cuh): columns of a narrow tile for each warp, which
// always has 32 cells; blocks of narrow tiles that share a multiprocessor, in float32 and in half
// types.
#ifndef ROIDL_TUNE_GATHER_COLUMNS
#define ROIDL_TUNE_GATHER_COLUMNS 2
#endif
#ifndef ROIDL_TUNE_GATHER_MIN_BLOCKS
#define ROIDL_TUNE_GATHER_MIN_BLOCKS 3
#endif
#ifndef ROIDL_TUNE_GATHER_HALF_MIN_BLOCKS
#define ROIDL_TUNE_GATHER_HALF_MIN_BLOCKS 3
#endif

// Gradients of RoIPool's maxima (max_gradient.cuh): blocks that share a multiprocessor.
#ifndef ROIDL_TUNE_POOL_MAX_GATHER_MIN_BLOCKS
#define ROIDL_TUNE_POOL_MAX_GATHER_MIN_BLOCKS 3
#endif
