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

    # If ce_torch is not installed, it is found in the folder above.
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])

    from canvas import Canvas, drawing

    from ce_torch import CrossEntropyCost, LogLikelihoodCost
    from ce_torch.chapter.comparison_report import NAMES
    from ce_torch.chapter.deltas import SUBJECTS, compute_deltas
    from ce_torch.chapter.digits import load_test_images, load_trained
    from ce_torch.chapter.drawing import (
        COLORS,
        draw_digit,
        draw_lessons,
        draw_on_sigmoid,
        draw_outputs,
        draw_slopes,
        styles,
    )
    from ce_torch.chapter.handwriting import to_mnist
    from ce_torch.chapter.neuron import SIGMOID_COSTS, learn
    from ce_torch.chapter.picture import figure_element, legend_entry, picture
    from ce_torch.chapter.softmax import layer
    from ce_torch.chapter.words import number_text, progress, remark, table


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Being wrong should teach

    Two copies of a neuron start at the same place, badly wrong: they answer nearly 1, and should answer 0. They learn
    with different costs. Which will be quicker? Guess, then press Run.
    """)
    return


@app.cell(hide_code=True)
def _():
    w, b = (mo.ui.slider(-5, 5, 0.1, value=2, label=f"${name}$", show_value=True) for name in "wb")
    run = mo.ui.run_button(label="Run", kind="success")
    mo.hstack([run, w, b], wrap=True, justify="start", align="center")
    return b, run, w


@app.cell(hide_code=True)
def _(b, epochs, first, first_eta, second, second_eta, w):
    choices = [(first, first_eta), (second, second_eta)]
    learn_from_start = partial(learn, w=w.value, b=b.value, epochs=epochs.value)
    lessons = [(cost.selected_key, learn_from_start(cost.value, eta=eta.value)) for cost, eta in choices]
    return choices, lessons


@app.cell(hide_code=True)
def _(choices, epochs, lessons, run):
    last_epoch = epochs.value if run.value else 0
    moving = partial(picture, moving=run.value)
    on_sigmoid = moving(partial(draw_on_sigmoid, lessons=lessons, last_epoch=last_epoch), "σ, and each neuron on it")
    draw = partial(draw_lessons, lessons=lessons, last_epoch=last_epoch)
    courses = (
        moving(partial(draw, name=name), f"{name}, against the epoch") for name in ("|δ|", "output a, desired: 0")
    )
    keys = (
        legend_entry(f"{cost}, η = {eta.value:g}: {progress(lesson, last_epoch)}", COLORS[cost], style)
        for (cost, lesson), (_, eta), style in zip(lessons, choices, styles([cost for cost, _ in lessons]), strict=True)
    )
    mo.Html(figure_element(on_sigmoid, *courses, caption="<br>".join(keys)))
    return


@app.cell(hide_code=True)
def _():
    etas = [0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2]
    epochs = mo.ui.slider(50, 500, 50, value=300, label="epochs", show_value=True)
    first, second = (mo.ui.dropdown(SIGMOID_COSTS, value=name, allow_select_none=False) for name in SIGMOID_COSTS)
    first_eta, second_eta = (mo.ui.slider(steps=etas, value=0.15, label="η", show_value=True) for _ in SIGMOID_COSTS)
    mo.vstack(
        [
            mo.hstack(row, wrap=True, justify="start", align="center")
            for row in ([first, first_eta], [second, second_eta], [epochs])
        ]
    )
    return epochs, first, first_eta, second, second_eta


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    A neuron learns by going down the slope of a cost. From $w = b = 2$ it begins far out on $\sigma$, where $\sigma$ is
    flat. There the quadratic cost moves it least: its $\delta$ is smallest where the neuron is most wrong, and takes
    most of 300 epochs to grow. With the cross-entropy, $\delta$ is largest there. From $w = 0.6$, $b = 0.9$, a milder
    mistake, the costs differ less. The learning rates of two different costs do not compare, but the shapes of the
    curves do.

    ## Why

    The equations have the numbers of Michael Nielsen's *Neural Networks and Deep Learning*, section 3.1. A sigmoid
    neuron has the output $a = \sigma(z)$, with $z = wx + b$. Its only input is $x = 1$, and it should answer $y = 0$.
    The quadratic cost and its slopes are

    $$\begin{align} C &= \frac{(y - a)^2}{2} \tag{54} \\[1ex]
    \frac{\partial C}{\partial w} &= (a - y)\,\sigma'(z)\,x \tag{55} \\[1ex]
    \frac{\partial C}{\partial b} &= (a - y)\,\sigma'(z) \tag{56} \end{align}$$

    The slopes have the error $a - y$ as a factor, as they should. But they also have the factor
    $\sigma'(z) = a\,(1 - a)$, which is nearly 0 when $a$ is nearly 1: the worse the answer, the less the neuron learns
    from it. The cross-entropy of $n$ examples $x$ is never negative. It is near 0 when every $a$ is near its $y$ of 0
    or 1. Its slopes have no $\sigma'$:

    $$\begin{align} C &= -\frac{1}{n} \sum_x \left[\,y \ln a + (1 - y) \ln (1 - a)\,\right] \tag{57} \\
    \frac{\partial C}{\partial w_j} &= \frac{1}{n} \sum_x x_j \left(\sigma(z) - y\right) \tag{61} \\
    \frac{\partial C}{\partial b} &= \frac{1}{n} \sum_x \left(\sigma(z) - y\right) \tag{62} \end{align}$$

    ## Where the factor goes

    Put $a = \sigma(z)$ into (57) and use the chain rule:

    $$\begin{align} \frac{\partial C}{\partial w_j}
    &= -\frac{1}{n} \sum_x \left(\frac{y}{\sigma} - \frac{1 - y}{1 - \sigma}\right)
    \frac{\partial \sigma}{\partial w_j} \tag{58} \\
    &= -\frac{1}{n} \sum_x \left(\frac{y}{\sigma} - \frac{1 - y}{1 - \sigma}\right) \sigma'\, x_j \tag{59} \\
    &= \frac{1}{n} \sum_x \frac{\sigma'\, x_j}{\sigma\,(1 - \sigma)} \left(\sigma - y\right) \tag{60} \end{align}$$

    Here the denominator cancels $\sigma' = \sigma\,(1 - \sigma)$. You can also start from the slope that you want,
    $\partial C / \partial b = a - y$ (72). For any cost,

    $$\frac{\partial C}{\partial b} = \frac{\partial C}{\partial a}\,\sigma'(z)
    = \frac{\partial C}{\partial a}\,a\,(1 - a), \tag{73, 74}$$

    So the slope in $b$ determines the slope in $a$, and the integral of that is the cost:

    $$\begin{align} \frac{\partial C}{\partial a} &= \frac{a - y}{a\,(1 - a)} \tag{75} \\[1ex]
    C &= -\left[\,y \ln a + (1 - y) \ln (1 - a)\,\right] + \text{constant} \tag{76} \end{align}$$

    No other cost has these slopes. The factor $x_j$ of (61) stays with every cost, since a weight acts only through
    $w_j x_j$. The cost also measures surprise: if $a$ is the neuron's probability of $y = 1$, the cost says how much
    the true $y$ surprises the neuron on average.

    ## $\delta = a - y$, three ways

    In a network, backpropagation starts from $\delta_j = \partial C / \partial z_j$ of the output layer. Every slope
    there has it as a factor: $\partial C / \partial w_{jk} = a_k^{L-1}\,\delta_j$, where $a_k^{L-1}$ is an output of
    the layer before. For one example:

    | output neurons | cost | $\delta$ | equations |
    |---|---|---|---|
    | sigmoid | quadratic | $(a - y)\,\sigma'$ | (65) |
    | sigmoid | cross-entropy | $a - y$ | (66, 67) |
    | linear, $a = z$ | quadratic | $a - y$ | (68–70) |
    | softmax | log-likelihood | $a - y$ | (81, 82, 84) |

    In `ce_torch` each $\delta$ is a line written by hand. The table compares it with the $\delta$ that autograd derives
    from the textbook's formula, and with finite differences of the cost. Try $z = 40$ where $y = 0$: the neuron is so
    wrong that $1 - a$ is rounded to 0.
    """)
    return


