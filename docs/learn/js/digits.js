"use strict";

// The trained network, and the test digits that come with the page.
const Digits = (() => {
  const SIDE = 28;
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  // IEEE 754 half precision: a sign, 5 bits of exponent, 10 of fraction.
  function halfToNumber(half) {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 0x1f;
    const fraction = half & 0x3ff;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  }

  function readNetwork({ sizes, parameters }) {
    const view = new DataView(bytes(parameters).buffer);
    let place = 0;
    const take = (count) => Float64Array.from({ length: count }, () => halfToNumber(view.getUint16(2 * place++, true)));
    return sizes.slice(1).map((outputs, i) => ({ w: take(sizes[i] * outputs), b: take(outputs) }));
  }

  // Undo `pack` of export_network.py.
  function readImages({ pixels, numbers, classes }) {
    const packed = bytes(pixels);
    const all = new Float64Array(numbers.length * SIDE * SIDE);
    let place = 0;
    for (let i = 0; i < packed.length; i++) {
      if (packed[i] === 0) place += packed[++i];
      else all[place++] = packed[i] / 255;
    }
    return numbers.map((number, i) => ({
      number,
      y: classes[i],
      x: all.subarray(i * SIDE * SIDE, (i + 1) * SIDE * SIDE),
    }));
  }

  const layers = readNetwork(NETWORK);
  const images = readImages(DIGITS);

  // The weighted inputs of the ten output neurons: z¹ = w¹ x + b¹, z² = w² σ(z¹) + b².
  function weightedInputs(x) {
    const [hidden, output] = layers;
    return weigh(output, Float64Array.from(weigh(hidden, x), Costs.sigmoid));
  }

  function weigh({ w, b }, x) {
    return Array.from(b, (bias, j) => {
      let z = bias;
      for (let k = 0; k < x.length; k++) z += w[j * x.length + k] * x[k];
      return z;
    });
  }

  return { SIDE, images, weightedInputs };
})();
