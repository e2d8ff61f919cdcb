"""Compile the kernels for an H100, without one, and check that they read z and write δ 128 bits at once."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ce_torch.costs._registry import SPECS
from ce_torch.costs.kernels import gpu_kernels as kernels
from ce_torch.costs.kernels.gpu import formulas

POINTERS = {"C": "*fp32", "m": "*fp32", "r": "*fp32"}
CONSTANTS = {"z_column": 1, "y_column": 1, "g_row": 0, "block": 4096}


def compiled(kernel, dtype: str, **constants) -> str:
    """Return `kernel`, compiled for rows of z that begin at multiples of 16 elements, as most do."""
    constants |= {name: value for name, value in CONSTANTS.items() if name in kernel.arg_names}
    integers, numbers = ("z_row", "y_row", "columns", "ignore_index"), ("c", "first", "second")
    types = dict.fromkeys(integers, "i32") | dict.fromkeys(numbers, "fp32") | POINTERS
    if kernel in (kernels.log_likelihood, kernels.log_likelihood_delta):
        types["y"] = "*i64"
    signature = {name: "constexpr" if name in constants else types.get(name, f"*{dtype}") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, type in enumerate(signature.values()) if type[0] == "*" or type == "i32"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}).asm["ptx"]


def is_in_128_bits(access: str, program: str) -> bool:
    return f"{access}.global.v4" in program


def assert_moves_128_bits(cost, delta, dtype: str, name: str, formulas=(None, None)) -> None:
    constants = [{} if formula is None else {"formula": formula} for formula in formulas]
    cost, delta = compiled(cost, dtype, **constants[0]), compiled(delta, dtype, **constants[1])
    assert is_in_128_bits("ld", cost), (dtype, name)
    assert is_in_128_bits("ld", delta), (dtype, name)
    assert is_in_128_bits("st", delta), (dtype, name)


for dtype in ("fp32", "bf16", "fp16"):
    assert_moves_128_bits(kernels.log_likelihood, kernels.log_likelihood_delta, dtype, "log_likelihood")
    for spec in SPECS:
        if spec.triton:
            assert_moves_128_bits(kernels.elements, kernels.elements_delta, dtype, spec.name, formulas(spec))
