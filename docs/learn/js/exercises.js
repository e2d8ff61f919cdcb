"use strict";

// A box to type into for each question of the exercises, and a verdict on what was typed.
Page.part("exercises", ({ find, findAll }) => {
  const boxes = findAll("[data-answer]");
  const right = new Set();
  const progress = find(".progress");

  function showProgress() {
    progress.textContent = `${right.size} of ${boxes.length} questions answered.`;
  }

  for (const box of boxes) {
    const name = box.dataset.answer;
    const form = Page.element(box, "form", { class: "typed" });
    const id = `answer-${name}`;
    Page.element(form, "label", { for: id }, `${box.dataset.label} =`);
    const attributes = {
      type: "text",
      id,
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
      "aria-describedby": `${id}-verdict`,
    };
    const variables = Answers.variables(name);
    const input = Page.element(form, "input", {
      ...attributes,
      placeholder: variables.length ? `in ${variables.join(", ")}` : "three numbers",
    });
    Page.element(form, "button", {}, "Check");
    const verdict = Page.element(box, "p", { id: `${id}-verdict`, class: "grade", role: "status" });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const grade = Answers.grade(name, input.value);
      verdict.textContent = `${grade.right ? "✓" : "✗"} ${grade.message}`;
      verdict.className = `grade ${grade.right ? "right" : "wrong"}`;
      if (grade.right) right.add(name);
      else right.delete(name);
      showProgress();
    });
  }

  showProgress();
});
