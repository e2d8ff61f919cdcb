// What the kernels use of Python and of DLPack: stable functions, declared here, so that nobody needs their headers.

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
extern char _Py_NoneStruct;
}

namespace {

// A tensor as DLPack describes it: https://dmlc.github.io/dlpack.
struct Tensor {
  char* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;

  int64_t elements() const {
    int64_t product = 1;
    for (int dim = 0; dim < ndim; dim++) product *= shape[dim];
    return product;
  }
};

constexpr int32_t dlpack_cpu = 1;
enum DlpackCode : uint8_t { dlpack_int, dlpack_uint, dlpack_float, dlpack_bfloat = 4 };

bool is_none(PyObject* object) { return object == (PyObject*)&_Py_NoneStruct; }

// Lets other threads of Python run meanwhile.
struct WithoutPython {
  void* state = PyEval_SaveThread();
  ~WithoutPython() { PyEval_RestoreThread(state); }
};

}  // namespace
