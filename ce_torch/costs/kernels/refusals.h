// Which tensors the kernels support.

#pragma once

#include <algorithm>

#include "task.h"

namespace {

bool find_type(const Tensor& tensor, Type* type) {
  int bits = tensor.dtype.bits;
  if (tensor.dtype.lanes != 1) return false;
  switch (tensor.dtype.code) {
    case dlpack_float: *type = bits == 32 ? Type::float32 : bits == 64 ? Type::float64 : Type::float16; return bits >= 16;
    case dlpack_bfloat: *type = Type::bfloat16; return bits == 16;
    case dlpack_int: *type = Type::int64; return bits == 64;
    case dlpack_bool: *type = Type::boolean; return bits == 8;
    default: return false;
  }
}

bool is_real(Type type) { return type != Type::int64 && type != Type::boolean; }

// Why the kernels do not support a call, a place in the sentences of `cpp.py`.
enum Refusal : long {
  supported,
  not_plain,
  not_on_cpu,
  no_dtype,
  misfit,
  no_memory,
  too_many_dims,
  varying_weights,
  too_many_classes,
};

// Returns true if a tensor broadcasts to the shape of z.
bool fits(const Tensor& weight, const Tensor& z) {
  for (int dim = 1; dim <= weight.ndim; dim++)
    if (dim > z.ndim || (weight.shape[weight.ndim - dim] != 1 && weight.shape[weight.ndim - dim] != z.shape[z.ndim - dim]))
      return false;
  return true;
}

// Says why a tensor can't be taken.
Refusal check(const Tensor& tensor, Type* type) {
  if (tensor.device.type != dlpack_cpu) return not_on_cpu;
  if (!find_type(tensor, type)) return no_dtype;
  return tensor.elements() != 0 && !tensor.data ? no_memory : supported;
}

// What a cost takes beside z and y, in the order of its formula: "w" is a weight, "i" ignore_index, "d" a number.
struct Signature {
  bool is_softmax;
  const char* inputs;
};

// Says why z, y and the weights can't be taken.
Refusal check_inputs(const Arguments& arguments, bool is_softmax) {
  Type type[inputs];
  for (int i = 0; i < inputs; i++) {
    if (!arguments.is_there[i]) continue;
    if (Refusal refusal = check(arguments.tensor[i], &type[i])) return refusal;
  }
  const Tensor &z = arguments.tensor[of_z], &y = arguments.tensor[of_y];
  if (!is_real(type[of_z]) || type[of_y] == Type::boolean) return no_dtype;
  if (z.ndim == 0 || z.ndim > most_dims) return too_many_dims;
  if (z.elements() == 0 || !z.data || !y.data) return no_memory;
  // Beside numbers in float32 a class is an integer of 32 bits.
  if ((is_softmax || type[of_y] == Type::int64) && z.shape[z.ndim - 1] > INT32_MAX) return too_many_classes;
  int dims = z.ndim - (type[of_y] == Type::int64);
  if (y.ndim != dims || !std::equal(z.shape, z.shape + dims, y.shape)) return misfit;
  for (int i = of_weight; i < inputs; i++) {
    if (!arguments.is_there[i]) continue;
    const Tensor& weight = arguments.tensor[i];
    if (!is_real(type[i]) && (is_softmax || type[i] != Type::boolean)) return no_dtype;
    if (!fits(weight, z)) return misfit;
    if (is_softmax && (weight.ndim != 1 || weight.shape[0] != z.shape[z.ndim - 1])) return varying_weights;
  }
  return supported;
}

}  // namespace
