"use strict";

// Line charts and other drawings in SVG. What changes with a slider is an attribute of an element that stays.
const Plot = (() => {
  const NAMESPACE = "http://www.w3.org/2000/svg";

  function element(parent, name, attributes = {}, text = null) {
    const made = document.createElementNS(NAMESPACE, name);
    set(made, attributes);
    if (text !== null) made.textContent = text;
    parent.append(made);
    return made;
  }

  function set(target, attributes) {
    for (const [name, value] of Object.entries(attributes)) target.setAttribute(name, value);
  }

  // An empty drawing. Its name is what a screen reader says.
  function drawing(parent, { width, height, name }) {
    return element(parent, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  }

  const WIDTH = 340;
  const HEIGHT = Page.isNarrow() ? 140 : 194; // so that a phone shows two charts with their bars and controls
  const MARGIN = { left: 36, right: 14, top: 24, bottom: 38 };

  // Axes over the ranges x and y, with the ticks that are named. Returns the svg and the scales.
  function axes(parent, { name, x, y, xTicks, yTicks, xLabel, yLabel }) {
    const svg = drawing(parent, { width: WIDTH, height: HEIGHT, name });
    const inner = { width: WIDTH - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const toX = (value) => MARGIN.left + ((value - x[0]) / (x[1] - x[0])) * inner.width;
    const toY = (value) => MARGIN.top + (1 - (value - y[0]) / (y[1] - y[0])) * inner.height;
    const grid = element(svg, "g", { class: "grid" });
    for (const tick of yTicks) {
      element(grid, "path", { d: `M${toX(x[0])} ${toY(tick)}H${toX(x[1])}` });
      element(
        grid,
        "text",
        { x: MARGIN.left - 6, y: toY(tick) + 4, "text-anchor": "end" },
        String(tick).replace("-", "−"),
      );
    }
    for (const tick of xTicks) {
      element(grid, "path", { d: `M${toX(tick)} ${toY(y[0])}v4` });
      const place = { x: toX(tick), y: toY(y[0]) + 17, "text-anchor": "middle" };
      element(grid, "text", place, String(tick).replace("-", "−"));
    }
    element(grid, "text", { x: toX(x[1]), y: HEIGHT - 6, "text-anchor": "end", class: "axis" }, xLabel);
    element(grid, "text", { x: 4, y: 15, class: "axis" }, yLabel);
    return { svg, toX, toY, inner: { left: toX(x[0]), right: toX(x[1]), top: toY(y[1]), bottom: toY(y[0]) } };
  }

  // The `d` of a line through points. It ends at the edge of the chart where the points are beyond it.
  function line(chart, xs, ys) {
    const { top, bottom } = chart.inner;
    const levels = ys.map(chart.toY);
    const isInside = (i) => levels[i] >= top && levels[i] <= bottom;
    const isJoined = (i) => i > 0 && (isInside(i - 1) || isInside(i)); // to the point before
    const place = (i) => `${chart.toX(xs[i]).toFixed(1)} ${Math.min(Math.max(levels[i], top), bottom).toFixed(1)}`;
    return xs.map((_, i) => (isJoined(i) ? `L${place(i)}` : isJoined(i + 1) ? `M${place(i)}` : "")).join("");
  }

  // A dot whose shape, not only its colour, says which cost it belongs to.
  function marker(svg, kind) {
    const group = element(svg, "g", { class: `marker ${kind}` });
    if (kind === "cross-entropy") element(group, "rect", { x: -4.5, y: -4.5, width: 9, height: 9 });
    else if (kind === "log-likelihood") element(group, "path", { d: "M0 -7L7 0L0 7L-7 0Z" });
    else element(group, "circle", { r: 7 });
    return group;
  }

  const move = (group, x, y) => group.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)})`);

  const steps = (from, to, count) => Array.from({ length: count + 1 }, (_, i) => from + ((to - from) * i) / count);

  return { element, set, drawing, axes, line, marker, move, steps };
})();
