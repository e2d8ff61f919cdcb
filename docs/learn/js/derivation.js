"use strict";

// The slopes of a cost, step by step: (55) and (56) of the quadratic cost, (58) to (62) of the cross-entropy. Each line is
// worked out as it is written, so that the reader sees that all slopes of one derivation are equal.
const Derivation = (() => {
  const { sigmoid, slope } = Costs;
  const STEP = 1e-5;
  const x = 1;
  const slopeInW = (f, z) => (f(z + STEP * x) - f(z - STEP * x)) / (2 * STEP); // ∂f/∂w by differences
  const bracket = (z, y) => y / sigmoid(z) - (1 - y) / (1 - sigmoid(z));
  const LINES = {
    chain: (z, y) => [(sigmoid(z) - y) * slopeInW(sigmoid, z)],
    55: (z, y) => [(sigmoid(z) - y) * slope(z) * x],
    56: (z, y) => [(sigmoid(z) - y) * slope(z)],
    logarithms: (z) => [slopeInW(sigmoid, z) / sigmoid(z), -slopeInW(sigmoid, z) / (1 - sigmoid(z))],
    58: (z, y) => [-bracket(z, y) * slopeInW(sigmoid, z)],
    59: (z, y) => [-bracket(z, y) * slope(z) * x],
    60: (z, y) => [((slope(z) * x) / (sigmoid(z) * (1 - sigmoid(z)))) * (sigmoid(z) - y)],
    61: (z, y) => [x * (sigmoid(z) - y)],
    62: (z, y) => [sigmoid(z) - y],
  };

  function mount({ root, find, findAll }) {
    const list = find(".steps");
    const steps = findAll(".steps details");
    const last = () => steps.findLastIndex((step) => step.open); // −1: none is open
    const bar = find(".stepper");
    showValues(find(".controls"), bar, findAll("[data-line]"));

    const buttons = Page.element(bar, "div", { class: "buttons" });
    const back = Page.button(buttons, "Back", () => press(() => (steps[last()].open = false)));
    const forward = Page.button(buttons, "Next step", () => press(() => (steps[last() + 1].open = true)));
    forward.className = "main";
    const all = Page.button(buttons, "All", () => press(() => steps.forEach((step) => (step.open = true))));
    all.setAttribute("aria-label", "All steps");
    const where = Page.element(buttons, "span", { class: "faint" });

    function refresh() {
      root.classList.toggle("struck", steps.some((step) => step.open && step.dataset.cancels !== undefined));
      const focused = document.activeElement;
      back.disabled = last() === -1;
      forward.disabled = last() === steps.length - 1;
      all.disabled = steps.every((step) => step.open);
      if (focused.disabled) (back.disabled ? forward : back).focus(); // or the keyboard would lose its place
      Page.say(where, `${last() + 1} of ${steps.length}`);
    }

    // Scroll, so that the buttons stay under the finger, and the last step that is open ends above them.
    function press(change) {
      const { top, bottom } = bar.getBoundingClientRect();
      const isStuck = bottom > window.innerHeight - 1; // what follows the step may then be below the window
      change();
      refresh();
      const end = (isStuck && steps[last()]) || list;
      window.scrollBy({ top: end.getBoundingClientRect().bottom - top, behavior: "instant" });
      steps[last()]?.scrollIntoView({ block: "nearest", behavior: "instant" });
    }

    for (const step of steps) {
      step.addEventListener("toggle", refresh);
      const reveal = () => step.scrollIntoView({ block: "nearest" });
      step.querySelector("summary").addEventListener("click", () => requestAnimationFrame(reveal));
    }

    // A link from elsewhere to an equation opens the step that it is in.
    function openTarget() {
      const target = document.getElementById(location.hash.slice(1));
      const step = steps.find((step) => step.contains(target));
      if (!step || step.open) return;
      step.open = true;
      target.scrollIntoView();
    }
    window.addEventListener("hashchange", openTarget);

    refresh();
    openTarget();
  }

  // z and y, and in each line the numbers that it gives for them. The slider is in the bar, since it belongs to all lines.
  function showValues(controls, bar, lines) {
    const y = Page.choice(controls, "Desired output y", { 0: "0", 1: "1" }, "0", refresh);
    const z = Page.slider(bar, { name: "z", min: -4, max: 6, step: 0.1, value: 4 }, refresh);
    function refresh() {
      for (const line of lines) {
        const values = LINES[line.dataset.line](z.value, Number(y.value)).map((value) => Words.fixed(value, 4));
        line.textContent = `= ${values.join(" and ")}`;
      }
      const open = lines.filter((line) => line.closest("details").open).map((line) => line.textContent);
      Page.speak(lines, `The open lines say ${[...new Set(open)].join(", ")}`);
    }
    refresh();
  }

  return { mount };
})();

Page.part("slopes", Derivation.mount);
Page.part("derivation", Derivation.mount);
