// The Python door's translation of the core's errors into Python's exceptions.
#pragma once
#include <Python.h>

#include <exception>
#include <new>

#include "error.h"
#include "python_signals.h"

namespace roidl {

// Called inside a catch block, with the GIL.
inline void raise_python_error() {
  try {
    throw;
  } catch (const Interrupted&) {
    raised_by_handler.raise();
  } catch (const Error& error) {
    PyObject* const types[] = {PyExc_ValueError, PyExc_TypeError, PyExc_NotImplementedError,
                               PyExc_RuntimeError};
    PyErr_SetString(types[static_cast<int>(error.kind())], error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

}  // namespace roidl
