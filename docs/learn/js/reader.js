"use strict";

// Ten neurons look at a digit: a test image, or one that the reader draws.
Page.part("reader", ({ find }) => {
  const ZOOM = 5;
  const { SIDE, images, weightedInputs } = Digits;
  const readings = images.map(({ x }) => largest(weightedInputs(x)));
  let current = 0;
  let shown = null;

  const source = Page.choice(
    find(".controls"),
    "Look at",
    { test: "test images", draw: "my own drawing" },
    "test",
    changeSource,
  );
  const buttons = Page.element(find(".controls"), "div", { class: "buttons" });
  Page.button(buttons, "Next", () => go(current + 1)).className = "main";
  Page.button(buttons, "Random", () => go(current + 1 + Math.floor(Math.random() * (images.length - 1))));
  Page.button(buttons, "Next mistake", () => {
    const order = images.map((_, i) => (current + 1 + i) % images.length);
    go(order.find((i) => readings[i] !== images[i].y));
  });
  const paper = find(".paper");
  const pen = Pen.make(paper, (drawing) => show({ x: Handwriting.toMnist(drawing), y: null }));
  const penButtons = Page.element(paper, "div", { class: "buttons" });
  Page.button(penButtons, "Clear", () => pen.clear());
  Page.button(penButtons, "Undo", () => pen.undo());

  const seen = Page.element(find(".seen"), "canvas", { width: SIDE * ZOOM, height: SIDE * ZOOM, role: "img" });
  const showSoftmax = outputs("log-likelihood");
  const showSigmoid = outputs("cross-entropy");
  const said = find(".said");

  function outputs(kind) {
    const names = Array.from({ length: 10 }, (_, digit) => String(digit));
    const { box, show } = Bars.make(find(".figures"), { names, range: [0, 1], kind, digits: 3 });
    box.classList.add("ten");
    return show;
  }

  function largest(values) {
    return values.indexOf(Math.max(...values));
  }

  function go(i) {
    current = i % images.length;
    show(images[current]);
  }

  function changeSource() {
    const own = source.value === "draw";
    paper.hidden = !own;
    buttons.hidden = own;
    if (own) pen.show();
    else go(current);
  }

  function show({ x, y, number }) {
    const z = weightedInputs(x);
    const digit = largest(z);
    const a = Costs.softmax(z);
    const separate = z.map(Costs.sigmoid);
    shown = x;
    paint();
    showSoftmax("softmax: the sum is 1", a, digit);
    showSigmoid(`σ of the same z: the sum is ${Words.fixed(Costs.sum(separate))}`, separate, digit);
    const empty = !x.some((pixel) => pixel > 0);
    seen.setAttribute("aria-label", empty ? "An empty image" : "What the network sees");
    find(".figures").hidden = empty;
    Page.say(said, y === null ? sayDrawn(empty, digit, a[digit]) : sayTested(number, y, digit, a));
  }

  function sayTested(number, y, digit, a) {
    const C = `C = −ln a${Words.subscript(y)} = ${Words.fixed(-Math.log(a[y]), 3)}`;
    const verdict = digit === y ? "which is right" : `but it is a ${y}`;
    return `Test image ${number}: it says ${digit} (${percent(a[digit])}), ${verdict}. ${C}.`;
  }

  function sayDrawn(empty, digit, share) {
    if (!empty) return `It says ${digit} (${percent(share)}).`;
    return (
      `There is nothing to read yet: draw a digit. (Without any ink the biases decide, and softmax would say ${digit} with ` +
      `${percent(share)}. Its outputs sum to 1 whatever it sees: it cannot say “none of these”.)`
    );
  }

  const percent = (share) => (share > 0.9995 ? "over 99.9 %" : `${Words.fixed(100 * share, 1)} %`);

  function paint() {
    const context = seen.getContext("2d");
    const [ground, ink] = ["--ground", "--ink"].map((name) => getComputedStyle(seen).getPropertyValue(name));
    context.fillStyle = ground;
    context.fillRect(0, 0, SIDE * ZOOM, SIDE * ZOOM);
    context.fillStyle = ink;
    shown.forEach((pixel, i) => {
      context.globalAlpha = pixel;
      context.fillRect((i % SIDE) * ZOOM, Math.floor(i / SIDE) * ZOOM, ZOOM, ZOOM);
    });
    context.globalAlpha = 1;
  }

  find(".tested").textContent = `${NETWORK.tested.toLocaleString("en")} test images it gets ${NETWORK.mistakes} wrong`;
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  changeSource();
});
