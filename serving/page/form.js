/** The settings: shows the controls that a model has, reads them, fills them, and shows errors beside them. */

import { byId, fillSelect, make, urlOf } from "./dom.js";
import { defaultSize, fittingSize, openImage, toPng } from "./images.js";
import { MaskEditor } from "./mask.js";

const NUMBERS = ["num_inference_steps", "guidance_scale", "n"];
const PLACES = { size: "width", loras: "lora", mask: "mask_image", image: "image", control_image: "control-0" };
const SEED_BITS = 2 ** 32;

/** The form. `models` are those of the server, by name. */
export class Form {
  models = new Map();
  #start = null; // {blob, bitmap} of the image to start from, as it was chosen
  #sent = null; // {blob, width, height} as it is sent
  #controls = [];

  constructor() {
    this.mask = new MaskEditor(byId("mask-editor"), () => this.clearError("mask_image"));
    byId("model").addEventListener("change", () => this.#showModel());
    byId("modes").addEventListener("change", () => this.#showMode());
    byId("image").addEventListener("change", ({ target }) => this.setImage(target.files[0]));
    byId("fit").addEventListener("change", () => this.#fitImage());
    byId("strength").addEventListener("input", () => this.#showStrength());
    byId("preset").addEventListener("change", () => this.#showDefaults());
    byId("form").addEventListener("input", ({ target }) => this.clearError(target.id));
  }

  get model() {
    return this.models.get(byId("model").value);
  }

  get mode() {
    return document.querySelector("input[name=mode]:checked").value;
  }

  /** Take the models of the server. */
  setModels(models) {
    this.models = new Map(models.map((model) => [model.id, model]));
    fillSelect(byId("model"), [...this.models.keys()]);
    this.#showModel();
  }

  #has(parameter) {
    return this.model.parameters.includes(parameter);
  }

  #can(endpoint) {
    return this.model.endpoints.includes(`/v1/images/${endpoint}`);
  }

  #showModel() {
    const fromImage = this.#can("edits") || this.#can("variations");
    const modes = { text: this.#can("generations"), image: fromImage, inpaint: fromImage && this.#has("mask_image") };
    for (const [mode, shown] of Object.entries(modes)) {
      const label = document.querySelector(`[data-mode=${mode}]`);
      label.hidden = !shown;
      if (!shown && this.mode === mode) label.querySelector("input").checked = false;
    }
    const chosen = document.querySelector("input[name=mode]:checked") ?? document.querySelector("[data-mode]:not([hidden]) input");
    chosen.checked = true;
    byId("modes").hidden = Object.values(modes).filter(Boolean).length < 2;
    this.#show("prompt", this.model.needs_prompt);
    for (const name of ["negative_prompt", "guidance_scale", "scheduler", "num_inference_steps"]) this.#show(name, this.#has(name));
    fillSelect(byId("scheduler"), [["", `${this.model.scheduler ?? "The model"}’s own`.replace(/Scheduler’s own$/, " (the model’s)")], ...this.model.schedulers]);
    this.#show("preset", this.model.presets.length > 0);
    fillSelect(byId("preset"), [["", "none"], ...this.model.presets]);
    for (const name of ["lora", "lora_scale"]) this.#show(name, this.model.loras.length > 0);
    fillSelect(byId("lora"), [["", "none"], ...this.model.loras]);
    this.#show("model", this.models.size > 1);
    this.#makeControls();
    this.#showMode();
  }

  #show(parameter, shown) {
    document.querySelector(`[data-param=${parameter}]`).hidden = !shown;
  }

  #showMode() {
    const text = this.mode === "text";
    byId("start").hidden = text;
    for (const name of ["width", "height"]) this.#show(name, text);
    this.#show("strength", !text && this.#has("strength"));
    this.#show("n", this.mode !== "inpaint");
    this.#showDefaults();
    if (!text) this.#fitImage();
  }

  #showDefaults() {
    const defaults = this.mode === "text" ? this.model.defaults : this.model.edit_defaults;
    const preset = byId("preset").value !== "";
    for (const name of ["num_inference_steps", "guidance_scale"]) byId(name).placeholder = preset ? "of the preset" : defaults[name] ?? "";
    const [width, height] = defaultSize(this.model) ?? ["", ""];
    Object.assign(byId("width"), { placeholder: width, step: this.model.size_step });
    Object.assign(byId("height"), { placeholder: height, step: this.model.size_step });
    const strength = byId("strength");
    if (!strength.dataset.set) strength.value = defaults.strength ?? 0.8;
    this.#showStrength();
  }

