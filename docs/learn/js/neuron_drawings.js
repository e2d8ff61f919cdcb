"use strict";

// The drawings of a neuron that learns: the neuron, its place on σ, its output so far, and what its slope is made of.
const NeuronDrawings = (() => {
  function drawNeuron(parent) {
    const svg = Plot.drawing(parent, {
      width: 340,
      height: 104,
      name: "A neuron: one input, a weight, a bias, one output",
    });
    svg.classList.add("neuron");
    Plot.element(svg, "path", { class: "wire", d: "M56 46H138M214 46H262" });
    Plot.element(svg, "circle", { class: "cell", cx: 176, cy: 46, r: 38 });
    Plot.element(svg, "text", { x: 30, y: 51, "text-anchor": "middle" }, "x = 1");
    const w = Plot.element(svg, "text", { x: 96, y: 36, "text-anchor": "middle" });
    const z = Plot.element(svg, "text", { x: 176, y: 51, "text-anchor": "middle" });
    const b = Plot.element(svg, "text", { x: 176, y: 96, "text-anchor": "middle" });
    const a = Plot.element(svg, "text", { x: 268, y: 51, class: "strong" });
    Plot.element(svg, "text", { x: 268, y: 72, class: "faint" }, "wanted: 0");
    return (course, epoch) => {
      w.textContent = `w = ${Words.fixed(course.w[epoch])}`;
      b.textContent = `b = ${Words.fixed(course.b[epoch])}`;
      z.textContent = `z = ${Words.fixed(course.z[epoch])}`;
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
        const ends = [Math.max(z - reach, -6), Math.min(z + reach, 10)];
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

  // The output against the epoch, as far as the neuron has come.
  function drawCourse(parent, kinds, epochs) {
    const chart = Plot.axes(parent, {
      name: "The output against the epoch",
      x: [0, epochs],
      y: [0, 1],
      xTicks: Plot.steps(0, epochs, 3),
      yTicks: [0, 0.5, 1],
      xLabel: "epoch",
      yLabel: "output a (wanted: 0)",
    });
    const lines = kinds.map((kind) => Plot.element(chart.svg, "path", { class: `course ${kind}` }));
    const dots = kinds.map((kind) => Plot.marker(chart.svg, kind));
    return (courses, epoch) =>
      courses.forEach(({ a }, i) => {
        const shown = a.slice(0, epoch + 1);
        lines[i].setAttribute(
          "d",
          Plot.line(
            chart,
            shown.map((_, step) => step),
            shown,
          ),
        );
        Plot.move(dots[i], chart.toX(epoch), chart.toY(a[epoch]));
      });
  }

  // The slope of the cost × the slope of σ = δ: the three numbers that say why. The desired output is 0.
  const COST_SLOPES = {
    quadratic: { name: "error a − y", at: (z) => Costs.sigmoid(z) },
    "cross-entropy": { name: "slope ∂C/∂a", at: (z) => 1 / Costs.sigmoid(-z) }, // 1 / (1 − a)
  };

  function drawFactors(parent, kind) {
    const { name, at } = COST_SLOPES[kind];
    const { show } = Bars.make(parent, {
      names: [name, "slope σ′(z)", "product, δ"],
      range: [0, 1],
      kind,
      digits: 3,
    });
    return (course, epoch) => {
      const z = course.z[epoch];
      show(`${kind}: C = ${Words.fixed(course.C[epoch], 3)}`, [at(z), Costs.slope(z), course.delta[epoch]], 2);
    };
  }

  // Return a function that draws the courses at an epoch. A neuron alone is drawn as such.
  function make(find, kinds, epochs) {
    const drawNumbers = kinds.length === 1 ? drawNeuron(find(".neuron")) : null;
    const drawPlaces = drawSigmoid(find(".figures"), kinds);
    const drawOutputs = drawCourse(find(".figures"), kinds, epochs);
    const factors = kinds.map((kind) => drawFactors(find(".factors"), kind));
    return (courses, epoch) => {
      drawNumbers?.(courses[0], epoch);
      drawPlaces(courses, epoch);
      drawOutputs(courses, epoch);
      factors.forEach((drawFactor, i) => drawFactor(courses[i], epoch));
    };
  }

  return { make };
})();
