"use strict";

// Turns a drawing into an image like those of MNIST, as ce_torch/chapter/handwriting.py does.
const Handwriting = (() => {
  const SIDE = 28;
  const BOX = 20;
  const MIDDLE = 14;

  // `ink` holds width × height numbers from 0 to 1. Returns 784 pixels; without ink, all are 0.
  function toMnist({ ink, width, height }) {
    const image = new Float64Array(SIDE * SIDE);
    const box = boundingBox({ ink, width, height });
    if (!box) return image;
    const digit = fit(crop({ ink, width }, box));
    const left = start(digit, (x) => x, digit.width);
    const top = start(digit, (_, y) => y, digit.height);
    digit.ink.forEach((value, i) => {
      const [x, y] = [i % digit.width, Math.floor(i / digit.width)];
      image[(top + y) * SIDE + left + x] = value;
    });
    return image;
  }

  function boundingBox({ ink, width }) {
    let box = null;
    ink.forEach((value, i) => {
      if (value <= 0) return;
      const [x, y] = [i % width, Math.floor(i / width)];
      box ??= { left: x, right: x, top: y, bottom: y };
      box = {
        left: Math.min(box.left, x),
        right: Math.max(box.right, x),
        top: Math.min(box.top, y),
        bottom: Math.max(box.bottom, y),
      };
    });
    return box;
  }

  function crop({ ink, width }, { left, right, top, bottom }) {
    const size = { width: right - left + 1, height: bottom - top + 1 };
    const cropped = new Float64Array(size.width * size.height);
    for (let y = 0; y < size.height; y++) {
      for (let x = 0; x < size.width; x++) cropped[y * size.width + x] = ink[(top + y) * width + left + x];
    }
    return { ink: cropped, ...size };
  }

  // Scale the longer side to 20 pixels: bilinear, with a filter as wide as a new pixel where the image shrinks.
  function fit({ ink, width, height }) {
    const scale = BOX / Math.max(width, height);
    const size = { width: Math.max(1, halfToEven(width * scale)), height: Math.max(1, halfToEven(height * scale)) };
    const columns = weights(width, size.width);
    const rows = weights(height, size.height);
    const narrow = new Float64Array(size.width * height);
    for (let y = 0; y < height; y++) {
      columns.forEach(({ from, shares }, x) => {
        narrow[y * size.width + x] = shares.reduce((sum, share, i) => sum + share * ink[y * width + from + i], 0);
      });
    }
    const fitted = new Float64Array(size.width * size.height);
    rows.forEach(({ from, shares }, y) => {
      for (let x = 0; x < size.width; x++) {
        const value = shares.reduce((sum, share, i) => sum + share * narrow[(from + i) * size.width + x], 0);
        fitted[y * size.width + x] = Math.min(Math.max(value, 0), 1);
      }
    });
    return { ink: fitted, ...size };
  }

  // For each new pixel, the old ones that it is made of and their shares, a triangle about its middle.
  function weights(before, after) {
    const scale = before / after;
    const reach = Math.max(scale, 1);
    return Array.from({ length: after }, (_, i) => {
      const middle = (i + 0.5) * scale;
      const from = Math.max(Math.trunc(middle - reach + 0.5), 0);
      const to = Math.min(Math.trunc(middle + reach + 0.5), before);
      const heights = Array.from({ length: to - from }, (_, j) =>
        Math.max(1 - Math.abs((from + j - middle + 0.5) / reach), 0),
      );
      const total = Costs.sum(heights);
      return { from, shares: heights.map((height) => height / total) };
    });
  }

  // Where a digit starts whose centre of mass shall be at pixel 14, as nearly as its place in the image allows.
  function start({ ink, width }, coordinate, length) {
    let [mass, moment] = [0, 0];
    ink.forEach((value, i) => {
      mass += value;
      moment += value * coordinate(i % width, Math.floor(i / width));
    });
    return Math.min(Math.max(halfToEven(MIDDLE - moment / mass), 0), SIDE - length);
  }

  // Python's round.
  function halfToEven(value) {
    const below = Math.floor(value);
    if (value - below === 0.5) return below % 2 === 0 ? below : below + 1;
    return Math.round(value);
  }

  return { toMnist };
})();
