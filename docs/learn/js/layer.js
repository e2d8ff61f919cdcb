"use strict";

// Three output neurons and the slopes of their weights with three pairs of cost and neuron, (65) to (70).
Page.part("layer", ({ find }) => {
  const KINDS = [
    ["quadratic", "quadratic cost (65)", Costs.quadratic],
    ["cross-entropy", "cross-entropy (67)", Costs.crossEntropy],
    ["plain", "linear, quadratic (69)", Costs.linear],
  ];
  const sliders = find(".sliders");
  const starts = [4, -3, 0.5];
  const z = Page.inputSliders(sliders, starts, { min: -6, max: 6 }, show);
  const a = Page.slider(
    sliders,
    { name: "input aₖ", min: 0, max: 1, step: 0.05, value: 1, show: (v) => Words.fixed(v, 2) },
    show,
  );
  const wanted = Page.choice(
    find(".controls"),
    "Which neuron should answer 1?",
    { 0: "1st", 1: "2nd", 2: "3rd" },
    "1",
    show,
  );
  const names = starts.map((_, j) => `∂C/∂w${Words.subscript(j + 1)}ₖ`);
  const bars = KINDS.map(([kind]) => Bars.make(find(".figures"), { names, range: [-1, 1], kind, digits: 3 }));
  const said = find(".said");

  function show() {
    const values = z.map((slider) => slider.value);
    const y = values.map((_, j) => (String(j) === wanted.value ? 1 : 0));
    const outputs = values.map((value, j) => `${Words.fixed(Costs.sigmoid(value))} (wanted: ${y[j]})`);
    Page.say(said, `Outputs of the sigmoid neurons: ${outputs.join(", ")}.`);
    KINDS.forEach(([, name, cost], i) => {
      const slopes = cost.delta(values, y).map((delta) => a.value * delta);
      bars[i].show(`${name}: C = ${Words.fixed(cost.cost(values, y))}`, slopes);
    });
  }

  show();
});
