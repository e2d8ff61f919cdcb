// What the kernels use of Python: stable functions, declared here, so that nobody needs its headers.

#pragma once

#include <cstdint>

struct PyObject;

extern "C" {
PyObject* PyObject_Type(PyObject*);
void Py_DecRef(PyObject*);
PyObject* PyBool_FromLong(long);
PyObject* PyLong_FromLong(long);
long long PyLong_AsLongLong(PyObject*);
double PyFloat_AsDouble(PyObject*);
void PyErr_Clear();
void* PyEval_SaveThread();
void PyEval_RestoreThread(void*);
#ifdef _WIN32
__declspec(dllimport)
#endif
extern char _Py_NoneStruct;
}

namespace {

bool is_none(PyObject* object) { return object == (PyObject*)&_Py_NoneStruct; }

// Lets other threads of Python run meanwhile.
struct WithoutPython {
  void* state = PyEval_SaveThread();
  ~WithoutPython() { PyEval_RestoreThread(state); }
};

}  // namespace
