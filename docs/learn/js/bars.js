"use strict";

// Rows of bars under a title. The bars grow from 0 to either side, each with its name and its number.
const Bars = (() => {
  // `names` are the rows; `range` is what the length of the track stands for. Returns the box that holds all, and a
  // function that shows a title and values; its `unit` makes the track stand for a longer range.
  function make(parent, { names, range, kind, digits = 2 }) {
    const [low, high] = range;
    const zero = (-low / (high - low)) * 100;
    const box = Page.element(parent, "div");
    const legend = Page.element(box, "p", { class: `legend ${kind}` });
    const rows = names.map((name) => {
      const row = Page.element(box, "div", { class: `bar ${kind}` });
      Page.element(row, "span", { class: "bar-name" }, name);
      const track = Page.element(row, "span", { class: "bar-track" });
      const fill = Page.element(track, "span", { class: "bar-fill" });
      if (low < 0) Page.element(track, "span", { class: "bar-zero", style: `left:${zero}%` });
      return { row, fill, number: Page.element(row, "span", { class: "bar-number" }) };
    });
    // Two leading digits at least, so that readers can multiply what they see; and no more than fit.
    function inWords(value) {
      const size = Math.abs(value);
      if (size > 0 && size < 10 ** (1 - digits)) return Words.small(value);
      return Words.fixed(value, size < 100 ? digits : 0);
    }
    function show(title, values, marked = null, unit = 1) {
      legend.textContent = title;
      values.forEach((value, i) => {
        const { row, fill, number } = rows[i];
        const length = value / unit;
        const from = (Math.min(Math.max(Math.min(length, 0), low), high) - low) / (high - low);
        const to = (Math.min(Math.max(length, 0), high) - low) / (high - low);
        fill.style.left = `${from * 100}%`;
        fill.style.width = `${(to - from) * 100}%`;
        number.textContent = inWords(value);
        row.classList.toggle("marked", i === marked);
        row.classList.toggle("negative", value < 0);
        row.classList.toggle("beyond", length < low || length > high);
      });
    }
    return { box, show };
  }

  return { make };
})();
