// What moves in a report: volumes to look through and to turn. No library, no request: all data stand in the page.
"use strict";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// The planes of a sprite as one array of bytes, plane after plane.
async function decode(sprite, [count, height, width], columns) {
  const image = new Image();
  image.src = sprite;
  await image.decode();
  const canvas = element("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const volume = new Uint8Array(count * height * width);
  for (let plane = 0; plane < count; plane++) {
    const x = (plane % columns) * width, y = Math.floor(plane / columns) * height;
    const pixels = context.getImageData(x, y, width, height).data;
    const start = plane * height * width;
    for (let i = 0; i < height * width; i++) volume[start + i] = pixels[4 * i];
  }
  return volume;
}

// Colours of the 256 bytes, as the four bytes of a pixel each.
function colorTable(colorOf) {
  const table = new Uint8ClampedArray(4 * 256);
  for (let byte = 0; byte < 256; byte++) table.set([...colorOf(byte), 255], 4 * byte);
  return new Uint32Array(table.buffer);
}

const grays = (white, gamma) => colorTable((byte) => {
  const gray = Math.round(255 * clamp(byte / 255 / white, 0, 1) ** gamma);
  return [gray, gray, gray];
});

// Follow a pointer from where it is pressed: `moved` gets the event, and how far it has come since the last one.
function follow(target, moved, pressed = () => {}) {
  target.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    let last = event.clientX;
    target.setPointerCapture(event.pointerId);
    pressed(event);
    const onMove = (next) => { moved(next, next.clientX - last); last = next.clientX; };
    const onEnd = () => {
      target.removeEventListener("pointermove", onMove);
      target.removeEventListener("pointerup", onEnd);
      target.removeEventListener("pointercancel", onEnd);
    };
    target.addEventListener("pointermove", onMove);
    target.addEventListener("pointerup", onEnd);
    target.addEventListener("pointercancel", onEnd);
  });
}

function steps(event) {
  const step = event.shiftKey ? 10 : 1;
  const known = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step };
  if (!(event.key in known)) return 0;
  event.preventDefault();
  return known[event.key];
}

// Volumes to look through

const VIEWS = { // axes are 0 for z, 1 for y, 2 for x
  XY: { across: 2, down: 1, along: 0 },
  ZY: { across: 0, down: 1, along: 2 },
  XZ: { across: 2, down: 0, along: 1 },
};
const AXES = ["z", "y", "x"];

class Viewer {
  constructor(root, data, volumes) {
    Object.assign(this, { root, data, volumes });
    this.names = data.images.map((image) => image.name);
    this.at = data.shape.map((size) => Math.floor(size / 2)); // z, y, x
    this.split = 0.5;
    this.projections = new Map();
    this.left = 0;
    this.right = data.right;
    this.strides = [data.shape[1] * data.shape[2], data.shape[2], 1];
    this.extent = data.shape.map((size, axis) => size * data.voxel[axis]);
    this.errorIndex = data.error ? volumes.length - 1 : -1;
    if (data.error) {
      const bytes = data.error.colors.match(/../g).map((digits) => parseInt(digits, 16));
      this.errorColors = colorTable((byte) => bytes.slice(3 * byte, 3 * byte + 3));
      this.errorStops = [0, 32, 64, 96, 128, 160, 192, 224, 255].map(
        (byte) => `rgb(${bytes.slice(3 * byte, 3 * byte + 3)})`);
    }
    this.build();
    this.draw();
  }

  build() {
    const [depth, height, width] = this.extent;
    const isFlat = this.data.shape[0] === 1;
    const columns = isFlat ? width : width + depth, rows = isFlat ? height : height + depth;
    this.stage = element("div", { class: "stage" });
    this.stage.style.gridTemplateColumns = isFlat ? "1fr" : `minmax(0, ${width}fr) minmax(0, ${depth}fr)`;
    this.stage.style.maxWidth = `min(100%, ${(38 * columns / rows).toFixed(2)}rem)`;
    this.canvases = {};
    for (const [name, view] of Object.entries(VIEWS)) if (name === "XY" || !isFlat) this.addView(name, view);
    if (this.data.bar) {
      const bar = element("div", { class: "bar" }, element("span"), `${+this.data.bar.toPrecision(3)} µm`);
      bar.firstChild.style.width = `${100 * this.data.bar / width}%`;
      this.stage.append(bar);
    }
    this.controls = element("div", { class: "controls" });
    this.addChoice("Left", this.names, this.left, (index) => { this.left = index; });
    this.addChoice("Right", this.names, this.right, (index) => { this.right = index; });
    if (!isFlat) {
      this.addChoice("Show", ["planes through the cross", "maximum projections"], 0, (index) => {
        this.isProjected = index === 1;
      });
    }
    this.planes = [];
    for (const axis of isFlat ? [] : [0, 1, 2]) {
      this.planes[axis] = this.addSlider("", 0, this.data.shape[axis] - 1, 1, this.at[axis], (value) => {
        this.at[axis] = value;
      });
    }
    this.white = this.addSlider("White", 0.1, this.data.whitest, 0.05, 1, () => {});
    this.gamma = this.addSlider("Gamma", 0.3, 1.5, 0.05, 1, () => {});
    this.state = element("p", { class: "note state" });
    this.root.append(this.stage, this.legend(), this.controls, this.state);
    for (const note of this.data.notes) this.root.append(element("p", { class: "note" }, note));
  }

