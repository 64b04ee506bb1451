/** The command line and the Python code that repeat a job. */

const OPTIONS = {
  negative_prompt: "--negative", num_inference_steps: "--steps", guidance_scale: "--guidance-scale", scheduler: "--scheduler",
  seed: "--seed", n: "--num-images", strength: "--strength", controlnet_conditioning_scale: "--control-scale", preset: "--preset",
};

const FILES = {
  image: ["--image", "start"], mask_image: ["--mask", "mask"], control_image: ["--control-image", "control"],
};

/** Quote a text for a POSIX shell. */
export function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

/** Return a literal of Python. */
export function literal(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "string" ? JSON.stringify(value).replace(/\u007f/g, "\\u007f") : String(value);
}

/** Return the input files of a job: [{name, parameter, blob}], named as in the code. */
export function inputFiles(job) {
  return Object.entries(job.files).flatMap(([parameter, given]) => {
    const blobs = [given].flat();
    const stem = FILES[parameter][1];
    return blobs.map((blob, index) => ({ name: `${stem}${blobs.length > 1 ? index + 1 : ""}.png`, parameter, blob }));
  });
}

function sides(job) {
  return job.values.size ? job.values.size.split("x").map(Number) : null;
}

/** Return the command line of a job. */
export function commandLine(job) {
  const { prompt, loras, n } = job.values;
  const words = ["diffoundry", "generate", job.bundle, ...(prompt && !prompt.startsWith("-") ? [prompt] : [])];
  const size = sides(job);
  for (const [name, option] of Object.entries(OPTIONS)) {
    if (job.values[name] !== undefined) words.push(...joined(option, String(job.values[name])));
  }
  if (size) words.push("--width", String(size[0]), "--height", String(size[1]));
  for (const { name, parameter } of inputFiles(job)) words.push(FILES[parameter][0], name);
  if (loras) words.push("--lora", loraFile(loras));
  words.push("-o", n > 1 ? "images/" : "image.png");
  if (prompt === "" || prompt?.startsWith("-")) words.push("--", prompt);
  return words.map(quote).join(" ");
}

/** Return an option and its value, in one word where the value looks like an option. */
function joined(option, value) {
  return value.startsWith("-") ? [`${option}=${value}`] : [option, value];
}

function loraFile(text) {
  const [name, scale] = text.split(":");
  return `${name}.safetensors${scale === undefined ? "" : `:${scale}`}`;
}

/** Return the Python code of a job. */
export function pythonCode(job) {
  const files = inputFiles(job);
  const bundles = (job.bundles ?? [job.bundle]).map((bundle) => `load(${literal(bundle)})`);
  const chained = bundles.length > 1;
  const lines = [`from diffoundry import ${chained ? "chain, " : ""}load`, ...(files.length ? ["from PIL import Image"] : []), ""];
  lines.push(`pipe = ${chained ? `chain(${bundles.join(", ")})` : bundles[0]}`);
  if (job.values.loras) {
    const [name, scale = "1"] = job.values.loras.split(":");
    lines.push(`pipe.loras.load(${literal(`${name}.safetensors`)}, scale=${Number(scale)})`);
  }
  const { model, preset, loras, size, prompt, n, ...rest } = job.values;
  const words = prompt === undefined ? [] : [literal(prompt)];
  words.push(...Object.entries(rest).map(([name, value]) => `${name}=${literal(value)}`));
  if (sides(job)) words.push(`width=${sides(job)[0]}`, `height=${sides(job)[1]}`);
  if (n !== undefined) words.push(`${job.countArgument}=${n}`);
  for (const parameter of Object.keys(job.files)) {
    const opened = files.filter((file) => file.parameter === parameter).map((file) => `Image.open(${literal(file.name)})`);
    words.push(`${parameter}=${opened.length > 1 ? `[${opened.join(", ")}]` : opened[0]}`);
  }
  if (preset !== undefined) words.push(`**pipe.preset(${literal(preset)})`);
  lines.push("images = pipe(", ...words.map((word) => `    ${word},`), ").images", 'images[0].save("image.png")');
  return lines.join("\n");
}
