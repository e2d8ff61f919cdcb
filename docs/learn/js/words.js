"use strict";

// Numbers and lists as readers see them.
const Words = (() => {
  // A number with a true minus sign. One that these digits would make 0 though it is not gets two digits of its own.
  function fixed(value, digits = 2) {
    const text = value.toFixed(digits);
    return value !== 0 && Number(text) === 0 ? small(value) : text.replace("-", "−");
  }

  const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

  // The two leading digits of a number below 1.
  function small(value) {
    if (Math.abs(value) >= 1e-4) return value.toPrecision(2).replace("-", "−");
    const [mantissa, exponent] = value.toExponential(1).split("e");
    return `${mantissa.replace("-", "−")}·10${[...exponent].map((sign) => SUPERSCRIPTS[sign]).join("")}`;
  }

  const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
  const subscript = (number) => [...String(number)].map((digit) => SUBSCRIPTS[digit]).join("");

  return { fixed, small, subscript };
})();
