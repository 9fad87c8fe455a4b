// The numbers of the kernels that counting has chosen and only a device can confirm: each can be
// given to the compiler, to be varied there.
#pragma once

// RoIs from which on they are worked on in the order of their places (order.cuh).
#ifndef ROIDL_TUNE_ORDER_FEWEST
#define ROIDL_TUNE_ORDER_FEWEST 256
#endif

// The averages by rows (rows.cuh): 32-bit values of as many channels that a warp works on together;
// items that it keeps of them in shared memory, at most 128; RoIs and channels of a block; blocks
// that share a multiprocessor.
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
