// Who wrote and read a piece of memory last, and whether barriers lie between two of them.
#pragma once
#include "machine.h"

namespace machine {

// Of two bytes: the smallest elements have so many. Numbers of runs, phases and threads: see Now.
class Accesses {
 public:
  // Null, or what is wrong with thread now.thread's reading here; `between_blocks`: other blocks
  // have this memory, too.
  const char* read(bool between_blocks) {
    const uint32_t warp = now.thread / kLanes, lane = now.thread % kLanes;
    if (const char* wrong = against_writer(between_blocks, warp, kReadAfterWrite)) return wrong;
    const bool same_phase = read_run_ == now.run && read_phase_ == now.phase;
    if (read_run_ != now.run && read_run_ >= now.first_run) read_by_many_ = now.launch;
    const bool same_warp = same_phase && read_warp_ == warp;
    const bool same = same_warp && read_warp_phase_ == now.warp_phase[warp];
    read_lanes_ = (same ? read_lanes_ : 0) | 1u << lane;
    read_warps_ = static_cast<uint8_t>((same_phase ? read_warps_ : 0) | 1u << warp);
    read_warp_ = static_cast<uint8_t>(warp);
    read_warp_phase_ = now.warp_phase[warp];
    read_phase_ = now.phase;
    read_run_ = now.run;
    return nullptr;
  }

  const char* write(bool between_blocks) {
    const uint32_t warp = now.thread / kLanes, lane = now.thread % kLanes;
    if (const char* wrong = against_writer(between_blocks, warp, kWriteAfterWrite)) return wrong;
    if (const char* wrong = against_readers(between_blocks, warp, lane)) return wrong;
    write_run_ = now.run;
    write_phase_ = now.phase;
    write_warp_phase_ = now.warp_phase[warp];
    write_thread_ = static_cast<uint16_t>(now.thread);
    return nullptr;
  }

 private:
  struct Words {
    const char *blocks, *warps, *lanes;
  };
  static constexpr Words kReadAfterWrite{"race between blocks: read of what another writes",
                                         "race between warps: read of what another writes",
                                         "race within a warp: read of what another lane writes"};
  static constexpr Words kWriteAfterWrite{"race between blocks: both write",
                                          "race between warps: both write",
                                          "race within a warp: two lanes write"};
  static constexpr Words kWriteAfterRead{"race between blocks: write of what another reads",
                                         "race between warps: write of what another reads",
                                         "race within a warp: write of what another lane reads"};

  const char* against_writer(bool between_blocks, uint32_t warp, const Words& words) const {
    if (write_run_ < now.first_run) return nullptr;
    if (write_run_ != now.run) return between_blocks ? words.blocks : nullptr;
    if (write_phase_ != now.phase || write_thread_ == now.thread) return nullptr;
    if (write_thread_ / kLanes != warp) return words.warps;
    return write_warp_phase_ == now.warp_phase[warp] ? words.lanes : nullptr;
  }

  const char* against_readers(bool between_blocks, uint32_t warp, uint32_t lane) const {
    if (read_run_ < now.first_run) return nullptr;
    if (between_blocks && (read_run_ != now.run || read_by_many_ == now.launch))
      return kWriteAfterRead.blocks;
    if (read_run_ != now.run || read_phase_ != now.phase) return nullptr;
    if ((read_warps_ & ~(1u << warp)) != 0) return kWriteAfterRead.warps;
    const bool same = read_warp_phase_ == now.warp_phase[warp];
    return same && (read_lanes_ & ~(1u << lane)) != 0 ? kWriteAfterRead.lanes : nullptr;
  }

  uint32_t write_run_ = 0, write_phase_ = 0, write_warp_phase_ = 0;
  uint32_t read_run_ = 0, read_phase_ = 0, read_warp_phase_ = 0;
  uint32_t read_lanes_ = 0;    // of the warp that read last, in its phase
  uint32_t read_by_many_ = 0;  // the launch in which two blocks have read
  uint16_t write_thread_ = 0;
  uint8_t read_warps_ = 0, read_warp_ = 0;
};

}  // namespace machine
