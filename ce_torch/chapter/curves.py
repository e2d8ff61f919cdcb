"""The curves of a run: costs and accuracies against the epoch."""

import io

import numpy as np
from matplotlib.figure import Figure

from ce_torch.training import Record


def draw(history: list[Record]) -> bytes:
    """Return a picture (PNG) of every cost and accuracy in a run's history; of many networks their mean and range."""
    epochs = [record["epoch"] for record in history]
    names = [name for name in history[0] if name != "epoch"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("cost", "accuracy"), strict=True):
        for name in names:
            values = np.array([record[name][measure] for record in history]).reshape(len(history), -1)
            (line,) = axes.plot(epochs, values.mean(1), label=name)
            if values.shape[1] > 1:
                axes.fill_between(epochs, values.min(1), values.max(1), color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.grid(alpha=0.3)
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
