"""The curves of a run: costs and accuracies against the epoch."""

import io

from matplotlib.figure import Figure

from ce_torch.training import Record


def draw(history: list[Record]) -> bytes:
    """Return a picture (PNG) of every cost and accuracy in a run's history."""
    epochs = [record["epoch"] for record in history]
    names = [name for name in history[0] if name != "epoch"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("cost", "accuracy"), strict=True):
        for name in names:
            axes.plot(epochs, [record[name][measure] for record in history], label=name)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.grid(alpha=0.3)
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
