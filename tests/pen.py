"""Draw on a page."""

STILL = """(element) => new Promise((done) => {
  let frames = 0, top = null;
  const look = () => {
    const now = element.getBoundingClientRect().top;
    frames = now === top ? frames + 1 : 0;
    top = now;
    if (frames === 10) done();
    else requestAnimationFrame(look);
  };
  look();
})"""


def draw(canvas, places):
    """Draw a line through places of a canvas, in parts of its width and height."""
    canvas.scroll_into_view_if_needed()
    canvas.evaluate(STILL)
    box, mouse = canvas.bounding_box(), canvas.page.mouse
    for number, (x, y) in enumerate(places):
        mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        if number == 0:
            mouse.down()
    mouse.up()
