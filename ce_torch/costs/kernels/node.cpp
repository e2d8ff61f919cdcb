// A cost as a function of Python's that makes a node of autograd, in a fraction of a Function's time in Python.
//
// Of Python it uses what CPython 3.11 to 3.14 have in common, so that one binary serves them all. pybind11 would look into
// the state of a thread, which differs, without PYBIND11_SIMPLE_GIL_MANAGEMENT.

#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Dtype.h>

#include "nodes.h"

namespace {

// Reads what Python passes, reduction, z, y and what else the cost takes, or returns false.
bool read(const Cost& cost, PyObject* const* objects, Arguments& arguments, const at::Tensor** tensors) {
  auto read_tensor = [&](PyObject* object, int i) {
    if (object == Py_None) return true;
    if (!THPVariable_CheckExact(object)) return false;
    tensors[i] = &THPVariable_Unpack(object);
    return true;
  };
  char reduction = PyUnicode_AsUTF8(*objects++)[0];
  arguments.reduction = reduction == 'm' ? Reduction::mean : reduction == 's' ? Reduction::sum : Reduction::none;
  int tensor = of_z;
  for (; tensor < 2; tensor++)
    if (!read_tensor(*objects++, tensor)) return false;
  std::fill_n(arguments.numbers, std::size(arguments.numbers), 0.0);
  double* number = arguments.numbers;
  for (const char* kind = cost.kernels.inputs; *kind; kind++, objects++) {
    if (*kind == 'w' && !read_tensor(*objects, tensor++)) return false;
    if (*kind == 'i') arguments.ignore_index = PyLong_AsLongLong(*objects);
    if (*kind == 'd') *number++ = PyFloat_AsDouble(*objects);
  }
  if (!PyErr_Occurred()) return tensors[of_z] && tensors[of_y];
  PyErr_Clear();
  return false;
}

// Python 3.12 and later know objects that live for ever, which the macros of earlier headers do not.
PyObject* none() {
  Py_IncRef(Py_None);
  return Py_None;
}

// Returns C in a dtype, of the dtype, reduction, z, y and what else the cost takes; None where the node does not apply.
PyObject* call(PyObject* self, PyObject* const* objects, Py_ssize_t) {
  HANDLE_TH_ERRORS
  const Cost& cost = *(const Cost*)PyCapsule_GetPointer(self, nullptr);
  const at::Tensor* tensors[inputs] = {};
  Arguments arguments;
  if (!is_unwatched() || !read(cost, objects + 1, arguments, tensors) || !set_inputs(arguments, tensors)) return none();
  const at::Tensor& z = *tensors[of_z];
  bool is_tracked = at::GradMode::is_enabled() && z.requires_grad();
  if (at::GradMode::is_enabled())
    for (int i = of_y; i < inputs; i++)
      if (tensors[i] && tensors[i]->requires_grad()) return none();
  if (is_tracked && at::SavedTensorDefaultHooks::get_hooks()) return none();
  int64_t count = cost.kernels.count_statistics(arguments);
  if (count < 0) return none();
  RECORD_FUNCTION(cost.name, c10::ArrayRef<const c10::IValue>(), at::sequence_number::peek());
  auto rows = arguments.reduction == Reduction::none ? z.sizes().slice(0, z.dim() - 1) : c10::IntArrayRef();
  at::Tensor C = at::detail::empty_cpu(rows, ((THPDtype*)objects[0])->scalar_type), statistics;
  if (is_tracked && z.numel() > cost.kept)
    statistics = at::detail::empty_cpu({count}, z.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  set_written(arguments, of_row, C);
  if (statistics.defined()) arguments.statistics = described(statistics, statistics.mutable_data_ptr());
  arguments.holds_python = true;
  if (!cost.kernels.cost(arguments)) return none();
  if (is_tracked)
    set_history<CostNode>(C, cost, arguments, tensors, std::move(statistics));
  return THPVariable_Wrap(std::move(C));
  END_HANDLE_TH_ERRORS
}

}  // namespace

// Returns a function of Python's that computes a cost, or None.
extern "C" PyObject* ce_torch_node(const void* kernels, const char* name, int64_t kept, PyObject* gradient, PyObject* change) {
  static PyMethodDef definition = {"cost", (PyCFunction)(void*)call, METH_FASTCALL, nullptr};
  Py_IncRef(gradient);
  Py_IncRef(change);
  auto* cost = new Cost{*(const Kernels*)kernels, name, kept, gradient, change};
  THPObjectPtr self(PyCapsule_New(cost, nullptr, nullptr));
  return self ? PyCFunction_New(&definition, self.get()) : nullptr;
}