  addView(name, view) {
    const canvas = element("canvas", {
      class: "sharp", role: "img", width: this.data.shape[view.across], height: this.data.shape[view.down],
    });
    const hairs = [element("i", { class: "hair upright" }), element("i", { class: "hair level" })];
    const divider = element("div", { class: "divider" });
    const box = element("div", { class: "view" }, canvas, ...hairs, divider);
    box.style.aspectRatio = `${this.extent[view.across]} / ${this.extent[view.down]}`;
    if (name === "XY") {
      for (const [key, value] of Object.entries({
        role: "slider", tabindex: 0, "aria-label": "Divider between the left and the right image",
        "aria-valuemin": 0, "aria-valuemax": 100,
      })) divider.setAttribute(key, value);
      divider.append(element("b"));
      this.chips = [element("span", { class: "chip" }), element("span", { class: "chip right" })];
      box.append(...this.chips);
      divider.addEventListener("keydown", (event) => this.moveDivider(this.split + steps(event) / 100));
      this.divider = divider;
    }
    if (this.data.shape[0] > 1) box.append(element("span", { class: "chip low" }, name));
    const place = (event) => {
      const frame = box.getBoundingClientRect();
      return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    };
    follow(divider, (event) => this.moveDivider(place(event)[0]));
    const pointAt = (event) => {
      if (event.target !== canvas || this.isProjected || this.data.shape[0] === 1) return;
      const [across, down] = place(event);
      for (const [axis, part] of [[view.across, across], [view.down, down]]) {
        this.at[axis] = clamp(Math.floor(part * this.data.shape[axis]), 0, this.data.shape[axis] - 1);
        this.planes[axis].value = this.at[axis];
      }
      this.draw();
    };
    follow(canvas, pointAt, pointAt);
    this.stage.append(box);
    this.canvases[name] = { canvas, box, hairs };
  }

  addChoice(label, names, chosen, choose) {
    const select = element("select", { "aria-label": label }, ...names.map((name, index) => element("option", { value: index }, name)));
    select.value = chosen;
    select.addEventListener("change", () => { choose(Number(select.value)); this.draw(); });
    this.controls.append(element("label", {}, element("span", {}, label), select));
  }

  addSlider(label, min, max, step, value, change) {
    const input = element("input", { type: "range", min, max, step });
    input.value = value;
    input.words = element("span", {}, label);
    input.addEventListener("input", () => { change(Number(input.value)); this.draw(); });
    this.controls.append(element("label", {}, input.words, input));
    return input;
  }

