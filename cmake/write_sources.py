"""Write the sources of the kernels to a folder, and print the digest that names what is compiled from them.

It runs where a wheel is built, which may lack torch. So it reads what `CostSpec`s say without importing the costs.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

COSTS = Path(__file__).resolve().parent.parent / "ce_torch" / "costs"
KINDS = {"int": int, "float": float}


def main(folder: str) -> None:
    sources = load_sources()
    texts = sources.write(declared_specs())
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (Path(folder) / name).write_text(text, encoding="utf-8")
    print(sources.digest(texts))


def load_sources() -> ModuleType:
    """Return `sources.py`, which imports nothing of torch, as a module of its own."""
    spec = importlib.util.spec_from_file_location("sources", COSTS / "kernels" / "sources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared_specs() -> Iterator[SimpleNamespace]:
    """Yield what the `CostSpec` of each cost says about its kernels."""
    for path in COSTS.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "CostSpec":
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                yield declared_spec(given, values, functions)


def declared_spec(
    given: dict[str | None, ast.expr], values: dict[str, ast.expr], functions: dict[str, ast.FunctionDef]
) -> SimpleNamespace:
    def text(name: str, default: str) -> str:
        value = given.get(name)
        return default if value is None else ast.literal_eval(values.get(ast.unparse(value), value))

    name = text("name", "")
    arguments = functions[ast.unparse(given["cost"])].args.args
    return SimpleNamespace(
        name=name,
        class_name="".join(word.capitalize() for word in name.split("_")),
        family=text("family", "elements"),
        cpp=text("cpp", ""),
        parameters={argument.arg: KINDS.get(ast.unparse(argument.annotation or argument)) for argument in arguments},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
