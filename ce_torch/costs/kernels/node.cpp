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

// What a call computes: C, statistics for a backward pass, and, where z has a tangent, C's.
struct Computed {
  at::Tensor C, statistics, tangent;
};

// Returns no C where the kernels do not support the inputs, or some y is no class.
Computed compute(const Cost& cost, KernelCall& call, c10::IntArrayRef rows, at::ScalarType dtype, const at::Tensor* v,
    bool is_tracked) {
  int64_t count = cost.kernels.count_statistics(call.arguments);
  if (count < 0) return {};
  Computed computed{at::detail::empty_cpu(rows, dtype)};
  if ((is_tracked || v) && count > 0) {
    computed.statistics = at::detail::empty_cpu({count}, call.z().scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
    call.arguments.statistics = described(computed.statistics, computed.statistics.mutable_data_ptr());
  }
  set_written(call.arguments, of_row, computed.C);
  call.arguments.holds_python = true;
  if (!cost.kernels.cost(call.arguments)) return {};
  if (!v) return computed;
  computed.tangent = at::detail::empty_cpu(rows, dtype);
  set_read(call.arguments, of_v, *v);
  set_written(call.arguments, of_row, computed.tangent);
  return cost.kernels.change(call.arguments) ? computed : Computed{};
}

// Returns C, with a tangent where z has one, or with a node where z is tracked; nothing where the node does not apply.
at::Tensor run(const Cost& cost, KernelCall& call, const at::Tensor* const* tensors, at::ScalarType dtype) {
  const at::Tensor &z = *tensors[of_z], v = z._fw_grad(/*level=*/0);
  bool moves = v.defined(), is_tracked = at::GradMode::is_enabled() && z.requires_grad();
  if (at::GradMode::is_enabled())
    for (int i = of_y; i < inputs; i++)
      if (tensors[i] && tensors[i]->requires_grad()) return {};
  if (is_tracked && (moves || at::SavedTensorDefaultHooks::get_hooks())) return {};
  const Constants constants = call.arguments;
  if (!call.set_inputs(tensors, moves)) return {};
  const at::Tensor* direction = moves ? call.transforms.numbers(v, /*is_batch=*/true) : nullptr;
  if (moves && (!direction || (at::GradMode::is_enabled() && v.requires_grad()))) return {};
  RECORD_FUNCTION(cost.name, c10::ArrayRef<const c10::IValue>(), at::sequence_number::peek());
  int64_t dims = constants.reduction == Reduction::none ? call.z().dim() - 1 : call.transforms.vmap ? 1 : 0;
  Computed computed = compute(cost, call, call.z().sizes().slice(0, dims), dtype, direction, is_tracked);
  if (!computed.C.defined()) return {};
  at::Tensor C = call.transforms.wrapped(computed.C);
  if (moves) C._set_fw_grad(call.transforms.wrapped(computed.tangent), /*level=*/0, /*is_inplace_op=*/false);
  if (is_tracked) set_history<CostNode>(C, cost, constants, tensors, std::move(computed.statistics));
  return C;
}

// Returns C in a dtype, of the dtype, reduction, z, y and what else the cost takes; None where the node does not apply.
PyObject* call(PyObject* self, PyObject* const* objects, Py_ssize_t) {
  HANDLE_TH_ERRORS
  const Cost& cost = *(const Cost*)PyCapsule_GetPointer(self, nullptr);
  const at::Tensor* tensors[inputs] = {};
  auto transforms = Transforms::active();
  KernelCall call;
  if (!transforms || !read(cost, objects + 1, call.arguments, tensors)) return none();
  call.transforms = *transforms;
  at::Tensor C = run(cost, call, tensors, ((THPDtype*)*objects)->scalar_type);
  return C.defined() ? THPVariable_Wrap(std::move(C)) : none();
  END_HANDLE_TH_ERRORS
}

}  // namespace

// Returns a function of Python's that computes a cost, or None.
extern "C" PyObject* ce_torch_node(const void* kernels, const char* name, PyObject* gradient, PyObject* change) {
  static PyMethodDef definition = {"cost", (PyCFunction)(void*)call, METH_FASTCALL, nullptr};
  Py_IncRef(gradient);
  Py_IncRef(change);
  auto* cost = new Cost{*(const Kernels*)kernels, name, gradient, change};
  THPObjectPtr self(PyCapsule_New(cost, nullptr, nullptr));
  return self ? PyCFunction_New(&definition, self.get()) : nullptr;
}
