// A cost in forward mode, where z has a tangent v: in `torch.autograd.forward_ad`, or under one `torch.func.jvp`.

#pragma once

#include <ATen/functorch/DynamicLayer.h>
#include <ATen/functorch/TensorWrapper.h>

#include "nodes.h"

namespace {

// A tensor and its tangent.
struct Dual {
  at::Tensor primal, tangent;
};

// Returns the level of `torch.func.jvp` where nothing else sees what is called, 0 where not even that does, or -1.
int64_t forward_level() {
  if (is_unwatched()) return 0;
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet func({DispatchKey::FuncTorchDynamicLayerFrontMode, DispatchKey::FuncTorchDynamicLayerBackMode});
  if (!is_unwatched(func)) return -1;
  const auto& transforms = at::functorch::getDynamicLayerStack();
  bool is_jvp = transforms.size() == 1 && transforms[0].key() == at::functorch::TransformType::Jvp;
  return is_jvp ? transforms[0].layerId() : -1;
}

// Returns the tensor that `torch.func.jvp` wraps at a level, or one that it does not wrap.
const at::Tensor& unwrapped(const at::Tensor& tensor, int64_t level) {
  auto* wrapper = at::functorch::maybeGetTensorWrapper(tensor);
  return wrapper && wrapper->level() == level ? wrapper->value() : tensor;
}

// Unwraps the inputs and the tangent v. Returns false unless v is all that moves, and numbers are all that is asked for.
bool unwrap(const at::Tensor** tensors, at::Tensor& v, int64_t level) {
  for (int i = of_y; i < inputs; i++)
    if (tensors[i] && torch::autograd::isFwGradDefined(*tensors[i])) return false;
  v = unwrapped(v, level);
  bool is_tracked = v.requires_grad();
  for (int i = 0; i < inputs; i++) {
    if (!tensors[i]) continue;
    tensors[i] = &unwrapped(*tensors[i], level);
    is_tracked |= tensors[i]->requires_grad();
  }
  return is_plain(v) && !(is_tracked && at::GradMode::is_enabled());
}

// Returns C with its tangent, of what the kernels said of them.
at::Tensor joined(Dual C, int64_t level) {
  if (level) C = {at::functorch::makeTensorWrapper(C.primal, level), at::functorch::makeTensorWrapper(C.tangent, level)};
  C.primal._set_fw_grad(C.tangent, /*level=*/0, /*is_inplace_op=*/false);
  return C.primal;
}

}  // namespace
