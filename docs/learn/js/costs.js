"use strict";

// Activations, costs C and errors δ = ∂C/∂z of one example. z and y are arrays: a number for each output neuron.
const Costs = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // Neither exponential overflows.
  const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
  const slope = (z) => sigmoid(z) * sigmoid(-z); // σ′ = σ (1 − σ)
  const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))); // ln (1 + eᶻ) = −ln (1 − σ(z))

  // aⱼ = exp(c zⱼ) / Σₖ exp(c zₖ), (78) and (83). c may be 0 or Infinity, which stand for the limits.
  function softmax(z, c = 1) {
    const largest = Math.max(...z);
    const powers = z.map((value) => (value === largest ? 1 : Math.exp(c * (value - largest))));
    const total = sum(powers);
    return powers.map((power) => power / total);
  }

  function logSumExp(z) {
    const largest = Math.max(...z);
    return largest + Math.log(sum(z.map((value) => Math.exp(value - largest))));
  }

  const quadratic = {
    activation: (z) => z.map(sigmoid),
    cost: (z, y) => sum(z.map((value, j) => (sigmoid(value) - y[j]) ** 2)) / 2, // (54)
    delta: (z, y) => z.map((value, j) => (sigmoid(value) - y[j]) * slope(value)), // (56), (65)
  };

  const linear = {
    activation: (z) => z,
    cost: (z, y) => sum(z.map((value, j) => (value - y[j]) ** 2)) / 2,
    delta: (z, y) => z.map((value, j) => value - y[j]), // (68)
  };

  // −[y ln a + (1 − y) ln (1 − a)] with a = σ(z) is ln (1 + eᶻ) − y z, which no z makes infinite.
  const crossEntropy = {
    activation: (z) => z.map(sigmoid),
    cost: (z, y) => sum(z.map((value, j) => softplus(value) - y[j] * value)), // (57), (63)
    delta: (z, y) => z.map((value, j) => sigmoid(value) - y[j]), // (62), (66)
  };

  const logLikelihood = {
    activation: (z) => softmax(z),
    cost: (z, y) => sum(z.map((value, j) => y[j] * (logSumExp(z) - value))), // (80)
    delta: (z, y) => softmax(z).map((a, j) => a - y[j]), // (84)
  };

  // ∂aⱼ/∂zₖ of softmax, in row j and column k. For c = 1 it is the log-likelihood's Hessian too.
  function softmaxSlopes(z, c = 1) {
    const a = softmax(z, c);
    const others = a.map((_, j) => sum(a.filter((_, k) => k !== j))); // 1 − aⱼ, also where aⱼ rounds to 1
    return a.map((aj, j) => a.map((ak, k) => (j === k ? c * aj * others[j] : -c * aj * ak)));
  }

  // What a slope of softmax never exceeds: the measure of all pictures of them. For a small c it stays 1/4, so that they fade.
  const steepest = (c = 1) => Math.max(c, 1) / 4;

  return { sum, sigmoid, slope, softmax, softmaxSlopes, steepest, quadratic, linear, crossEntropy, logLikelihood };
})();
