/** The server's API: models, jobs and streams of events. */

const KEY = "diffoundry-api-key";

/** An answer that is an error, or none at all. `param` names the parameter, or is null. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

/** Keep the API key in this tab. */
export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw new ApiError("Cancelled.", { code: "cancelled" });
    throw new ApiError("The server does not answer. Is it still running?", { code: "no_answer" });
  }
  if (!response.ok) throw await readError(response);
  return response;
}

async function readError(response) {
  const body = await response.json().catch(() => ({}));
  const { message = `The server answered with status ${response.status}.`, code, param } = body.error ?? {};
  const wait = Number(response.headers.get("Retry-After"));
  const advice = wait > 0 ? ` Try again in about ${wait} s.` : "";
  return new ApiError(message + advice, { status: response.status, code, param });
}

/** Return the models that are served. */
export async function listModels() {
  return (await (await request("v1/models")).json()).data;
}

/** Return a new id for a job. */
export function newJob() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** Cancel a job. */
export async function cancelJob(id) {
  await request(`v1/jobs/${id}`, { method: "DELETE" });
}

/**
 * Send a job, and yield its events: {type: "progress", step, total}, {type: "queued", position}, {type: "running"} and
 * those of the API.
 *
 * call: {endpoint, values, files}, where files has blobs, or lists of them, by parameter.
 */
export async function* runJob(id, call, signal) {
  const values = { ...call.values, stream: true };
  const headers = { "X-Request-Id": id };
  const options = { method: "POST", headers, signal, body: JSON.stringify(values) };
  if (Object.keys(call.files).length) options.body = formOf(values, call.files);
  else headers["Content-Type"] = "application/json";
  const response = await request(`v1/images/${call.endpoint}`, options);
  for await (const event of readEvents(response.body, signal)) {
    if (event.type === "error") throw new ApiError(event.error.message, event.error);
    yield event;
  }
}

function formOf(values, files) {
  const form = new FormData();
  for (const [name, value] of Object.entries(values)) form.append(name, String(value));
  for (const [name, given] of Object.entries(files)) {
    for (const blob of [given].flat()) form.append(name, blob, `${name}.png`);
  }
  return form;
}

async function* readEvents(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => {
      if (signal.aborted) throw new ApiError("Cancelled.", { code: "cancelled" });
      throw new ApiError("The connection to the server was lost.", { code: "no_answer" });
    });
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    yield* blocks.map(readEvent).filter(Boolean);
  }
}

function readEvent(block) {
  const step = /^: step (\d+) of (\d+)/.exec(block);
  if (step) return { type: "progress", step: Number(step[1]), total: Number(step[2]) };
  const queued = /^: queued (\d+)/.exec(block);
  if (queued) return { type: "queued", position: Number(queued[1]) };
  if (block === ": running") return { type: "running" };
  const data = block.split("\n").filter((line) => line.startsWith("data:"));
  return data.length ? JSON.parse(data.map((line) => line.slice(5)).join("\n")) : null;
}
