"""The page of the server in a real browser."""

import io
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from page_driver import KEY, download, generate, wait_for_image
from PIL import Image
from running_server import wait_until

from diffoundry.runtime.cli.main import main


def _pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"name": "upload.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def _choose(page, pipe):
    page.select_option("#model", _folder(pipe).name.removesuffix(".bundle"))


def _folder(pipe):
    return pipe.session.bundle.root


def _run_command(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    main()


def test_image_and_its_command_are_those_of_the_command_line(visit, server, emoji_pipe, tmp_path, monkeypatch):
    """Previews and steps show; the file is the server's, and the copied command and code repeat it bit for bit."""
    page = visit(server.url)
    page.evaluate(
        """() => { window.seen = []; const note = () => seen.push(document.querySelector('#images img')?.alt,
        document.querySelector('#progress-text').textContent);
        new MutationObserver(note).observe(document.querySelector('#stage'), {subtree: true, childList: true}); }"""
    )
    prompt, negative = 'it\'s a $HOME "red" apple\nwith `leaf`', "-blue \\ green"
    page.fill("#negative_prompt", negative)
    page.click("#more summary")
    page.select_option("#scheduler", "euler")
    page.fill("#n", "2")
    generate(page, prompt, 7, steps=8)
    seen = page.evaluate("seen")
    assert "Preview" in seen
    assert {"Step 1 of 8", "Step 5 of 8", "Finishing …"} <= set(seen)
    first, name = download(page)
    assert name == "it-s-a-home-red-apple-with-leaf-7-1.png"
    page.click("#images button:nth-child(2)")
    second, _ = download(page)
    assert Image.open(io.BytesIO(second)).text["parameters"].startswith(prompt.split("\n")[0])

    page.click("#code summary")
    page.click("#copy-cli")
    line = page.evaluate("navigator.clipboard.readText()")
    assert line == page.inner_text("#cli")
    (tmp_path / _folder(emoji_pipe).name).symlink_to(_folder(emoji_pipe))
    monkeypatch.chdir(tmp_path)
    _run_command(monkeypatch, line)
    images = [np.asarray(Image.open(path)) for path in sorted(Path("images").iterdir())]
    np.testing.assert_array_equal(images, [_pixels(first), _pixels(second)])
    scope = {}
    exec(page.inner_text("#python"), scope)
    np.testing.assert_array_equal([np.asarray(image) for image in scope["images"]], images)


@pytest.mark.slow
def test_mask_that_is_drawn_changes_its_part_of_the_image(visit, server, tmp_path, monkeypatch, emoji_pipe):
    page = visit(server.url)
    generate(page, "red apple", 0, steps=10)
    start, _ = download(page)
    page.check("input[value=inpaint]")
    page.click("#generate")
    page.wait_for_selector("#image-error:has-text('Choose the image')")
    page.click("#image-result")
    page.wait_for_selector("#mask-editor canvas")
    page.click("#generate")
    page.wait_for_selector("#mask_image-error:has-text('mask is empty')")
    box = page.locator("#mask-editor canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.15)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.15, steps=3)
    page.mouse.up()
    page.focus("#mask-editor canvas")
    page.keyboard.press("Space")  # a dot that is undone
    page.click("text=Undo")
    page.fill("#prompt", "blue heart")
    page.locator("#strength").fill("1")
    page.click("#generate")
    wait_for_image(page)
    result, _ = download(page)
    page.click("#code summary")
    for link in page.locator("#code-files a").all():
        data, name = download(page, f"#code-files a[download='{link.inner_text()}']")
        (tmp_path / name).write_bytes(data)
    white = np.asarray(Image.open(tmp_path / "mask.png").convert("L")) == 255
    assert 0.08 < white.mean() < 0.2
    assert white[:18].mean() > 0.3
    assert not white[18:].any()  # the dot in the middle is undone
    change = np.abs(_pixels(result).astype(int) - _pixels(start)).mean(axis=2)
    assert change[30:].mean() < 0.25 * change[white].mean()  # the VAE changes the rest a little
    (tmp_path / _folder(emoji_pipe).name).symlink_to(_folder(emoji_pipe))
    monkeypatch.chdir(tmp_path)
    _run_command(monkeypatch, page.inner_text("#cli"))
    np.testing.assert_array_equal(np.asarray(Image.open("image.png")), _pixels(result))


@pytest.mark.slow
def test_controlnet_and_large_images_fit_the_model(visit, server_of_two, emoji_pipe, controlled_pipe):
    page = visit(server_of_two.url)
    assert page.locator("#controls").is_hidden()  # emoji was exported without one
    _choose(page, controlled_pipe)
    page.click("#controls summary")
    edges = Image.new("RGB", (64, 64), "white")
    page.set_input_files("#control-0", _png(edges))
    page.fill("#controlnet_conditioning_scale", "0.5")
    page.fill("#width", "64")
    page.fill("#height", "64")
    generate(page, "a cat", 3)
    result, _ = download(page)
    given = {"num_inference_steps": 2, "seed": 3, "width": 64, "height": 64}
    expected = controlled_pipe("a cat", control_image=edges, controlnet_conditioning_scale=0.5, **given).images[0]
    np.testing.assert_array_equal(_pixels(result), np.asarray(expected))

    _choose(page, emoji_pipe)
    page.check("input[value=image]")
    page.set_input_files("#image", _png(Image.new("RGB", (640, 480), "orange")))
    page.wait_for_selector("text=640 × 480 pixels, sent as 72 × 56")
    page.set_input_files("#image", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#image-error:has-text('no image that this browser can read')")
    page.set_input_files("#image", _png(Image.new("RGB", (64, 64), "orange")))
    page.wait_for_selector("text=/^64 × 64 pixels$/")
    generate(page, "sun", 0, steps=4)
    assert "0.8" in page.inner_text("#caption-facts")


@pytest.mark.slow
def test_cancel_and_errors_of_the_server(visit, server, emoji_pipe, monkeypatch):
    run = emoji_pipe.session.run

    def run_slowly(name, feeds):
        time.sleep(0.05)  # or a fast machine is done before a busy browser has read the key
        return run(name, feeds)

    page = visit(server.url)
    monkeypatch.setattr(emoji_pipe.session, "run", run_slowly)
    page.fill("#prompt", "a cat")
    page.fill("#num_inference_steps", "800")
    page.click("#generate")
    page.wait_for_selector("#progress[value]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#generate:not([hidden])")
    assert page.inner_text("#live") == "Cancelled."
    wait_until(lambda: server.state.dispatcher.statistics().cancelled == 1)
    monkeypatch.undo()

    page.fill("#num_inference_steps", "0")
    page.click("#generate")
    page.wait_for_selector("#num_inference_steps-error:has-text('expected a whole number from 1 to 1000')")
    field = page.locator("#num_inference_steps")
    assert field.get_attribute("aria-invalid") == "true"
    assert field.get_attribute("aria-describedby") == "num_inference_steps-error"
    assert page.evaluate("document.activeElement.id") == "num_inference_steps"
    page.fill("#num_inference_steps", "2")
    assert page.locator("#num_inference_steps-error").is_hidden()
    page.fill("#width", "63")
    page.click("#generate")
    page.wait_for_selector("#width-error:not([hidden])")
    assert page.inner_text("#width-error").startswith("size: got")
    page.fill("#width", "")
    page.route("**/v1/images/*", lambda route: route.abort())
    page.click("#generate")
    page.wait_for_selector("#form-error:not([hidden])")
    assert page.inner_text("#form-error") == "The server does not answer. Is it still running?"


@pytest.mark.slow
def test_history_keeps_settings_and_the_keyboard_reaches_everything(visit, server):
    page = visit(server.url)
    page.focus("#prompt")
    page.keyboard.type("green apple")
    page.keyboard.press("Tab")  # negative prompt
    page.keyboard.type("red")
    for name, text in (("width", ""), ("height", ""), ("num_inference_steps", "3"), ("seed", "11")):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name
        page.keyboard.type(text)
    page.keyboard.press("Control+Enter")
    wait_for_image(page)
    first, _ = download(page)
    generate(page, "sun", 2, steps=1)
    page.reload()
    page.wait_for_selector("#history-list li:nth-child(2)")
    assert page.inner_text("#caption-prompt") == "sun"
    page.focus("#history-list li:nth-child(2) button")
    page.keyboard.press("Enter")
    assert page.inner_text("#caption-prompt") == "green apple"
    assert download(page)[0] == first  # the file as the server made it
    page.focus("#reuse")
    page.keyboard.press("Enter")
    assert page.input_value("#negative_prompt") == "red"
    assert [page.input_value(f"#{name}") for name in ("num_inference_steps", "seed", "width")] == ["3", "11", ""]
    page.click("#delete")
    assert page.locator("#history-list li").count() == 1
    page.click("#clear-history")
    page.keyboard.press("Enter")  # the harmless answer has the focus
    assert page.locator("#history-list li").count() == 1
    page.click("#clear-history")
    page.click("#confirm button[value=yes]")
    page.wait_for_selector("#history", state="hidden")
    page.reload()
    page.wait_for_selector("#generate:enabled")
    assert page.locator("#history").is_hidden()


@pytest.mark.slow
def test_key_is_asked_for(visit, locked_server):
    page = visit(locked_server.url)
    page.wait_for_selector("#key-field:not([hidden])")
    page.fill("#key", "wrong")
    page.click("#key-use")
    page.wait_for_selector("#key-error:has-text('got a wrong key')")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#generate:enabled")
    assert page.locator("#key-field").is_hidden()
    generate(page, "sun", 2, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_page_is_accessible_in_both_schemes_and_on_a_phone(visit, server, scheme, width):
    """axe finds no fault of WCAG 2.2 AA in any state of the page, and nothing is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(server.url, color_scheme=scheme, viewport={"width": width, "height": 780})

    def check():
        rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}}
        found = axe.run(page, options=rules).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    generate(page, "a very-long-word-" * 20, 1, steps=1)
    page.click("#code summary")
    page.click("#more summary")
    page.check("input[value=inpaint]")
    page.click("#image-result")
    page.wait_for_selector("#mask-editor canvas")
    page.click("#generate")
    page.wait_for_selector("#mask_image-error:not([hidden])")
    check()
