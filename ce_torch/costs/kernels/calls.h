// What Python calls: the kernels, with tensors as Python's objects.

#pragma once

#include "elements.h"
#include "python.h"
#include "refusals.h"
#include "softmax_change.h"

namespace {

// Reads a tensor of Python's, or fails with a Python exception: what PyTorch offers by DLPack.
int (*read_tensor)(PyObject*, Tensor*);
// The types of plain tensors: torch.Tensor and torch.nn.Parameter.
PyObject* plain_types[2];

bool is_plain(PyObject* object) {
  PyObject* type = PyObject_Type(object);
  Py_DecRef(type);
  return type == plain_types[0] || type == plain_types[1];
}

// Reads a tensor, unless it is not plain.
bool read_plain(PyObject* object, Tensor* tensor) {
  if (!is_plain(object)) return false;
  if (read_tensor(object, tensor) == 0) return true;
  PyErr_Clear();
  return false;
}

// Says why z, y and the weights in Python's arguments can't be taken.
Refusal check_inputs(PyObject* const* objects, const Signature& signature) {
  Arguments arguments;
  for (int i = 0; i < inputs && (i < 2 || signature.inputs[i - 2] == 'w'); i++) {
    if (is_none(objects[i])) continue;
    if (!read_plain(objects[i], &arguments.tensor[i])) return not_plain;
    arguments.is_there[i] = true;
  }
  return check_inputs(arguments, signature.is_softmax);
}

// Reads Python's arguments: z, y and what else the cost takes, then reduction, threads, statistics, and tensors.
Arguments read(PyObject* const* objects, const Signature& signature, std::initializer_list<Operand> last) {
  Arguments arguments;
  auto read_operand = [&](PyObject* object, int operand) {
    arguments.is_there[operand] = !is_none(object) && read_tensor(object, &arguments.tensor[operand]) == 0;
  };
  for (int i = 0; i < 2; i++) read_operand(*objects++, i);
  int weight = of_weight;
  double* number = arguments.numbers;
  for (const char* kind = signature.inputs; *kind; kind++, objects++) {
    if (*kind == 'w') read_operand(*objects, weight++);
    if (*kind == 'i') arguments.ignore_index = PyLong_AsLongLong(*objects);
    if (*kind == 'd') *number++ = PyFloat_AsDouble(*objects);
  }
  arguments.reduction = Reduction(PyLong_AsLongLong(*objects++));
  arguments.threads = int(PyLong_AsLongLong(*objects++));
  if (!is_none(*objects)) read_tensor(*objects, &arguments.statistics);
  for (Operand operand : last) read_operand(*++objects, operand);
  arguments.holds_python = true;
  return arguments;
}

// From one number to the next in a dimension of z, counted from the last.
int64_t step(const Tensor& tensor, int dim_from_last) {
  int dim = tensor.ndim - dim_from_last;
  return dim < 0 || tensor.shape[dim] == 1 ? 0 : tensor.strides[dim];
}

// Returns true if all of a tensor's numbers are the same one in memory.
bool is_expanded(const Tensor& tensor) {
  for (int dim = 1; dim <= tensor.ndim; dim++)
    if (step(tensor, dim) != 0) return false;
  return true;
}

struct Call : Task {
  int64_t element_count;
  int64_t most_short;  // columns of rows that are computed side by side for that alone
  bool holds_python;

