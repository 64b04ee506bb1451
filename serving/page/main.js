/** The page: connects the form, the server, the result and the history. */

import { ApiError, cancelJob, listModels, newJob, runJob, setKey } from "./api.js";
import { announce, blobOf, byId, forget } from "./dom.js";
import { Form } from "./form.js";
import { addJob, clearJobs, listJobs, openHistory, removeJob } from "./history.js";
import * as view from "./view.js";

const PREVIEWS = 4; // unless the form says another number: each costs the time of a decoder

const form = new Form();
let shown = null; // the job of the history that is shown
let index = 0; // its image
let running = null; // {id, abort} of the job under way

async function connect() {
  try {
    const models = await listModels();
    form.setModels(models);
    byId("key-field").hidden = true;
    byId("server").textContent = models.length === 1 ? models[0].id : `${models.length} models`;
    byId("generate").disabled = false;
  } catch (error) {
    byId("generate").disabled = true;
    askForKey(error);
  }
}

function askForKey(error) {
  if (error.status !== 401) {
    Object.assign(byId("form-error"), { textContent: error.message, hidden: false });
    return;
  }
  const tried = !byId("key-field").hidden;
  byId("key-field").hidden = false;
  if (tried) form.showError("key", error.message);
  byId("key").focus();
}

function useKey() {
  form.clearErrors();
  setKey(byId("key").value);
  return connect();
}

async function generate() {
  if (running || byId("generate").disabled) return;
  const job = await form.read();
  if (!job || running) return;
  running = { id: newJob(), abort: new AbortController() };
  showButtons();
  view.showStart();
  if (window.matchMedia("(max-width: 820px)").matches) byId("stage").scrollIntoView();
  try {
    await finish(job, await receive(job, running));
  } catch (error) {
    showFailure(error);
  } finally {
    running = null;
    view.showEnd();
    showButtons();
  }
}

/** Run a job, and return its images, the number of its steps and its seconds. */
async function receive(job, current) {
  const images = [];
  const begun = performance.now();
  let steps;
  const call = { ...job, values: { ...job.values, previews: Number(byId("previews").value || PREVIEWS) } };
  for await (const event of runJob(current.id, call, current.abort.signal)) {
    if (event.type === "progress") {
      steps = event.total;
      view.showStep(event.step, event.total);
    } else if (event.type === "queued") view.showQueue(event.position);
    else if (event.type === "running") view.showRunning();
    else if (event.type.endsWith(".partial_image")) view.showPreview(event, job.values.n ?? 1);
    else if (event.type.endsWith(".completed")) images.push(imageOf(event));
  }
  if (!images.length) throw new ApiError("The connection to the server was lost.", { code: "no_answer" });
  return { images, steps, seconds: (performance.now() - begun) / 1000 };
}

function imageOf(event) {
  const flagged = event.nsfw_content_detected ? "The safety checker blackened this image." : "";
  const warning = [...(event.warnings ?? []), flagged].filter(Boolean).join(" ");
  return { blob: blobOf(event.b64_json, `image/${event.output_format}`), size: event.size, format: event.output_format, warning };
}

async function finish(job, received) {
  const done = { ...job, ...received, id: running.id, created: Date.now() };
  await addJob(done);
  showJob(done);
  announce(`Done: ${done.images.length === 1 ? "the image is" : `${done.images.length} images are`} shown.`);
}

function showFailure(error) {
  if (error.code === "cancelled") announce("Cancelled.");
  else if (error.status === 401) askForKey(error);
  else form.showError(error.param ?? "", error.message, { focus: true });
  if (shown) showJob(shown, index);
  else view.showEmpty();
}

async function cancel() {
  if (!running) return;
  const { id, abort } = running;
  byId("cancel").disabled = true;
  await cancelJob(id).catch(() => {});
  abort.abort(); // where the job had not arrived yet
}

function showButtons() {
  const focused = [byId("generate"), byId("cancel")].includes(document.activeElement);
  byId("generate").hidden = Boolean(running);
  Object.assign(byId("cancel"), { hidden: !running, disabled: false });
  if (focused) byId(running ? "cancel" : "generate").focus();
}

function showJob(job, place = 0) {
  shown = job;
  index = Math.min(place, job.images.length - 1);
  view.showJob(job, index, (chosen) => {
    showJob(job, chosen);
    byId("images").children[chosen].focus();
  });
  refresh();
}

function refresh() {
  byId("image-result").hidden = !shown;
  view.showHistory(listJobs(), shown, (job) => {
    if (running) return;
    showJob(job);
    byId("history-list").querySelector("[aria-current]").focus();
  });
}

function forgetImages(job) {
  for (const blob of [...job.images.map((image) => image.blob), ...Object.values(job.files).flat()]) forget(blob);
}

async function deleteShown() {
  const old = shown;
  const jobs = listJobs();
  const place = jobs.findIndex((job) => job.id === old.id);
  await removeJob(old.id);
  forgetImages(old);
  const next = jobs[place + 1] ?? jobs[place - 1];
  if (next) showJob(next);
  else showNothing();
  announce("Deleted.");
  byId(next ? "delete" : "prompt").focus();
}

function showNothing() {
  shown = null;
  view.showEmpty();
  refresh();
}

async function clearAll() {
  listJobs().forEach(forgetImages);
  await clearJobs();
  if (!running) showNothing();
  refresh();
  announce("The history is empty.");
  byId("prompt").focus();
}

async function copy(button, id) {
  const text = byId(id).textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    announce("Copied.");
  } catch {
    getSelection().selectAllChildren(byId(id)); // without a secure address there is no clipboard
    announce("Selected. Copy it with the keyboard.");
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function listen() {
  const on = (id, work, event = "click") => byId(id).addEventListener(event, work);
  on("form", (event) => { event.preventDefault(); generate(); }, "submit");
  on("cancel", cancel);
  on("key-use", useKey);
  on("key", (event) => { if (event.key === "Enter") { event.preventDefault(); useKey(); } }, "keydown");
  on("reuse", async () => { await form.fill(shown); announce("The settings are filled in."); byId("prompt").focus(); });
  on("edit", async () => { await form.startFrom(shown.images[index].blob); byId("prompt").focus(); });
  on("image-result", () => form.setImage(shown.images[index].blob));
  on("delete", deleteShown);
  on("clear-history", () => byId("confirm").showModal());
  on("confirm", () => { if (byId("confirm").returnValue === "yes") clearAll(); byId("confirm").returnValue = ""; }, "close");
  for (const id of ["cli", "python"]) on(`copy-${id}`, ({ target }) => copy(target, id));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
    if (event.key === "Escape" && !byId("confirm").open) cancel();
  });
}

listen();
await connect();
const jobs = await openHistory();
if (jobs.length) showJob(jobs[0]);
