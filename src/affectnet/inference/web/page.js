// The page: camera or photo, boxes, bars, circumplex and curve. What it finds is in faces.js.
import { IMAGE_SIZE, VIDEO_SIZE, Recogniser } from "./faces.js";

const SECONDS = 30; // of the curve
const TRAIL = 2; // seconds, in the circumplex
const SMOOTHING = 0.25; // seconds, time constant of the smoothing of camera frames
const SAME_FACE = 0.3; // overlap of the boxes of a face in two frames
const LONGEST = 4096; // long side of photos; larger ones are shrunk first
const find = (id) => document.getElementById(id);
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
let model = null;
let recogniser = null;
let camera = null; // {stream, video} while it runs
let shown = { faces: [], chosen: 0, width: 4, height: 3 };
let history = []; // of the face that is followed: {time, valence, arousal}

const say = (text, error = false) => {
  find("status").textContent = text;
  find("status").classList.toggle("error", error);
};

const load = async (name, integrity) => {
  const response = await fetch(name, integrity ? { integrity } : {});
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
};

// The runtime's files are used only if they have the hashes that the export wrote down.
const start = async () => {
  model = JSON.parse(new TextDecoder().decode(await load("model.json")));
  const { script, wasm } = model.runtime;
  const [code, binary, detector, classifier] = await Promise.all([
    load(script.url, script.integrity), load(wasm.url, wasm.integrity),
    load("yunet.onnx"), load("model.onnx"),
  ]);
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const ort = await import(address);
  ort.env.wasm.wasmBinary = binary;
  // Browsers allow threads only on pages whose host sends the headers COOP and COEP.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated
    ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  const open = (bytes) => ort.InferenceSession.create(bytes,
    { executionProviders: ["wasm"], logSeverityLevel: 3 });
  const sessions = [await open(new Uint8Array(detector)), await open(new Uint8Array(classifier))];
  recogniser = new Recogniser(ort, ...sessions, model);
  await recogniser.find({ data: new Uint8ClampedArray(4 * 64 * 64), width: 64, height: 64 });
  find("model").textContent = `${model.name} (${model.precision})`;
  find("camera").disabled = find("file").disabled = false;
  say("");
  draw();
  return recogniser;
};

// Pixels of anything that can be drawn, and the canvas with them.
const pixelsOf = (source, width, height, canvas = document.createElement("canvas")) => {
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [width, height];
  }
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.drawImage(source, 0, 0, width, height);
  return { canvas, pixels: ink.getImageData(0, 0, width, height) };
};