  Call(const Arguments& arguments, bool is_softmax) : Task{arguments} {
    threads = arguments.threads;
    statistics = arguments.statistics.elements() ? arguments.statistics.data : nullptr;
    holds_python = arguments.holds_python;
    const Tensor* tensors[operands] = {};
    for (int i = 0; i < operands; i++) {
      if (!arguments.is_there[i]) continue;
      find_type(arguments.tensor[i], &type[i]);
      tensors[i] = &arguments.tensor[i];
    }
    // δ of each example with one gradient for all is that of their sum.
    bool is_delta = tensors[of_grad] && !tensors[of_v];
    if (reduction == Reduction::none && is_delta && is_expanded(*tensors[of_grad])) reduction = Reduction::sum;
    set_layout(tensors, is_softmax);
    // How a cost changes is computed down a tile, not as its numbers lie.
    bool is_line_by_line = is_softmax && !tensors[of_v];
    most_short = is_line_by_line ? short_softmax_bytes * 8 / arguments.tensor[of_z].dtype.bits : short_columns;
    // So few that their powers are kept, and whole lines of memory.
    int64_t kept = most_powers / columns / 4 * 4;
    if (is_softmax && is_delta && tensors[of_delta] && !statistics && kept) most_side_by_side = kept;
  }

  // Of the tensors that are there.
  void set_layout(const Tensor* const* tensors, bool is_softmax) {
    const Tensor& z = *tensors[of_z];
    for (int i = 0; i < operands; i++)
      if (tensors[i]) data[i] = tensors[i]->data;
    element_count = z.elements();
    columns = z.shape[z.ndim - 1];
    examples = element_count / columns;
    int64_t row = 1;
    for (int dim = 1; dim <= z.ndim; dim++) {
      Steps steps;
      for (int i = 0; i <= of_delta; i++) {
        bool lacks_columns = i == of_y && has_classes();
        if (tensors[i] && dim > lacks_columns) steps.of[i] = step(*tensors[i], dim - lacks_columns);
      }
      if (dim == 1) {
        column = steps;
        continue;
      }
      if (has_rows()) {
        if (tensors[of_grad]) steps.of[of_grad] = step(*tensors[of_grad], dim - 1);
        steps.of[of_row] = row;
        row *= z.shape[z.ndim - dim];
      }
      layout.add(z.shape[z.ndim - dim], steps);
    }
    std::reverse(layout.dim, layout.dim + layout.dims);
    // Of a sum over elements rows need not end where examples end.
    bool is_flat = !is_softmax && !has_rows() && !has_classes();
    if (is_flat) layout.add(columns, column);
    layout.collapse();
    if (is_flat) {
      columns = layout.inner().size;
      column = layout.inner().steps;
      layout.dims--;
      layout.collapse();
      // Rather than z and δ, y is transposed where it lies across.
      Dim& rows = layout.dim[layout.dims - 1];
      if (columns > short_columns && rows.size >= few_rows && are_columns_far(of_y)) {
        std::swap(rows.size, columns);
        std::swap(rows.steps, column);
      }
    }
  }