  #showStrength() {
    byId("strength-value").textContent = Number(byId("strength").value).toFixed(2);
  }

  #makeControls() {
    this.#controls = this.model.controlnets.map(() => null);
    const fields = this.model.controlnets.map((name, index) => {
      const title = this.model.controlnets.length > 1 ? `ControlNet image: ${name}` : "ControlNet image";
      const id = `control-${index}`;
      const shown = make("img", { className: "preview", alt: title, hidden: true });
      const input = make("input", { id, type: "file", accept: "image/png,image/jpeg,image/webp" });
      const remove = make("button", { type: "button", textContent: "Remove", hidden: true, "aria-label": `Remove ${title}` });
      const set = (file) => {
        this.#controls[index] = file ?? null;
        shown.hidden = remove.hidden = !file;
        if (file) shown.src = urlOf(file);
        else input.value = "";
      };
      input.addEventListener("change", () => set(input.files[0]));
      remove.addEventListener("click", () => { set(null); input.focus(); });
      return Object.assign(make("div", { className: "field" }, make("label", { for: id, textContent: title }), input, shown, remove), { set });
    });
    if (fields.length) {
      fields.push(make("div", { className: "field" },
        make("label", { for: "controlnet_conditioning_scale", textContent: "ControlNet weight" }),
        make("input", { id: "controlnet_conditioning_scale", type: "number", step: "any", inputMode: "decimal", placeholder: "1" })));
    }
    this.controlFields = fields;
    byId("controls").hidden = fields.length === 0;
    byId("control-fields").replaceChildren(...fields);
  }

  /** Start from an image: a file or a blob. */
  async setImage(file) {
    this.clearError("image");
    const bitmap = file && (await openImage(file));
    this.#start = bitmap ? { blob: file, bitmap } : null;
    if (file && !bitmap) this.showError("image", "The file is no image that this browser can read. Choose a PNG, JPEG or WebP file.");
    await this.#fitImage();
  }

  async #fitImage() {
    const start = this.#start;
    const note = byId("image-note");
    for (const id of ["image-note", "image-preview", "fit-label", "mask-editor"]) byId(id).hidden = true;
    this.#sent = null;
    if (!start) return;
    const { width, height } = start.bitmap;
    const fitted = fittingSize(width, height, this.model);
    const suits = fitted[0] === width && fitted[1] === height;
    byId("fit-label").hidden = suits;
    const [toWidth, toHeight] = suits || !byId("fit").checked ? [width, height] : fitted;
    const kept = toWidth === width && toHeight === height && start.blob.type === "image/png";
    const blob = kept ? start.blob : await toPng(start.bitmap, toWidth, toHeight);
    const bitmap = kept ? start.bitmap : await openImage(blob);
    if (this.#start !== start) return;
    this.#sent = { blob, width: toWidth, height: toHeight };
    note.textContent = `${width} × ${height} pixels${toWidth === width && toHeight === height ? "" : `, sent as ${toWidth} × ${toHeight}`}`;
    note.hidden = false;
    const inpaint = this.mode === "inpaint";
    byId("mask-editor").hidden = !inpaint;
    byId("image-preview").hidden = inpaint;
    Object.assign(byId("image-preview"), { src: urlOf(blob), width: Math.max(toWidth, 128) });
    if (inpaint) this.mask.setImage(bitmap);
  }

  /** Read the form: a job, or null after showing what is missing. */
  async read() {
    this.clearErrors();
    const values = {};
    const text = (name) => (byId(name).closest("[data-param]").hidden ? "" : byId(name).value);
    if (!byId("prompt").closest(".field").hidden) values.prompt = byId("prompt").value;
    for (const name of ["negative_prompt", "scheduler", "preset"]) if (text(name)) values[name] = text(name);
    for (const name of NUMBERS) if (text(name)) values[name] = Number(text(name));
    if (text("lora")) values.loras = text("lora") + (text("lora_scale") ? `:${text("lora_scale")}` : "");
    values.seed = byId("seed").value ? Number(byId("seed").value) : crypto.getRandomValues(new Uint32Array(1))[0] % SEED_BITS;
    if (text("width") || text("height")) {
      const own = defaultSize(this.model) ?? [];
      values.size = [text("width") || own[0], text("height") || own[1]].join("x");
    }
    const files = await this.#readFiles(values);
    const bad = [...byId("form").querySelectorAll("input[type=number]")].filter((input) => input.validity.badInput);
    for (const input of bad) this.showError(input.id, "Type a number.");
    if (!files || bad.length) {
      byId("form").querySelector("[aria-invalid=true]")?.focus();
      return null;
    }
    values.model = this.model.id;
    const edits = this.#can("edits") ? "edits" : "variations";
    const endpoint = this.mode === "text" ? "generations" : edits;
    return { endpoint, mode: this.mode, bundle: this.model.bundle, bundles: this.model.bundles, countArgument: this.model.count_argument, values, files };
  }

  async #readFiles(values) {
    const files = {};
    const control = byId("controlnet_conditioning_scale");
    if (this.#controls.some(Boolean)) {
      files.control_image = this.#controls.filter(Boolean);
      if (control.value) values.controlnet_conditioning_scale = Number(control.value);
    }
    if (this.mode === "text") return files;
    if (!this.#sent) {
      this.showError("image", "Choose the image to start from.");
      return null;
    }
    files.image = this.#sent.blob;
    if (this.#has("strength")) values.strength = Number(byId("strength").value);
    if (this.mode === "inpaint") {
      values.size = `${this.#sent.width}x${this.#sent.height}`;
      files.mask_image = await this.mask.blob();
      if (!files.mask_image) {
        this.showError("mask_image", "The mask is empty. Draw over the part that is to be generated again, or choose a mask from a file.");
        return null;
      }
    }
    return files;
  }

  /** Fill the form with the settings of a job. */
  async fill(job) {
    this.clearErrors();
    if (this.models.has(job.values.model)) byId("model").value = job.values.model;
    document.querySelector(`input[name=mode][value=${job.mode}]`).checked = true;
    const { size = "x", loras = "" } = job.values;
    const [width, height] = job.mode === "text" ? size.split("x") : ["", ""];
    const [lora, lora_scale = ""] = loras.split(":");
    const all = { ...job.values, width, height, lora, lora_scale };
    byId("strength").dataset.set = job.values.strength === undefined ? "" : "set";
    this.#showModel();
    for (const name of ["prompt", "negative_prompt", "scheduler", "preset", "seed", "width", "height", "lora", "lora_scale", "strength", ...NUMBERS]) {
      if (name !== "strength" || all.strength !== undefined) byId(name).value = all[name] ?? "";
    }
    (job.files.control_image ?? []).forEach((blob, index) => this.controlFields[index]?.set?.(blob));
    const weight = byId("controlnet_conditioning_scale");
    if (weight) weight.value = job.values.controlnet_conditioning_scale ?? "";
    this.#showDefaults();
    if (job.files.image) await this.setImage(job.files.image);
    if (job.files.mask_image) await this.mask.loadFile(job.files.mask_image);
    byId("controls").open = Boolean(job.files.control_image);
    if (["guidance_scale", "n", "scheduler", "preset", "loras"].some((name) => job.values[name] !== undefined)) byId("more").open = true;
  }

  /** Choose a mode, and start from a blob. */
  async startFrom(blob) {
    if (this.mode === "text") document.querySelector("[data-mode=image] input").checked = true;
    this.#showMode();
    await this.setImage(blob);
  }

  /** Show an error beside the field of a parameter, or above the button where there is none. */
  showError(parameter, message, { focus = false } = {}) {
    const input = byId(PLACES[parameter] ?? parameter);
    const field = input?.closest(".field");
    if (!field || field.hidden || input.closest("[hidden]")) {
      Object.assign(byId("form-error"), { textContent: message, hidden: false });
      return;
    }
    input.closest("details")?.setAttribute("open", "");
    const id = `${input.id}-error`;
    const shown = byId(id) ?? field.appendChild(make("p", { id, className: "error", role: "alert" }));
    Object.assign(shown, { textContent: message, hidden: false });
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", id);
    if (focus) input.focus();
  }

  /** Remove the error of a field, which is changed now. */
  clearError(id) {
    const input = byId(id);
    for (const one of [byId(`${id}-error`), ["width", "height"].includes(id) && byId("width-error")]) if (one) one.hidden = true;
    for (const one of ["width", "height"].includes(id) ? [byId("width"), byId("height")] : [input]) one?.removeAttribute("aria-invalid");
  }

  /** Remove all errors. */
  clearErrors() {
    byId("form-error").hidden = true;
    for (const input of byId("form").querySelectorAll("[aria-invalid]")) this.clearError(input.id);
  }
}
