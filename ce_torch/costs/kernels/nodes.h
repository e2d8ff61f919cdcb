// A cost and its gradient as nodes of autograd, as PyTorch's own losses are.
//
// They have no formula: they run the kernels. What more than numbers is asked of goes to Python, where a lawful way is
// known: what the kernels do not take or somebody watches, derivatives beyond the second, and most stacks of transforms.

#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/SavedTensorHooks.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/utils/object_ptr.h>

#include "kernel_call.h"

namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

using Inputs = std::array<at::Tensor, inputs>;

// A cost, for as long as the process runs.
struct Cost {
  const Kernels& kernels;
  std::string name;
  PyObject* gradient;  // of grad_output, statistics, reduction, z, y, and what else the formula takes
  PyObject* change;    // of v and the same: how C and δ change in the direction v
};

// A node of what was computed from z, y and the weights of a call, which it keeps.
struct CallNode : Node {
  const Cost& cost;
  const Constants constants;
  SavedVariable saved[inputs];
  at::Tensor statistics;

  CallNode(torch::autograd::edge_list&& edges, const Cost& cost, const Constants& constants, const at::Tensor* const* tensors,
      at::Tensor statistics)
      : Node(std::move(edges)), cost(cost), constants(constants), statistics(std::move(statistics)) {
    for (int i = 0; i < inputs; i++)
      if (tensors[i]) saved[i] = SavedVariable(*tensors[i], /*is_output=*/false);
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& variable : saved) variable.reset_data();
    statistics.reset();
  }

  // What was kept, and what the kernels are told of it.
  struct Unpacked : KernelCall {
    Inputs inputs;
    at::Tensor statistics;
    const at::Tensor* tensors[::inputs];
  };
  // Returns false if the kernels can't take what was kept.
  bool unpack(Unpacked& unpacked) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (int i = 0; i < inputs; i++) {
      // A transform that has ended is none.
      unpacked.inputs[i] = at::functorch::unwrapIfDead(saved[i].unpack());
      unpacked.tensors[i] = unpacked.inputs[i].defined() ? &unpacked.inputs[i] : nullptr;
    }
    unpacked.statistics = statistics;
    unpacked.arguments = Arguments{constants};
    unpacked.arguments.holds_python = false;
    if (statistics.defined()) unpacked.arguments.statistics = described(statistics, statistics.mutable_data_ptr());
    auto transforms = Transforms::active();
    unpacked.transforms = transforms.value_or(Transforms());
    return transforms && unpacked.set_inputs(unpacked.tensors);
  }

  // Returns what a function of Python's returns of gradients and of what was kept.
  THPObjectPtr by_python(PyObject* function, std::initializer_list<at::Tensor> gradients, const Unpacked& unpacked) const {
    static const char* const reductions[] = {"none", "sum", "mean"};
    auto tensor = [](const at::Tensor& tensor) {
      return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(tensor));
    };
    pybind11::list arguments;
    for (const at::Tensor& gradient : gradients) arguments.append(tensor(gradient));
    arguments.append(tensor(unpacked.statistics));
    arguments.append(reductions[int(constants.reduction)]);
    for (int i = 0; i < 2; i++) arguments.append(tensor(unpacked.inputs[i]));
    int weight = of_weight;
    const double* number = constants.numbers;
    for (const char* kind = cost.kernels.inputs; *kind; kind++) {
      if (*kind == 'w') arguments.append(tensor(unpacked.inputs[weight++]));
      if (*kind == 'i') arguments.append(constants.ignore_index);
      if (*kind == 'd') arguments.append(*number++);
    }
    THPObjectPtr result(PyObject_CallObject(function, pybind11::tuple(arguments).ptr()));
    if (result) return result;
    python_error error;
    error.persist();
    throw std::move(error);
  }

  // Compiled autograd traces a backward pass with other tensors in place of the saved ones.
  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override {
    args.collect(name());
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

// Makes the node that a tensor came from, which autograd's pointers own: of `std` until torch 2.11, of `c10` since.
template <class Made, class Pointer = decltype(torch::autograd::Edge::function), class... Parts>
void set_history(const at::Tensor& tensor, Parts&&... parts) {
  Pointer node;
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<Node>>)
    node = Pointer(new Made(std::forward<Parts>(parts)...), [](auto* node) { deleteNode(node); });
  else
    node = c10::make_intrusive<Made>(std::forward<Parts>(parts)...);
  torch::autograd::set_history(tensor, node);
  if constexpr (requires { fire_node_creation_hooks(node); }) fire_node_creation_hooks(node);
}

void check_gradient(const char* name, const at::Tensor& gradient, const char* shaped, c10::SymIntArrayRef sizes) {
  TORCH_CHECK_VALUE(gradient.sym_sizes() == sizes && gradient.is_floating_point(), name, " must have the shape of ", shaped,
      ", ", sizes, ", and a floating dtype, got ", gradient.sizes(), " and ", gradient.dtype());
}
void check_fit(bool fits) {
  TORCH_CHECK(fits,
      "z, y or a weight was changed after the forward pass where autograd does not see it, such as through .data or a "
      "NumPy array, and they do not fit one another any more; change a clone instead");
}

