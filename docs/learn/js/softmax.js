"use strict";

// A softmax layer of four neurons: its outputs, how each follows one weighted input, and the factor c from 0 to ∞.
Page.part("softmax", ({ find }) => {
  const FACTORS = [0, 0.1, 0.2, 0.5, 1, 2, 5, 10, Infinity];
  const START = [2.5, -1, 3.2, 0.5];
  const factorName = (c) => (c === Infinity ? "∞" : String(c));
  const sliders = find(".sliders");
  const z = Page.inputSliders(sliders, START, { min: -5, max: 5 }, show);
  const place = { min: 0, max: FACTORS.length - 1, step: 1, value: FACTORS.indexOf(1) };
  const factor = Page.slider(sliders, { name: "factor c", ...place, show: (i) => factorName(FACTORS[i]) }, show);
  const buttons = Page.element(find(".controls"), "div", { class: "buttons" });
  Page.button(buttons, "Make a tie", () => {
    const highest = Math.max(...z.map((slider) => slider.value));
    z[0].value = z[2].value = highest;
    show();
  });
  Page.button(buttons, "Start again", () => {
    START.forEach((value, j) => (z[j].value = value));
    factor.value = FACTORS.indexOf(1);
    show();
  });
  const names = START.map((_, j) => `a${Words.subscript(j + 1)}`);
  const figures = find(".figures");
  const outputs = Bars.make(figures, { names, range: [0, 1], kind: "log-likelihood", digits: 3 });
  const slopes = Bars.make(figures, { names, range: [-1, 1], kind: "signed", digits: 3 });
  const moved = Page.choice(find(".which"), "Show the slopes in", { 0: "z₁", 1: "z₂", 2: "z₃", 3: "z₄" }, "2", show);
  const said = find(".said");

  function show() {
    const values = z.map((slider) => slider.value);
    const c = FACTORS[factor.value];
    const k = Number(moved.value);
    const a = Costs.softmax(values, c);
    outputs.show(`Outputs: their sum is ${Words.fixed(Costs.sum(a), 3)}`, a);
    slopes.box.style.visibility = c === Infinity ? "hidden" : "visible"; // nothing may move under the finger
    if (c !== Infinity) {
      const column = Costs.softmaxSlopes(values, c).map((row) => row[k]);
      slopes.show(`How fast each output follows z${Words.subscript(k + 1)}`, column, k, Costs.steepest(c));
    }
    Page.say(said, describe(values, c));
  }

  function describe(values, c) {
    const largest = Math.max(...values);
    const ties = values.filter((value) => value === largest).length;
    if (c === 0) return "With c = 0 nothing that the layer sees matters: all outputs are 1/4.";
    if (c < Infinity)
      return "One slope is positive, three are negative, and together they are 0: what one output gains, the others lose.";
    if (ties === 1)
      return "In the limit c → ∞ the largest takes all: a hard maximum, which has no slopes to learn from.";
    return `In the limit c → ∞, ${ties} inputs that tie for the largest share alike: each output is 1/${ties}.`;
  }

  show();
});
