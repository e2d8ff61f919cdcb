# /// script
# [tool.marimo.display]
# theme = "system"
# ///

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="compact", app_title="The cross-entropy cost", css_file="cross_entropy.css")

with app.setup(hide_code=True):
    import sys
    from functools import partial
    from pathlib import Path

    import marimo as mo
    import torch

    # Where ce_torch is not installed, it is in the folder above.
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent)]

    from canvas import Canvas, drawing

    from ce_torch import CrossEntropyCost, LogLikelihoodCost, QuadraticCost
    from ce_torch.chapter.deltas import SUBJECTS, three_ways
    from ce_torch.chapter.digits import test_images, trained
    from ce_torch.chapter.drawing import (
        COLORS,
        courses,
        draw_digit,
        draw_lessons,
        draw_outputs,
        draw_signs,
        styles,
    )
    from ce_torch.chapter.handwriting import like_mnist
    from ce_torch.chapter.neuron import learn
    from ce_torch.chapter.picture import key, picture, shown
    from ce_torch.chapter.softmax import layer

    COSTS = {"quadratic": QuadraticCost(), "cross-entropy": CrossEntropyCost()}


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Being wrong should teach

    A neuron learns by going down the slope of a cost. It ought to learn fastest where it is most wrong. With the
    quadratic cost it does the opposite; the cross-entropy is made so that it does as it ought to.

    The argument is that of Michael Nielsen's *Neural Networks and Deep Learning*, section 3.1, whose equation numbers
    are used. All that moves on this page is worked out by `ce_torch` while you look.

    ## One neuron

    A single sigmoid neuron has the output $a = \sigma(z)$, with $z = wx + b$. Its only input is $x = 1$, and it should
    answer $y = 0$. The quadratic cost and its slopes are

    $$C = \frac{(y - a)^2}{2} \tag{54}$$

    $$\frac{\partial C}{\partial w} = (a - y)\,\sigma'(z)\,x \tag{55}$$

    $$\frac{\partial C}{\partial b} = (a - y)\,\sigma'(z) \tag{56}$$

    The error $a - y$ is in them, as it should be. But so is $\sigma'(z) = a\,(1 - a)$, which is nearly 0 when $a$ is
    nearly 1: the worse the answer, the less is learned from it. The cross-entropy, over $n$ examples $x$, is

    $$C = -\frac{1}{n} \sum_x \left[\,y \ln a + (1 - y) \ln (1 - a)\,\right] \tag{57}$$

    It is never negative, and near 0 when every $a$ is near its $y$: a cost. Its slopes have the error, and no
    $\sigma'$:

    $$\frac{\partial C}{\partial w_j} = \frac{1}{n} \sum_x x_j \left(\sigma(z) - y\right) \tag{61}$$

    $$\frac{\partial C}{\partial b} = \frac{1}{n} \sum_x \left(\sigma(z) - y\right) \tag{62}$$

    Choose where the neuron starts and how it learns, then press Run.
    """)
    return


@app.cell(hide_code=True)
def _():
    etas = [0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2]
    w, b = (mo.ui.slider(-5, 5, 0.1, value=2, label=f"${name}$", show_value=True) for name in "wb")
    epochs = mo.ui.slider(50, 500, 50, value=300, label="epochs", show_value=True)
    first, second = (mo.ui.dropdown(COSTS, value=name, allow_select_none=False) for name in COSTS)
    first_eta, second_eta = (mo.ui.slider(steps=etas, value=0.15, label=r"$\eta$", show_value=True) for _ in COSTS)
    run = mo.ui.run_button(label="Run", kind="success")
    rows = [w, b, epochs], [first, first_eta], [second, second_eta], [run]
    mo.vstack([mo.hstack(row, wrap=True, justify="start", align="center") for row in rows])
    return b, epochs, first, first_eta, run, second, second_eta, w


@app.cell(hide_code=True)
def _(b, epochs, first, first_eta, w):
    first_lesson = learn(first.value, w.value, b.value, eta=first_eta.value, epochs=epochs.value)
    return (first_lesson,)


@app.cell(hide_code=True)
def _(b, epochs, second, second_eta, w):
    second_lesson = learn(second.value, w.value, b.value, eta=second_eta.value, epochs=epochs.value)
    return (second_lesson,)


@app.cell(hide_code=True)
def _(epochs, first, first_eta, first_lesson, run, second, second_eta, second_lesson):
    _lessons = [(first.selected_key, first_lesson), (second.selected_key, second_lesson)]
    _until = epochs.value if run.value else 0

    def _numbers(lesson):
        pairs = zip("aCδ", (lesson.a, lesson.C, lesson.delta), strict=True)
        return ", ".join(
            f"{name} = " + " → ".join(f"{values[i]:.2g}" for i in sorted({0, _until})) for name, values in pairs
        )

    mo.Html(
        shown(
            *(
                picture(
                    partial(draw_lessons, name=name, lessons=_lessons, until=_until),
                    f"{name}, against the epoch",
                    moving=run.value,
                )
                for name in courses(first_lesson)
            ),
            caption="<br>".join(
                key(f"{cost}, η = {eta.value:g}: {_numbers(lesson)}", COLORS[cost], style)
                for (cost, lesson), style, eta in zip(_lessons, styles(_lessons), (first_eta, second_eta), strict=True)
            ),
        )
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    From $w = b = 2$ the quadratic cost's $\delta$ is tiny where the neuron is worst, and has its hump only when half
    of the way is behind it. From $w = 0.6$, $b = 0.9$, a milder mistake, the two costs differ little. The heights of two
    different costs do not compare, and neither do their learning rates; the shapes of the curves do.

    ## Where the factor goes

    Put $a = \sigma(z)$ into (57) and use the chain rule:

    $$\frac{\partial C}{\partial w_j} = -\frac{1}{n} \sum_x \left(\frac{y}{\sigma(z)} - \frac{1 - y}{1 - \sigma(z)}\right)
    \frac{\partial \sigma}{\partial w_j} \tag{58}$$

    $$= -\frac{1}{n} \sum_x \left(\frac{y}{\sigma(z)} - \frac{1 - y}{1 - \sigma(z)}\right) \sigma'(z)\, x_j \tag{59}$$

    $$= \frac{1}{n} \sum_x \frac{\sigma'(z)\, x_j}{\sigma(z)\,(1 - \sigma(z))} \left(\sigma(z) - y\right) \tag{60}$$

    and $\sigma' = \sigma\,(1 - \sigma)$ cancels what is below the line. The way back leads to the same place. Wish for

    $$\frac{\partial C}{\partial b} = a - y \tag{72}$$

    and since, for any cost,

    $$\frac{\partial C}{\partial b} = \frac{\partial C}{\partial a}\,\sigma'(z) = \frac{\partial C}{\partial a}\,a\,(1 - a),
    \tag{73, 74}$$

    the wish says that

    $$\frac{\partial C}{\partial a} = \frac{a - y}{a\,(1 - a)} \tag{75}$$

    of which the integral is

    $$C = -\left[\,y \ln a + (1 - y) \ln (1 - a)\,\right] + \text{constant} \tag{76}$$

    So no other cost will do. Only the factor $x_j$ of (61) stays, whatever the cost: a weight acts through $w_j x_j$
    alone. The cost can also be read as surprise: if $a$ is how likely the neuron holds $y = 1$ to be, it says how
    surprised the neuron is, on average, by what $y$ turns out to be.

    ## $\delta = a - y$, three ways

    In a network, $\delta_j = \partial C / \partial z_j$ of the output layer is where backpropagation starts, and every
    slope has it as a factor: $\partial C / \partial w_{jk} = a_k\,\delta_j$, with $a_k$ from the layer before. For one
    example,

    | output neurons | cost | $\delta$ | equations |
    |---|---|---|---|
    | sigmoid | quadratic | $(a - y)\,\sigma'(z)$ | (65) |
    | sigmoid | cross-entropy | $a - y$ | (66, 67) |
    | linear, $a = z$ | quadratic | $a - y$ | (68–70) |
    | softmax | log-likelihood | $a - y$ | (81, 82, 84) |

    In `ce_torch` each $\delta$ is a line written by hand. Here it is beside what autograd derives from the textbook's
    formula, and beside finite differences of the cost.
    """)
    return


