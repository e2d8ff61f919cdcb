"use strict";

// What all parts of the page do with its elements.
const Page = (() => {
  function element(parent, name, attributes = {}, text = null) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    parent.append(made);
    return made;
  }

  // Run a part of the page in its element.
  function part(id, run) {
    const root = document.getElementById(id);
    const find = (selector) => root.querySelector(selector);
    const findAll = (selector) => [...root.querySelectorAll(selector)];
    run({ root, find, findAll });
  }

  const PAUSE = 700; // ms in which nothing changes: the hand rests
  const sentences = new Map();
  const spoken = element(document.body, "p", { class: "spoken", role: "status" });
  let pause = null;

  // Show a sentence at once, and let screen readers say it at the next pause: not at each step of a slider.
  function say(place, sentence) {
    if (place.textContent === sentence) return;
    place.textContent = sentence;
    speak(place, sentence);
  }

  // Let screen readers say a sentence at the next pause, and the last one only if a subject has several.
  function speak(subject, sentence) {
    if (document.readyState !== "complete") return; // the reader has moved nothing yet
    sentences.set(subject, sentence);
    clearTimeout(pause);
    pause = setTimeout(() => {
      spoken.textContent = [...sentences.values()].join(" ");
      sentences.clear();
    }, PAUSE);
  }

  // Scroll until an element ends where the window does, if it is partly out of sight. A bar that sticks there stays there.
  function reveal(element) {
    const { top, bottom } = element.getBoundingClientRect();
    if (top < 0 || bottom > window.innerHeight) window.scrollBy({ top: bottom - window.innerHeight });
  }

  let numberOfSliders = 0;

  // A slider with its name and its value. `show` turns the value into what is read and heard.
  function slider(parent, { name, min, max, step, value, show = (number) => Words.fixed(number, 1) }, onChange) {
    const id = `slider-${(numberOfSliders += 1)}`;
    const row = element(parent, "div", { class: "slider" });
    element(row, "label", { for: id }, name);
    const input = element(row, "input", { type: "range", id, min, max, step, value });
    const output = element(row, "output", { for: id, "aria-live": "off" });
    function refresh() {
      output.textContent = show(input.valueAsNumber);
      input.setAttribute("aria-valuetext", output.textContent);
    }
    input.addEventListener("input", () => {
      refresh();
      onChange();
    });
    refresh();
    return {
      row,
      input,
      get value() {
        return input.valueAsNumber;
      },
      set value(number) {
        input.value = number;
        refresh();
      },
    };
  }

  // A slider for each weighted input, z₁, z₂ and so on.
  function inputSliders(parent, starts, { min, max }, onChange) {
    return starts.map((value, j) =>
      slider(parent, { name: `z${Words.subscript(j + 1)}`, min, max, step: 0.1, value }, onChange),
    );
  }

  function button(parent, text, onClick) {
    const made = element(parent, "button", { type: "button" }, text);
    made.addEventListener("click", onClick);
    return made;
  }

  let numberOfGroups = 0;

  // One of several choices, as radio buttons. `choices` maps values to names.
  function choice(parent, legend, choices, chosen, onChange) {
    const group = `choice-${(numberOfGroups += 1)}`;
    const fieldset = element(parent, "fieldset", { class: "choice" });
    element(fieldset, "legend", {}, legend);
    const inputs = Object.entries(choices).map(([value, name]) => {
      const label = element(fieldset, "label");
      const input = element(label, "input", { type: "radio", name: group, value });
      input.checked = value === chosen;
      input.addEventListener("change", onChange);
      element(label, "span", {}, name);
      return input;
    });
    return {
      fieldset,
      get value() {
        return inputs.find((input) => input.checked)?.value;
      },
      set value(value) {
        for (const input of inputs) input.checked = input.value === value;
      },
    };
  }

  const reducedMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  const isNarrow = () => window.matchMedia("(max-width: 520px)").matches;

  return { element, part, say, speak, reveal, slider, inputSliders, button, choice, reducedMotion, isNarrow };
})();
