// Generates an image with a bundle's one graph; needs `npm install onnxruntime-node`: node run.mjs MODEL INPUTS IMAGE.ppm
import { readFileSync, writeFileSync } from "node:fs";
import ort from "onnxruntime-node";

const [model, inputs, output] = process.argv.slice(2);
const kinds = { int32: Int32Array, int64: BigInt64Array, float32: Float32Array };
const session = await ort.InferenceSession.create(model);
const feeds = {};
for (const { name, type, shape } of session.inputMetadata) {
  const file = readFileSync(`${inputs}/${name}.npy`);
  const bytes = file.subarray(10 + file.readUInt16LE(8)); // behind the header
  const numbers = new kinds[type](Uint8Array.from(bytes).buffer);
  const known = shape.filter((size) => size > 0).reduce((product, size) => product * size, 1);
  feeds[name] = new ort.Tensor(type, numbers, shape.map((size) => (size > 0 ? size : numbers.length / known)));
}
const { image } = await session.run(feeds);
const [images, height, width] = image.dims; // written one below the other
writeFileSync(output, Buffer.concat([Buffer.from(`P6 ${width} ${images * height} 255\n`), image.data]));
