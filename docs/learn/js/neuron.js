"use strict";

// The section's neuron with one input x, which learns to output y.
const Neuron = (() => {
  // Gradient descent: z = w x + b, then w → w − η δ x and b → b − η δ. Each array holds epochs + 1 states.
  function learn(cost, start, { eta, epochs, x = 1, y = 0 }) {
    let { w, b } = start;
    const course = { w: [], b: [], z: [], a: [], C: [], delta: [] };
    for (let epoch = 0; epoch <= epochs; epoch++) {
      const z = w * x + b;
      const [delta] = cost.delta([z], [y]);
      const [a] = cost.activation([z]);
      const C = cost.cost([z], [y]);
      for (const [name, value] of Object.entries({ w, b, z, a, C, delta })) course[name].push(value);
      w -= eta * delta * x;
      b -= eta * delta;
    }
    return course;
  }

  // The number of epochs until the output is below a goal; Infinity if that takes longer than `patience`.
  function epochsToOutput(cost, start, { eta, goal, patience, x = 1, y = 0 }) {
    let { w, b } = start;
    for (let epoch = 0; epoch <= patience; epoch++) {
      const z = [w * x + b];
      if (cost.activation(z)[0] < goal) return epoch;
      const [delta] = cost.delta(z, [y]);
      w -= eta * delta * x;
      b -= eta * delta;
    }
    return Infinity;
  }

  return { learn, epochsToOutput };
})();
