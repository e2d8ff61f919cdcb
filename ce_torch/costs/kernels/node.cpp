// A cost as a node of autograd, as PyTorch's own losses are, which takes a fraction of a Function's time in Python.
//
// It has no formula: it runs the kernels. What more than numbers is asked of goes to Python, where a lawful way is known:
// a call that the kernels do not take or that somebody watches, and a backward pass that is itself differentiated.
//
// Of Python it uses what CPython 3.11 to 3.14 have in common, so that one binary serves them all. pybind11 would look into
// the state of a thread, which differs, without PYBIND11_SIMPLE_GIL_MANAGEMENT.

#include <ATen/DLConvertor.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/utils/object_ptr.h>

#include "arguments.h"

namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

constexpr int inputs = 4;  // z, y, weight and pos_weight
using Inputs = std::array<at::Tensor, inputs>;

// A cost, for as long as the process runs.
struct Cost {
  const Kernels& kernels;
  std::string name;
  int64_t kept;  // of z with no more elements statistics are computed again
  PyObject* gradient;  // of grad_output, statistics, reduction, z, y, and what else the formula takes
};

// Returns true if no mode, no tracer and no transform of torch.func sees what is called.
bool is_unwatched() {
  auto known = c10::default_included_set | c10::autocast_dispatch_keyset;
  return (c10::impl::tls_local_dispatch_key_set().included_ - known).empty();
}

// Returns true for numbers in the CPU's memory as they are, which have no tangent.
bool is_plain(const at::Tensor& tensor) {
  constexpr auto plain = c10::autocast_dispatch_keyset | c10::DispatchKeySet({c10::DispatchKey::CPU,
      c10::DispatchKey::AutogradCPU, c10::DispatchKey::ADInplaceOrView});
  return (tensor.key_set().raw_repr() & ~plain.raw_repr()) == 0 && tensor.has_storage() &&
         !torch::autograd::isFwGradDefined(tensor);
}

Tensor described(const at::Tensor& tensor, const void* data) {
  auto dtype = at::getDLDataType(tensor);
  return {(char*)data, {dlpack_cpu, 0}, int32_t(tensor.dim()), {dtype.code, dtype.bits, dtype.lanes},
      (int64_t*)tensor.sizes().data(), (int64_t*)tensor.strides().data(), 0};
}
void set(Arguments& arguments, Operand operand, const at::Tensor& tensor, const void* data) {
  arguments.is_there[operand] = true;
  arguments.tensor[operand] = described(tensor, data);
}
void set_read(Arguments& arguments, Operand operand, const at::Tensor& tensor) {
  set(arguments, operand, tensor, tensor.const_data_ptr());
}
void set_written(Arguments& arguments, Operand operand, const at::Tensor& tensor) {
  set(arguments, operand, tensor, tensor.mutable_data_ptr());
}

// Returns false if the kernels can't take the inputs.
bool set_inputs(Arguments& arguments, const at::Tensor* const* tensors) {
  for (int i = 0; i < inputs; i++) {
    if (!tensors[i]) continue;
    if (!is_plain(*tensors[i])) return false;
    set_read(arguments, Operand(i), *tensors[i]);
  }
  arguments.threads = at::get_num_threads();
  return true;
}

struct CostNode : Node {
  const Cost& cost;
  const Constants constants;
  SavedVariable saved[inputs];
  at::Tensor statistics;

  CostNode(const Cost& cost, const Constants& constants, const at::Tensor* const* tensors, at::Tensor statistics)
      : Node(torch::autograd::collect_next_edges(*tensors[of_z])),
        cost(cost), constants(constants), statistics(std::move(statistics)) {
    for (int i = 0; i < inputs; i++)
      if (tensors[i]) saved[i] = SavedVariable(*tensors[i], /*is_output=*/false);
  }

  std::string name() const override { return cost.name + "Backward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& variable : saved) variable.reset_data();
    statistics.reset();
  }

