const SIDE = 56; // as in canvas.py
const WIDTH = 280;

function render({ model, el }) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = WIDTH;
  canvas.setAttribute("aria-label", "Draw a digit here");
  Object.assign(canvas.style, {
    display: "block",
    width: "200px",
    height: "200px",
    border: "1px solid color-mix(in srgb, currentColor 40%, transparent)",
    borderRadius: "6px",
    touchAction: "none", // a finger draws, and does not scroll the page
    cursor: "crosshair",
  });
  const clear = document.createElement("button");
  clear.textContent = "Clear";
  Object.assign(clear.style, { marginTop: "8px", textDecoration: "underline", font: "inherit", cursor: "pointer" });
  el.append(canvas, clear);

  const pen = canvas.getContext("2d");
  Object.assign(pen, { lineWidth: 24, lineCap: "round", lineJoin: "round" });
  const small = new OffscreenCanvas(SIDE, SIDE).getContext("2d", { willReadFrequently: true });
  let last = null;
  let waiting = false;

  function send() {
    waiting = false;
    small.clearRect(0, 0, SIDE, SIDE);
    small.drawImage(canvas, 0, 0, SIDE, SIDE);
    const { data } = small.getImageData(0, 0, SIDE, SIDE);
    model.set("ink", Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i + 3]));
    model.save_changes();
  }

  // A canvas that is shown again is a new one: what was drawn is in the model.
  function restore() {
    const image = small.createImageData(SIDE, SIDE);
    model.get("ink").forEach((ink, i) => (image.data[4 * i + 3] = ink));
    small.putImageData(image, 0, 0);
    pen.drawImage(small.canvas, 0, 0, WIDTH, WIDTH);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = getComputedStyle(canvas).color;
    pen.fillRect(0, 0, WIDTH, WIDTH);
    pen.globalCompositeOperation = "source-over";
  }

  function changed() {
    if (!waiting) setTimeout(send, 100);
    waiting = true;
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const scale = WIDTH / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  function draw(event) {
    if (!last) return;
    const next = place(event);
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...next);
    pen.stroke();
    last = next;
    changed();
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    draw(event);
  });
  canvas.addEventListener("pointermove", draw);
  canvas.addEventListener("pointerup", () => (last = null));
  canvas.addEventListener("pointercancel", () => (last = null));
  clear.addEventListener("click", () => {
    pen.clearRect(0, 0, WIDTH, WIDTH);
    changed();
  });
  requestAnimationFrame(restore);
}

export default { render };
