// Python's answer to a long call that asks whether to stop: it runs Python's signal handlers, one
// of which may raise.
#pragma once
#include <Python.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>

#include "interrupt.h"

namespace roidl {

// The exception of a signal handler, kept from the request to stop until Python has control again.
class RaisedByHandler {
 public:
  void keep() {
#if PY_VERSION_HEX >= 0x030c0000
    error_ = PyErr_GetRaisedException();
#else
    PyErr_Fetch(&type_, &error_, &traceback_);
#endif
  }
  // Raises the exception; returns false if there is none.
  bool raise() {
#if PY_VERSION_HEX >= 0x030c0000
    if (error_ == nullptr) return false;
    PyErr_SetRaisedException(error_);
#else
    if (type_ == nullptr) return false;
    PyErr_Restore(type_, error_, traceback_);
#endif
    type_ = error_ = traceback_ = nullptr;
    return true;
  }

 private:
  PyObject *type_ = nullptr, *error_ = nullptr, *traceback_ = nullptr;
};

inline thread_local RaisedByHandler raised_by_handler;

// From begin() to destruction, calls from this thread run Python's signal handlers now and then.
// begin() is called with the GIL; the call of the core may release the GIL or keep it. (The
// function exists because Cython does not create a variable that is never used.)
class AnswersSignals {
 public:
  void begin() { interruptible_.emplace(stop_asked, PyThreadState_Get()); }

 private:
  static PyThreadState* current_state() {
#if PY_VERSION_HEX >= 0x030d0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
  }

  static bool stop_asked(void* context) {
    // Python runs handlers on the main thread only, so other threads need not wait for the GIL.
    if (syscall(SYS_gettid) != getpid()) return false;
    auto* state = static_cast<PyThreadState*>(context);
    const bool released = current_state() != state;
    if (released) PyEval_RestoreThread(state);
    const bool raised = PyErr_CheckSignals() != 0;
    if (raised) raised_by_handler.keep();
    if (released) PyEval_SaveThread();
    return raised;
  }

  std::optional<Interruptible> interruptible_;
};

}  // namespace roidl