const show = (canvas, faces, mirrored) => {
  const { width, height } = canvas;
  const target = find("image");
  if (target.width !== width || target.height !== height) {
    [target.width, target.height] = [width, height];
    find("picture").style.setProperty("--ratio", width / height);
    find("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  }
  target.getContext("2d").drawImage(canvas, 0, 0);
  find("picture").classList.toggle("mirrored", mirrored);
  find("hint").hidden = true;
  const same = faces.findIndex((face) => face.number === shown.faces[shown.chosen]?.number);
  shown = { faces, width, height, mirrored, chosen: camera && same >= 0 ? same : 0 };
};

const photo = async (blob) => {
  stop();
  if (!recogniser) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    say("This file is not an image that the browser can read. JPEG, PNG and WebP work.", true);
    return;
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const { canvas, pixels } = pixelsOf(bitmap, Math.max(1, Math.round(bitmap.width * scale)),
    Math.max(1, Math.round(bitmap.height * scale)));
  const began = performance.now();
  const faces = await recogniser.recognise(pixels, IMAGE_SIZE);
  const time = Math.round(performance.now() - began);
  [history, find("time").hidden] = [[], true];
  show(canvas, faces.map((face, i) => ({ ...face, number: i + 1 })), false);
  const count = faces.length === 1 ? "One face" : `${faces.length || "No"} faces`;
  say(`${count} found in ${time} ms.${faces.length > 1 ? " Choose one by its box." : ""}`);
  draw();
};

const REASONS = {
  NotAllowedError: "The browser does not give this page the camera. Allow it, then start again.",
  NotFoundError: "There is no camera. Connect one, or choose a photo.",
  NotReadableError: "The camera is in use by another program. Close it, then start again.",
};

const stop = () => {
  camera?.stream.getTracks().forEach((track) => track.stop());
  camera = null;
  find("camera").textContent = "Start camera";
  find("rate").textContent = "";
};

const run = async () => {
  if (!navigator.mediaDevices?.getUserMedia) {
    say("Browsers give the camera only to https pages and to pages of the same machine.", true);
    return;
  }
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia(
      { video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" } });
    await video.play();
  } catch (error) {
    say(REASONS[error.name] ?? `The camera cannot be used: ${error.message}`, true);
    return;
  }
  const current = { video, stream: video.srcObject };
  camera = current;
  [history, find("time").hidden] = [[], false];
  find("camera").textContent = "Stop camera";
  say("");
  await loop(current).catch((error) => fail(error));
};

const nextFrame = (video) => new Promise((resolve) => {
  setTimeout(resolve, 200); // a video that is hidden or stands still has no new frames
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
  else requestAnimationFrame(resolve);
});

const loop = async (current) => {
  const { video } = current;
  const buffer = document.createElement("canvas");
  let [before, count, numbers] = [[], 0, 0];
  let since = performance.now();
  while (camera === current) {
    await nextFrame(video);
    const scale = Math.min(1, VIDEO_SIZE / Math.max(video.videoWidth, video.videoHeight));
    const { canvas, pixels } = pixelsOf(video, Math.round(video.videoWidth * scale),
      Math.round(video.videoHeight * scale), buffer);
    const faces = await recogniser.recognise(pixels, VIDEO_SIZE);
    if (camera !== current) return;
    const now = performance.now() / 1000;
    before = faces.map((face) => smoothed(face, before, now) ?? { ...face, number: ++numbers, now });
    show(canvas, before, true);
    remember(now);
    draw(count % 3 === 0);
    count += 1;
    if (performance.now() - since >= 1000) {
      const rate = 1000 * count / (performance.now() - since);
      find("rate").textContent = `${rate.toFixed(1)} frames per second`;
      [count, since] = [0, performance.now()];
    }
  }
};

const overlap = ({ box: [ax, ay, aw, ah] }, { box: [bx, by, bw, bh] }) => {
  const shared = Math.max(0, Math.min(ax + aw, bx + bw) - Math.max(ax, bx))
    * Math.max(0, Math.min(ay + ah, by + bh) - Math.max(ay, by));
  return shared / (aw * ah + bw * bh - shared);
};

// The face with the mean of its latest frames, or null if it was in none.
const smoothed = (face, before, now) => {
  const last = before.find((other) => overlap(face, other) > SAME_FACE);
  if (!last) return null;
  const share = 1 - Math.exp((last.now - now) / SMOOTHING);
  const mix = (a, b) => a + share * (b - a);
  return {
    ...face,
    number: last.number,
    now,
    probabilities: face.probabilities.map((p, c) => mix(last.probabilities[c], p)),
    valence: mix(last.valence, face.valence),
    arousal: mix(last.arousal, face.arousal),
  };
};

const remember = (time) => {
  const face = shown.faces[shown.chosen];
  if (face && history.length && history[history.length - 1].number !== face.number) history = [];
  if (face) history.push({ time, ...face });
  while (history.length && history[0].time < time - SECONDS) history.shift();
};

const best = (face) => {
  const c = face.probabilities.indexOf(Math.max(...face.probabilities));
  return { name: model.classes[c] ?? "", p: face.probabilities[c] ?? NaN };
};
const colourOf = (face) => model.colours[best(face).name] ?? "#5b6672";
const percent = (p) => `${Math.round(100 * p)}%`;

const drawBoxes = () => {
  const { faces, chosen, width, height, mirrored } = shown;
  const unit = width / (find("picture").clientWidth || 640); // a pixel of the screen
  find("boxes").innerHTML = faces.map((face, i) => {
    const [left, top, w, h] = face.box;
    const x = mirrored ? width - left - w : left;
    const { name, p } = best(face);
    const text = `${faces.length > 1 ? `${face.number} ` : ""}${name ? `${name} ${percent(p)}` : ""}`;
    const wide = (9.6 * text.length + 12) * unit;
    const at = clamp(x, 0, Math.max(0, width - wide));
    const y = Math.max(0, top - 22 * unit);
    return `<g class="box${i === chosen ? " chosen" : ""}" data-face="${i}" style="--c:${colourOf(face)}" `
      + `tabindex="0" role="button" aria-label="Face ${face.number}: ${text}">`
      + `<rect x="${x}" y="${top}" width="${w}" height="${h}" rx="${4 * unit}"></rect>`
      + `<rect class="tag" x="${at}" y="${y}" width="${wide}" height="${22 * unit}" rx="${4 * unit}"></rect>`
      + `<text x="${at + 6 * unit}" y="${y + 16 * unit}" font-size="${15 * unit}">${text}</text></g>`;
  }).join("");
};
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const drawFace = (face) => {
  const { name } = face ? best(face) : {};
  find("about-face").textContent = face
    ? `${shown.faces.length > 1 ? `Face ${face.number}: ` : ""}${name || "not trained on expressions"}`
    : "No face yet";
  find("bars").innerHTML = model.classes.map((word, c) => {
    const p = face?.probabilities[c] ?? 0;
    return `<li><span>${word}</span><i><b style="width:${100 * p}%;background:${model.colours[word]}"></b></i>`
      + `<output>${face && Number.isFinite(p) ? percent(p) : ""}</output></li>`;
  }).join("");
  find("affect").innerHTML = ["valence", "arousal"]
    .filter((target) => face && Number.isFinite(face[target]))
    .map((target) => `<span>${target} <b>${signed(face[target])}</b></span>`).join("");
};

const drawPlane = (face) => {
  const text = ['<circle class="line" r="100"></circle>',
    '<path class="line" d="M-100 0H100M0 -100V100"></path>',
    '<text class="word" y="-106">arousal</text><text class="word" x="82" y="-4">valence</text>'];
  for (const [word, [v, a]] of Object.entries(model.circumplex)) {
    text.push(`<circle cx="${100 * v}" cy="${-100 * a}" r="2.4" fill="${model.colours[word]}"></circle>`
      + (word === "fear" // beside its point, since anger is near it
        ? `<text class="word" x="${100 * v - 13}" y="${-100 * a + 3}">${word}</text>`
        : `<text class="word" x="${100 * v}" y="${-100 * a + 11}">${word}</text>`));
  }
  const trail = history.filter(({ time }) => time >= history[history.length - 1].time - TRAIL);
  if (trail.length > 1) {
    const places = trail.map(({ valence, arousal }) => `${100 * valence} ${-100 * arousal}`);
    text.push(`<path class="trail" d="M${places.join("L")}"></path>`);
  }
  for (const other of shown.faces) {
    if (!Number.isFinite(other.valence) || !Number.isFinite(other.arousal)) continue;
    text.push(`<circle class="point" cx="${100 * other.valence}" cy="${-100 * other.arousal}" `
      + `r="${other === face ? 7 : 4.5}" fill="${colourOf(other)}"></circle>`);
  }
  find("plane").innerHTML = text.join("");
};

const drawCurve = () => {
  const svg = find("curve");
  if (find("time").hidden) return;
  const [wide, high] = [svg.clientWidth || 600, 170];
  const end = history[history.length - 1]?.time ?? 0;
  const x = (time) => wide - 12 - (wide - 46) * (end - time) / SECONDS;
  const y = (value) => 74 - 62 * value;
  const text = [[1, "+1"], [0, "0"], [-1, "−1"]].map(([value, label]) => (
    `<path class="line" d="M34 ${y(value)}H${wide - 12}"></path>`
    + `<text class="tick" x="28" y="${y(value) + 4}" text-anchor="end">${label}</text>`));
  ["valence", "arousal"].forEach((target, i) => {
    const places = history.filter((moment) => Number.isFinite(moment[target]))
      .map((moment) => `${x(moment.time).toFixed(1)} ${y(moment[target]).toFixed(1)}`);
    const colour = `var(--${target})`;
    if (places.length) text.push(`<path class="trace" style="stroke:${colour}" d="M${places.join("L")}"></path>`);
    text.push(`<text class="tick" style="fill:${colour}" x="${34 + 70 * i}" y="162">${target}</text>`);
  });
  text.push(`<text class="tick" x="${wide - 12}" y="162" text-anchor="end">now</text>`);
  svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  svg.innerHTML = text.join("");
};

// Between frames of a camera the plots, which take longest, may stay as they are.
const draw = (plots = true) => {
  const face = shown.faces[shown.chosen];
  drawBoxes();
  drawFace(face);
  if (!plots) return;
  drawPlane(face);
  drawCurve();
};

const fail = (error) => {
  stop();
  say(globalThis.location.protocol === "file:"
    ? "Browsers run this page only from a web server. In its folder: python -m http.server"
    : `The page cannot work: ${error.message}`, true);
};

const choose = (event) => {
  const box = event.target.closest(".box");
  if (!box) return;
  shown.chosen = Number(box.dataset.face);
  history = [];
  draw();
};

const picture = find("picture");
find("camera").addEventListener("click", () => (camera ? stop() : run()));
find("file").addEventListener("change", (event) => {
  if (event.target.files[0]) photo(event.target.files[0]).catch(fail);
  event.target.value = "";
});
find("boxes").addEventListener("click", choose);
find("boxes").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") choose(event);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  picture.classList.add("dropping");
});
document.addEventListener("dragleave", () => picture.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  picture.classList.remove("dropping");
  if (event.dataTransfer.files[0]) photo(event.dataTransfer.files[0]).catch(fail);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) photo(file).catch(fail);
});
const ready = start();
ready.catch(fail);

export { pixelsOf, ready };
