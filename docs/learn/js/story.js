"use strict";

// The first neuron: the reader predicts what it will do, runs it, and is told.
Page.part("first-neuron", (part) => {
  const ASKED = 100;
  const course = Neuron.learn(Costs.quadratic, { w: 2, b: 2 }, { eta: 0.15, epochs: ASKED });
  const answers = { low: "near 0: it has learned", half: "about half way", high: "still above 0.9" };
  const guess = Page.choice(
    part.find(".guess"),
    `Before you run it: where is the output after ${ASKED} epochs?`,
    answers,
    null,
    () => {
      judge(0); // before the page scrolls
      lesson.play();
    },
  );
  const lesson = Lesson.mount(part, ["quadratic"], { presets: false, seen: judge });

  // The answer comes when the reader has seen it.
  function judge(epoch) {
    if (guess.value === undefined) return;
    const told = `${guess.value === "high" ? "Yes" : "No"}: after ${ASKED} epochs it is still ${Words.fixed(course.a[ASKED])}.`;
    Page.say(part.find(".verdict"), epoch < ASKED ? "It runs. Watch the bars." : told);
  }
});

Page.part("two-costs", (part) => Lesson.mount(part, ["quadratic", "cross-entropy"], { presets: true }));
