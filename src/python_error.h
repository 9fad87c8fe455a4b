// Errors between the core and Python's binding: the core's become Python's exceptions, and those of
// a Python function that the core calls pass through the core.
#pragma once
#include <Python.h>

#include <exception>
#include <new>

#include "error.h"
#include "problem.h"
#include "python_signals.h"

namespace roidl {

// Thrown where a Python error is set already, which is then raised unchanged.
struct PythonErrorIsSet {};

// Lends memory through a function that returns NULL if it has set a Python error.
struct PythonLender {
  char* (*give)(void* array, int64_t bytes) = nullptr;
  void* array = nullptr;

  Lender lender() {
    const auto lend = [](void* self, int64_t bytes) {
      const auto& asked = *static_cast<const PythonLender*>(self);
      char* const data = asked.give(asked.array, bytes);
      if (data == nullptr) throw PythonErrorIsSet();
      return data;
    };
    return {lend, this};
  }
};

// Called inside a catch block, with the GIL.
inline void raise_python_error() {
  try {
    throw;
  } catch (const Interrupted&) {
    raised_by_handler.raise();
  } catch (const PythonErrorIsSet&) {
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
