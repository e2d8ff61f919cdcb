"use strict";

// The log-likelihood of a softmax layer: its cost and δ.
Page.part("likelihood", ({ find }) => {
  const START = [1.5, -0.5, 0.5, 0];
  const z = Page.inputSliders(find(".sliders"), START, { min: -5, max: 5 }, show);
  const numbers = START.map((_, j) => Words.subscript(j + 1));
  const classes = Object.fromEntries(numbers.map((_, j) => [j, String(j + 1)]));
  const y = Page.choice(find(".controls"), "The right class y", classes, "1", show);
  const outputs = bars((n) => `a${n}`, [0, 1]);
  const deltas = bars((n) => `δ${n} = a${n} − y${n}`, [-1, 1]);

  function bars(name, range) {
    return Bars.make(find(".figures"), { names: numbers.map(name), range, kind: "log-likelihood", digits: 3 });
  }

  function show() {
    const values = z.map((slider) => slider.value);
    const right = Number(y.value);
    const desired = values.map((_, j) => (j === right ? 1 : 0));
    const C = Costs.logLikelihood.cost(values, desired);
    outputs.show(`Outputs: C = −ln a${numbers[right]} = ${Words.fixed(C, 3)}`, Costs.softmax(values), right);
    deltas.show("δ = a − y (84)", Costs.logLikelihood.delta(values, desired), right);
  }

  show();
});