@app.cell(hide_code=True)
def _():
    subject = mo.ui.dropdown(SUBJECTS, value="cross-entropy, sigmoid neurons", allow_select_none=False)
    z_boxes, y_boxes = (
        mo.ui.array([mo.ui.number(start, stop, value=value, full_width=True) for value in values])
        for start, stop, values in ((-1000, 1000, (2.0, -1.0, 0.5)), (0, 1, (0.0, 0.0, 1.0)))
    )
    rows_typed = [mo.md("$z$"), *z_boxes], [mo.md("$y$"), *y_boxes]
    mo.vstack([subject, *(mo.hstack(row, widths=[0.2, 1, 1, 1], align="center") for row in rows_typed)])
    return y_boxes, z_boxes, subject


@app.cell(hide_code=True)
def _(y_boxes, z_boxes, subject):
    mo.stop(None in (*z_boxes.value, *y_boxes.value), "Type a number into every box.")
    found = compute_deltas(
        subject.value, *(torch.tensor(boxes.value, dtype=torch.float64) for boxes in (z_boxes, y_boxes))
    )
    mo.md(f"{table(found)}\n\n{remark(found)}")
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Softmax

    A softmax layer is another output layer, with another way out of the slowdown. Its outputs are positive and sum to
    1, so they can be read as probabilities. A factor $c$, which is 1 / temperature, makes them harder or softer.

    $$\begin{align} a_j &= \frac{e^{z_j}}{\sum_k e^{z_k}} \tag{78} \\[2ex]
    \sum_j a_j &= \frac{\sum_j e^{z_j}}{\sum_k e^{z_k}} = 1 \tag{79} \\[2ex]
    a_j &= \frac{e^{c z_j}}{\sum_k e^{c z_k}} \tag{83} \end{align}$$
    """)
    return


@app.cell(hide_code=True)
def _():
    z = mo.ui.array(
        mo.ui.slider(-5, 7, 0.1, value=value, label=f"$z_{j}$", show_value=True)
        for j, value in enumerate((2.5, -1, 3.2, 0.5), 1)
    )
    temperature = mo.ui.slider(steps=[0.1, 0.2, 0.5, 1, 2, 5, 10], value=1, label="temperature", show_value=True)
    mo.hstack([*z, temperature], wrap=True, justify="start")
    return temperature, z


@app.cell(hide_code=True)
def _(temperature, z):
    a, slopes = layer(torch.tensor(z.value, dtype=torch.float64), temperature.value)
    outputs = partial(draw_outputs, a=a, color=COLORS["log-likelihood"], first=1)
    mo.Html(
        figure_element(
            picture(
                outputs,
                f"The outputs: {', '.join(number_text(output, 2) for output in a.tolist())}",
                title=f"Σ a = {a.sum():.3f}",
            ),
            picture(
                partial(draw_slopes, slopes=slopes, c=1 / temperature.value),
                "The slopes of each output",
                title="∂aⱼ / ∂zₖ",
            ),
            caption="The outputs, (78) and (83), and how each of them changes with each weighted input.",
        )
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Purple slopes are positive, orange ones negative, and the strongest colour is 1/4 (with $c > 1$ it is $c/4$): no
    slope is steeper. The signs stay the same wherever the sliders are, since

    $$\frac{\partial a_j}{\partial z_k} =
    \begin{cases} c\,a_j\,(1 - a_j) & k = j \\ -c\,a_j\,a_k & k \ne j \end{cases}$$

    Softmax is monotonic: a weighted input raises its own output, and lowers all others by the same amount in total. It
    is not local: each output depends on all weighted inputs. No slope is 0, though some are too small to be seen. When
    the temperature falls, the largest $z$ takes all. That is a maximum, and softmax is a softened form of it.

    The log-likelihood is the cost for softmax. For an example of class $y$, let $y_j$ be 1 for $j = y$ and 0 for all
    other classes. The slopes again have no slowdown:

    $$\begin{align} C &= -\ln a_y \tag{80} \\[1ex]
    \frac{\partial C}{\partial b_j} &= a_j - y_j \tag{81} \\[1ex]
    \frac{\partial C}{\partial w_{jk}} &= a_k^{L-1}\,(a_j - y_j) \tag{82} \end{align}$$

    ## Ten neurons look at a digit

    This network has 784 inputs, 30 hidden neurons and 10 outputs, and is trained on MNIST. With sigmoid outputs, its
    cross-entropy is the sum over all ten,

    $$C = -\frac{1}{n} \sum_x \sum_j \left[\,y_j \ln a_j + (1 - y_j) \ln (1 - a_j)\,\right] \tag{63}$$

    Pick a test image, or draw a digit. The same ten weighted inputs go through sigmoid neurons and through softmax.
    """)
    return


