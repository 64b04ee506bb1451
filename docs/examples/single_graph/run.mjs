// Generates an image with a bundle's one graph; needs `npm install onnxruntime-node`: node run.mjs MODEL INPUTS IMAGE.ppm
import { readFileSync, writeFileSync } from "node:fs";
import ort from "onnxruntime-node";

const [model, inputs, output] = process.argv.slice(2);
const kinds = { int32: Int32Array, int64: BigInt64Array, float32: Float32Array };
const session = await ort.InferenceSession.create(model);
const feeds = {};
for (const { name, type, shape } of session.inputMetadata) {
  const numbers = new kinds[type](shape.reduce((product, size) => product * size, 1));
  const file = readFileSync(`${inputs}/${name}.npy`);
  new Uint8Array(numbers.buffer).set(file.subarray(file.length - numbers.byteLength)); // behind the header
  feeds[name] = new ort.Tensor(type, numbers, shape);
}
const { image } = await session.run(feeds);
const [, height, width] = image.dims;
writeFileSync(output, Buffer.concat([Buffer.from(`P6 ${width} ${height} 255\n`), image.data]));
