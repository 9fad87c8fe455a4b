// Error: the only way in which the core fails. Each binding (Python, XLA, ...) translates it once.
#pragma once
#include <exception>
#include <locale>
#include <sstream>
#include <string>
#include <utility>

namespace roidl {

// Python names them ValueError, TypeError, NotImplementedError and RuntimeError.
enum class ErrorKind { value, type, unsupported, runtime };

// Exported, so that it can be caught on the other side of a shared library.
class __attribute__((visibility("default"))) Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  ErrorKind kind() const { return kind_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorKind kind_;
  std::string message_;
};

// fail(ErrorKind::value, "roi_align", "boxes must have shape [K, 5], got ", tensor)
template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const char* op, const Parts&... parts) {
  std::ostringstream text;
  text.imbue(std::locale::classic());  // the process's locale may group digits
  text << op << ": ";
  (text << ... << parts);
  throw Error(kind, text.str());
}

}  // namespace roidl
