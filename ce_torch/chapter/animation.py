"""An animation of the badly wrong neuron, which learns with the quadratic cost and with the cross-entropy."""

import io

from matplotlib.figure import Figure
from PIL import Image

from ce_torch.chapter.curves import png
from ce_torch.chapter.drawing import add_legend_below, draw_lessons
from ce_torch.chapter.neuron import COURSES, learn
from ce_torch.costs._module import Cost

EPOCHS_PER_FRAME = 6
MILLISECONDS_PER_FRAME = 80
LAST_FRAME_MILLISECONDS = 2000


def animate(costs: dict[str, Cost], w: float, b: float, eta: float) -> bytes:
    """Return an animation (GIF) of output, cost and |δ| of a neuron that starts at w and b, for each cost by name."""
    lessons = [(name, learn(cost, w, b, eta=eta)) for name, cost in costs.items()]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    lines = []
    for axes, (name, course) in zip(panels, COURSES.items(), strict=True):
        values = (course(lesson) for _, lesson in lessons)
        lines += zip(draw_lessons(axes, name, lessons, last_epoch=0), values, strict=True)
    add_legend_below(figure, columns=len(lessons))
    epochs = len(lessons[0][1].a)
    frames = []
    for epoch in range(0, epochs, EPOCHS_PER_FRAME):
        for line, values in lines:
            line.set_data(range(epoch + 1), values[: epoch + 1])
        frames.append(Image.open(io.BytesIO(png(figure))).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    animation = io.BytesIO()
    durations = [MILLISECONDS_PER_FRAME] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    frames[0].save(animation, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return animation.getvalue()
