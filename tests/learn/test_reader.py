"""Test the network that reads digits: test images, and those that a reader draws."""

from pen import draw
from reading import output


def test_next_mistake_shows_a_digit_that_is_read_wrongly(learn):
    part = learn.locator("#reader")
    assert output(part).startswith("Test image 0: it says 7 (")
    part.get_by_role("button", name="Next mistake").click()
    assert "but it is a" in output(part)


def test_a_drawing_stays_while_test_images_are_shown(learn):
    part = learn.locator("#reader")
    part.get_by_label("my own drawing").check()
    draw(learn.locator(".paper canvas"), [(0.5, 0.1), (0.5, 0.9)])
    part.get_by_label("test images").check()
    part.get_by_label("my own drawing").check()
    assert output(part).startswith("It says 1")


def test_a_drawn_digit_is_read_large_or_small_and_an_empty_canvas_is_explained(learn):
    part = learn.locator("#reader")
    part.get_by_label("my own drawing").check()
    assert output(part).startswith("There is nothing to read yet")
    assert not part.locator(".figures").is_visible()
    for size in (0.8, 0.2):
        draw(learn.locator(".paper canvas"), [(0.1, 0.1), (0.1 + size * 0.7, 0.1), (0.1 + size * 0.3, 0.1 + size)])
        assert output(part).startswith("It says 7")
        part.get_by_role("button", name="Clear").click()
    assert output(part).startswith("There is nothing to read yet")
