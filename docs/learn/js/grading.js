"use strict";

// Grades a typed formula by its values at points where the right values are known from finite differences.
const Grading = (() => {
  const TOLERANCE = 1e-6;
  const STEP = 1e-4;

  // The slope of f at x, to about 1e-11: Richardson's combination of two central differences.
  function differentiate(f, x) {
    const central = (step) => (f(x + step) - f(x - step)) / (2 * step);
    return (4 * central(STEP) - central(2 * STEP)) / 3;
  }

  const close = (found, right) => Math.abs(found - right) <= TOLERANCE * (1 + Math.abs(right));

  // `points` hold the variables; `truth` gives the right value at a point. Returns { right, message }.
  function grade(text, { variables, points, truth }) {
    let typed;
    try {
      typed = Expression.compile(text, variables);
    } catch (error) {
      if (!(error instanceof Expression.Unreadable)) throw error;
      return { right: false, message: error.message };
    }
    const values = points.map((point) => ({ point, found: typed(point), right: truth(point) }));
    const wrong = values.filter(({ found, right }) => !close(found, right));
    if (wrong.length === 0) return { right: true, message: "Right, wherever I tried it." };
    if (values.every(({ found, right }) => close(-found, right))) {
      return { right: false, message: "Nearly: only the sign is wrong." };
    }
    return { right: false, message: describe(wrong[0], variables) };
  }

  function describe({ point, found, right }, variables) {
    const place = variables.map((name) => `${name} = ${Words.fixed(point[name], 2)}`).join(", ");
    const yours = Number.isFinite(found) ? Words.fixed(found, 4) : "not a finite number";
    return `Not yet. At ${place} yours is ${yours}; it should be ${Words.fixed(right, 4)}.`;
  }

  return { grade, differentiate };
})();
