/** Draws a mask over an image: what is drawn over is generated again. */

import { make } from "./dom.js";
import { openImage } from "./images.js";

const SHOWN = 512;

/** The editor in a container. `changed` is called after each stroke. */
export class MaskEditor {
  #image = null;
  #base = null;
  #strokes = [];
  #stroke = null;
  #cursor = null;
  #erase = false;

  constructor(container, changed) {
    this.changed = changed;
    this.canvas = make("canvas", {
      tabIndex: 0, role: "application", "aria-label": "Mask over the image", "aria-describedby": "mask-hint",
    });
    this.size = make("input", { id: "mask-brush", type: "range", min: 2, max: 50, value: 15 });
    this.eraser = this.#button("Erase", () => this.#setErase(!this.#erase), { "aria-pressed": "false" });
    this.file = make("input", { id: "mask_image", type: "file", accept: "image/png,image/jpeg,image/webp" });
    container.classList.add("mask");
    container.append(
      make("div", { className: "mask-canvas" }, this.canvas),
      make("p", { id: "mask-hint", className: "hint", textContent: "Draw over what is to be generated again. Arrow keys move the brush, Space draws a dot, Shift and arrow keys draw a line." }),
      make("div", { className: "row" }, this.#button("Undo", () => this.undo()), this.#button("Clear", () => this.clear()),
        this.#button("Invert", () => this.#add({ invert: true })), this.eraser),
      make("div", { className: "field" }, make("label", { for: "mask-brush", textContent: "Brush size" }), this.size),
      make("div", { className: "field" }, make("label", { for: "mask_image", textContent: "Or a mask from a file, white where the image is generated again" }), this.file),
    );
    container.querySelector(".field:last-child").dataset.param = "mask_image";
    this.#listen();
  }

  #button(textContent, onclick, more = {}) {
    return make("button", { type: "button", textContent, onclick, ...more });
  }

  #setErase(on) {
    this.#erase = on;
    this.eraser.setAttribute("aria-pressed", String(on));
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#begin(this.#place(event));
      event.preventDefault();
      canvas.focus({ focusVisible: false });
    });
    canvas.addEventListener("pointermove", (event) => this.#move(this.#place(event)));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#end());
    for (const name of ["pointerleave", "blur"]) canvas.addEventListener(name, () => this.#point(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    this.file.addEventListener("change", () => this.loadFile(this.file.files[0]));
  }

  /** Show an image, a bitmap, with an empty mask. */
  setImage(image) {
    this.#image = image;
    this.#base = null;
    this.#strokes = [];
    this.#cursor = null;
    this.file.value = "";
    if (image) {
      const scale = Math.max(1, Math.floor(SHOWN / Math.max(image.width, image.height)));
      Object.assign(this.canvas, { width: image.width * scale, height: image.height * scale });
    }
    this.#changed();
  }

  /** Take a mask from a file, scaled to the image. */
  async loadFile(file) {
    const bitmap = file && (await openImage(file));
    if (!bitmap || !this.#image) return;
    this.#base = whiteOnly(bitmap, this.#image.width, this.#image.height);
    this.#strokes = [];
    this.#changed();
  }

  undo() {
    this.#strokes.pop();
    this.#changed();
  }

  clear() {
    this.#base = null;
    this.#strokes = [];
    this.file.value = "";
    this.#changed();
  }

  /** Return the mask as a PNG, white where the image is generated again; null where nothing is drawn. */
  async blob() {
    const canvas = this.#image && this.#mask();
    if (!canvas) return null;
    const context = canvas.getContext("2d");
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    let drawn = false;
    for (let place = 0; place < pixels.data.length; place += 4) {
      const white = pixels.data[place + 3] >= 128;
      drawn ||= white;
      pixels.data.fill(white ? 255 : 0, place, place + 3);
      pixels.data[place + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    return drawn ? new Promise((resolve) => canvas.toBlob(resolve, "image/png")) : null;
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / this.#image.width, box.height / this.#image.height);
    const left = box.left + (box.width - this.#image.width * scale) / 2;
    const top = box.top + (box.height - this.#image.height * scale) / 2;
    return [(event.clientX - left) / scale, (event.clientY - top) / scale];
  }

  get #width() {
    return (Number(this.size.value) / 100) * Math.min(this.#image.width, this.#image.height);
  }

  #begin(place) {
    this.#stroke = { points: [place], width: this.#width, erase: this.#erase };
    this.#strokes.push(this.#stroke);
    this.#point(place);
  }

  #move(place) {
    this.#stroke?.points.push(place);
    this.#point(place);
  }

  #end() {
    if (this.#stroke) this.#changed();
    this.#stroke = null;
  }

  #add(stroke) {
    this.#strokes.push(stroke);
    this.#changed();
  }

  #changed() {
    this.#draw();
    this.changed();
  }

  #point(place) {
    if (!this.#stroke || place) this.#cursor = place;
    this.#draw();
  }

  #key(event) {
    if (!this.#image) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const old = this.#cursor ?? [this.#image.width / 2, this.#image.height / 2];
    if (step) {
      const way = Math.max(1, this.#width / 2);
      const place = [clamp(old[0] + step[0] * way, this.#image.width), clamp(old[1] + step[1] * way, this.#image.height)];
      if (event.shiftKey) this.#add({ points: [old, place], width: this.#width, erase: this.#erase });
      this.#point(place);
    } else if (event.key === " " || event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      this.#add({ points: [old], width: this.#width, erase: this.#erase });
      this.#point(old);
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  /** Return a canvas of the image's size, opaque where the mask is white. */
  #mask() {
    const canvas = make("canvas", { width: this.#image.width, height: this.#image.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (this.#base) context.drawImage(this.#base, 0, 0);
    for (const one of this.#strokes) stroke(context, one);
    return canvas;
  }

  #draw() {
    if (!this.#image) return;
    const { canvas } = this;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.#image, 0, 0, canvas.width, canvas.height);
    const tint = this.#mask();
    const over = tint.getContext("2d");
    over.globalCompositeOperation = "source-in";
    over.fillStyle = "#e0457b";
    over.fillRect(0, 0, tint.width, tint.height);
    context.globalAlpha = 0.6;
    context.drawImage(tint, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
    if (this.#cursor) ring(context, this.#cursor, this.#width, canvas.width / this.#image.width);
  }
}

function clamp(value, high) {
  return Math.min(high, Math.max(0, value));
}

function stroke(context, { points, width, erase, invert }) {
  const { width: right, height: bottom } = context.canvas;
  context.globalCompositeOperation = invert ? "xor" : erase ? "destination-out" : "source-over";
  if (invert) {
    context.fillRect(0, 0, right, bottom);
    return;
  }
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
  context.beginPath();
  context.moveTo(...points[0]);
  for (const point of points.length > 1 ? points.slice(1) : points) context.lineTo(...point);
  context.stroke();
}

function ring(context, [x, y], width, scale) {
  for (const [colour, line] of [["#000", 3], ["#fff", 1.5]]) {
    context.beginPath();
    context.arc(x * scale, y * scale, (width * scale) / 2, 0, 2 * Math.PI);
    Object.assign(context, { strokeStyle: colour, lineWidth: line });
    context.stroke();
  }
}

/** Return a canvas that is opaque where a bitmap is light. */
function whiteOnly(bitmap, width, height) {
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let place = 0; place < pixels.data.length; place += 4) {
    const [red, green, blue] = pixels.data.slice(place, place + 3);
    pixels.data[place + 3] = red + green + blue >= 384 ? 255 : 0;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
