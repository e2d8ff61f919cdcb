"use strict";

// A canvas to draw a digit on. What is drawn is kept as lines, so that the pen's width can follow the digit's size.
const Pen = (() => {
  const WIDTH = 280; // of the canvas, in pixels of its own
  const SHARE = 1 / 8; // of the digit's longer side: the width of a line of MNIST
  const THINNEST = 3;
  const RASTER = 112; // the side of what becomes an image of MNIST

  // The pen's width for lines, which are lists of [x, y].
  function penWidth(lines) {
    const points = lines.flat();
    const sides = [0, 1].map((i) => {
      const values = points.map((point) => point[i]);
      return Math.max(...values) - Math.min(...values);
    });
    return Math.max(THINNEST, Math.max(...sides) * SHARE);
  }

  function stroke(context, lines) {
    context.lineWidth = penWidth(lines);
    context.lineCap = context.lineJoin = "round";
    for (const line of lines) {
      context.beginPath();
      context.moveTo(...line[0]);
      for (const point of line) context.lineTo(...point); // a dot is a line to its own start
      context.stroke();
    }
  }

  // The lines as ink from 0 to 1. The digit fills the raster, so that a small one loses nothing.
  function rasterise(lines) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = RASTER;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (lines.length) {
      const points = lines.flat();
      const [left, top] = [0, 1].map((i) => Math.min(...points.map((point) => point[i])));
      const [right, bottom] = [0, 1].map((i) => Math.max(...points.map((point) => point[i])));
      const margin = penWidth(lines);
      const scale = RASTER / (Math.max(right - left, bottom - top) + 2 * margin);
      context.setTransform(scale, 0, 0, scale, (margin - left) * scale, (margin - top) * scale);
      stroke(context, lines);
    }
    const { data } = context.getImageData(0, 0, RASTER, RASTER);
    return {
      ink: Float64Array.from({ length: RASTER * RASTER }, (_, i) => data[4 * i + 3] / 255),
      width: RASTER,
      height: RASTER,
    };
  }

  function make(parent, onChange) {
    const canvas = Page.element(parent, "canvas", {
      width: WIDTH,
      height: WIDTH,
      role: "img",
      "aria-label": "An area to draw a digit in, with a finger or a mouse",
    });
    const context = canvas.getContext("2d");
    let lines = [];
    let drawing = false;

    function paint() {
      context.clearRect(0, 0, WIDTH, WIDTH);
      context.strokeStyle = getComputedStyle(canvas).color;
      if (lines.length) stroke(context, lines);
    }

    function place(event) {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) * WIDTH) / box.width, ((event.clientY - box.top) * WIDTH) / box.height];
    }

    function changed() {
      paint();
      onChange(rasterise(lines));
    }

    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary) return;
      canvas.setPointerCapture(event.pointerId);
      drawing = true;
      lines.push([place(event)]);
      changed();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drawing || !event.isPrimary) return;
      lines.at(-1).push(place(event));
      changed();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (drawing = false));
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

    return {
      show: changed,
      clear() {
        lines = [];
        changed();
      },
      undo() {
        lines.pop();
        changed();
      },
    };
  }

  return { make, rasterise };
})();
