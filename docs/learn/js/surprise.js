"use strict";

// −log₂ a, the surprise in bits; and the average surprise where y is a probability, (64).
Page.part("surprise", ({ find }) => {
  const as = Plot.steps(0.001, 1, 999);
  const bits = (a) => -Math.log2(a);
  const chart = Plot.axes(find(".figures"), {
    name: "The surprise in bits against the probability",
    x: [0, 1],
    y: [0, 8],
    xTicks: [0, 0.25, 0.5, 0.75, 1],
    yTicks: [0, 2, 4, 6, 8],
    xLabel: "probability a",
    yLabel: "surprise, bits",
  });
  Plot.element(chart.svg, "path", { class: "curve", d: Plot.line(chart, as, as.map(bits)) });
  const dot = Plot.marker(chart.svg, "cross-entropy");
  const coins = Page.element(find(".figures"), "div", { class: "coins", "aria-hidden": "true" });
  const coinElements = Array.from({ length: 10 }, () => Page.element(coins, "span", {}, "H"));
  const said = find(".said");
  const options = { name: "probability a", min: 0.001, max: 1, step: 0.001, value: 0.125 };
  const a = Page.slider(find(".sliders"), { ...options, show: (value) => Words.fixed(value, 3) }, show);

  function show() {
    const surprise = bits(a.value);
    Plot.move(dot, chart.toX(a.value), Math.max(chart.toY(surprise), chart.inner.top));
    coinElements.forEach((coin, i) => coin.style.setProperty("--share", Math.min(Math.max(surprise - i, 0), 1)));
    Page.say(
      said,
      `−ln a = ${Words.fixed(-Math.log(a.value), 2)} nats = ${Words.fixed(surprise, 2)} bits: ` +
        `as surprising as ${Words.fixed(surprise, 1)} coins in a row that land heads.`,
    );
  }

  show();
});

Page.part("average-surprise", ({ find }) => {
  const as = Plot.steps(0.002, 0.998, 249);
  const average = (a, y) => Costs.crossEntropy.cost([Math.log(a / (1 - a))], [y]);
  const chart = Plot.axes(find(".figures"), {
    name: "The cross-entropy against the output",
    x: [0, 1],
    y: [0, 3],
    xTicks: [0, 0.5, 1],
    yTicks: [0, 1, 2, 3],
    xLabel: "output a",
    yLabel: "cross-entropy C, nats",
  });
  const least = Plot.element(chart.svg, "path", { class: "wire faint-line" });
  const curve = Plot.element(chart.svg, "path", { class: "course cross-entropy" });
  const dot = Plot.marker(chart.svg, "cross-entropy");
  const said = find(".said");
  const sliders = find(".sliders");
  const range = { min: 0.01, max: 0.99, step: 0.01, show: (value) => Words.fixed(value, 2) };
  const y = Page.slider(sliders, { ...range, name: "truth y", min: 0, max: 1, value: 0.3 }, show);
  const a = Page.slider(sliders, { ...range, name: "output a", value: 0.7 }, show);

  function show() {
    const C = average(a.value, y.value);
    const entropy = y.value === 0 || y.value === 1 ? 0 : average(y.value, y.value);
    const price = a.value === y.value ? 0 : C - entropy;
    curve.setAttribute(
      "d",
      Plot.line(
        chart,
        as,
        as.map((value) => average(value, y.value)),
      ),
    );
    least.setAttribute("d", Plot.line(chart, [y.value, y.value], [0, entropy]));
    Plot.move(dot, chart.toX(a.value), Math.max(chart.toY(C), chart.inner.top));
    Page.say(
      said,
      `C = ${Words.fixed(C, 3)}. The least that any output reaches is ${Words.fixed(entropy, 3)}, at a = y = ` +
        `${Words.fixed(y.value, 2)}; the rest, ${Words.fixed(price, 3)}, is the price of being wrong.`,
    );
  }

  show();
});
