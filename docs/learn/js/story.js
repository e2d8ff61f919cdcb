"use strict";

// The first neuron: the reader predicts what it will do, runs it, and is told.
Page.part("first-neuron", (part) => {
  const ASKED = 100;
  const lesson = Lesson.mount(part, ["quadratic"], { presets: false });
  const course = Neuron.learn(Costs.quadratic, { w: 2, b: 2 }, { eta: 0.15, epochs: ASKED });
  const verdict = part.find(".verdict");
  const answers = { low: "near 0: it has learned", half: "about half way", high: "still above 0.9" };
  const guess = Page.choice(
    part.find(".guess"),
    `Before you run it: where is the output after ${ASKED} epochs?`,
    answers,
    null,
    () => {
      const a = course.a[ASKED];
      const right = guess.value === "high";
      Page.say(
        verdict,
        `${right ? "Yes" : "No"}: after ${ASKED} epochs it is still ${Words.fixed(a)}. Watch the bars while it runs.`,
      );
      lesson.play();
    },
  );
});

Page.part("two-costs", (part) => Lesson.mount(part, ["quadratic", "cross-entropy"], { presets: true }));
