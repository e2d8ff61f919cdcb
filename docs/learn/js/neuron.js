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

  // The first epoch with an output below a goal, or Infinity if there is none.
  function epochsToOutput(course, goal) {
    const epoch = course.a.findIndex((a) => a < goal);
    return epoch < 0 ? Infinity : epoch;
  }

  return { learn, epochsToOutput };
})();
