// The numbers of the kernels that counting has chosen and only a device can confirm: each can be
// given to the compiler, to be varied there.
#pragma once

// RoIs from which on they are worked on in the order of their places (order.cuh).
#ifndef ROIDL_TUNE_ORDER_FEWEST
#define ROIDL_TUNE_ORDER_FEWEST 256
#endif

// The averages by rows (rows.cuh): 32-bit values of as many channels that a warp works on together;
// items that it keeps of them in shared memory, at most 128; RoIs and channels of a block (a
// power of two, and a multiple of those together); blocks that share a multiprocessor.
#ifndef ROIDL_TUNE_ROWS_TOGETHER
#define ROIDL_TUNE_ROWS_TOGETHER 8
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
#ifndef ROIDL_TUNE_ROWS_RESIDENT
#define ROIDL_TUNE_ROWS_RESIDENT 3
#endif

// RoIPool's maxima by rows (pool_max.cuh): the same.
#ifndef ROIDL_TUNE_MAX_TOGETHER
#define ROIDL_TUNE_MAX_TOGETHER 4
#endif
#ifndef ROIDL_TUNE_MAX_ROIS
#define ROIDL_TUNE_MAX_ROIS 16
#endif
#ifndef ROIDL_TUNE_MAX_SLAB
#define ROIDL_TUNE_MAX_SLAB 8
#endif
#ifndef ROIDL_TUNE_MAX_RESIDENT
#define ROIDL_TUNE_MAX_RESIDENT 3
#endif

// Gradients to the input (gather.cuh): RoIs from which on a kernel of its own finds which of them
// meet which tiles (meeting.cuh); RoIs whose bins are in shared memory together, at most;
// gradients that a lane loads together.
#ifndef ROIDL_TUNE_GATHER_MEETINGS
#define ROIDL_TUNE_GATHER_MEETINGS 256
#endif
#ifndef ROIDL_TUNE_GATHER_AT_ONCE
#define ROIDL_TUNE_GATHER_AT_ONCE 8
#endif
#ifndef ROIDL_TUNE_GATHER_STAGED
#define ROIDL_TUNE_GATHER_STAGED 4
#endif

// Those of the averages (products.cuh): columns of a narrow tile that a warp has, so that it has 32
// cells; wide tiles for every multiprocessor from which on tiles are wide; blocks of narrow ones
// that share a multiprocessor, in float32 and in half types.
#ifndef ROIDL_TUNE_GATHER_COLUMNS
#define ROIDL_TUNE_GATHER_COLUMNS 2
#endif
#ifndef ROIDL_TUNE_GATHER_WIDE
#define ROIDL_TUNE_GATHER_WIDE 8
#endif
#ifndef ROIDL_TUNE_GATHER_RESIDENT
#define ROIDL_TUNE_GATHER_RESIDENT 3
#endif
#ifndef ROIDL_TUNE_GATHER_HALF_RESIDENT
#define ROIDL_TUNE_GATHER_HALF_RESIDENT 3
#endif

// Blocks of RoIPool's maxima that share a multiprocessor.
#ifndef ROIDL_TUNE_MAX_GATHER_RESIDENT
#define ROIDL_TUNE_MAX_GATHER_RESIDENT 3
#endif
