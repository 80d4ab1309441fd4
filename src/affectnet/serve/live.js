// The live tab. A frame is sent when the response to the one before has arrived; the next one is
// taken and encoded meanwhile. What is shown is the frame that the boxes belong to.
const LONG_SIDE = 640;
const QUALITY = 0.85;
const MOST_FRAMES = 30000;
const OUT_OF_SIGHT = 0.7; // seconds after which a curve is interrupted
const find = (query) => element.querySelector(query);
const settings = () => JSON.parse(find(".an-live").dataset.settings);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let run = null;
let kept = []; // of the stream: {time, faces, csv}
let rates = [];
let dropped = 0;

const say = (text) => {
  const note = find(".an-note");
  note.hidden = !text;
  if (note.textContent !== text) note.textContent = text;
};

const buttons = () => {
  find("[data-do=stop]").disabled = run === null;
  element.querySelectorAll("[data-save]").forEach((button) => {
    button.disabled = kept.length === 0;
  });
};

const stop = () => {
  if (run === null) return;
  run.on = false;
  run.video.pause();
  run.video.srcObject?.getTracks().forEach((track) => track.stop());
  run.video.removeAttribute("src");
  run = null;
  find(".an-rate").textContent = "";
  buttons();
};

const REASONS = {
  NotAllowedError: "The browser does not give this page the camera. Allow it in the browser's "
    + "settings for this page, then start again.",
  NotFoundError: "There is no camera. Connect one, or use the sample video.",
  NotReadableError: "The camera is in use by another program. Close it, then start again.",
};

