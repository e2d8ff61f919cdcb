"""Compile the kernels for an H100, for which none is needed: z must be read, and δ written, 128 bits at once."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ce_torch.costs.kernels import gpu_kernels as kernels

POINTERS = {"C": "*fp32", "m": "*fp32", "r": "*fp32"}
CONSTANTS = {"z_column": 1, "y_column": 1, "of_row": 0, "block": 4096}


def compiled(kernel, dtype: str, **constants) -> str:
    """Compile `kernel` for rows of memory that begin at multiples of 16 elements, as those of most z do."""
    constants |= {name: value for name, value in CONSTANTS.items() if name in kernel.arg_names}
    types = dict.fromkeys(("z_row", "y_row", "columns"), "i32") | {"c": "fp32", "ignore_index": "i32"} | POINTERS
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


for dtype in ("fp32", "bf16", "fp16"):
    for formula in (None, "cross_entropy", "quadratic", "linear"):
        of_formula = {} if formula is None else {"formula": getattr(kernels, formula)}
        of_delta = {} if formula is None else {"formula": getattr(kernels, formula + "_delta")}
        cost, delta = (
            (kernels.log_likelihood, kernels.log_likelihood_delta)
            if formula is None
            else (kernels.neurons, kernels.neurons_delta)
        )
        cost, delta = compiled(cost, dtype, **of_formula), compiled(delta, dtype, **of_delta)
        assert is_in_128_bits("ld", cost), (dtype, formula)
        assert is_in_128_bits("ld", delta), (dtype, formula)
        assert is_in_128_bits("st", delta), (dtype, formula)
