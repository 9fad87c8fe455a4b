// The schemas of the operators in PyTorch's dispatcher: which arguments they have, in which order.
#pragma once
#include <cstring>
#include <string>

#include "bridge/torch_stack.h"
#include "run.h"

namespace roidl::bridge {

// Among several maps, every one has a scale of its own.
inline bool is_of_one_map(const char* field) { return std::strcmp(field, "spatial_scale") == 0; }

inline Kind kind_of(const Read& read, bool several) {
  if (several && read.role == Role::maps) return Kind::tensors;  // an absent one is empty
  return read.need == Need::always ? Kind::tensor : Kind::optional;
}

inline const char* type_of(char kind_of_field) {
  return kind_of_field == 'b' ? "bool" : kind_of_field == 'i' ? "int" : "float";
}

// How boxes find their map among several.
template <class Visit>
void visit_rule(Visit&& visit) {
  visit(Kind::numbers, "float[]", "scales");
  visit(Kind::number, "float", "canonical_scale");
  visit(Kind::number, "float", "canonical_level");
}

// Calls visit(kind, type, name) for each argument: what the operator reads, the boxes and what is
// said of each; the shapes of maps that are made; whether each optional result is made; how boxes
// find their map; the fields of the parameters. python/roidl/torch/_arguments.py has this order
// too.
template <class Visit>
void visit_arguments(const Operator& op, bool several, Visit&& visit) {
  const auto tensor = [&](Kind kind, const char* name) {
    const char* const optional = kind == Kind::optional ? "Tensor?" : "Tensor";
    visit(kind, kind == Kind::tensors ? "Tensor[]" : optional, name);
  };
  for (int i = 0; i < op.num_reads(); ++i) tensor(kind_of(op.reads[i], several), op.reads[i].name);
  tensor(Kind::tensor, "boxes");
  tensor(Kind::optional, "batch_indices");
  if (several) {
    tensor(Kind::optional, "levels");
    tensor(Kind::optional, "counts");
  }
  if (op.makes_maps()) {
    visit(Kind::number, "SymInt", "images");
    if (several) {
      visit(Kind::numbers, "SymInt[]", "sizes");
      visit(Kind::numbers, "bool[]", "channels_last");
    } else {
      visit(Kind::number, "SymInt", "height");
      visit(Kind::number, "SymInt", "width");
      visit(Kind::number, "bool", "channels_last");
    }
  }
  for (int i = 0; i < op.num_writes(); ++i)
    if (op.writes[i].optional)
      visit(Kind::number, "bool", (std::string("make_") + op.writes[i].name).c_str());
  if (several) visit_rule(visit);
  Field fields[kMaxFields];
  const int num_fields = fields_of(op.family, fields);
  for (int i = 0; i < num_fields; ++i)
    if (!several || !is_of_one_map(fields[i].name))
      visit(Kind::number, type_of(fields[i].kind), fields[i].name);
}

// What the dispatcher calls an operator: its name, its schema, and what its arguments own.
struct Definition {
  const Operator* op;  // null: assign_levels
  bool several;        // maps
  std::string name;
  std::string schema;
  Signature signature;

  void add(Kind kind, const char* type, const char* argument) {
    schema += std::string(signature.count == 0 ? "(" : ", ") + type + " " + argument;
    signature.add(kind);
  }
};

// Every operator on one map, every operator on several, and assign_levels.
inline constexpr int kNumDefinitions = 2 * kNumOperators + 1;

inline Definition definition_of(const Operator& op, bool several) {
  Definition made{&op, several, (several ? "multiscale_" : "") + std::string(op.name), "", {}};
  made.schema = made.name;
  visit_arguments(op, several, [&](auto... argument) { made.add(argument...); });
  const bool more = op.num_writes() > 1;
  made.schema += more ? ") -> (" : ") -> ";
  for (int i = 0; i < op.num_writes(); ++i) {
    const bool listed = several && op.writes[i].role == Role::maps;
    made.schema += std::string(i > 0 ? ", " : "") + (listed ? "Tensor[]" : "Tensor");
  }
  if (more) made.schema += ")";
  return made;
}

inline Definition definition(int index) {
  if (index < 2 * kNumOperators)
    return definition_of(kOperators[index % kNumOperators], index >= kNumOperators);
  Definition levels{nullptr, true, "assign_levels", "assign_levels", {}};
  levels.add(Kind::tensor, "Tensor", "boxes");
  visit_rule([&](auto... argument) { levels.add(argument...); });
  levels.schema += ") -> Tensor";
  return levels;
}

}  // namespace roidl::bridge
