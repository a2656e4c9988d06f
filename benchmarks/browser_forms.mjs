// Every form of a part in a browser's engine: onnxruntime-web's WASM, or onnxruntime-node, on one thread at batch 1.
//
//     npm install onnxruntime-web onnxruntime-node
//     node benchmarks/browser_forms.mjs web|node GRAPH.onnx...
//
// In turns, in random order; median of the rounds. The first graph is the base: speed-ups and differences are to it.
import fs from 'node:fs';

const ROUNDS = 40, CALLS = 20;
const [engine, ...files] = process.argv.slice(2);
const ort = await import(engine === 'web' ? 'onnxruntime-web' : 'onnxruntime-node');
const options = engine === 'web' ? {executionProviders: ['wasm']} : {executionProviders: ['cpu'], intraOpNumThreads: 1};
if (engine === 'web') ort.env.wasm.numThreads = 1;

const median = (times) => [...times].sort((a, b) => a - b)[times.length >> 1];
const sizes = (input) => input.shape.map((size) => (typeof size === 'number' ? size : 1));

const forms = [];
for (const file of files) {
  const session = await ort.InferenceSession.create(fs.readFileSync(file), options);
  const shape = sizes(session.inputMetadata[0]);
  const values = Float32Array.from({length: shape.reduce((a, b) => a * b)}, (_, index) => ((index * 37) % 101) / 101);
  const feed = {[session.inputNames[0]]: new ort.Tensor('float32', values, shape)};
  const call = async () => (await session.run(feed))[session.outputNames[0]].data;
  for (let count = 0; count < CALLS; count++) await call();
  forms.push({file, call, output: await call(), times: []});
}
for (let round = 0; round < ROUNDS; round++) {
  for (const form of [...forms].sort(() => Math.random() - 0.5)) {
    const start = performance.now();
    for (let count = 0; count < CALLS; count++) await form.call();
    form.times.push(((performance.now() - start) / CALLS) * 1000);
  }
}
for (const {file, output, times} of forms) {
  const difference = Math.max(...output.map((value, index) => Math.abs(value - forms[0].output[index])));
  const speed = median(forms[0].times) / median(times);
  console.log(`${file}: ${median(times).toFixed(1)} us, ${speed.toFixed(2)}x, differs by ${difference.toExponential(1)}`);
}
