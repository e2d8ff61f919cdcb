// A cost as a function of Python's that makes a node of autograd, in a fraction of a Function's time in Python.
//
// Of Python it uses what CPython 3.11 to 3.14 have in common, so that one binary serves them all. pybind11 would look into
// the state of a thread, which differs, without PYBIND11_SIMPLE_GIL_MANAGEMENT.

#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Dtype.h>

#include "forward.h"

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

// C of a call, and what of it a backward pass, or the same call in forward mode, can use.
struct Computed {
  at::Tensor C, statistics;
};

at::Tensor new_rows(const Arguments& arguments, const at::Tensor& z, at::ScalarType dtype) {
  auto rows = arguments.reduction == Reduction::none ? z.sizes().slice(0, z.dim() - 1) : c10::IntArrayRef();
  return at::detail::empty_cpu(rows, dtype);
}

// Returns no C where the kernels do not support the inputs, or some y is no class.
Computed compute(const Cost& cost, Arguments& arguments, const at::Tensor& z, at::ScalarType dtype, bool is_used_again) {
  int64_t count = cost.kernels.count_statistics(arguments);
  if (count < 0) return {};
  Computed computed{new_rows(arguments, z, dtype), {}};
  if (is_used_again && z.numel() > cost.kept) {
    computed.statistics = at::detail::empty_cpu({count}, z.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
    arguments.statistics = described(computed.statistics, computed.statistics.mutable_data_ptr());
  }
  set_written(arguments, of_row, computed.C);
  arguments.holds_python = true;
  return cost.kernels.cost(arguments) ? computed : Computed{};
}

// Returns C with its tangent, of z with the tangent v, or nothing.
at::Tensor run_in_forward_mode(const Cost& cost, Arguments& arguments, const at::Tensor** tensors, at::Tensor v, int64_t level,
    at::ScalarType dtype) {
  if (!unwrap(tensors, v, level) || !set_inputs(arguments, tensors, /*z_moves=*/true)) return {};
  const at::Tensor& z = *tensors[of_z];
  at::Tensor C = compute(cost, arguments, z, dtype, true).C, C_change = new_rows(arguments, z, dtype);
  if (!C.defined()) return {};
  set_read(arguments, of_v, v);
  set_written(arguments, of_row, C_change);
  return cost.kernels.change(arguments) ? joined({C, C_change}, level) : at::Tensor();
}

// Returns C, with a node where z is tracked, or nothing.
at::Tensor run(const Cost& cost, Arguments& arguments, const at::Tensor** tensors, at::ScalarType dtype) {
  const at::Tensor& z = *tensors[of_z];
  bool is_tracked = at::GradMode::is_enabled() && z.requires_grad();
  if (at::GradMode::is_enabled())
    for (int i = of_y; i < inputs; i++)
      if (tensors[i] && tensors[i]->requires_grad()) return {};
  if ((is_tracked && at::SavedTensorDefaultHooks::get_hooks()) || !set_inputs(arguments, tensors)) return {};
  Computed computed = compute(cost, arguments, z, dtype, is_tracked);
  if (is_tracked && computed.C.defined())
    set_history<CostNode>(computed.C, cost, arguments, tensors, std::move(computed.statistics));
  return computed.C;
}

// Returns C in a dtype, of the dtype, reduction, z, y and what else the cost takes; None where the node does not apply.
PyObject* call(PyObject* self, PyObject* const* objects, Py_ssize_t) {
  HANDLE_TH_ERRORS
  const Cost& cost = *(const Cost*)PyCapsule_GetPointer(self, nullptr);
  auto dtype = ((THPDtype*)*objects)->scalar_type;
  const at::Tensor* tensors[inputs] = {};
  Arguments arguments;
  int64_t level = forward_level();
  if (level < 0 || !read(cost, objects + 1, arguments, tensors)) return none();
  RECORD_FUNCTION(cost.name, c10::ArrayRef<const c10::IValue>(), at::sequence_number::peek());
  at::Tensor v = tensors[of_z]->_fw_grad(/*level=*/0), C;
  if (v.defined()) C = run_in_forward_mode(cost, arguments, tensors, v, level, dtype);
  else if (level == 0) C = run(cost, arguments, tensors, dtype);
  return C.defined() ? THPVariable_Wrap(std::move(C)) : none();
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