  // Colour bar of the error.
  legend() {
    if (!this.data.error) return "";
    const ramp = element("span", { class: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${this.errorStops})`;
    return element("p", { class: "note legend" }, `${this.names[this.errorIndex]}: 0 `, ramp,
      ` ${this.data.error.high.toPrecision(3)} and more`);
  }

  moveDivider(split) {
    this.split = clamp(split, 0, 1);
    this.draw();
  }

  // One view of one volume: the plane through the cross, or the maximum of all planes.
  section(index, name) {
    const { across, down, along } = VIEWS[name], { shape } = this.data, volume = this.volumes[index];
    const key = `${index} ${name}`;
    if (this.isProjected && this.projections.has(key)) return this.projections.get(key);
    const result = new Uint8Array(shape[across] * shape[down]);
    const [from, to] = this.isProjected ? [0, shape[along]] : [this.at[along], this.at[along] + 1];
    for (let plane = from; plane < to; plane++) {
      for (let row = 0, i = 0; row < shape[down]; row++) {
        let source = plane * this.strides[along] + row * this.strides[down];
        for (let column = 0; column < shape[across]; column++, i++, source += this.strides[across]) {
          if (volume[source] > result[i]) result[i] = volume[source];
        }
      }
    }
    if (this.isProjected) this.projections.set(key, result);
    return result;
  }

  draw() {
    const gray = grays(Number(this.white.value) / this.data.whitest, Number(this.gamma.value));
    const tables = [this.left, this.right].map((index) => index === this.errorIndex ? this.errorColors : gray);
    for (const [name, { canvas, box, hairs }] of Object.entries(this.canvases)) {
      const { width, height } = canvas, context = canvas.getContext("2d"), view = VIEWS[name];
      const [left, right] = [this.left, this.right].map((index) => this.section(index, name));
      const picture = context.createImageData(width, height), pixels = new Uint32Array(picture.data.buffer);
      const border = Math.round(this.split * width);
      for (let i = 0; i < pixels.length; i++) {
        pixels[i] = i % width < border ? tables[0][left[i]] : tables[1][right[i]];
      }
      context.putImageData(picture, 0, 0);
      box.style.setProperty("--split", `${100 * this.split}%`);
      hairs[0].style.left = `${100 * (this.at[view.across] + 0.5) / width}%`;
      hairs[1].style.top = `${100 * (this.at[view.down] + 0.5) / height}%`;
      for (const hair of hairs) hair.hidden = this.isProjected || this.data.shape[0] === 1;
      canvas.setAttribute("aria-label", `${name} view: ${this.names[this.left]} left of the divider, `
        + `${this.names[this.right]} right of it`);
    }
    this.describe();
  }

  describe() {
    this.divider.setAttribute("aria-valuenow", Math.round(100 * this.split));
    this.chips.forEach((chip, side) => { chip.textContent = this.names[side ? this.right : this.left]; });
    const unit = this.data.unit;
    for (const [axis, input] of this.planes.entries()) {
      const depth = unit ? `, ${((this.at[axis] + 0.5) * this.data.voxel[axis]).toPrecision(3)} ${unit}` : "";
      input.words.textContent = `${AXES[axis]}: plane ${this.at[axis] + 1} of ${this.data.shape[axis]}${depth}`;
      input.disabled = Boolean(this.isProjected);
    }
    this.white.words.textContent = `White at ${Number(this.white.value).toFixed(2)}`;
    this.gamma.words.textContent = `Gamma ${Number(this.gamma.value).toFixed(2)}`;
    const where = this.isProjected ? "maximum projections"
      : this.planes.map((input) => input.words.textContent).join("; ");
    this.state.textContent = `Left ${this.names[this.left]}, right ${this.names[this.right]}. ${where}`;
  }
}

// Volumes that turn

class Rotation {
  constructor(root, data, volumes) {
    Object.assign(this, { root, data, volumes });
    this.numViews = 2 * data.shape[0]; // the other half of the turn is the mirror image of this one
    this.turn = 0; // in views
    this.stage = element("div", {
      class: "turned", role: "slider", tabindex: 0, "aria-label": "Angle of view; drag, or press the arrow keys",
      "aria-valuemin": 0, "aria-valuemax": 360,
    });
    this.canvases = data.images.map((image) => {
      const canvas = element("canvas", { width: data.shape[2], height: data.shape[1] });
      this.stage.append(element("div", {}, element("span", {}, image.name), canvas));
      return canvas;
    });
    this.stage.style.setProperty("--ratio", data.shape[2] / data.shape[1]);
    this.stage.style.maxWidth = `${17 * data.images.length}rem`;
    this.button = element("button", { type: "button" }, "Turn slowly");
    this.button.addEventListener("click", () => this.timer ? this.stop() : this.start());
    this.angle = element("span", { class: "note" });
    root.append(this.stage, element("div", { class: "row" }, this.button, this.angle));
    this.stage.addEventListener("keydown", (event) => this.turnBy(steps(event)));
    follow(this.stage, (event, distance) => {
      this.turnBy(distance * this.numViews / 2 / this.canvases[0].clientWidth); // half a turn across a picture
    }, () => this.stop());
    this.turnBy(0);
  }

  start() {
    this.timer = setInterval(() => this.turnBy(1), 120);
    this.button.textContent = "Stop";
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "Turn slowly";
  }

  turnBy(views) {
    this.turn = (this.turn + views + this.numViews) % this.numViews;
    const [half, height, width] = this.data.shape;
    const view = Math.floor(this.turn), isMirrored = view >= half, start = (view % half) * height * width;
    const table = grays(1, 1);
    this.canvases.forEach((canvas, index) => {
      const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
      const pixels = new Uint32Array(picture.data.buffer), volume = this.volumes[index];
      for (let row = 0, i = 0; row < height; row++) {
        for (let column = 0; column < width; column++, i++) {
          pixels[i] = table[volume[start + row * width + (isMirrored ? width - 1 - column : column)]];
        }
      }
      context.putImageData(picture, 0, 0);
    });
    const degrees = Math.round(360 * view / this.numViews);
    this.stage.setAttribute("aria-valuenow", degrees);
    this.stage.setAttribute("aria-valuetext", `${degrees} degrees`);
    this.angle.textContent = `${degrees}° about the y axis`;
  }
}

async function start(root, Widget) {
  const data = JSON.parse(root.querySelector("script").textContent);
  try {
    const volumes = await Promise.all(
      data.images.map((image) => decode(image.sprite, data.shape, data.columns)));
    new Widget(root, data, volumes);
    root.dataset.ready = "";
  } catch (failure) {
    root.append(element("p", { class: "note" }, `This browser cannot show the picture (${failure.message}).`));
    throw failure;
  }
}

for (const root of document.querySelectorAll(".viewer")) start(root, Viewer);
for (const root of document.querySelectorAll(".rotation")) start(root, Rotation);

// Text to be used elsewhere

for (const box of document.querySelectorAll(".copied")) {
  const text = [...box.children].map((paragraph) => paragraph.textContent).join("\n\n");
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(box); // a page from the disk may not copy by itself everywhere
      button.textContent = "Selected: press Ctrl-C";
    }
  });
  box.append(button);
}

// On paper nothing can be unfolded.

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => { for (const details of folded) details.open = false; });
