"use strict";

// A neuron that learns before the reader's eyes, with one cost or with two side by side.
const Lesson = (() => {
  const EPOCHS = 300;
  const EPOCHS_A_SECOND = 75;
  const COSTS = { quadratic: Costs.quadratic, "cross-entropy": Costs.crossEntropy };
  const STARTS = { bad: { w: 2, b: 2 }, mild: { w: 0.6, b: 0.9 } };
  const NAMES = { bad: "badly wrong: w = b = 2", mild: "mildly wrong: w = 0.6, b = 0.9", own: "my own" };
  const GOAL = 0.1;
  const PATIENCE = 20_000;
  const RATES = [0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2];
  const RATE = 0.15;

  function drawNeuron(parent) {
    const svg = Plot.drawing(parent, {
      width: 340,
      height: 104,
      name: "A neuron: one input, a weight, a bias, one output",
    });
    svg.classList.add("neuron");
    Plot.element(svg, "path", { class: "wire", d: "M46 46H146M206 46H262" });
    Plot.element(svg, "circle", { class: "cell", cx: 176, cy: 46, r: 30 });
    Plot.element(svg, "text", { x: 30, y: 51, "text-anchor": "middle" }, "x = 1");
    const w = Plot.element(svg, "text", { x: 96, y: 36, "text-anchor": "middle" });
    const z = Plot.element(svg, "text", { x: 176, y: 51, "text-anchor": "middle" });
    const b = Plot.element(svg, "text", { x: 176, y: 96, "text-anchor": "middle" });
    const a = Plot.element(svg, "text", { x: 268, y: 51, class: "strong" });
    Plot.element(svg, "text", { x: 268, y: 72, class: "faint" }, "wanted: 0");
    return (course, epoch) => {
      w.textContent = `w = ${Words.fixed(course.w[epoch])}`;
      b.textContent = `b = ${Words.fixed(course.b[epoch])}`;
      z.textContent = `z ${Words.fixed(course.z[epoch])}`;
      a.textContent = `a = ${Words.fixed(course.a[epoch])}`;
    };
  }

  // σ with the neuron as a dot on it, and the tangent at the dot.
  function drawSigmoid(parent, kinds) {
    const chart = Plot.axes(parent, {
      name: "The function σ, and where the neuron is on it",
      x: [-6, 10],
      y: [0, 1],
      xTicks: [-5, 0, 5, 10],
      yTicks: [0, 0.5, 1],
      xLabel: "weighted input z",
      yLabel: "output a = σ(z)",
    });
    const zs = Plot.steps(-6, 10, 80);
    Plot.element(chart.svg, "path", { class: "curve", d: Plot.line(chart, zs, zs.map(Costs.sigmoid)) });
    const dots = kinds.map((kind) => ({
      tangent: Plot.element(chart.svg, "path", { class: `tangent ${kind}` }),
      dot: Plot.marker(chart.svg, kind),
    }));
    return (courses, epoch) =>
      courses.forEach((course, i) => {
        const z = Math.min(Math.max(course.z[epoch], -6), 10);
        const slope = Costs.slope(z);
        const reach = 2.2 / Math.hypot(1, 8 * slope); // so that all tangents look equally long
        const ends = [z - reach, z + reach];
        Plot.set(dots[i].tangent, { d: tangentLine(chart, ends, z, slope) });
        Plot.move(dots[i].dot, chart.toX(z), chart.toY(Costs.sigmoid(z)));
      });
  }

  function tangentLine(chart, ends, z, slope) {
    const points = ends.map(
      (end) => `${chart.toX(end).toFixed(1)} ${chart.toY(Costs.sigmoid(z) + slope * (end - z)).toFixed(1)}`,
    );
    return `M${points.join("L")}`;
  }

  // A value against the epoch: all of its course faintly, and strongly as far as the neuron has come.
  function drawCourse(parent, kinds, { name, yLabel, y, yTicks, values }) {
    const chart = Plot.axes(parent, {
      name,
      x: [0, EPOCHS],
      y,
      xTicks: [0, 100, 200, 300],
      yTicks,
      xLabel: "epoch",
      yLabel,
    });
    const lines = kinds.map((kind) => Plot.element(chart.svg, "path", { class: `course ${kind}` }));
    const dots = kinds.map((kind) => Plot.marker(chart.svg, kind));
    return (courses, epoch) =>
      courses.forEach((course, i) => {
        const shown = values(course).slice(0, epoch + 1);
        lines[i].setAttribute(
          "d",
          Plot.line(
            chart,
            shown.map((_, step) => step),
            shown,
          ),
        );
        Plot.move(dots[i], chart.toX(epoch), chart.toY(Math.min(shown[epoch], y[1])));
      });
  }

  // error × flatness = push: the three numbers that say why.
  function drawFactors(parent, kind) {
    const title = Page.element(parent, "p", { class: `legend ${kind}` });
    const names = kind === "quadratic" ? ["error a − y", "slope σ′(z)", "product, δ"] : ["error a − y", "δ, the same"];
    const show = Bars.make(parent, { names, range: [0, 1], kind, digits: 3 });
    return (course, epoch) => {
      const slope = Costs.slope(course.z[epoch]);
      const a = course.a[epoch];
      show(kind === "quadratic" ? [a, slope, course.delta[epoch]] : [a, course.delta[epoch]], names.length - 1);
      title.textContent = `${kind}: C = ${Words.fixed(course.C[epoch], 3)}`;
    };
  }

  function mount({ root, find }, kinds, { presets }) {
    const figures = find(".figures");
    const drawings = [];
    if (kinds.length === 1) {
      const show = drawNeuron(find(".neuron"));
      drawings.push(([course], epoch) => show(course, epoch));
    }
    drawings.push(drawSigmoid(figures, kinds));
    drawings.push(
      drawCourse(figures, kinds, {
        name: "The output against the epoch",
        yLabel: "output a (wanted: 0)",
        y: [0, 1],
        yTicks: [0, 0.5, 1],
        values: (course) => course.a,
      }),
    );
    for (const [i, kind] of kinds.entries()) {
      const show = drawFactors(Page.element(find(".factors"), "div"), kind);
      drawings.push((courses, epoch) => show(courses[i], epoch));
    }

    const bottom = find(".run-bar");
    const run = Page.button(bottom, "Run", () => (frame === null ? play() : pause()));
    run.className = "run";
    const epoch = Page.slider(bottom, { name: "epoch", min: 0, max: EPOCHS, step: 1, value: 0, show: String }, () => {
      pause();
      show();
    });
    const start = presets ? chooseStart(find(".controls"), relearn) : { value: STARTS.bad };
    const rates = kinds.map((kind) => (presets ? chooseRate(find(".rates"), kind, relearn) : { value: RATE }));
    const said = Page.element(root, "p", { class: "said", role: "status" });
    let courses;
    let waits;
    let frame = null;

    function relearn() {
      pause();
      courses = kinds.map((kind, i) => Neuron.learn(COSTS[kind], start.value, { eta: rates[i].value, epochs: EPOCHS }));
      const goal = { goal: GOAL, patience: PATIENCE };
      waits = kinds.map((kind, i) => Neuron.epochsToOutput(COSTS[kind], start.value, { eta: rates[i].value, ...goal }));
      show();
    }

    function show() {
      for (const draw of drawings) draw(courses, epoch.value);
      if (frame === null) said.textContent = say(kinds, courses, waits, epoch.value);
    }

    function play() {
      if (Page.reducedMotion()) {
        epoch.value = EPOCHS;
        return show();
      }
      const from = epoch.value === EPOCHS ? 0 : epoch.value;
      let began = null;
      function step(now) {
        began ??= now;
        epoch.value = Math.min(from + Math.floor(((now - began) / 1000) * EPOCHS_A_SECOND), EPOCHS);
        show();
        if (epoch.value < EPOCHS) frame = requestAnimationFrame(step);
        else pause();
      }
      run.textContent = "Pause";
      frame = requestAnimationFrame(step);
    }

    function pause() {
      if (frame === null) return;
      cancelAnimationFrame(frame);
      frame = null;
      run.textContent = "Run";
      show();
    }

    relearn();
    return { play };
  }

  function chooseStart(parent, onChange) {
    const choice = Page.choice(parent, "Start", NAMES, "bad", changed);
    const own = Page.element(parent, "div", { class: "sliders" });
    const [w, b] = ["w", "b"].map((name) => Page.slider(own, { name, min: -5, max: 5, step: 0.1, value: 2 }, onChange));
    own.hidden = true;
    function changed() {
      own.hidden = choice.value !== "own";
      onChange();
    }
    return {
      get value() {
        return STARTS[choice.value] ?? { w: w.value, b: b.value };
      },
    };
  }

  function chooseRate(parent, kind, onChange) {
    const place = { min: 0, max: RATES.length - 1, step: 1, value: RATES.indexOf(RATE) };
    const slider = Page.slider(parent, { name: `η, ${kind}`, ...place, show: (i) => String(RATES[i]) }, onChange);
    return {
      get value() {
        return RATES[slider.value];
      },
    };
  }

  function say(kinds, courses, waits, epoch) {
    const outputs = kinds.map((kind, i) => `${kind} ${Words.fixed(courses[i].a[epoch])}`).join(", ");
    const now = `After ${epoch} epochs the output is ${kinds.length > 1 ? outputs : Words.fixed(courses[0].a[epoch])}.`;
    if (kinds.length === 1) return now;
    const count = (epochs) =>
      epochs === Infinity ? `more than ${PATIENCE.toLocaleString("en")}` : epochs.toLocaleString("en");
    return `${now} Epochs until it is below ${GOAL}: ${kinds.map((kind, i) => `${kind} ${count(waits[i])}`).join(", ")}.`;
  }

  return { mount };
})();
