// What a kernel is asked for, by Python or by a node of autograd, which are compiled apart.

#pragma once

#include "layout.h"

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
enum DlpackCode : uint8_t { dlpack_int, dlpack_uint, dlpack_float, dlpack_bfloat = 4, dlpack_bool = 6 };

// The tensors that a cost takes: z, y, weight and pos_weight.
constexpr int inputs = 4;

// `each` is a mean of its own for each example.
enum class Reduction { none, sum, mean, each };

// What a cost takes beside tensors.
struct Constants {
  int64_t ignore_index = 0;  // of a cost that ignores none, a class like any other
  double numbers[4];  // temperature and label smoothing, or whatever else the cost takes
  Reduction reduction;

  bool has_rows() const { return reduction == Reduction::none || reduction == Reduction::each; }
};

struct Arguments : Constants {
  Tensor tensor[operands];
  bool is_there[operands] = {};
  int threads;
  // Of no data or no numbers, or a double, how much counts in the mean, and from 2 on of each row m, r and T.
  Tensor statistics{};
  bool holds_python;  // and other threads of Python have to wait
};

// The kernels of a cost, for a node of autograd.
struct Kernels {
  const char* inputs;  // see `Signature`
  // Returns how many numbers the statistics have, or -1 if the kernels do not support the inputs.
  int64_t (*count_statistics)(const Arguments&);
  bool (*cost)(const Arguments&);  // returns false, without a C, if some y is no class
  bool (*delta)(const Arguments&);  // returns false, without a δ, if the arguments do not fit one another
  bool (*change)(const Arguments&);  // in the direction v, of C and, where it is there, of δ; returns false as delta does
};
