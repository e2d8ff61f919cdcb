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
const KATEX_CSS = readFileSync(join(KATEX, "dist", "katex.min.css"), "utf8");
const CLASS = /\.([a-z][\w-]*)/gi;
const OWN = ["katex", "katex-display", "factor", "cancels"]; // classes that page.css names
const FONTS = ["Main-Regular", "Math-Italic", "Size1-Regular", "Size2-Regular", "Size3-Regular", "Size4-Regular"];

const sections = readdirSync(join(SOURCE, "sections")).sort();
const text = sections.map((name) => readFileSync(join(SOURCE, "sections", name), "utf8")).join("\n");
const frame = readFileSync(join(SOURCE, "frame.html"), "utf8");
const page = frame.replace("{{sections}}", () => typesetText(text));
const [shorter, names] = shorten(page);
writePage(shorter);
await copyKatex(shorter, names);

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

// KaTeX repeats its styles and the names of its classes thousands of times, which makes half of the page. Short names for
// both take that off. Classes without a rule in its style sheet go, and so do elements that are left without a class.
function shorten(html) {
  const ruled = new Set(Array.from(KATEX_CSS.matchAll(CLASS), ([, name]) => name));
  const names = new Map(OWN.map((name) => [name, name]));
  const nameOf = (key) => names.get(key) ?? names.set(key, `k${names.size.toString(36)}`).get(key);
  const shorter = html.replace(/<span class="katex">.*?(?=<\/(?:p|div|li|h\d)>)/gs, (formulas) =>
    formulas
      .replace(/<span(?: class="([^"]*)")?(?: style="([^"]*)")?/g, (_, classes = "", style = null) => {
        const kept = classes.split(" ").filter((name) => ruled.has(name) || OWN.includes(name));
        const all = [...kept, ...(style ? [style] : [])].map(nameOf);
        return all.length ? `<span class="${all.join(" ")}"` : "<span";
      })
      .replace(/<span>([^<]+)<\/span>/g, "$1"),
  );
  return [shorter, names];
}

// A digest of the page's sources and of the page says whether they still belong together: see the tests.
function writePage(page) {
  const digest = createHash("sha256");
  for (const part of [frame, text, readFileSync(join(SOURCE, "typeset.mjs"), "utf8"), page]) digest.update(part);
  writeFileSync(join(PAGE, "index.html"), `${page}<!-- typeset.mjs ${digest.digest("hex")} -->\n`);
}

// What the page uses of KaTeX: rules of its style sheet, letters of its fonts, and the licence.
async function copyKatex(page, names) {
  const folder = join(PAGE, "katex");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, "fonts"), { recursive: true });
  copyFileSync(join(KATEX, "LICENSE"), join(folder, "LICENSE"));
  const styles = [...names].filter(([key]) => key.includes(":")).map(([style, name]) => `.katex .${name}{${style}}`);
  writeFileSync(join(folder, "katex.css"), `${usedRules(names)}\n${styles.join("\n")}\n`);
  for (const font of FONTS) {
    const name = `KaTeX_${font}.woff2`;
    const whole = readFileSync(join(KATEX, "dist", "fonts", name));
    writeFileSync(join(folder, "fonts", name), await subsetFont(whole, page, { targetFormat: "woff2" }));
  }
}

function usedRules(names) {
  return KATEX_CSS.match(/[^{}]+\{[^{}]*\}/g)
    .map((rule) => {
      if (rule.startsWith("@font-face")) return FONTS.some((font) => rule.includes(`KaTeX_${font}.woff2`)) ? rule : "";
      const [selectors, body] = rule.split("{");
      const used = selectors
        .split(",")
        .filter((selector) => Array.from(selector.matchAll(CLASS)).every(([, name]) => names.has(name)));
      const renamed = used.map((selector) => selector.replace(CLASS, (_, name) => `.${names.get(name)}`));
      return used.length ? `${renamed.join(",")}{${body}` : "";
    })
    .join("")
    .replace(/,url\([^)]*\.(woff|ttf)\) format\("[a-z]*"\)/g, "");
}