@app.cell(hide_code=True)
def _():
    subject = mo.ui.dropdown(SUBJECTS, value="cross-entropy, sigmoid neurons", allow_select_none=False)
    weighted_inputs, desired = (
        mo.ui.array([mo.ui.number(start, stop, 0.1, value=value, full_width=True) for value in values])
        for start, stop, values in ((-1000, 1000, (2.0, -1.0, 0.5)), (0, 1, (0.0, 0.0, 1.0)))
    )
    mo.vstack(
        [
            subject,
            *(
                mo.hstack([mo.md(f"${name}$"), *inputs], widths=[0.2, 1, 1, 1], align="center")
                for name, inputs in (("z", weighted_inputs), ("y", desired))
            ),
        ]
    )
    return desired, subject, weighted_inputs


@app.cell(hide_code=True)
def _(desired, subject, weighted_inputs):
    _z, _y = (torch.tensor(inputs.value, dtype=torch.float64) for inputs in (weighted_inputs, desired))
    _found = three_ways(subject.value, _z, _y)
    _rows = "\n".join(
        f"| {name} | " + " | ".join(f"{value:.6f}" for value in values.tolist()) + " |"
        for name, values in zip(("written by hand", "autograd", "differences"), _found, strict=True)
    )
    _apart = (_found.by_hand - _found.by_autograd).abs().max()
    mo.md(
        f"| $\\delta$ | $j = 1$ | $j = 2$ | $j = 3$ |\n|---|---|---|---|\n{_rows}\n\n"
        + (
            f"By hand and from autograd differ by {_apart:.0e} at most."
            if _apart.isfinite()
            else "The textbook's formula takes the logarithm of an output that has been rounded to 0, and autograd with "
            "it. The hand-written δ needs no logarithm."
        )
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Try $z = 40$ where $y = 0$: the neuron is so wrong that $1 - a$ is rounded to 0.

    ## Softmax

    Another output layer, with another way out of the slowdown. It turns its weighted inputs into

    $$a_j = \frac{e^{z_j}}{\sum_k e^{z_k}} \tag{78}$$

    which are positive, and sum to 1:

    $$\sum_j a_j = \frac{\sum_j e^{z_j}}{\sum_k e^{z_k}} = 1 \tag{79}$$

    so that they can be read as probabilities. A factor $c$, or a temperature $1/c$, makes it harder or softer:

    $$a_j = \frac{e^{c z_j}}{\sum_k e^{c z_k}} \tag{83}$$
    """)
    return


@app.cell(hide_code=True)
def _():
    z = mo.ui.array(
        [
            mo.ui.slider(-5, 10, 0.1, value=value, label=f"$z_{j}$", show_value=True)
            for j, value in enumerate((2.5, -1, 3.2, 0.5), 1)
        ]
    )
    temperature = mo.ui.slider(steps=[0.1, 0.2, 0.5, 1, 2, 5, 10], value=1, label="temperature", show_value=True)
    mo.hstack([*z, temperature], wrap=True, justify="start")
    return temperature, z


@app.cell(hide_code=True)
def _(temperature, z):
    _found = layer(torch.tensor(z.value, dtype=torch.float64), temperature.value)
    mo.Html(
        shown(
            picture(
                partial(draw_outputs, a=_found.a, color=COLORS["log-likelihood"], first=1),
                f"The outputs are {', '.join(f'{a:.2f}' for a in _found.a)}",
            ),
            picture(partial(draw_signs, jacobian=_found.slopes), "The signs of the slopes of the outputs"),
            caption=f"Left: the outputs; together {_found.a.sum():.2f}. Right: the slopes ∂aⱼ/∂zₖ, the larger the square "
            f"the larger; a row is an output, a column a weighted input.",
        )
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    However the sliders stand, the signs stay: a weighted input raises its own output and lowers all others, since

    $$\frac{\partial a_j}{\partial z_k} = c\,a_j\,(1 - a_j) \text{ for } k = j, \qquad -c\,a_j\,a_k \text{ for } k \ne j$$

    No square is empty, so each output depends on all weighted inputs, unlike a sigmoid neuron's; and each column sums
    to 0, as what one output wins the others lose. When the temperature falls the largest $z$ takes all, a maximum, of
    which softmax is the softened form.

    The cost that goes with it is the log-likelihood, for an example of class $y$,

    $$C = -\ln a_y \tag{80}$$

    and its slopes are again those without a slowdown, with $y_j = 1$ for the class $j = y$ and 0 for the others:

    $$\frac{\partial C}{\partial b_j} = a_j - y_j \tag{81}$$

    $$\frac{\partial C}{\partial w_{jk}} = a_k\,(a_j - y_j) \tag{82}$$

    ## Ten neurons look at a digit

    A network of 784 inputs, 30 hidden neurons and 10 outputs, trained on MNIST. With sigmoid outputs its cost is the
    cross-entropy of all ten,

    $$C = -\frac{1}{n} \sum_x \sum_j \left[\,y_j \ln a_j + (1 - y_j) \ln (1 - a_j)\,\right] \tag{63}$$

    Pick a test image or draw a digit. The same ten weighted inputs then go through sigmoid neurons and through softmax.
    """)
    return


