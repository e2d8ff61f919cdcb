"use strict";

// What readers may type into each exercise, and the truth that it is graded against: finite differences of the costs.
const Answers = (() => {
  const { sigmoid, softmax, quadratic, crossEntropy, linear, logLikelihood } = Costs;
  const { differentiate } = Grading;
  const logit = (a) => Math.log(a / (1 - a));

  const OUTPUTS = [0.12, 0.35, 0.5, 0.81, 0.94];
  const binary = OUTPUTS.flatMap((a) => [
    { a, y: 0 },
    { a, y: 1 },
  ]);
  const between = OUTPUTS.flatMap((a) => [
    { a, y: 0.3 },
    { a, y: 0.85 },
  ]);

  // A neuron with one input: what it sees, and what follows from that.
  const neurons = [
    { w: 0.7, b: -0.4, x: 0.9, y: 1 },
    { w: -1.3, b: 0.2, x: 0.5, y: 0 },
    { w: 2.1, b: 0.6, x: 0.3, y: 0 },
    { w: 0.4, b: -1.5, x: -0.8, y: 1 },
  ].map((neuron) => ({ ...neuron, z: neuron.w * neuron.x + neuron.b }));
  const withOutput = (activation) => neurons.map((neuron) => ({ ...neuron, a: activation(neuron.z) }));
  const byZ =
    (cost) =>
    ({ z, y }) =>
      differentiate((value) => cost.cost([value], [y]), z);
  const byW =
    (cost) =>
    ({ w, b, x, y }) =>
      differentiate((value) => cost.cost([value * x + b], [y]), w);

  // Softmax layers: the outputs j and k, and the derivative of output j by weighted input k.
  const layers = [
    [0.3, -1.2, 0.8],
    [1.5, 0.2, -0.7],
    [-0.4, 0.9, 2.1],
  ];
  const pairs = layers.flatMap((z) =>
    [0, 1].map((j) => ({ z, j, k: j + 1, aj: softmax(z)[j], ak: softmax(z)[j + 1] })),
  );
  const replaced = (z, k, value) => z.map((old, i) => (i === k ? value : old));
  const outputByInput = ({ z, j }, k) => differentiate((value) => softmax(replaced(z, k, value))[j], z[k]);
  const classes = pairs.flatMap((pair) => [0, 1].map((yj) => ({ ...pair, yj, x: 0.4 + pair.j })));
  const classOf = ({ z, j, k, yj }) => z.map((_, i) => (i === (yj ? j : k) ? 1 : 0));
  const likelihoodByInput = (point) => {
    const { z, j } = point;
    return differentiate((value) => logLikelihood.cost(replaced(z, j, value), classOf(point)), z[j]);
  };

  // A cost that nobody has thought of, so that an answer must hold for all.
  const strange = (z) => Math.sin(z) + z ** 3 / 5;
  const strangeSlopes = neurons.map((neuron) => ({ ...neuron, δ: differentiate(strange, neuron.z) }));

  const hard = 1e6;
  const ties = [1, 2, 3, 5].map((r) => ({ r, z: [...Array(r).fill(2), 1, -3] }));
  const sizes = [2, 4, 10].map((K) => ({ K, z: Array.from({ length: K }, (_, j) => Math.sin(j)) }));

  const FORMULAS = {
    roles: { variables: ["a", "y"], points: binary, truth: ({ a, y }) => crossEntropy.cost([logit(a)], [y]) },
    "slope-in-a": {
      variables: ["a", "y"],
      points: between,
      truth: ({ a, y }) => differentiate((value) => crossEntropy.cost([logit(value)], [y]), a),
    },
    "binary-entropy": {
      variables: ["y"],
      points: OUTPUTS.map((y) => ({ y })),
      truth: ({ y }) => crossEntropy.cost([logit(y)], [y]),
    },
    "sigma-slope": {
      variables: ["a"],
      points: OUTPUTS.map((a) => ({ a })),
      truth: ({ a }) => differentiate(sigmoid, logit(a)),
    },
    "quadratic-by-w": { variables: ["a", "y", "x", "z"], points: withOutput(sigmoid), truth: byW(quadratic) },
    "cross-entropy-delta": { variables: ["a", "y", "z"], points: withOutput(sigmoid), truth: byZ(crossEntropy) },
    "cross-entropy-by-w": { variables: ["a", "y", "x", "z"], points: withOutput(sigmoid), truth: byW(crossEntropy) },
    "linear-delta": { variables: ["a", "y", "z"], points: withOutput((z) => z), truth: byZ(linear) },
    "linear-by-w": { variables: ["a", "y", "x", "z"], points: withOutput((z) => z), truth: byW(linear) },
    "any-cost-by-w": {
      variables: ["δ", "x"],
      points: strangeSlopes,
      truth: ({ w, b, x }) => differentiate((value) => strange(value * x + b), w),
    },
    "softmax-own": { variables: ["aj"], points: pairs, truth: (point) => outputByInput(point, point.j) },
    "softmax-other": { variables: ["aj", "ak"], points: pairs, truth: (point) => outputByInput(point, point.k) },
    "likelihood-delta": { variables: ["aj", "yj"], points: classes, truth: likelihoodByInput },
    "likelihood-by-w": {
      variables: ["aj", "yj", "x"],
      points: classes,
      // z_j = w x + b: a step of w moves z_j by x times that.
      truth: (point) => {
        const { z, j, x } = point;
        return differentiate((w) => logLikelihood.cost(replaced(z, j, z[j] + w * x), classOf(point)), 0);
      },
    },
    "ties-at-infinity": { variables: ["r"], points: ties, truth: ({ z }) => softmax(z, hard)[0] },
    "all-at-zero": { variables: ["K"], points: sizes, truth: ({ z }) => softmax(z, 1 / hard / 1000)[0] },
  };

  // Three numbers as readers type them: 1, 2, 3 or (ln 0.7, ln 0.2, ln 0.1).
  function threeNumbers(text) {
    const parts = text
      .trim()
      .replace(/^\(([^()]*,.*)\)$/, "$1")
      .split(/[,;]/);
    if (parts.length !== 3) throw new Expression.Unreadable("Type three numbers, with commas between them.");
    const numbers = parts.map((part) => Expression.compile(part, [])({}));
    if (!numbers.every(Number.isFinite)) throw new Expression.Unreadable("All three must be finite numbers.");
    return numbers;
  }

  const list = (numbers) => numbers.map((number) => Words.fixed(number, 3)).join(", ");

  const EXAMPLES = {
    "sigmoid-sum"(z) {
      const a = z.map(sigmoid);
      const sum = Costs.sum(a);
      const right = Math.abs(sum - 1) > 1e-6;
      return {
        right,
        message: `The outputs are ${list(a)}; their sum is ${Words.fixed(sum, 3)}${right ? "." : ", so move one of them."}`,
      };
    },
    "non-local"(z) {
      const [a] = softmax(z);
      if (z[0] !== 1) return { right: false, message: "Leave the first of them at 1." };
      const right = a > 0.5;
      return {
        right,
        message: `The first output is ${Words.fixed(a, 3)}${right ? ", though its own input is still 1." : "; make it larger."}`,
      };
    },
    invert(z) {
      const a = softmax(z);
      const right = [0.7, 0.2, 0.1].every((wanted, j) => Math.abs(a[j] - wanted) < 5e-3);
      return {
        right,
        message: `These give the outputs ${list(a)}.${right ? " Add a number to all three: they still do." : ""}`,
      };
    },
  };

  // Return { right, message } for what was typed into an exercise.
  function grade(name, text) {
    if (name in FORMULAS) return Grading.grade(text, FORMULAS[name]);
    try {
      return EXAMPLES[name](threeNumbers(text));
    } catch (error) {
      if (!(error instanceof Expression.Unreadable)) throw error;
      return { right: false, message: error.message };
    }
  }

  return {
    grade,
    names: [...Object.keys(FORMULAS), ...Object.keys(EXAMPLES)],
    variables: (name) => FORMULAS[name]?.variables ?? [],
  };
})();
