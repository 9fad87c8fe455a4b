// Python's answer to a long call that asks whether to stop: it runs Python's signal handlers, one
// of which may raise.
#pragma once
#include <Python.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>

#include "interrupt.h"

namespace roidl {

// What a handler raised, from when the core is told to stop until Python is back.
class RaisedByHandler {
 public:
  void keep() {
#if PY_VERSION_HEX >= 0x030c0000
    error_ = PyErr_GetRaisedException();
#else
    PyErr_Fetch(&type_, &error_, &traceback_);
#endif
  }
  // Raises it; false if there is nothing.
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

// From `begin` on until it dies, calls from this thread run Python's signal handlers now and then.
// It begins with the GIL, which whoever goes on to call the core releases, or keeps. (Cython makes
// no variable that is not used, so to be there is not enough.)
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
    // Python runs handlers on the main thread alone: others need not wait for the GIL.
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
