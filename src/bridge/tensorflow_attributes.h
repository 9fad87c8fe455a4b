// What a node was made with, apart from its inputs: attributes as the core's structs.
#pragma once
#include <cstring>
#include <string>
#include <type_traits>

#include "bridge/tensorflow_status.h"
#include "run.h"

namespace roidl::bridge {

// A node's parameters are one attribute, the bytes `params`, 8 for each number: the catalogue's
// version, then the fields of the struct in their order (every attribute of its own costs an eager
// call 0.4 us, and a list of integers 0.5 more than bytes). Those that the shape of a result
// depends on are not among them: a shape function cannot read attributes. They are the shape of the
// input `grid`, [PH, PW, 0], or [0, PH, PW] when channels come first. Of several maps,
// canonical_scale, canonical_level and their scales follow.
inline bool is_of_grid(const char* name) {
  for (const char* other : {"output_height", "output_width", "layout"})
    if (std::strcmp(name, other) == 0) return true;
  return false;
}

struct Attributes {
  AnyParams params;
  int maps = 1;
  bool has_pyramid = false;
  Pyramid pyramid;  // without levels and counts, which are inputs
  int64_t num_indices = 0, num_levels = 0, num_counts = 0;
};

inline int64_t read_number(tf::KernelConstruction* construction, const char* name) {
  int64_t value = 0;
  Status status;
  api.TF_OpKernelConstruction_GetAttrInt64(construction, name, &value, status);
  status.check("roidl");
  return value;
}

inline std::string read_bytes(tf::KernelConstruction* construction, const char* name) {
  int32_t list_size = 0, length = 0;
  Status status;
  api.TF_OpKernelConstruction_GetAttrSize(construction, name, &list_size, &length, status);
  status.check("roidl");
  std::string bytes(length, 0);
  api.TF_OpKernelConstruction_GetAttrString(construction, name, bytes.data(), length, status);
  status.check("roidl");
  return bytes;
}

// The attribute `params`, one number after the other.
class Values {
 public:
  explicit Values(tf::KernelConstruction* construction) {
    const std::string bytes = read_bytes(construction, "params");
    count_ = static_cast<int>(bytes.size() / sizeof *values_);
    if (count_ > kMost || bytes.size() % sizeof *values_ != 0) refuse();
    std::memcpy(values_, bytes.data(), bytes.size());
    if (whole() != kCatalogueVersion) refuse();
  }

  int left() const { return count_ - next_; }
  int64_t whole() {
    if (left() == 0) refuse();
    return values_[next_++];
  }
  // TensorFlow's own float attributes are float32.
  double real() { return bit_cast<double>(whole()); }
  // To the end: how boxes find their map. Returns how many maps there are.
  int pyramid(Pyramid& pyramid) {
    pyramid.canonical_scale = real();
    pyramid.canonical_level = real();
    const int maps = left();
    if (maps < 1 || maps > kMaxMaps) refuse();
    for (int i = 0; i < maps; ++i) pyramid.scales[i] = real();
    return maps;
  }
  void end() const {
    if (left() > 0) refuse();
  }

 private:
  [[noreturn]] void refuse() const {
    fail(ErrorKind::value, "roidl", "this node was made by another version of roidl (catalogue ",
         values_[0], ", here ", kCatalogueVersion, "), or its parameters are not whole: ", count_,
         " numbers");
  }

  static constexpr int kMost = 32;
  int64_t values_[kMost] = {};
  int count_ = 0, next_ = 0;
};

inline void read_attributes(tf::KernelConstruction* construction, Family family, bool several,
                            Attributes& attributes) {
  Values values(construction);
  attributes.params = params_of(family);
  visit_params(attributes.params, [&](const char* name, auto& field) {
    using Field = std::decay_t<decltype(field)>;
    if (is_of_grid(name)) return;
    if constexpr (std::is_same_v<Field, double>)
      field = values.real();
    else
      field = static_cast<Field>(values.whole());
  });
  attributes.num_indices = read_number(construction, "num_indices");
  if (several) {
    attributes.has_pyramid = true;
    attributes.maps = values.pyramid(attributes.pyramid);
    attributes.num_levels = read_number(construction, "num_levels");
    attributes.num_counts = read_number(construction, "num_counts");
  }
  values.end();
}

// Of assign_levels.
struct LevelsRule {
  int maps = 0;
  Pyramid pyramid;
};

inline void read_attributes(tf::KernelConstruction* construction, LevelsRule& rule) {
  rule.maps = Values(construction).pyramid(rule.pyramid);
}

struct Refusal {
  std::string sentence;
};

inline void read_attributes(tf::KernelConstruction* construction, Refusal& refusal) {
  refusal.sentence = read_bytes(construction, "sentence");
}

}  // namespace roidl::bridge
