// What the kernels are told of a call with tensors of PyTorch.

#pragma once

#include <ATen/DLConvertor.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include "arguments.h"
#include "transforms.h"

namespace {

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

// What the kernels are told of a call, and the numbers that it is of.
struct KernelCall {
  Transforms transforms;
  Arguments arguments;
  const at::Tensor* numbers[inputs] = {};
  int64_t grad_strides[most_dims] = {};

  const at::Tensor& z() const { return *numbers[of_z]; }

  at::Tensor empty_like_z() const {
    c10::impl::ExcludeDispatchKeyGuard without_transforms(transform_keys);
    return at::empty_like(z());
  }

  // Returns false if the kernels can't take the inputs.
  bool set_inputs(const at::Tensor* const* tensors, bool z_moves = false) {
    for (int i = 0; i < inputs; i++) {
      if (!tensors[i]) continue;
      numbers[i] = transforms.numbers(*tensors[i], /*is_batch=*/i <= of_y, i == of_z && z_moves);
      if (!numbers[i]) return false;
      set_read(arguments, Operand(i), *numbers[i]);
    }
    arguments.threads = at::get_num_threads();
    return !transforms.vmap || set_batch();
  }

  // Of a batch each cost has a mean or a sum of its own. Returns false unless it is the cost of one example.
  bool set_batch() {
    if (arguments.reduction == Reduction::none) return true;
    arguments.reduction = arguments.reduction == Reduction::mean ? Reduction::each : Reduction::none;
    return z().dim() >= 2 && z().numel() == z().size(0) * z().size(-1);
  }

  // The gradient of C, which of a batch of costs may have fewer dimensions than examples have.
  void set_grad(const at::Tensor& grad) {
    set_read(arguments, of_grad, grad);
    Tensor& told = arguments.tensor[of_grad];
    if (!transforms.vmap || told.ndim == z().dim() - 1) return;
    grad_strides[0] = grad.stride(0);
    told.ndim = int32_t(z().dim() - 1), told.shape = (int64_t*)z().sizes().data(), told.strides = grad_strides;
  }
};

}  // namespace