  variable_list apply(variable_list&& grads) override {
    const at::Tensor& grad_output = grads[0];
    if (!grad_output.defined() || !task_should_compute_output(0)) return {at::Tensor()};
    Inputs unpacked;
    at::Tensor statistics;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (int i = 0; i < inputs; i++) unpacked[i] = saved[i].unpack();
      statistics = this->statistics;
    }
    if (at::GradMode::is_enabled() || !is_unwatched() || !is_plain(grad_output)) return {by_python(grad_output, statistics, unpacked)};
    const at::Tensor* tensors[inputs];
    for (int i = 0; i < inputs; i++) tensors[i] = unpacked[i].defined() ? &unpacked[i] : nullptr;
    Arguments arguments{constants};
    arguments.holds_python = false;
    if (!set_inputs(arguments, tensors)) return {by_python(grad_output, statistics, unpacked)};
    c10::SymIntArrayRef C_sizes = input_metadata(0).shape_as_dim_vector();
    TORCH_CHECK_VALUE(grad_output.sym_sizes() == C_sizes && grad_output.is_floating_point(),
        "grad_output must have the shape of C, ", C_sizes, ", and a floating dtype, got ",
        grad_output.sizes(), " and ", grad_output.dtype());
    at::Tensor delta = at::empty_like(unpacked[of_z]);
    if (statistics.defined()) arguments.statistics = described(statistics, statistics.mutable_data_ptr());
    set_read(arguments, of_grad, grad_output);
    set_written(arguments, of_delta, delta);
    TORCH_CHECK(cost.kernels.delta(arguments),
        "z, y or a weight was changed after the forward pass where autograd does not see it, such as through .data or a "
        "NumPy array, and they do not fit one another any more; change a clone instead");
    return {delta};
  }

  at::Tensor by_python(const at::Tensor& grad_output, const at::Tensor& statistics, const Inputs& unpacked) const {
    pybind11::gil_scoped_acquire gil;
    static const char* const reductions[] = {"none", "sum", "mean"};
    auto tensor = [](const at::Tensor& tensor) {
      return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(tensor));
    };
    pybind11::list arguments;
    arguments.append(tensor(grad_output));
    arguments.append(tensor(statistics));
    arguments.append(reductions[int(constants.reduction)]);
    for (int i = 0; i < 2; i++) arguments.append(tensor(unpacked[i]));
    int weight = of_weight;
    const double* number = constants.numbers;
    for (const char* kind = cost.kernels.inputs; *kind; kind++) {
      if (*kind == 'w') arguments.append(tensor(unpacked[weight++]));
      if (*kind == 'i') arguments.append(constants.ignore_index);
      if (*kind == 'd') arguments.append(*number++);
    }
    THPObjectPtr result(PyObject_CallObject(cost.gradient, pybind11::tuple(arguments).ptr()));
    if (result) return THPVariable_Unpack(result.get());
    python_error error;
    error.persist();
    throw std::move(error);
  }

  // Compiled autograd traces a backward pass with other tensors in place of the saved ones.
  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override {
    args.collect(cost.name);
    args.collect(constants.ignore_index);
    args.collect(int64_t(constants.reduction));
    for (double number : constants.numbers) args.collect(number);
    for (const SavedVariable& variable : saved) args.collect(variable, false);
  }

  variable_list apply_with_saved(const variable_list& grads, torch::autograd::SwapSavedVariables& swap) override {
    for (SavedVariable& variable : saved) swap.before(variable);
    variable_list results = apply(variable_list(grads));
    for (SavedVariable& variable : saved) swap.after(variable);
    return results;
  }
};

// Makes the node that C came from, which autograd's pointers own: of `std` until torch 2.11, of `c10` since.
template <class Pointer, class... Parts> void set_history(const at::Tensor& C, Parts&&... parts) {
  Pointer node;
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<Node>>)
    node = Pointer(new CostNode(std::forward<Parts>(parts)...), [](auto* node) { deleteNode(node); });
  else
    node = c10::make_intrusive<CostNode>(std::forward<Parts>(parts)...);
  torch::autograd::set_history(C, node);
  if constexpr (requires { fire_node_creation_hooks(node); }) fire_node_creation_hooks(node);
}

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
    set_history<decltype(torch::autograd::Edge::function)>(C, cost, arguments, tensors, std::move(statistics));
  return THPVariable_Wrap(std::move(C));
  END_HANDLE_TH_ERRORS
}

}  // namespace

// Returns a function of Python's that computes a cost, or None.
extern "C" PyObject* ce_torch_node(const void* kernels, const char* name, int64_t kept, PyObject* gradient) {
  static PyMethodDef definition = {"cost", (PyCFunction)(void*)call, METH_FASTCALL, nullptr};
  Py_IncRef(gradient);
  auto* cost = new Cost{*(const Kernels*)kernels, name, kept, gradient};
  THPObjectPtr self(PyCapsule_New(cost, nullptr, nullptr));
  return self ? PyCFunction_New(&definition, self.get()) : nullptr;
}
