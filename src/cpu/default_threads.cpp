// Reads the environment, the process's CPUs and its control group. Numbers are parsed by
// from_chars, which ignores the locale, and divided as integers, which ignore the rounding mode.
#include "default_threads.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include "../error.h"

namespace roidl::cpu {

namespace {

// Removes blanks, an integer, and blanks from the front of the text; an integer that is too large
// becomes the largest int64. Returns false and leaves the text unchanged if there is no integer.
bool take_integer(std::string_view& text, int64_t& number) {
  constexpr std::string_view kBlanks = " \t\n\r\f\v";
  std::string_view rest = text;
  const auto skip_blanks = [&] {
    rest.remove_prefix(std::min(rest.find_first_not_of(kBlanks), rest.size()));
  };
  skip_blanks();
  if (rest.size() > 1 && rest[0] == '+' && rest[1] != '-') rest.remove_prefix(1);
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  if (error == std::errc::invalid_argument) return false;
  if (error == std::errc::result_out_of_range) number = rest[0] == '-' ? INT64_MIN : INT64_MAX;
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  skip_blanks();
  text = rest;
  return true;
}

// Parses positive integers with commas between them and returns the first; 0 if the text is
// anything else, or empty.
int64_t first_of_list(std::string_view text) {
  int64_t first = 0, number = 0;
  for (bool more = true; more;) {
    if (!take_integer(text, number) || number < 1 || number == INT64_MAX) return 0;
    if (first == 0) first = number;
    more = !text.empty();
    if (more && text.front() != ',') return 0;
    if (more) text.remove_prefix(1);
  }
  return first;
}

// Returns the first line of a file, or an empty string.
std::string line_of(const char* path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// Returns the CPU time that the control group grants, in CPUs, from "max 100000" or "200000
// 100000".
int64_t cgroup_quota() {
  std::string lines = line_of("/sys/fs/cgroup/cpu.max");
  if (lines.empty())
    lines = line_of("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") + ' ' +
            line_of("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  std::string_view text = lines;
  int64_t quota = 0, period = 0;
  const bool limited =
      take_integer(text, quota) && take_integer(text, period) && quota > 0 && period > 0;
  return limited ? (quota - 1) / period + 1 : kMaxThreads;
}

}  // namespace

int default_threads() {
  int64_t threads = 0;
  if (const char* given = std::getenv("ROIDL_NUM_THREADS"); given != nullptr && *given != '\0') {
    std::string_view text = given;
    if (!take_integer(text, threads) || !text.empty() || threads < 1)
      fail(ErrorKind::value, "roidl", "ROIDL_NUM_THREADS must be a positive integer, got '", given,
           "'");
  }
  if (const char* given = std::getenv("OMP_NUM_THREADS"); threads == 0 && given != nullptr)
    threads = first_of_list(given);
  if (threads == 0) {
    cpu_set_t set;
    threads = std::thread::hardware_concurrency();
    if (sched_getaffinity(0, sizeof set, &set) == 0) threads = CPU_COUNT(&set);
    threads = std::min(threads, cgroup_quota());
  }
  return static_cast<int>(std::clamp<int64_t>(threads, 1, kMaxThreads));
}

}  // namespace roidl::cpu
