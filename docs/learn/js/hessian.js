"use strict";

// The log-likelihood: its cost, δ, and its Hessian, which is the covariance of a class drawn with probabilities a.
Page.part("likelihood", ({ find }) => {
  const START = [1.5, -0.5, 0.5, 0];
  const DRAWS = 1_000;
  const z = Page.inputSliders(find(".sliders"), START, { min: -5, max: 5 }, show);
  const numbers = START.map((_, j) => Words.subscript(j + 1));
  const classes = Object.fromEntries(numbers.map((number, j) => [j, String(j + 1)]));
  const y = Page.choice(find(".controls"), "The right class y", classes, "1", show);
  const outputs = bars((n) => `a${n}`, [0, 1]);
  const deltas = bars((n) => `δ${n} = a${n} − y${n}`, [-1, 1]);
  const showHessian = matrix("Hessian ∂²C / ∂zⱼ∂zₖ");
  const showSample = matrix(`Covariance of ${DRAWS.toLocaleString("en")} draws`);
  Page.button(find(".draw"), `Draw ${DRAWS.toLocaleString("en")} classes with the probabilities a`, () => draw());
  const said = find(".said");

  function bars(name, range) {
    return Bars.make(find(".figures"), { names: numbers.map(name), range, kind: "log-likelihood", digits: 3 });
  }

  // A table of 4 × 4 numbers, and a function that fills it.
  function matrix(caption) {
    const table = Page.element(find(".matrices"), "table", { class: "matrix signed" });
    Page.element(table, "caption", {}, caption);
    const cells = START.map(() => {
      const row = Page.element(table, "tr");
      return START.map(() => Page.element(row, "td"));
    });
    return (values) =>
      values.forEach((row, j) =>
        row.forEach((value, k) => {
          cells[j][k].textContent = value === null ? "·" : Words.fixed(value, 3);
          cells[j][k].style.setProperty("--share", Math.abs(value ?? 0) / Costs.steepest());
          cells[j][k].className = value < 0 ? "negative" : "";
        }),
      );
  }

  function show() {
    const values = z.map((slider) => slider.value);
    const right = Number(y.value);
    const desired = values.map((_, j) => (j === right ? 1 : 0));
    const a = Costs.softmax(values);
    const C = Costs.logLikelihood.cost(values, desired);
    outputs.show(`Outputs: C = −ln a${numbers[right]} = ${Words.fixed(C, 3)}`, a, right);
    deltas.show("δ = a − y (84)", Costs.logLikelihood.delta(values, desired), right);
    showHessian(Costs.softmaxSlopes(values));
    showSample(values.map(() => values.map(() => null)));
    said.textContent = "";
  }

  function draw() {
    const a = Costs.softmax(z.map((slider) => slider.value));
    const counts = a.map(() => 0);
    for (let i = 0; i < DRAWS; i++) counts[pick(a, Math.random())]++;
    const shares = counts.map((count) => count / DRAWS);
    const covariance = shares.map((p, j) => shares.map((q, k) => (j === k ? p * (1 - p) : -p * q)));
    showSample(covariance);
    const hessian = Costs.softmaxSlopes(z.map((slider) => slider.value)).flat();
    const distance = Math.max(...covariance.flat().map((value, i) => Math.abs(value - hessian[i])));
    said.textContent = `The classes came ${counts.join(", ")} times. The two tables differ by ${Words.fixed(distance, 3)} at most.`;
  }

  function pick(a, share) {
    let class_ = 0;
    for (let rest = share - a[0]; rest >= 0 && class_ < a.length - 1; rest -= a[class_]) class_++;
    return class_;
  }

  show();
});
