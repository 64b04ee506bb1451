/** Shows the result: previews, progress, the finished images with their settings, and the history. */

import { announce, byId, make, urlOf } from "./dom.js";
import { commandLine, inputFiles, pythonCode } from "./commands.js";

const SMALL = 384;
const ENLARGED = 448;

/** Return an element for an image; small ones are enlarged by a whole number, each pixel sharp. */
function imageOf(src, alt, [width, height], count) {
  const longest = Math.max(width, height);
  const wanted = count > 1 ? ENLARGED / 2 : ENLARGED;
  const scale = longest < SMALL ? Math.max(1, Math.floor(wanted / longest)) : 1;
  const image = make("img", { src, alt, width: width * scale, height: height * scale });
  image.classList.toggle("small", scale > 1);
  return image;
}

/** Return the sides of a size such as 512x768. */
function sidesOf(text) {
  return text.split("x").map(Number);
}

/** Show that a job begins. */
export function showStart() {
  byId("progress-row").hidden = false;
  byId("progress").removeAttribute("value");
  byId("progress-text").textContent = "Sending …";
  byId("caption").hidden = true;
  byId("empty").hidden = true;
  byId("images").replaceChildren();
  byId("images").classList.add("running");
  byId("frame").setAttribute("aria-busy", "true");
  announce("Generating.");
}

/** Show how many jobs are before this one. */
export function showQueue(position) {
  byId("progress-text").textContent = position === 0 ? "Next in the queue" : `${position} before it in the queue`;
}

/** Show that a step takes long. */
export function showRunning() {
  if (!byId("progress").hasAttribute("value")) byId("progress-text").textContent = "Preparing …";
}

/** Show a finished step. */
export function showStep(step, total) {
  Object.assign(byId("progress"), { max: total, value: step });
  byId("progress-text").textContent = step < total ? `Step ${step} of ${total}` : "Finishing …";
  if (step === Math.ceil(total / 2) && total > 3) announce(`Half of ${total} steps are done.`);
}

/** Show the preview of an image of a job. */
export function showPreview(event, count) {
  const place = byId("images");
  const src = `data:image/${event.output_format};base64,${event.b64_json}`;
  const old = place.children[event.image_index ?? 0];
  if (old) old.src = src;
  else place.append(imageOf(src, "Preview", sidesOf(event.size), count));
}

/** Show that no job runs any more. */
export function showEnd() {
  byId("progress-row").hidden = true;
  byId("images").classList.remove("running");
  byId("frame").removeAttribute("aria-busy");
}

/** Show nothing. */
export function showEmpty() {
  byId("images").replaceChildren();
  byId("caption").hidden = true;
  byId("empty").hidden = false;
}

/** Show a finished job, and one of its images. */
export function showJob(job, index, choose) {
  const alt = job.values.prompt || "Generated image";
  const several = job.images.length > 1;
  byId("empty").hidden = true;
  byId("images").replaceChildren(...job.images.map(({ blob, size }, place) => {
    const image = imageOf(urlOf(blob), several ? `${alt}, ${place + 1} of ${job.images.length}` : alt, sidesOf(size), job.images.length);
    if (!several) return image;
    const chosen = String(place === index);
    return make("button", { type: "button", className: "choice", "aria-pressed": chosen, onclick: () => choose(place) }, image);
  }));
  showCaption(job, index);
}

function showCaption(job, index) {
  const { blob, size, format, warning } = job.images[index];
  byId("caption").hidden = false;
  byId("caption-prompt").textContent = job.values.prompt || "Without a prompt";
  Object.assign(byId("caption-warning"), { textContent: warning ?? "", hidden: !warning });
  byId("caption-facts").replaceChildren(...factsOf(job, size).map(([name, value]) => (
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })))));
  const name = `${fileStem(job)}${job.images.length > 1 ? `-${index + 1}` : ""}.${format}`;
  Object.assign(byId("download"), { href: urlOf(blob), download: name });
  byId("cli").textContent = commandLine(job);
  byId("python").textContent = pythonCode(job);
  showInputFiles(job);
}

function showInputFiles(job) {
  const files = inputFiles(job);
  const links = files.flatMap(({ name, blob }) => [" ", make("a", { href: urlOf(blob), download: name, textContent: name })]);
  byId("code-files").hidden = files.length === 0;
  byId("code-files").replaceChildren("Save first what both read:", ...links);
}

function factsOf(job, size) {
  const { values } = job;
  const all = [
    ["Model", values.model], ["Size", size.replace("x", " × ")], ["Seed", values.seed], ["Steps", job.steps],
    ["Guidance", values.guidance_scale], ["Scheduler", values.scheduler], ["Preset", values.preset], ["Strength", values.strength],
    ["LoRA", values.loras], ["Negative", values.negative_prompt], ["Time", `${job.seconds.toFixed(1)} s`],
  ];
  return all.filter(([, value]) => value !== undefined && value !== "");
}

function fileStem(job) {
  const words = (job.values.prompt ?? "").normalize("NFKD").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  return `${words.join("-").slice(0, 40) || "image"}-${job.values.seed}`;
}

/** List the jobs of the history; the one that is shown is marked. */
export function showHistory(jobs, shown, choose) {
  byId("history").hidden = jobs.length === 0;
  byId("history-list").replaceChildren(...jobs.map((job) => {
    const name = `${job.values.prompt || "Without a prompt"}, seed ${job.values.seed}`;
    const button = make("button", { type: "button", title: name, onclick: () => choose(job) },
      make("img", { src: urlOf(job.images[0].blob), alt: name, loading: "lazy" }));
    if (job.id === shown?.id) button.setAttribute("aria-current", "true");
    return make("li", {}, button);
  }));
}
