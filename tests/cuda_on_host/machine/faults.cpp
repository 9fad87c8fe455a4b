// What is said of a fault: which thread of which kernel, in which line; and what a process reports
// when it ends.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <vector>

#include "machine.h"

namespace machine {

namespace {

std::string current, last;
long count = 0;

std::vector<KernelType*>& kernel_types() {
  static std::vector<KernelType*> types;
  return types;
}

// "Gather<…>" of "const char* machine::name_of_kernel() [with Kernel = roidl::cuda::Gather<…>]".
std::string kernel_name(const KernelType& type) {
  std::string name = type.name;
  const size_t begin = name.find("Kernel = ");
  if (begin != std::string::npos) name = name.substr(begin + 9, name.size() - begin - 10);
  for (const char* known : {"roidl::cuda::", "{anonymous}::", "roidl::"})
    for (size_t at; (at = name.find(known)) != std::string::npos;)
      name.erase(at, std::string(known).size());
  return name;
}

// The file and line of a place in the code, by addr2line, where there is one.
std::string line_of(const void* code) {
  Dl_info info{};
  if (code == nullptr || dladdr(code, &info) == 0) return "unknown code";
  const char* const at = static_cast<const char*>(code) - 1;
  char command[1000];
  std::snprintf(command, sizeof command, "addr2line -e '%s' %#tx 2>/dev/null", info.dli_fname,
                at - static_cast<const char*>(info.dli_fbase));
  std::string line;
  if (FILE* const pipe = popen(command, "r")) {
    for (int c; (c = std::fgetc(pipe)) != EOF && c != '\n';) line += static_cast<char>(c);
    pclose(pipe);
  }
  return line.empty() || line[0] == '?' ? "unknown line" : line;
}

struct AtExit {
  AtExit() { options(), kernel_types(); }  // so they live longer
  ~AtExit() {
    if (options().report.empty()) return;
    FILE* const file = std::fopen(options().report.c_str(), "a");
    if (file == nullptr) return;
    std::string text = "faults\t" + std::to_string(count) + "\t" + last + "\n";
    for (const KernelType* type : kernel_types())
      text += "kernel\t" + std::to_string(type->launches) + "\t" + kernel_name(*type) + "\n";
    std::fwrite(text.data(), 1, text.size(), file);  // at once: others append, too
    std::fclose(file);
  }
} at_exit;

}  // namespace

KernelType::KernelType(const char* its_name) : name(its_name) { kernel_types().push_back(this); }

void note_fault(const std::string& what, const void* code) {
  ++count;
  if (!current.empty()) return;
  current = what + ", at " + line_of(code) + ", by thread " + std::to_string(now.thread) +
            " of block " + std::to_string(now.block);
  if (now.launched != nullptr) current += " of " + kernel_name(*now.launched->type);
  last = current;
}

bool has_fault() { return !current.empty(); }
std::string take_fault() {
  std::string taken;
  std::swap(taken, current);
  return taken;
}
const std::string& last_fault() { return last; }

void fault(const std::string& what, const void* code) {
  in_kernel = false;
  note_fault(what, code);
  abandon();
}

void complain_of_access(const char* what, const void* at, size_t bytes, const void* code) {
  if (!options().goes_on) fault_of_access(what, at, bytes, code);
  const Outside outside;
  static std::set<std::pair<const char*, const void*>> known;
  if (!known.insert({what, code}).second) return;
  note_fault(std::string(what) + ": " + std::to_string(bytes) + " bytes at " + describe(at), code);
  std::fprintf(stderr, "cuda_on_host: %s\n", take_fault().c_str());
}

void fault_of_access(const char* what, const void* at, size_t bytes, const void* code) {
  in_kernel = false;
  fault(std::string(what) + ": " + std::to_string(bytes) + " bytes at " + describe(at), code);
}

}  // namespace machine
