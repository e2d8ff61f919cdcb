// The transforms of torch.func under which kernels compute: one that differentiates, vmap, or vmap of one that does.

#pragma once

#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <ATen/functorch/TensorWrapper.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace {

constexpr c10::DispatchKeySet transform_keys({c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
    c10::DispatchKey::FuncTorchDynamicLayerBackMode});

// Returns true if no mode, no tracer and no transform sees what is called, but for these.
bool is_unwatched(c10::DispatchKeySet others = {}) {
  auto known = c10::default_included_set | c10::autocast_dispatch_keyset | others;
  return (c10::impl::tls_local_dispatch_key_set().included_ - known).empty();
}

// Returns true for numbers in the CPU's memory as they are.
bool is_in_memory(const at::Tensor& tensor) {
  constexpr auto plain = c10::autocast_dispatch_keyset | c10::DispatchKeySet({c10::DispatchKey::CPU,
      c10::DispatchKey::AutogradCPU, c10::DispatchKey::ADInplaceOrView});
  return (tensor.key_set().raw_repr() & ~plain.raw_repr()) == 0 && tensor.has_storage();
}

// Returns true for such numbers that have no tangent.
bool is_plain(const at::Tensor& tensor) { return is_in_memory(tensor) && !torch::autograd::isFwGradDefined(tensor); }

struct Transforms {
  int64_t derivative = 0, vmap = 0;  // levels, or 0

  // Returns the active ones if nothing else sees what is called.
  static std::optional<Transforms> active() {
    if (is_unwatched()) return Transforms();
    if (!is_unwatched(transform_keys)) return {};
    using at::functorch::TransformType;
    const auto& stack = at::functorch::getDynamicLayerStack();
    auto layer = stack.rbegin();
    Transforms found;
    bool differentiates = layer != stack.rend() && (layer->key() == TransformType::Grad || layer->key() == TransformType::Jvp);
    if (differentiates) found.derivative = layer++->layerId();
    if (layer != stack.rend() && layer->key() == TransformType::Vmap) found.vmap = layer++->layerId();
    return layer == stack.rend() ? std::optional(found) : std::nullopt;
  }

  bool are_none() const { return derivative == 0 && vmap == 0; }

  // Returns the numbers of a tensor, which come first those of a batch where it is one. Null if they are not in memory, or
  // if more than numbers is asked for below the transforms, or of a tensor that does not move.
  const at::Tensor* numbers(const at::Tensor& tensor, bool is_batch, bool moves = false) const {
    const at::Tensor* found = &tensor;
    auto* wrapper = at::functorch::maybeGetTensorWrapper(*found);
    if (wrapper && wrapper->level() == derivative) found = &wrapper->value();
    auto* batched = at::functorch::maybeGetBatchedImpl(*found);
    if (bool(batched) != (vmap && is_batch)) return nullptr;
    if (batched && (batched->level() != vmap || batched->bdim() != 0)) return nullptr;
    if (batched) found = &batched->value();
    using torch::autograd::isFwGradDefined;
    if (!is_in_memory(*found) || (!moves && isFwGradDefined(tensor))) return nullptr;
    bool is_tracked = !are_none() && (found->requires_grad() || (found != &tensor && isFwGradDefined(*found)));
    return is_tracked ? nullptr : found;
  }

  // Returns numbers as the transforms see them, the batch first.
  at::Tensor wrapped(at::Tensor numbers) const {
    if (vmap) numbers = at::functorch::makeBatched(numbers, 0, vmap);
    return derivative ? at::functorch::makeTensorWrapper(numbers, derivative) : numbers;
  }
};

}  // namespace
