"use strict";

// The slopes of a cost, step by step: (55) and (56) of the quadratic cost, (58) to (62) of the cross-entropy. Each line is
// worked out as it is written, so that the reader sees that all of one derivation are equal.
const Derivation = (() => {
  const { sigmoid, slope } = Costs;
  const STEP = 1e-5;
  const x = 1;
  const slopeInW = (z) => (sigmoid(z + STEP * x) - sigmoid(z - STEP * x)) / (2 * STEP); // ∂σ/∂w by differences
  const bracket = (z, y) => y / sigmoid(z) - (1 - y) / (1 - sigmoid(z));
  const LINES = {
    chain: (z, y) => (sigmoid(z) - y) * slopeInW(z),
    55: (z, y) => (sigmoid(z) - y) * slope(z) * x,
    56: (z, y) => (sigmoid(z) - y) * slope(z),
    58: (z, y) => -bracket(z, y) * slopeInW(z),
    59: (z, y) => -bracket(z, y) * slope(z) * x,
    60: (z, y) => ((slope(z) * x) / (sigmoid(z) * (1 - sigmoid(z)))) * (sigmoid(z) - y),
    61: (z, y) => x * (sigmoid(z) - y),
    62: (z, y) => sigmoid(z) - y,
  };

  function mount({ root, find, findAll }) {
    const list = find(".steps");
    const steps = [...list.children];
    const struckFrom = steps.findIndex((item) => item.dataset.cancels !== undefined) + 1; // 0: nothing cancels
    let shown;

    showValues(find(".controls"), findAll("[data-line]"));
    const bar = find(".stepper");
    const back = Page.button(bar, "Back", () => go(shown - 1));
    const forward = Page.button(bar, "Next step", () => go(shown + 1));
    forward.className = "main";
    const all = Page.button(bar, "All", () => show(steps.length));
    all.setAttribute("aria-label", "All steps");
    const where = Page.element(bar, "span", { class: "faint", role: "status" });

    function show(step) {
      shown = step;
      steps.forEach((item, i) => {
        item.hidden = i >= shown;
        item.classList.toggle("current", i === shown - 1);
      });
      root.classList.toggle("struck", struckFrom > 0 && shown >= struckFrom);
      const focused = document.activeElement;
      back.disabled = shown === 1;
      forward.disabled = all.disabled = shown === steps.length;
      if (focused.disabled) (back.disabled ? forward : back).focus(); // or the keyboard would lose its place
      where.textContent = `Step ${shown} of ${steps.length}`;
    }

    // Scroll, so that the last step ends where the buttons are, and they stay under the finger.
    function go(step) {
      const place = bar.getBoundingClientRect().top;
      show(step);
      const end = list.getBoundingClientRect().bottom;
      window.scrollBy({ top: end - place, behavior: "instant" });
    }

    // A link from elsewhere to an equation opens the step that it is in.
    function openTarget() {
      const i = steps.indexOf(document.getElementById(location.hash.slice(1))?.closest(".steps > li"));
      if (i < shown) return;
      show(i + 1);
      steps[i].scrollIntoView();
    }
    window.addEventListener("hashchange", openTarget);

    show(1);
    openTarget();
  }

  // Sliders for z and y, and beside each line the number that it gives for them.
  function showValues(controls, lines) {
    const z = Page.slider(controls, { name: "z", min: -4, max: 6, step: 0.1, value: 4 }, refresh);
    const y = Page.choice(controls, "Desired output y", { 0: "0", 1: "1" }, "0", refresh);
    function refresh() {
      for (const line of lines) {
        line.textContent = `= ${Words.fixed(LINES[line.dataset.line](z.value, Number(y.value)), 4)}`;
      }
    }
    refresh();
  }

  return { mount };
})();

Page.part("slopes", Derivation.mount);
Page.part("derivation", Derivation.mount);
