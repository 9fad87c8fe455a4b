// The numbers of the kernels that counting has chosen and only a device can confirm: each can be
// given to the compiler, to be varied there.
#pragma once

// Variants that only a measurement can justify; docs/notes/cuda_measuring.md says what decides
// each. 0 switches a variant off and leaves its kernels out of the build.

// The plan in the block (BlockPlan, BoxGeometry): blocks for every multiprocessor up to which each
// block finds for itself what the plan kernel would.
#ifndef ROIDL_TUNE_BLOCK_PLANS
#define ROIDL_TUNE_BLOCK_PLANS 1
#endif
// The order kernel (order.cuh): the fewest RoIs that are ordered by where they lie.
#ifndef ROIDL_TUNE_ORDERED_ROIS
#define ROIDL_TUNE_ORDERED_ROIS 256
#endif
// The overlap kernel (overlaps.cuh): the fewest RoIs whose overlaps with tiles it finds.
#ifndef ROIDL_TUNE_OVERLAP_ROIS
#define ROIDL_TUNE_OVERLAP_ROIS 256
#endif
// Wide tiles (average_gradient.cuh): the fewest of them for every multiprocessor.
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

// RoIPool's maxima by rows (pool_max.cuh): the same.
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

// Gradients to the input (gather.cuh): chunks of bins in shared memory at the same time, at most;
// gradients that a lane has in flight.
#ifndef ROIDL_TUNE_GATHER_CHUNKS
#define ROIDL_TUNE_GATHER_CHUNKS 8
#endif
#ifndef ROIDL_TUNE_GATHER_LOADS
#define ROIDL_TUNE_GATHER_LOADS 4
#endif

// Those of the averages (average_gradient.cuh): columns of a narrow tile that a warp has, so that
// it has 32 cells; blocks of narrow tiles that share a multiprocessor, in float32 and in half
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

// Those of RoIPool's maxima (max_gradient.cuh): blocks that share a multiprocessor.
#ifndef ROIDL_TUNE_POOL_MAX_GATHER_MIN_BLOCKS
#define ROIDL_TUNE_POOL_MAX_GATHER_MIN_BLOCKS 3
#endif
