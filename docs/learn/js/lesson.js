"use strict";

// A neuron that learns before the reader's eyes, with one cost or with two side by side.
const Lesson = (() => {
  const EPOCHS = 300;
  const EPOCHS_A_SECOND = 75;
  const COSTS = { quadratic: Costs.quadratic, "cross-entropy": Costs.crossEntropy };
  const STARTS = { bad: { w: 2, b: 2 }, mild: { w: 0.6, b: 0.9 } };
  const NAMES = { bad: "badly wrong: w = b = 2", mild: "mildly wrong: w = 0.6, b = 0.9", own: "my own" };
  const RATES = [0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2];
  const RATE = 0.15;
  const GOAL = 0.1;
  const PATIENCE = 20_000;
  const STUCK = 1_000; // so many epochs until the goal, or more

  // Calls `seen` with the epoch that is shown.
  function mount({ root, find }, kinds, { presets, seen = () => {} }) {
    const draw = NeuronDrawings.make(find, kinds, EPOCHS);
    const player = Player.make(find(".run-bar"), { name: "epoch", last: EPOCHS, perSecond: EPOCHS_A_SECOND }, show);
    const start = presets ? chooseStart(find(".controls"), relearn) : { value: STARTS.bad };
    const rates = kinds.map((kind) => (presets ? chooseRate(find(".rates"), kind, relearn) : { value: RATE }));
    const said = Page.element(root, "p", { class: "said" });
    let courses;
    let waits;

    function relearn() {
      player.stop();
      const runs = kinds.map((kind, i) => [COSTS[kind], start.value, { eta: rates[i].value }]);
      courses = runs.map(([cost, from, rate]) => Neuron.learn(cost, from, { ...rate, epochs: EPOCHS }));
      const until = { goal: GOAL, patience: PATIENCE };
      waits = runs.map(([cost, from, rate]) => Neuron.epochsToOutput(cost, from, { ...rate, ...until }));
      start.judge?.(waits[kinds.indexOf("quadratic")]);
      show();
    }

    function show() {
      draw(courses, player.value);
      Page.say(said, describe(kinds, courses, waits, player.value));
      seen(player.value);
    }

    relearn();
    return { play: player.play };
  }

  function chooseStart(parent, onChange) {
    const choice = Page.choice(parent, "Start", NAMES, "bad", changed);
    const own = Page.element(parent, "div");
    const sliders = Page.element(own, "div", { class: "sliders" });
    const range = { min: -5, max: 5, step: 0.1, value: 2 };
    const [w, b] = ["w", "b"].map((name) => Page.slider(sliders, { name, ...range }, onChange));
    const verdict = Page.element(own, "p", { class: "verdict" });
    own.hidden = true;
    function changed() {
      own.hidden = choice.value !== "own";
      onChange();
    }
    return {
      get value() {
        return STARTS[choice.value] ?? { w: w.value, b: b.value };
      },
      judge(epochs) {
        const time = `${count(epochs)} ${epochs === 1 ? "epoch" : "epochs"}`;
        Page.say(verdict, `The quadratic cost waits ${time}: ${epochs >= STUCK ? "a stuck start" : "not stuck"}.`);
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

  function count(epochs) {
    return epochs === Infinity ? `more than ${PATIENCE.toLocaleString("en")}` : epochs.toLocaleString("en");
  }

  function describe(kinds, courses, waits, epoch) {
    if (kinds.length === 1) return `After ${epoch} epochs the output is ${Words.fixed(courses[0].a[epoch])}.`;
    const outputs = kinds.map((kind, i) => `${kind} ${Words.fixed(courses[i].a[epoch])}`).join(", ");
    const counts = kinds.map((kind, i) => `${kind} ${count(waits[i])}`).join(", ");
    return `Output after ${epoch} epochs: ${outputs}. Epochs until it is below ${GOAL}: ${counts}.`;
  }

  return { mount };
})();
