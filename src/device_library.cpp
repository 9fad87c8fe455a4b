// Finds and loads the library of CUDA kernels, and reads boxes back from the device to check them.
#include "device_library.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "pyramid.h"

namespace roidl {

namespace {

constexpr const char* kName = "libroidl_cuda.so";
constexpr const char* kEntry = "roidl_device_library";

std::string path_of_cuda_library() {
  if (const char* chosen = std::getenv("ROIDL_CUDA_LIBRARY"); chosen != nullptr && *chosen != 0)
    return chosen;
  Dl_info here;
  if (dladdr(reinterpret_cast<const void*>(&cuda_library), &here) == 0) return kName;
  const std::string path = here.dli_fname;
  return path.substr(0, path.rfind('/') + 1) + kName;
}

const DeviceLibrary* load() {
  const std::string path = path_of_cuda_library();
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return nullptr;
  using Entry = const DeviceLibrary* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(handle, kEntry));
  const DeviceLibrary* library = entry == nullptr ? nullptr : entry();
  if (library == nullptr || library->layout != kDeviceLibraryLayout)
    fail(ErrorKind::runtime, "roidl", path,
         " is of another version than the library that loads it");
  return library;
}

bool says_yes(const char* value) {
  return value != nullptr && *value != 0 && std::strcmp(value, "0") != 0;
}

std::atomic<bool>& checks_boxes() {
  static std::atomic<bool> checks{says_yes(std::getenv("ROIDL_CHECK_BOXES"))};
  return checks;
}

// The bytes of a device array, copied to the host; `first` points to its first element.
struct Copy {
  std::vector<char> bytes;
  const char* first;
};

struct Axis {
  int64_t size, stride;
};

Copy read_back(const Problem& problem, const DeviceLibrary& library, const char* data,
               int item_bytes, std::initializer_list<Axis> axes) {
  int64_t low = 0, high = 1;
  for (const Axis& axis : axes) {
    const int64_t reach = (axis.size - 1) * axis.stride;
    (reach < 0 ? low : high) += reach;
  }
  Copy copy{std::vector<char>(static_cast<size_t>((high - low) * item_bytes)), nullptr};
  library.read(problem, copy.bytes.data(), data + low * item_bytes, copy.bytes.size());
  copy.first = copy.bytes.data() - low * item_bytes;
  return copy;
}

// A problem whose boxes and the arrays that go with them were copied to the host.
class OnHost {
 public:
  OnHost(const Problem& from, const DeviceLibrary& library) : problem(from) {
    Boxes& boxes = problem.boxes;
    Levels& levels = problem.levels;
    const auto move = [&](const char*& data, abi::DLDataType dtype,
                          std::initializer_list<Axis> axes, Copy& copy) {
      if (data == nullptr) return;
      copy = read_back(from, library, data, dtype.bits / 8, axes);
      data = copy.first;
    };
    const Axis images{boxes.by_position ? problem.images : 1, boxes.image_stride};
    if (boxes.count > 0) {
      move(boxes.data, boxes.dtype,
           {images,
            {boxes.per_image, boxes.row_stride},
            {boxes.has_index_column ? 5 : 4, boxes.column_stride}},
           rows_);
      move(boxes.indices, boxes.indices_dtype, {{boxes.count, boxes.indices_stride}}, indices_);
      move(levels.given, levels.dtype,
           {{images.size, levels.image_stride}, {boxes.per_image, levels.row_stride}}, levels_);
    }
    if (problem.images > 0)
      move(boxes.counts, boxes.counts_dtype, {{problem.images, boxes.counts_stride}}, counts_);
  }
  OnHost(const OnHost&) = delete;
  OnHost& operator=(const OnHost&) = delete;

  Problem problem;

 private:
  Copy rows_, indices_, levels_, counts_;
};

}  // namespace

const DeviceLibrary* cuda_library() {
  static std::atomic<const DeviceLibrary*> library{nullptr};
  const DeviceLibrary* loaded = library;
  if (loaded == nullptr) library = loaded = load();
  return loaded;
}

bool get_check_boxes() { return checks_boxes(); }
void set_check_boxes(bool check) { checks_boxes() = check; }

bool checks_on_device(const Problem& problem) {
  const int32_t type = problem.device.device_type;
  return (type == abi::kDLCUDA || type == abi::kDLCUDAManaged) && problem.may_wait &&
         get_check_boxes() && cuda_library() != nullptr;
}

void check_device_values(const Problem& problem, const DeviceLibrary& library) {
  if (problem.rois == 0 && problem.boxes.counts == nullptr) return;
  const OnHost host(problem, library);
  check_box_values(problem.op, host.problem.boxes, problem.images);
  check_level_values(host.problem);
}

int64_t find_wrong_cell(const Problem& problem, const DeviceLibrary& library) {
  const PooledView& view = problem.argmax;
  if (problem.rois * problem.channels == 0) return -1;
  const Copy copy = read_back(problem, library, static_cast<const char*>(view.data), 4,
                              {{problem.rois / view.per_image, view.image},
                               {view.per_image, view.row},
                               {problem.channels, view.c},
                               {problem.output_height, view.h},
                               {problem.output_width, view.w}});
  const int32_t* const first = reinterpret_cast<const int32_t*>(copy.first);
  const OnHost host(problem, library);
  check_box_values(problem.op, host.problem.boxes, problem.images);  // this copy is read below
  check_level_values(host.problem);
  for (int64_t k = 0; k < problem.rois; ++k) {
    const PlacedBox<double> placed = place_box<double>(host.problem, k);
    const Map& map = problem.maps[placed.map];
    if (!placed.exists) continue;
    for (int64_t c = 0; c < problem.channels; ++c)
      for (int64_t p = 0; p < problem.output_height; ++p)
        for (int64_t q = 0; q < problem.output_width; ++q) {
          const int64_t at = first[view.offset(k) + c * view.c + p * view.h + q * view.w];
          if (at < -1 || at >= map.height * map.width) return at;
        }
  }
  return -1;
}

}  // namespace roidl
