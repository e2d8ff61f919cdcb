"use strict";

// What a reader types, such as (a − y) σ′(z), as a function of its variables. Nothing is evaluated as JavaScript.
const Expression = (() => {
  const FUNCTIONS = { ln: Math.log, exp: Math.exp, sqrt: Math.sqrt, "σ'": Costs.slope, σ: Costs.sigmoid };
  const CONSTANTS = { e: Math.E, π: Math.PI };
  const SPELLINGS = [
    [/[−–]/g, "-"],
    [/[·×⋅]/g, "*"],
    [/÷/g, "/"],
    [/\*\*/g, "^"],
    [/²/g, "^2"],
    [/³/g, "^3"],
    [/[′’´`]/g, "'"],
    [/sigma|sigmoid/gi, "σ"],
    [/delta/gi, "δ"],
    [/\blog\b/g, "ln"],
    [/_/g, ""],
    [/[[{]/g, "("],
    [/[\]}]/g, ")"],
    [/₀/g, "0"],
    [/₁/g, "1"],
    [/₂/g, "2"],
    [/₃/g, "3"],
    [/ⱼ/g, "j"],
    [/ₖ/g, "k"],
  ];
  const DEEPEST = 100; // parentheses, so that no text exhausts the stack

  class Unreadable extends Error {}

  // Split a text into numbers, names and signs. Names are the longest that are known, so that ay is a times y.
  function split(text, variables) {
    const plain = SPELLINGS.reduce((changed, [from, to]) => changed.replace(from, to), text);
    const names = [...variables, ...Object.keys(FUNCTIONS), ...Object.keys(CONSTANTS)].sort(
      (a, b) => b.length - a.length,
    );
    const tokens = [];
    let rest = plain.trimStart();
    while (rest) {
      const number = /^(\d+\.?\d*|\.\d+)/.exec(rest)?.[0];
      const name = names.find((known) => rest.startsWith(known));
      const token = number ?? name ?? (/^[-+*/^()]/.test(rest) ? rest[0] : null);
      if (token === null) {
        const usable = [...variables, "numbers", "+ − * / ^ ( )", "ln", "exp"].join(", ").replace("δ", "δ (or delta)");
        throw new Unreadable(`I cannot read “${[...rest][0]}”. Use ${usable} and σ (or sigma).`);
      }
      tokens.push({ token, kind: number ? "number" : name ? "name" : "sign" });
      rest = rest.slice(token.length).trimStart();
    }
    if (tokens.length === 0) throw new Unreadable("Type a formula first.");
    return tokens;
  }

  // Return a function of an object that holds the variables' values. Throws Unreadable, with a sentence for the reader.
  //
  //   sum = product {(+|−) product}    product = factor {[*|/] factor}    factor = −factor | power
  //   power = atom [^ factor]          atom = number | variable | function atom | ( sum )
  function compile(text, variables) {
    const tokens = split(text, variables);
    let next = 0;
    let depth = 0;
    const peek = () => tokens[next]?.token;
    const take = () => tokens[next++];
    const accept = (...signs) => (tokens[next]?.kind === "sign" && signs.includes(peek()) ? take().token : null);

    function sum() {
      let value = product();
      for (let sign; (sign = accept("+", "-"));) {
        const [left, right] = [value, product()];
        value = sign === "+" ? (at) => left(at) + right(at) : (at) => left(at) - right(at);
      }
      return value;
    }

    function product() {
      let value = factor();
      for (;;) {
        const sign = accept("*", "/");
        if (!sign && !startsAtom()) return value;
        const [left, right] = [value, factor()];
        value = sign === "/" ? (at) => left(at) / right(at) : (at) => left(at) * right(at);
      }
    }

    const startsAtom = () => next < tokens.length && (tokens[next].kind !== "sign" || peek() === "(");

    function factor() {
      if (++depth > DEEPEST) throw new Unreadable("That is nested too deeply.");
      const negative = accept("-");
      if (!negative) accept("+");
      const inner = negative ? factor() : power();
      depth--;
      return negative ? (at) => -inner(at) : inner;
    }

    function power() {
      const base = atom();
      if (!accept("^")) return base;
      const exponent = factor();
      return (at) => base(at) ** exponent(at);
    }

    function atom() {
      if (next >= tokens.length) throw new Unreadable("The formula ends too early.");
      if (accept("(")) {
        const inner = sum();
        if (!accept(")")) throw new Unreadable("A parenthesis is not closed.");
        return inner;
      }
      const { token, kind } = take();
      if (kind === "number") return () => Number(token);
      if (variables.includes(token)) return (at) => at[token];
      if (token in CONSTANTS) return () => CONSTANTS[token];
      if (token in FUNCTIONS) return call(token);
      throw new Unreadable(`There is a “${token}” where a number or a letter should be.`);
    }

    // Without its argument, σ is σ(z) where there is a z.
    function call(name) {
      const f = FUNCTIONS[name];
      const hasArgument = startsAtom() && (peek() === "(" || !name.startsWith("σ"));
      if (name.startsWith("σ") && !hasArgument) {
        if (!variables.includes("z")) throw new Unreadable("σ needs an argument in parentheses.");
        return (at) => f(at.z);
      }
      if (!startsAtom()) throw new Unreadable(`${name} needs an argument.`);
      const inner = power();
      return (at) => f(inner(at));
    }

    const whole = sum();
    if (next < tokens.length) throw new Unreadable(`There is a “${peek()}” too many.`);
    return whole;
  }

  return { compile, Unreadable };
})();
