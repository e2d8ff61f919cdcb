"""The layouts of z and y in benchmarks.costs: rows, strided rows, and images, whose classes are not last."""

from torch import Tensor

from benchmarks.cases import Case

LAYOUTS = ("rows", "transposed", "every second column", "images", "images, channels last")


def arrange(case: Case, layout: str, image: tuple[int, ...] = ()) -> Case:
    """Return the case with z, and y of z's shape, in a layout; an image has the shape (N, H, W) of its examples."""
    if layout == "rows":
        return case
    if not layout.startswith("images"):
        stride = transposed if layout == "transposed" else every_second_column
        return case._replace(z=stride(case.z), y=stride(case.y) if case.y.ndim == 2 else case.y)
    z, y = (tensor.unflatten(0, image) for tensor in (case.z, case.y))
    z, y = z.movedim(-1, 1), y.movedim(-1, 1) if case.y.ndim == 2 else y
    if layout == "images":
        z, y = z.contiguous(), y.contiguous()
    ours = case.ours

    def classes_last(z: Tensor, y: Tensor) -> Tensor:
        return ours(z.movedim(1, -1), y.movedim(1, -1) if y.ndim == z.ndim else y)

    return case._replace(z=z, y=y, ours=classes_last)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t()


def every_second_column(tensor: Tensor) -> Tensor:
    return tensor.repeat_interleave(2, -1)[:, ::2]
