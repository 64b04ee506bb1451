/** Brings an image to start from into a size that a model takes. */

/** Return the pixels of a file as a bitmap, or null where it is no image. */
export async function openImage(file) {
  return createImageBitmap(file).catch(() => null);
}

/** Return the sides of the model's default size. */
export function defaultSize(model) {
  return model.default_size ? model.default_size.split("x").map(Number) : null;
}

/** Return the size for an image: its own where it suits the model, or about the model's pixels in its shape. */
export function fittingSize(width, height, model) {
  const own = defaultSize(model);
  const step = model.size_step || 1;
  if (!own || (width % step === 0 && height % step === 0 && width * height <= 1.5 * own[0] * own[1])) return [width, height];
  const scale = Math.sqrt((own[0] * own[1]) / (width * height));
  return [width, height].map((side) => Math.max(step, Math.round((side * scale) / step) * step));
}

/** Return a PNG of a bitmap in a size. Scaling down halves again and again, which keeps fine lines. */
export async function toPng(bitmap, width, height) {
  let source = bitmap;
  while (source.width >= 2 * width && source.height >= 2 * height) source = draw(source, source.width >> 1, source.height >> 1);
  return new Promise((resolve) => draw(source, width, height).toBlob(resolve, "image/png"));
}

function draw(source, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}