@app.cell(hide_code=True)
def _():
    networks = {label: load_trained(name).network.requires_grad_(False) for name, label in NAMES.items()}
    network = mo.ui.dropdown(networks, value="cross-entropy", label="trained with", allow_select_none=False)
    images = load_test_images()
    paper = Canvas()  # keeps what is drawn when the cell that shows it runs again
    get_number, set_number = mo.state(119)
    return get_number, images, network, paper, set_number


@app.cell(hide_code=True)
def _(images, network, set_number):
    wrong = (network.value(images.x).argmax(1) != images.y).nonzero().flatten().tolist()

    def random_number(_):
        set_number(int(torch.randint(len(images.y), ())))

    def next_mistake(_):
        set_number(lambda number: next((mistake for mistake in wrong if mistake > number), wrong[0]))

    buttons = [
        mo.ui.button(label="Random", on_click=random_number),
        mo.ui.button(label="Next mistake", on_click=next_mistake),
    ]
    return (buttons,)


@app.cell(hide_code=True)
def _(buttons, get_number, images, network, paper, set_number):
    canvas = mo.ui.anywidget(paper)
    number = mo.ui.number(
        0, len(images.y) - 1, value=get_number(), label="test image", on_change=lambda given: set_number(given or 0)
    )
    source = mo.ui.tabs({"Pick": mo.hstack([number, *buttons], wrap=True, justify="start"), "Draw": canvas})
    mo.vstack([network, source])
    return canvas, source


