// TensorFlow's functions, and its way to report an error: a status.
#pragma once
#include <exception>
#include <new>

#include "abi/tensorflow.h"
#include "error.h"

namespace roidl::bridge {

namespace tf = abi::tf;

extern tf::Functions api;  // filled in when the library is loaded

class Status {
 public:
  Status() : status_(api.TF_NewStatus()) {}
  ~Status() { api.TF_DeleteStatus(status_); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  operator tf::Status*() { return status_; }
  bool ok() const { return api.TF_GetCode(status_) == tf::kOk; }
  const char* message() const { return api.TF_Message(status_); }
  // What TensorFlow reports of its own calls.
  void check(const char* op) const {
    if (!ok()) fail(ErrorKind::runtime, op, message());
  }

 private:
  tf::Status* status_;
};

// Runs `body`; an error of any kind becomes the status and is passed to `report`. Nothing may cross
// a C interface.
template <class Body, class Report>
void guarded(Body&& body, Report&& report) {
  tf::Code code = tf::kInternal;
  const auto tell = [&](const char* message) {
    Status status;
    api.TF_SetStatus(status, code, message);
    report(status);
  };
  try {
    body();
  } catch (const Error& error) {
    switch (error.kind()) {
      case ErrorKind::value:
      case ErrorKind::type:
        code = tf::kInvalidArgument;
        break;
      case ErrorKind::unsupported:
        code = tf::kUnimplemented;
        break;
      case ErrorKind::runtime:
        break;
    }
    tell(error.what());
  } catch (const std::bad_alloc&) {
    code = tf::kResourceExhausted;
    tell("roidl: out of memory");
  } catch (const std::exception& error) {
    tell(error.what());
  } catch (...) {
    tell("roidl: unknown error");
  }
}

}  // namespace roidl::bridge