  // Returns true if rows are to be computed side by side: columns are few, or in z or y farther apart than rows.
  outlined bool is_tiled() const {
    int64_t rows = layout.inner().size;
    if (columns <= most_short && columns <= 2 * rows) return true;
    return rows >= few_rows && (are_columns_far(of_z) || (!has_classes() && are_columns_far(of_y)));
  }
  bool are_columns_far(Operand tensor) const {
    int64_t row = std::abs(layout.inner().steps.of[tensor]);
    return row != 0 && row < std::abs(column.of[tensor]);
  }
};

// Calls f with a number of the type to compute in, and true if rows are computed side by side. Returns false, and does
// not call it, if some y is no class. Other threads of Python run meanwhile, unless the work is too little for that.
template <class Function> bool run(const Call& call, Function f) {
  auto kernel = [&] {
    if (call.has_classes() && !call.all_are_classes()) return false;
    bool is_tiled = call.is_tiled();
    if (call.is_float64()) is_tiled ? f(0.0, std::true_type()) : f(0.0, std::false_type());
    else is_tiled ? f(0.0f, std::true_type()) : f(0.0f, std::false_type());
    return true;
  };
  if (!call.holds_python || call.element_count <= part_elements) return kernel();
  WithoutPython meanwhile;
  return kernel();
}

// Returns false, without a C, if some y is no class.
template <template <class, bool> class Kernel, bool is_softmax> bool run_cost(const Arguments& arguments) {
  Call call(arguments, is_softmax);
  return run(call, [&](auto real, auto tiled) { Kernel<decltype(real), tiled>(call).cost(); });
}

// Returns how many numbers the statistics of rows have, which are those of examples: an even number, so that the first
// two can be a double; none where they would be more than a hundredth of z.
int64_t count_statistics(const Tensor& z, const Tensor& y) {
  int64_t columns = z.shape[z.ndim - 1], each = y.dtype.code == dlpack_int ? 2 : 3;
  if (100 * each * std::max<int>(z.dtype.bits, 32) > columns * z.dtype.bits) return 0;
  int64_t count = z.elements() / columns * each;
  return 2 + count + count % 2;
}

// Returns true if all that is read is as large as z says. Since the forward pass somebody may have changed what was kept
// where autograd does not see it.
bool fit(const Arguments& arguments, bool is_softmax) {
  if (check_inputs(arguments, is_softmax) != supported) return false;
  const Tensor &z = arguments.tensor[of_z], &statistics = arguments.statistics;
  auto is_like_z = [&](Operand operand, int dims) {
    if (!arguments.is_there[operand]) return true;
    const Tensor& tensor = arguments.tensor[operand];
    Type type;
    return check(tensor, &type) == supported && is_real(type) && tensor.ndim == dims &&
           std::equal(z.shape, z.shape + dims, tensor.shape);
  };
  if (arguments.is_there[of_delta] && !arguments.is_there[of_grad]) return false;
  int grad_dims = arguments.has_rows() ? z.ndim - 1 : 0;
  if (!is_like_z(of_v, z.ndim) || !is_like_z(of_grad, grad_dims)) return false;
  if (!is_softmax || !statistics.data || statistics.elements() == 0) return true;
  return statistics.elements() == count_statistics(z, arguments.tensor[of_y]) && statistics.dtype.bits == std::max<int>(z.dtype.bits, 32);
}

// Returns false, without a δ, if the arguments do not fit one another.
template <template <class, bool> class Kernel, bool is_softmax> bool run_delta(const Arguments& arguments) {
  if (!fit(arguments, is_softmax)) return false;
  Call call(arguments, is_softmax);
  return run(call, [&](auto real, auto tiled) { Kernel<decltype(real), tiled>(call).delta(); });
}

// Of v, grad_output, and how C and δ change, the last of which may be missing; returns false as `run_delta` does.
template <template <class, bool> class Kernel, bool is_softmax> bool run_change(const Arguments& arguments) {
  if (!fit(arguments, is_softmax)) return false;
  Call call(arguments, is_softmax);
  return run(call, [&](auto real, auto tiled) { Kernel<decltype(real), tiled>(call).change(); });
}

template <bool is_softmax> int64_t count_statistics(const Arguments& arguments) {
  if (check_inputs(arguments, is_softmax) != supported) return -1;
  return is_softmax ? count_statistics(arguments.tensor[of_z], arguments.tensor[of_y]) : 0;
}

}  // namespace

extern "C" {
int ce_torch_abi_version() { return abi_version; }

void ce_torch_set_python(int (*reads_tensor)(PyObject*, Tensor*), PyObject* tensor, PyObject* parameter) {
  read_tensor = reads_tensor;
  plain_types[0] = tensor;
  plain_types[1] = parameter;
}

// Returns True if every cost takes z and y.
PyObject* ce_torch_takes(PyObject*, PyObject* const* arguments, int64_t) {
  return PyBool_FromLong(check_inputs(arguments, {false, ""}) == supported);
}

// Returns True if a tensor's numbers can be read in memory.
PyObject* ce_torch_reads(PyObject*, PyObject* const* arguments, int64_t) {
  Tensor tensor;
  Type type;
  return PyBool_FromLong(read_plain(arguments[0], &tensor) && check(tensor, &type) == supported);
}
}
