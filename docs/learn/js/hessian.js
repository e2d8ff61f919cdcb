"use strict";

// The Hessian of the log-likelihood, which is the covariance of a class drawn with probabilities a.
Page.part("hessian", ({ find }) => {
  const START = [1.5, -0.5, 0.5, 0];
  const DRAWS = 1_000;
  const count = DRAWS.toLocaleString("en");
  const showHessian = matrix("Hessian ∂²C / ∂zⱼ∂zₖ");
  const showSample = matrix(`Covariance of ${count} draws`);
  const z = Page.inputSliders(find(".sliders"), START, { min: -5, max: 5 }, show);
  Page.button(find(".draw"), `Draw ${count} classes`, draw);
  const said = find(".said");
  const outputs = () => Costs.softmax(z.map((slider) => slider.value));
  const hessian = () => Costs.softmaxSlopes(z.map((slider) => slider.value));

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
    const a = outputs();
    showHessian(hessian());
    showSample(a.map(() => a.map(() => null)));
    Page.say(said, `a = ${a.map((value) => Words.fixed(value, 3)).join(", ")}.`);
  }

  function draw() {
    const a = outputs();
    const counts = a.map(() => 0);
    for (let i = 0; i < DRAWS; i++) counts[pick(a, Math.random())]++;
    const shares = counts.map((count) => count / DRAWS);
    const covariance = shares.map((p, j) => shares.map((q, k) => (j === k ? p * (1 - p) : -p * q)));
    showSample(covariance);
    const truth = hessian().flat();
    const distance = Math.max(...covariance.flat().map((value, i) => Math.abs(value - truth[i])));
    Page.say(said, `The classes came ${counts.join(", ")} times. The tables differ by ${Words.fixed(distance, 3)} at most.`);
  }

  function pick(a, share) {
    let class_ = 0;
    for (let rest = share - a[0]; rest >= 0 && class_ < a.length - 1; rest -= a[class_]) class_++;
    return class_;
  }

  show();
});
