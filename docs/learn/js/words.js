"use strict";

// Numbers and lists as readers see them.
const Words = (() => {
  // A number with a true minus sign, and never a minus before 0.
  function fixed(value, digits = 2) {
    const text = value.toFixed(digits);
    return /^-0\.?0*$/.test(text) ? text.slice(1) : text.replace("-", "−");
  }

  const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

  // Two significant digits, also where a number is small.
  function short(value) {
    if (value === 0 || Math.abs(value) >= 0.001) return fixed(value, Math.abs(value) < 0.1 ? 3 : 2);
    const [mantissa, exponent] = value.toExponential(1).split("e");
    const power = [...String(Number(exponent))].map((sign) => SUPERSCRIPTS[sign]).join("");
    return `${mantissa.replace("-", "−")} × 10${power}`;
  }

  const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
  const subscript = (number) => [...String(number)].map((digit) => SUBSCRIPTS[digit]).join("");

  return { fixed, short, subscript };
})();
