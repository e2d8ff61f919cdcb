"use strict";

// (58) to (62), step by step. Each line is worked out as it is written, so that the reader sees that all are equal.
Page.part("derivation", ({ root, find, findAll }) => {
  const { sigmoid, slope } = Costs;
  const STEP = 1e-5;
  const x = 1;
  const bracket = (z, y) => y / sigmoid(z) - (1 - y) / (1 - sigmoid(z));
  const LINES = {
    58: (z, y) => (-bracket(z, y) * (sigmoid(z + STEP * x) - sigmoid(z - STEP * x))) / (2 * STEP), // ∂σ/∂w by differences
    59: (z, y) => -bracket(z, y) * slope(z) * x,
    60: (z, y) => ((slope(z) * x) / (sigmoid(z) * (1 - sigmoid(z)))) * (sigmoid(z) - y),
    61: (z, y) => x * (sigmoid(z) - y),
    62: (z, y) => sigmoid(z) - y,
  };
  const steps = findAll(".steps > li");
  const values = findAll("[data-line]");
  let shown = 1;

  const controls = find(".controls");
  const z = Page.slider(controls, { name: "z", min: -4, max: 6, step: 0.1, value: 4 }, showValues);
  const y = Page.choice(controls, "Desired output y", { 0: "0", 1: "1" }, "0", showValues);

  const buttons = Page.element(find(".stepper"), "div", { class: "buttons" });
  const back = Page.button(buttons, "Back", () => go(shown - 1));
  const forward = Page.button(buttons, "Next step", () => go(shown + 1));
  forward.className = "main";
  const all = Page.button(buttons, "All steps", () => go(steps.length));
  const where = Page.element(buttons, "span", { class: "faint", role: "status" });

  function go(step) {
    shown = Math.min(Math.max(step, 1), steps.length);
    steps.forEach((item, i) => {
      item.hidden = i >= shown;
      item.classList.toggle("current", i === shown - 1);
    });
    const struck = steps.findIndex((item) => item.dataset.cancels !== undefined) < shown;
    root.classList.toggle("struck", struck);
    back.disabled = shown === 1;
    forward.disabled = all.disabled = shown === steps.length;
    where.textContent = `Step ${shown} of ${steps.length}`;
  }

  function showValues() {
    for (const value of values) {
      const found = LINES[value.dataset.line](z.value, Number(y.value));
      value.textContent = `= ${Words.fixed(found, 4)}`;
    }
  }

  // A link from elsewhere to an equation opens the step that it is in.
  function openTarget() {
    const i = steps.indexOf(document.getElementById(location.hash.slice(1))?.closest(".steps > li"));
    if (i < shown) return;
    go(i + 1);
    steps[i].scrollIntoView();
  }
  window.addEventListener("hashchange", openTarget);

  go(1);
  openTarget();
  showValues();
});