const start = async (kind) => {
  stop();
  say("");
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  try {
    if (kind === "sample") {
      video.src = "sample";
      video.loop = true;
    } else if (!navigator.mediaDevices?.getUserMedia) {
      say("Browsers give the camera only to https pages and to pages of the same machine. Serve "
        + "this page behind a reverse proxy with https, or open it on the server itself.");
      return;
    } else {
      video.srcObject = await navigator.mediaDevices.getUserMedia(
        { video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" } });
    }
    await video.play();
  } catch (error) {
    say(REASONS[error.name] ?? `The video cannot be played: ${error.message}`);
    return;
  }
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const name = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  kept = [];
  rates = [];
  dropped = 0;
  run = { on: true, video, name, began: performance.now(), canvases: [], count: 0 };
  buttons();
  loop(run);
};

const newFrame = (video) => new Promise((resolve) => {
  setTimeout(resolve, 200); // a video that is hidden or stands still has no new frames
  video.requestVideoFrameCallback?.(resolve);
  if (!video.requestVideoFrameCallback) resolve();
});

// Takes a frame: {canvas, blob, time}. The last three canvases are used in turn.
const take = async (current) => {
  const { video } = current;
  await newFrame(video);
  while (current.on && (find(".an-live").offsetParent === null || !video.videoWidth)) {
    await pause(200); // another tab of the page is open
  }
  const scale = Math.min(1, LONG_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const place = current.count++ % 3;
  const canvas = current.canvases[place] ??= document.createElement("canvas");
  canvas.width = Math.round(video.videoWidth * scale) || 1;
  canvas.height = Math.round(video.videoHeight * scale) || 1;
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const time = (performance.now() - current.began) / 1000;
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  return { canvas, blob, time };
};

// Sends a frame; returns its result, or null after a refusal.
const send = async (current, frame) => {
  const address = `live?stream=${current.name}&time=${frame.time.toFixed(4)}`;
  let response;
  try {
    response = await fetch(address, { method: "POST", body: frame.blob });
  } catch {
    say("The server does not answer. The camera will go on when it does.");
    await pause(1000);
    return null;
  }
  if (response.ok) {
    say("");
    return response.json();
  }
  const refusal = await response.json().catch(() => ({}));
  say(response.status === 401 ? "Your session has ended. Load the page again to sign in."
    : `The server refuses the frame: ${refusal.error ?? response.status}`);
  await pause(1000 * Math.min(10, Number(response.headers.get("Retry-After")) || 1));
  return null;
};

const loop = async (current) => {
  let next = take(current);
  while (current.on) {
    const frame = await next;
    if (!current.on) return;
    const sent = send(current, frame);
    next = take(current);
    const answer = await sent;
    if (answer !== null && current.on) show(frame, answer);
  }
};

const show = (frame, answer) => {
  const { boxes, points, csv, ...result } = answer;
  const { width, height } = frame.canvas;
  const canvas = find(".an-image canvas");
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [width, height];
    find(".an-image").style.setProperty("--ratio", width / height);
    find(".an-boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  }
  canvas.getContext("2d").drawImage(frame.canvas, 0, 0);
  find(".an-boxes").innerHTML = boxes;
  find(".an-points").innerHTML = points;
  find(".an-result").dataset.faces = result.faces.length;
  kept.push({ result, csv });
  if (kept.length > MOST_FRAMES) {
    kept.shift();
    dropped += 1;
  }
  const now = performance.now();
  rates = [...rates.filter((time) => now - time < 2000), now];
  const seconds = (now - rates[0]) / 1000;
  const rate = seconds > 0 ? (rates.length - 1) / seconds : 0;
  const late = Math.round(now - run.began - 1000 * frame.time);
  find(".an-rate").textContent = `${rate.toFixed(1)} frames per second, ${late} ms late`;
  find(".an-kept").textContent = dropped ? `the last ${MOST_FRAMES} frames` : "";
  if (kept.length === 1) buttons();
  draw(frame.time);
};

// The persons of the last seconds: from number to [{time, valence, arousal, expression}].
const persons = (from) => {
  const found = new Map();
  for (let i = kept.length - 1; i >= 0 && kept[i].result.time >= from; i--) {
    for (const face of kept[i].result.faces) {
      if (!found.has(face.track)) found.set(face.track, []);
      found.get(face.track).unshift({ time: kept[i].result.time, ...face });
    }
  }
  return new Map([...found].sort(([a], [b]) => a - b));
};

const path = (moments, name, x, y) => {
  let text = "";
  let last = null;
  for (const moment of moments) {
    if (moment[name] === null) continue;
    const gap = last === null || moment.time - last > OUT_OF_SIGHT;
    text += `${gap ? "M" : "L"}${x(moment.time).toFixed(1)} ${y(moment[name]).toFixed(1)}`;
    last = moment.time;
  }
  return text;
};

const ribbon = (moments, colours, x, top) => {
  let text = "";
  for (let i = 0; i < moments.length;) {
    let j = i;
    while (j + 1 < moments.length && moments[j + 1].expression === moments[i].expression
      && moments[j + 1].time - moments[j].time <= OUT_OF_SIGHT) j++;
    const next = moments[j + 1]?.time ?? Infinity;
    const end = Math.min(next, moments[j].time + 0.1);
    const until = next - moments[j].time <= OUT_OF_SIGHT ? next : end;
    const wide = Math.max(1, x(until) - x(moments[i].time));
    if (moments[i].expression) {
      text += `<rect x="${x(moments[i].time).toFixed(1)}" y="${top}" width="${wide.toFixed(1)}" `
        + `height="14" fill="${colours[moments[i].expression]}"></rect>`;
    }
    i = j + 1;
  }
  return text;
};

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

const draw = (now) => {
  const { seconds, persons: colours, expressions } = settings();
  const svg = find(".an-rolling");
  const wide = svg.clientWidth || 600;
  const from = now - seconds;
  const shown = [...persons(from)].slice(-colours.length);
  const colour = (track) => colours[(track - 1) % colours.length];
  const x = (time) => 30 + (wide - 40) * Math.max(0, (time - from) / seconds);
  let text = "";
  ["valence", "arousal"].forEach((name, row) => {
    const y = (value) => 72 + 118 * row - 44 * value;
    for (const [value, label] of [[1, "+1"], [0, "0"], [-1, "−1"]]) {
      text += `<path class="an-line" d="M30 ${y(value)}H${wide - 10}"></path>`
        + `<text class="an-tick" x="25" y="${y(value) + 4}" text-anchor="end">${label}</text>`;
    }
    text += `<text class="an-tick" x="30" y="${y(1) - 6}">${name}</text>`;
    for (const [track, moments] of shown) {
      text += `<path class="an-trace" stroke="${colour(track)}" `
        + `d="${path(moments, name, x, y)}"></path>`;
    }
  });
  let top = 250;
  for (const [track, moments] of shown) {
    text += `<text class="an-tick" x="25" y="${top + 11}" text-anchor="end">${track}</text>`
      + ribbon(moments, expressions, x, top);
    top += 20;
  }
  for (const back of [30, 20, 10, 0]) {
    const anchor = back === 30 ? "start" : back === 0 ? "end" : "middle";
    text += `<text class="an-tick" x="${x(now - back)}" y="${top + 14}" `
      + `text-anchor="${anchor}">${back ? `−${back} s` : "now"}</text>`;
  }
  svg.setAttribute("viewBox", `0 0 ${wide} ${top + 22}`);
  svg.style.height = `${top + 22}px`;
  svg.innerHTML = text;
  const { faces } = kept[kept.length - 1].result;
  find(".an-legend").innerHTML = [...faces].sort((a, b) => a.track - b.track).map((face) => {
    const words = face.expression
      ? ` ${face.expression} ${Math.round(100 * face.probabilities[face.expression])}%` : "";
    const affect = ["valence", "arousal"].filter((name) => face[name] !== null)
      .map((name) => `, ${name} ${signed(face[name])}`).join("");
    return `<span><i style="background:${colour(face.track)}"></i>`
      + `face ${face.track}${words}${affect}</span>`;
  }).join("") || "<span>no face</span>";
};

const save = (blob, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// The frame with the boxes, as they are shown: the styles of the page are written into a copy.
const picture = async () => {
  const [canvas, svg] = [find(".an-image canvas"), find(".an-boxes")];
  const copy = svg.cloneNode(true);
  const [nodes, copies] = [svg.querySelectorAll("*"), copy.querySelectorAll("*")];
  nodes.forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of ["fill", "stroke", "stroke-width", "font-weight", "font-family"]) {
      copies[i].style.setProperty(name, style.getPropertyValue(name));
    }
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", canvas.width);
  copy.setAttribute("height", canvas.height);
  const whole = document.createElement("canvas");
  [whole.width, whole.height] = [canvas.width, canvas.height];
  const ink = whole.getContext("2d");
  ink.drawImage(canvas, 0, 0);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(copy.outerHTML)}`;
  await image.decode();
  ink.drawImage(image, 0, 0);
  return new Promise((resolve) => whole.toBlob(resolve, "image/jpeg", 0.92));
};

element.addEventListener("click", async (event) => {
  const action = event.target.closest?.("[data-do]")?.dataset.do;
  if (action === "stop") stop();
  else if (action) await start(action);
  const kind = event.target.closest?.("[data-save]")?.dataset.save;
  if (kind === "csv") {
    const text = settings().head + kept.map(({ csv }) => csv).join("");
    save(new Blob([text], { type: "text/csv" }), "faces.csv");
  } else if (kind === "json") {
    const text = `[\n${kept.map(({ result }) => JSON.stringify(result)).join(",\n")}\n]\n`;
    save(new Blob([text], { type: "application/json" }), "faces.json");
  } else if (kind === "jpg") save(await picture(), "annotated.jpg");
});
