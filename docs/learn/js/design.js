"use strict";

// The reader names the slope ∂C/∂b that a cost should have; (74) and an integral over a give the cost.
Page.part("design", ({ find }) => {
  const WISHES = ["a − y", "(a − y) a (1 − a)", "(a − y)³", "y − a"];
  const KNOWN = [
    ["the cross-entropy (57)", Costs.crossEntropy],
    ["the quadratic cost (54)", Costs.quadratic],
  ];
  const [SLOPES, COSTS] = [[-1, 1], [0, 4]];
  const zs = Plot.steps(-7, 7, 280);
  const as = zs.map(Costs.sigmoid);

  const controls = find(".controls");
  const choices = { ...Object.fromEntries(WISHES.map((wish) => [wish, wish])), own: "my own" };
  const presets = Page.choice(controls, "The slope that you want", choices, WISHES[0], () => {
    if (presets.value !== "own") typed.value = presets.value;
    else typed.focus();
    show();
  });
  const label = Page.element(controls, "label", { class: "typed" }, "∂C/∂b = ");
  const typed = Page.element(label, "input", {
    type: "text",
    value: WISHES[0],
    autocapitalize: "off",
    spellcheck: "false",
  });
  const fault = Page.element(controls, "p", { class: "verdict" });
  typed.addEventListener("input", () => {
    presets.value = WISHES.includes(typed.value) ? typed.value : "own";
    show();
  });
  const y = Page.choice(controls, "Desired output y", { 0: "0", 1: "1" }, "0", show);

  const charts = find(".figures");
  const slopeChart = chart("∂C/∂b, which you choose", SLOPES, [-1, 0, 1]);
  const costChart = chart("the cost C that has this slope", COSTS, [0, 1, 2, 3, 4]);
  const zero = Plot.element(slopeChart.svg, "path", { class: "wire" });
  const slopeLine = Plot.element(slopeChart.svg, "path", { class: "course plain" });
  const costLine = Plot.element(costChart.svg, "path", { class: "course plain" });
  const reference = Plot.element(costChart.svg, "path", { class: "course cross-entropy" }); // broken: both are seen
  const said = find(".said");

  function chart(yLabel, range, yTicks) {
    const ticks = { xTicks: [0, 0.5, 1], yTicks };
    return Plot.axes(charts, {
      name: `${yLabel}, against a`,
      x: [0, 1],
      y: range,
      ...ticks,
      xLabel: "output a",
      yLabel,
    });
  }

  function show() {
    let wish;
    try {
      wish = Expression.compile(typed.value, ["a", "y"]);
    } catch (error) {
      if (!(error instanceof Expression.Unreadable)) throw error;
      return refuse(error.message);
    }
    const desired = Number(y.value);
    const slopes = as.map((a) => wish({ a, y: desired }));
    if (!slopes.every(Number.isFinite)) {
      return refuse("Somewhere between 0 and 1 this slope is not a finite number.");
    }
    Page.say(fault, "");
    const costs = integrate(wish, desired);
    zero.setAttribute("d", Plot.line(slopeChart, [0, 1], [0, 0]));
    slopeLine.setAttribute("d", Plot.line(slopeChart, as, slopes));
    costLine.setAttribute("d", Plot.line(costChart, as, costs));
    reference.setAttribute("d", Plot.line(costChart, as, costsOf(Costs.crossEntropy, desired)));
    Page.say(said, describe(slopes, costs, desired) + beyond(slopes, costs));
  }

  // The curves of another formula would look as if they were this one's.
  function refuse(sentence) {
    for (const line of [slopeLine, costLine, reference]) line.setAttribute("d", "");
    Page.say(fault, sentence);
    Page.say(said, "");
  }

  const costsOf = (cost, y) => fromZero(zs.map((z) => cost.cost([z], [y])));

  // ∫ wish / (a (1 − a)) da, (75), is ∫ wish dz. By Simpson's rule, with the constant that makes the least value 0.
  function integrate(wish, y) {
    const slope = (z) => wish({ a: Costs.sigmoid(z), y });
    const costs = [0];
    for (let i = 1; i < zs.length; i++) {
      const [from, to] = [zs[i - 1], zs[i]];
      costs.push(costs[i - 1] + ((to - from) / 6) * (slope(from) + 4 * slope((from + to) / 2) + slope(to)));
    }
    return fromZero(costs);
  }

  function fromZero(costs) {
    const least = Math.min(...costs);
    return costs.map((C) => C - least);
  }

  function beyond(slopes, costs) {
    const seen = as.filter((a, i) => Math.abs(slopes[i]) <= SLOPES[1] && costs[i] <= COSTS[1]);
    const width = seen.length === 0 ? 0 : seen.at(-1) - seen[0];
    return width < 0.75 ? " Much of it is beyond the pictures." : "";
  }

  function describe(slopes, costs, y) {
    const known = KNOWN.find(([, cost]) => {
      const theirs = costsOf(cost, y);
      return costs.every((C, i) => Math.abs(C - theirs[i]) < 1e-4);
    });
    const best = as[costs.indexOf(Math.min(...costs))];
    if (Math.abs(best - y) > 0.01)
      return "This cost is not least where a = y: a neuron that goes down it learns something else.";
    const wrong = Math.abs(slopes[y === 0 ? slopes.length - 1 : 0]);
    const verdict =
      wrong < 0.05 ? "It is slow where the neuron is most wrong." : "It is fast where the neuron is most wrong.";
    return `${known ? `You have found ${known[0]}.` : "A cost of your own."} ${verdict}`;
  }

  show();
});