@app.cell(hide_code=True)
def _(canvas, get_number, images, source):
    picked = source.value == "Pick"
    image = images.x[get_number()] if picked else to_mnist(drawing(canvas.value["ink"]))
    label = int(images.y[get_number()]) if picked else None
    return image, label


@app.cell(hide_code=True)
def _(image, label, network):
    mo.stop(not image.any(), mo.md("Draw a digit. Without ink every $x$ is 0, and the outputs are of no digit."))

    def bars(name, a, cost):
        draw = partial(draw_outputs, a=a, y=label, color=COLORS[cost])
        return picture(draw, f"Ten outputs; {a.argmax()} is the largest", title=f"{name}: Σ a = {a.sum():.3f}")

    ten = network.value(image)
    right = "" if label is None else f" ▼ The digit is a {label}: its desired output is 1."
    mo.Html(
        figure_element(
            picture(partial(draw_digit, x=image), "What the network sees"),
            bars("sigmoid", CrossEntropyCost().activation(ten), "cross-entropy"),
            bars("softmax", LogLikelihoodCost().activation(ten), "log-likelihood"),
            caption=f"The network says {ten.argmax()}.{right} The outputs of softmax sum to 1 by (79).",
        )
    )
    return


@app.cell(hide_code=True)
def _(network):
    sums = network.value(load_test_images().x).sigmoid().sum(1)
    mo.md(rf"""
    Over all {len(sums):,} test images, the sum of this network's sigmoid outputs goes from {sums.min():.3f} to
    {sums.max():.2f}. Each neuron looks only at its own $z$, so nothing keeps the sum at 1. If the network was trained
    with sigmoid neurons, the sum is near 1 where the network is sure, since its desired outputs sum to 1, and misses 1
    where it is not. If it was trained with softmax, the sum need not be near 1, since a number added to all $z$ changes
    nothing under softmax. Softmax, in turn, makes probabilities of any scribble: it cannot say "none of these".

    Which of the two should you take? With its own cost, each has $\delta = a - y$. Take softmax if exactly one of the
    classes is right and the outputs should be probabilities.
    """)
    return


if __name__ == "__main__":
    app.run()