@app.cell(hide_code=True)
def _():
    networks = {
        "cross-entropy, sigmoid": trained("ce").network,
        "quadratic, sigmoid": trained("quadratic").network,
        "log-likelihood, softmax": trained("ll").network,
    }
    network = mo.ui.dropdown(networks, value="cross-entropy, sigmoid", label="trained with", allow_select_none=False)
    number = mo.ui.slider(0, len(test_images().y) - 1, value=8, label="test image", show_value=True)
    canvas = mo.ui.anywidget(Canvas())
    source = mo.ui.tabs({"Pick": number, "Draw": canvas})
    mo.vstack([network, source])
    return canvas, network, number, source


@app.cell(hide_code=True)
def _(canvas, number, source):
    if source.value == "Draw":
        image, label = like_mnist(drawing(canvas.value["ink"])), None
    else:
        image, label = test_images().x[number.value], int(test_images().y[number.value])
    return image, label


@app.cell(hide_code=True)
def _(image, label, network):
    with torch.inference_mode():
        _z = network.value(image)
        _layers = {
            "sigmoid": (CrossEntropyCost().activation(_z), COLORS["cross-entropy"]),
            "softmax": (LogLikelihoodCost().activation(_z), COLORS["log-likelihood"]),
        }
    mo.Html(
        shown(
            picture(partial(draw_digit, x=image), "The image"),
            *(
                picture(
                    partial(draw_outputs, a=a, y=label, color=color),
                    f"Under {name} output {a.argmax()} is the largest",
                    title=f"{name}, Σ a = {a.sum():.3f}",
                )
                for name, (a, color) in _layers.items()
            ),
            caption="▼ " + (f"the desired output, {label}." if label is not None else ""),
        )
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    A sigmoid neuron looks at its own $z$ alone. Nothing tells it what the others say, so their sum may be anything
    from 0 to 10; where the network is unsure it is often well below 1, or near 2. Softmax divides by the sum (79), and
    what it gives always makes 1, for a scribble too: it tells the classes apart, and cannot say "none of these".

    Which to take? Both pairs have $\delta = a - y$, and learn alike. Softmax and log-likelihood are the choice where
    the outputs are to be probabilities of classes of which one is right.
    """)
    return


if __name__ == "__main__":
    app.run()
