"use strict";

// A slider through time, and a button that moves it.
const Player = (() => {
  // `show` is called after every move. With reduced motion, the button goes to the end at once.
  function make(parent, { name, last, perSecond }, show) {
    const button = Page.button(parent, "Run", () => (frame === null ? play() : stop()));
    button.className = "run";
    const slider = Page.slider(parent, { name, min: 0, max: last, step: 1, value: 0, show: String }, () => {
      stop();
      show();
    });
    let frame = null;

    function play() {
      Page.reveal(parent.closest(".stage"));
      if (Page.reducedMotion()) {
        slider.value = last;
        return show();
      }
      const from = slider.value === last ? 0 : slider.value;
      let began = null;
      function step(now) {
        began ??= now;
        slider.value = Math.min(from + Math.floor(((now - began) / 1000) * perSecond), last);
        show();
        if (slider.value < last) frame = requestAnimationFrame(step);
        else stop();
      }
      stop();
      button.textContent = "Pause";
      frame = requestAnimationFrame(step);
    }

    function stop() {
      if (frame === null) return;
      cancelAnimationFrame(frame);
      frame = null;
      button.textContent = "Run";
      show();
    }

    return {
      play,
      stop,
      get value() {
        return slider.value;
      },
    };
  }

  return { make };
})();
