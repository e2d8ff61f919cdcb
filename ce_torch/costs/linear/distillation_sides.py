"""The layers of a distillation, student and teacher: z of a block of examples, and the gradients that it adds to.

The CPU's kernels for products take tiles of zᵀ, some classes of a block. Elsewhere PyTorch's products take the block.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ce_torch.costs.kernels import layer_numbers
from ce_torch.costs.kernels.layer_numbers import LANES, add_products, write_rows
from ce_torch.costs.kernels.products import add_to_sums, address
from ce_torch.costs.linear import blocks
from ce_torch.costs.linear.blocks import split
from ce_torch.costs.linear.cpu_tiles import Tiles, empty


class Side:
    """Student or teacher: z of a block, and the needed gradients of x, weight and bias, to which it then adds."""

    def __init__(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, needs: tuple[bool, ...], dtype: torch.dtype
    ) -> None:
        self.x, self.weight, self.bias, self.dtype = x, weight, bias, dtype
        self.gradients = [
            self.zeros(tensor) if needed and tensor is not None else None
            for tensor, needed in zip((x, weight, bias), needs, strict=True)
        ]

    def zeros(self, tensor: Tensor) -> Tensor:
        """Return the sum of no blocks, to become a tensor's gradient; in half precision many would round many times."""
        return torch.zeros(tensor.shape, dtype=self.dtype, device=tensor.device)

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the weight, in half precision a part at a time, in the dtype to compute in."""
        assert self.weight is not None
        K, D = self.weight.shape
        rows = K if self.weight.dtype == self.dtype else max(blocks.FEWEST_ELEMENTS // max(D, 1), 1)
        for classes in split(K, rows):
            yield classes, self.weight[classes].to(self.dtype)

    def z(self, block: slice, memory: Tensor | None) -> Tensor:
        """Return z of a block of examples."""
        if self.weight is None:
            return self.x[block].to(self.dtype, copy=True)
        rows = block.stop - block.start
        z = self.x.new_empty(rows, len(self.weight), dtype=self.dtype) if memory is None else memory[:rows]
        self.write_products(z, block)
        return z if self.bias is None else z.add_(self.bias)

    def write_products(self, z: Tensor, block: slice) -> None:
        """Write x Wᵀ of a block."""
        x = self.x[block].to(self.dtype)
        for classes, weight in self.parts():
            torch.mm(x, weight.mT, out=z[:, classes])

    def add(self, block: slice, gradient: Tensor) -> None:
        """Add what the gradient by z of a block contributes."""
        x_gradient, weight_gradient, bias_gradient = self.gradients
        if self.weight is None:
            if x_gradient is not None:
                x_gradient[block] = gradient
            return
        if bias_gradient is not None:
            bias_gradient.add_(gradient.sum(0))
        self.add_products(block, gradient, x_gradient, weight_gradient)

    def add_products(
        self, block: slice, gradient: Tensor, x_gradient: Tensor | None, weight_gradient: Tensor | None
    ) -> None:
        """Add the products of the gradient by z to those by x and weight."""
        if weight_gradient is not None:
            weight_gradient.addmm_(gradient.mT, self.x[block].to(self.dtype))
        if x_gradient is not None:
            for classes, weight in self.parts():
                x_gradient[block].addmm_(gradient[:, classes], weight)

    def totals(self) -> Iterator[Tensor | None]:
        """Yield the gradients of x, weight and bias, each in its tensor's dtype."""
        for tensor, gradient in zip((self.x, self.weight, self.bias), self.gradients, strict=True):
            if gradient is None or tensor is None:
                yield None
            else:
                yield gradient[..., : tensor.shape[-1]].to(tensor.dtype).contiguous()


class TiledSide(Side):
    """The same with the CPU's kernels for products, which take tiles of zᵀ.

    In bfloat16 the sum of the gradient by weight has 8 bits more than the gradient itself: these are the `rest`.
    """

    rest: Tensor | None = None

    def zeros(self, tensor: Tensor) -> Tensor:
        if tensor is self.x:
            # A block writes that of its examples, once.
            return torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        if tensor is not self.weight:
            return super().zeros(tensor)
        K, D = tensor.shape
        if tensor.dtype == torch.bfloat16:
            self.rest = torch.zeros(K, D, dtype=torch.int8)
            return torch.zeros(K, D, dtype=tensor.dtype)
        return torch.zeros(K, D + -D % LANES, dtype=self.dtype)

    def write_products(self, z: Tensor, block: slice) -> None:
        assert self.weight is not None
        self.tiles = Tiles(self.x[block], self.weight)
        for _ in self.tiles.classes():
            write_rows(self.tiles.arguments, z)

    def add_products(
        self, block: slice, gradient: Tensor, x_gradient: Tensor | None, weight_gradient: Tensor | None
    ) -> None:
        self.tiles.known = self.tiles.N
        needed = {"x": x_gradient, "weight": weight_gradient}
        memory = self.tiles.gradient_memory(frozenset(name for name, g in needed.items() if g is not None))
        arguments = self.tiles.gradient_arguments(memory)
        products = None if self.rest is None else empty(self.tiles.most_classes, self.tiles.width)
        arguments.has_weight = products is None
        for classes in self.tiles.classes():
            rows = None if weight_gradient is None else weight_gradient[classes]
            arguments.weight = address(rows if products is None else products)
            add_products(self.tiles.arguments, arguments, gradient)
            if products is not None and self.rest is not None and rows is not None:
                add_to_sums(products, rows, self.rest[classes])
        if x_gradient is not None:
            x_gradient[block] = memory["x"][:, : len(gradient)].mT


def new_side(tensors: tuple[Tensor, Tensor | None, Tensor | None], needs: tuple[bool, ...], dtype: torch.dtype) -> Side:
    """Return x, weight and bias as a side."""
    x, weight, bias = tensors
    if weight is None or dtype != torch.float32 or not layer_numbers.supports(x, weight):
        return Side(x, weight, bias, needs, dtype)
    return TiledSide(x, weight, bias, needs, dtype)
