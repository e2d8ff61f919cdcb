// Writes index.html from frame.html and sections/: npm install && npm run typeset.
//
// In the sections, $...$ is a formula in a line, <eq n="55">...</eq> one of its own with its number, and @55 a link to it.
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import katex from "katex";
import subsetFont from "subset-font";

const SOURCE = dirname(fileURLToPath(import.meta.url));
const PAGE = dirname(SOURCE);
const KATEX = join(SOURCE, "node_modules", "katex");
const FONTS = ["Main-Regular", "Math-Italic", "Size1-Regular", "Size2-Regular", "Size3-Regular", "Size4-Regular"];
// In the order of what needs what.
const SCRIPTS =
  "costs neuron words page plot bars expression grading answers handwriting network digits lesson story derivation design surprise layer softmax hessian pen reader exercises".split(" ");

const sections = readdirSync(join(SOURCE, "sections")).sort();
const text = sections.map((name) => readFileSync(join(SOURCE, "sections", name), "utf8")).join("\n");
const frame = readFileSync(join(SOURCE, "frame.html"), "utf8");
const present = SCRIPTS.filter((name) => readdirSync(join(PAGE, "js")).includes(`${name}.js`));
const page = frame
  .replace("{{scripts}}", () => present.map((name) => `    <script defer src="js/${name}.js"></script>`).join("\n"))
  .replace("{{sections}}", () => typesetText(text));
const [shorter, styles] = shareStyles(page);
writeFileSync(join(PAGE, "index.html"), named(shorter));
await copyKatex(shorter, styles);

function typesetText(html) {
  return html
    .replace(/<eq(?: n="([^"]*)")?>(.*?)<\/eq>/gs, (_, number, tex) => equation(number, tex.trim()))
    .replace(/\$([^$]+)\$/g, (_, tex) => typeset(tex, false))
    .replace(/@(\d+)/g, (_, number) => `<a href="#eq-${number}">(${number})</a>`);
}

function equation(number, tex) {
  const formula = `<div class="formula">${typeset(tex, true)}</div>`;
  if (!number) return `<div class="equation">${formula}</div>`;
  return `<div class="equation" id="eq-${number}">${formula}<span class="number">(${number})</span></div>`;
}

function typeset(tex, displayMode) {
  if (/^[a-zA-Z]$/.test(tex)) return `<i class="letter">${tex}</i>`;
  const strict = (code) => (code === "htmlExtension" ? "ignore" : "error"); // \htmlClass marks what cancels
  const options = { displayMode, throwOnError: true, strict, trust: ({ command }) => command === "\\htmlClass" };
  // The TeX in the MathML is for software that reads TeX; no browser shows it.
  return katex.renderToString(tex, options).replace(/<annotation.*?<\/annotation>/gs, "");
}

// KaTeX repeats its styles a thousand times. A class for each of them takes a quarter off the page.
function shareStyles(html) {
  const names = new Map();
  const shorter = html.replace(/<span(?: class="([^"]*)")? style="([^"]*)"/g, (_, classes, style) => {
    if (!names.has(style)) names.set(style, `k${names.size.toString(36)}`);
    return `<span class="${classes ? `${classes} ` : ""}${names.get(style)}"`;
  });
  return [shorter, [...names].map(([style, name]) => `.katex .${name}{${style}}`).join("\n")];
}

// A digest of the page's sources and of the page says whether they still belong together: see the tests.
function named(page) {
  const digest = createHash("sha256");
  for (const part of [frame, text, readFileSync(join(SOURCE, "typeset.mjs"), "utf8"), page]) digest.update(part);
  return `${page}<!-- typeset.mjs ${digest.digest("hex")} -->\n`;
}

// What the page uses of KaTeX: rules of its style sheet, letters of its fonts, and the licence.
async function copyKatex(page, styles) {
  const folder = join(PAGE, "katex");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, "fonts"), { recursive: true });
  copyFileSync(join(KATEX, "LICENSE"), join(folder, "LICENSE"));
  writeFileSync(join(folder, "katex.css"), `${usedRules(page)}\n${styles}\n`);
  for (const font of FONTS) {
    const name = `KaTeX_${font}.woff2`;
    const whole = readFileSync(join(KATEX, "dist", "fonts", name));
    writeFileSync(join(folder, "fonts", name), await subsetFont(whole, page, { targetFormat: "woff2" }));
  }
}

function usedRules(page) {
  const classes = new Set(Array.from(page.matchAll(/class="([^"]*)"/g), ([, names]) => names.split(" ")).flat());
  const isUsed = (selector) => Array.from(selector.matchAll(/\.([\w-]+)/g)).every(([, name]) => classes.has(name));
  return readFileSync(join(KATEX, "dist", "katex.min.css"), "utf8")
    .match(/[^{}]+\{[^{}]*\}/g)
    .map((rule) => {
      if (rule.startsWith("@font-face")) return FONTS.some((font) => rule.includes(`KaTeX_${font}.woff2`)) ? rule : "";
      const [selectors, body] = rule.split("{");
      const used = selectors.split(",").filter(isUsed);
      return used.length ? `${used.join(",")}{${body}` : "";
    })
    .join("")
    .replace(/,url\([^)]*\.(woff|ttf)\) format\("[a-z]*"\)/g, "");
}