// ∂C/∂z, of the gradient of C and z. In a direction v it changes by how C changes, and by that of δ.
struct DeltaNode : CallNode {
  SavedVariable saved_grad;

  DeltaNode(const at::Tensor& grad_output, const Cost& cost, const Constants& constants, const at::Tensor* const* tensors,
      at::Tensor statistics)
      : CallNode(torch::autograd::collect_next_edges(grad_output, *tensors[of_z]), cost, constants, tensors, std::move(statistics)),
        saved_grad(grad_output, /*is_output=*/false) {}

  std::string name() const override { return cost.name + "DeltaBackward"; }

  void release_variables() override {
    CallNode::release_variables();
    std::lock_guard<std::mutex> lock(mutex_);
    saved_grad.reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    const at::Tensor& v = grads[0];
    bool needs_grad = task_should_compute_output(0), needs_z = task_should_compute_output(1);
    if (!v.defined() || !(needs_grad || needs_z)) return {at::Tensor(), at::Tensor()};
    Unpacked unpacked;
    bool is_taken = unpack(unpacked);
    at::Tensor grad_output = unpack_grad();
    if (!is_taken || at::GradMode::is_enabled() || !is_unwatched() || !is_plain(v) || !is_plain(grad_output))
      return change_by_python(v, grad_output, unpacked);
    const at::Tensor& z = unpacked.z();
    check_gradient("v", v, "z", z.sym_sizes());
    auto dtype = z.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor C_change = at::detail::empty_cpu(grad_output.sizes(), dtype), delta_change;
    set_read(unpacked.arguments, of_v, v);
    set_read(unpacked.arguments, of_grad, grad_output);
    set_written(unpacked.arguments, of_row, C_change);
    if (needs_z) set_written(unpacked.arguments, of_delta, delta_change = at::empty_like(z));
    check_fit(cost.kernels.change(unpacked.arguments));
    return {needs_grad ? by_grad(C_change, grad_output) : at::Tensor(), delta_change};
  }

  // Another thread may release what was kept.
  at::Tensor unpack_grad() {
    std::lock_guard<std::mutex> lock(mutex_);
    return at::functorch::unwrapIfDead(saved_grad.unpack());
  }

  // The derivative by a gradient of 0 is finite, as of a product that is 0 where a factor is.
  static at::Tensor by_grad(const at::Tensor& C_change, const at::Tensor& grad_output) {
    at::Tensor hollow = grad_output.eq(0).logical_and(C_change.isfinite().logical_not());
    return C_change.masked_fill(hollow, 0).to(grad_output.scalar_type());
  }

  variable_list change_by_python(const at::Tensor& v, const at::Tensor& grad_output, const Unpacked& unpacked) const {
    pybind11::gil_scoped_acquire gil;
    THPObjectPtr changes = by_python(cost.change, {v, grad_output}, unpacked);
    auto change = [&](int i) {
      PyObject* tensor = PyTuple_GetItem(changes.get(), i);
      return tensor == Py_None ? at::Tensor() : THPVariable_Unpack(tensor);
    };
    return {change(0), change(1)};
  }

  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override {
    CallNode::compiled_args(args);
    args.collect(saved_grad, false);
  }

  variable_list apply_with_saved(const variable_list& grads, torch::autograd::SwapSavedVariables& swap) override {
    swap.before(saved_grad);
    variable_list results = CallNode::apply_with_saved(grads, swap);
    swap.after(saved_grad);
    return results;
  }
};

struct CostNode : CallNode {
  CostNode(const Cost& cost, const Constants& constants, const at::Tensor* const* tensors, at::Tensor statistics)
      : CallNode(torch::autograd::collect_next_edges(*tensors[of_z]), cost, constants, tensors, std::move(statistics)) {}

  std::string name() const override { return cost.name + "Backward"; }

  variable_list apply(variable_list&& grads) override {
    const at::Tensor& grad_output = grads[0];
    if (!grad_output.defined() || !task_should_compute_output(0)) return {at::Tensor()};
    Unpacked unpacked;
    bool is_taken = unpack(unpacked), is_differentiated = at::GradMode::is_enabled();
    bool is_hooked = is_differentiated && at::SavedTensorDefaultHooks::get_hooks();
    auto* grad = is_taken && !is_hooked ? unpacked.transforms.numbers(grad_output, /*is_batch=*/true) : nullptr;
    if (!grad) return {delta_by_python(grad_output, unpacked)};
    check_gradient("grad_output", grad_output, "C", input_metadata(0).shape_as_dim_vector());
    at::Tensor delta = unpacked.empty_like_z();
    unpacked.set_grad(*grad);
    set_written(unpacked.arguments, of_delta, delta);
    check_fit(cost.kernels.delta(unpacked.arguments));
    delta = unpacked.transforms.wrapped(delta);
    if (is_differentiated && (grad_output.requires_grad() || unpacked.inputs[of_z].requires_grad()))
      set_history<DeltaNode>(delta, grad_output, cost, constants, unpacked.tensors, std::move(unpacked.statistics));
    return {delta};
  }

  at::Tensor delta_by_python(const at::Tensor& grad_output, const Unpacked& unpacked) const {
    pybind11::gil_scoped_acquire gil;
    return THPVariable_Unpack(by_python(cost.gradient, {grad_output}, unpacked).get());
  }
};

}  // namespace
