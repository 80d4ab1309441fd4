// Faces in images, in the browser: found by YuNet, cropped and classified as `affectnet predict`
// does. Images are {data, width, height} with four bytes per pixel, as ImageData is.

export const IMAGE_SIZE = 1024; // long side at which faces are detected in images
export const VIDEO_SIZE = 640; // the same in videos
const MIN_SIDE = 256; // smaller images are first enlarged to this long side
const MIN_INPUT = 64;
const CELL = 32;
const STRIDES = [8, 16, 32];
const MIN_SCORE = 0.7;
const NMS = 0.3;
const LEFT_EYE = [0.35, 0.36];
const RIGHT_EYE = [0.65, 0.36];
const GAP = 4; // a square is averaged down to no fewer than this many times the size
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const blank = (width, height) => (
  { data: new Uint8ClampedArray(4 * width * height), width, height });

// Python's round: halves go to the even number.
const round = (value) => {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
};
const rounded = (value) => round(value * 1000) / 1000;

// The image as seen through one list of weighted pixels for each row and column of the result:
// {start, weights}. Pillow rounds after both passes (`twice`), OpenCV after the second.
const separable = (image, columns, rows, twice = false) => {
  const { data, width } = image;
  const wide = columns.length;
  const first = Math.min(...rows.map((row) => row.start));
  const end = Math.max(...rows.map((row) => row.start + row.weights.length));
  const middle = new (twice ? Uint8ClampedArray : Float64Array)(4 * wide * (end - first));
  for (let y = first; y < end; y++) {
    for (let x = 0; x < wide; x++) {
      const { start, weights } = columns[x];
      let [r, g, b] = [0, 0, 0];
      for (let i = 0, at = 4 * (y * width + start); i < weights.length; i++, at += 4) {
        r += weights[i] * data[at];
        g += weights[i] * data[at + 1];
        b += weights[i] * data[at + 2];
      }
      const to = 4 * ((y - first) * wide + x);
      middle[to] = twice ? Math.floor(r + 0.5) : r;
      middle[to + 1] = twice ? Math.floor(g + 0.5) : g;
      middle[to + 2] = twice ? Math.floor(b + 0.5) : b;
    }
  }
  const result = blank(wide, rows.length);
  rows.forEach(({ start, weights }, y) => {
    for (let at = 0; at < 4 * wide; at++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) {
        sum += weights[i] * middle[4 * (start - first + i) * wide + at];
      }
      result.data[4 * y * wide + at] = Math.floor(sum + 0.5); // clamped by the array
    }
  });
  return result;
};

// OpenCV's INTER_LINEAR, which does not antialias, with its whole numbers: the detector notices a
// bias of a tenth of a level.
const linear = ({ data, width, height }, wide, high) => {
  // At the border of a column, unlike that of a row, OpenCV weights one pixel twice.
  const axis = (from, to, twice) => Array.from({ length: to }, (_, i) => {
    const place = Math.fround((i + 0.5) / (to / from) - 0.5);
    const start = Math.floor(place);
    const share = !twice && (start < 0 || start >= from - 1) ? 0 : Math.fround(place - start);
    const first = clamp(start, 0, from - 1);
    const rest = Math.fround(1 - share);
    return [first, clamp(start + 1, 0, from - 1), round(rest * 2048), round(share * 2048)];
  });
  const [columns, rows] = [axis(width, wide, false), axis(height, high, true)];
  const result = blank(wide, high);
  rows.forEach(([above, below, b0, b1], y) => columns.forEach(([left, right, a0, a1], x) => {
    for (let k = 0; k < 3; k++) {
      const across = (row) => (data[4 * (row * width + left) + k] * a0
        + data[4 * (row * width + right) + k] * a1) >> 4;
      result.data[4 * (y * wide + x) + k] = (
        ((b0 * across(above)) >> 16) + ((b1 * across(below)) >> 16) + 2) >> 2;
    }
  }));
  return result;
};

// OpenCV's INTER_AREA: the mean of the area under a pixel of the result.
const area = (from, to) => Array.from({ length: to }, (_, i) => {
  const [low, high] = [i * from / to, (i + 1) * from / to];
  const start = Math.floor(low + 1e-9);
  const end = Math.min(from, Math.max(start + 1, Math.ceil(high - 1e-9)));
  const weights = [];
  for (let at = start; at < end; at++) {
    weights.push((Math.min(at + 1, high) - Math.max(at, low)) / (high - low));
  }
  return { start, weights };
});

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = { // support and weight, of Pillow
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (given) => {
    const x = Math.abs(given);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  }],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// Pillow's resize of the part from `low` to `high`, with antialiasing.
const antialiased = (from, low, high, to, interpolation) => {
  const [begin, stop] = [Math.fround(low), Math.fround(high)];
  const scale = Math.fround(stop - begin) / to;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = begin + (i + 0.5) * scale;
    if (interpolation === "nearest") {
      return { start: clamp(Math.floor(centre), 0, from - 1), weights: [1] };
    }
    const [support, filter] = FILTERS[interpolation];
    const start = Math.max(0, Math.floor(centre - support * stretch + 0.5));
    const end = Math.min(from, Math.floor(centre + support * stretch + 0.5));
    const weights = [];
    for (let at = start; at < end; at++) weights.push(filter((at - centre + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
};

const resized = (image, size, interpolation, box = [0, 0, image.width, image.height]) => {
  if (image.width === size && image.height === size && box.join() === `0,0,${size},${size}`) {
    return image;
  }
  const [left, top, right, bottom] = box;
  return separable(image, antialiased(image.width, left, right, size, interpolation),
    antialiased(image.height, top, bottom, size, interpolation), true);
};

// Pillow's reduce: means of blocks of pixels, of what is left of them at the right and the bottom.
const reduced = ({ data, width, height }, factor) => {
  const result = blank(Math.ceil(width / factor), Math.ceil(height / factor));
  for (let y = 0, to = 0; y < result.height; y++) {
    for (let x = 0; x < result.width; x++, to += 4) {
      const [right, bottom] = [Math.min(width, (x + 1) * factor), Math.min(height, (y + 1) * factor)];
      const count = (right - x * factor) * (bottom - y * factor);
      const share = Math.floor(2 ** 24 / count); // Pillow's whole numbers, which round down a little
      for (let k = 0; k < 3; k++) {
        let sum = count >> 1;
        for (let j = y * factor; j < bottom; j++) {
          for (let i = x * factor; i < right; i++) sum += data[4 * (j * width + i) + k];
        }
        result.data[to + k] = Math.floor(sum * share / 2 ** 24);
      }
    }
  }
  return result;
};

// The part of an image from (x0, y0) to (x1, y1), its border repeated beyond the image.
const part = ({ data, width, height }, x0, y0, x1, y1) => {
  const result = blank(x1 - x0, y1 - y0);
  const from = new Uint32Array(data.buffer, data.byteOffset, width * height);
  const to = new Uint32Array(result.data.buffer);
  for (let y = y0, at = 0; y < y1; y++) {
    const row = clamp(y, 0, height - 1) * width;
    for (let x = x0; x < x1; x++) to[at++] = from[row + clamp(x, 0, width - 1)];
  }
  return result;
};

// The square around a box, as `crop_face` in data/crop.py makes it.
const square = (image, [x, y, width, height], size, margin, interpolation) => {
  let side = Math.max(1, rounded(Math.max(width, height) * (1 + 2 * margin)));
  let left = rounded(x + width / 2 - side / 2);
  let top = rounded(y + height / 2 - side / 2);
  const x0 = clamp(Math.floor(left), 0, image.width - 1);
  const y0 = clamp(Math.floor(top), 0, image.height - 1);
  const x1 = clamp(Math.ceil(left + side), 1, image.width);
  const y1 = clamp(Math.ceil(top + side), 1, image.height);
  let inner = part(image, x0, y0, x1, y1);
  [left, top] = [left - x0, top - y0];
  const factor = Math.floor(side / (GAP * size));
  if (factor > 1) {
    inner = reduced(inner, factor);
    [left, top, side] = [left / factor, top / factor, side / factor];
  }
  const pads = (start, length) => (
    [Math.max(0, Math.ceil(-start)), Math.max(0, Math.ceil(start + side - length))]);
  const [above, below] = pads(top, inner.height);
  const [before, after] = pads(left, inner.width);
  inner = part(inner, -before, -above, inner.width + after, inner.height + below);
  [left, top] = [left + before, top + above];
  return resized(inner, size, interpolation,
    [left, top, Math.min(left + side, inner.width), Math.min(top + side, inner.height)]);
};

// The eyes moved to their places, as `align` in data/crop.py does; null where they cannot be.
const aligned = (image, [[ax, ay], [bx, by]], size) => {
  const inside = (x, y) => (
    x >= -0.5 && y >= -0.5 && x <= image.width - 0.5 && y <= image.height - 0.5);
  const apart = (bx - ax) ** 2 + (by - ay) ** 2;
  if (!inside(ax, ay) || !inside(bx, by) || apart < 1) return null;
  // From a place in the result to one in the image: z -> c z + d, in complex numbers.
  const [tx, ty] = [LEFT_EYE[0] * size - 0.5, LEFT_EYE[1] * size - 0.5];
  const wide = (RIGHT_EYE[0] - LEFT_EYE[0]) * size;
  const [c, s] = [(bx - ax) / wide, (by - ay) / wide];
  const place = (x, y) => (
    [ax + c * (x - tx) - s * (y - ty), ay + s * (x - tx) + c * (y - ty)]);
  const shrink = Math.hypot(c, s);
  const room = Math.ceil(2 * Math.max(shrink, 1)) + 1;
  const corners = [[-1, -1], [size, -1], [-1, size], [size, size]].map(([x, y]) => place(x, y));
  const edges = [image.width, image.height].map((length, axis) => {
    const seen = corners.map((corner) => corner[axis]);
    const low = clamp(Math.floor(Math.min(...seen) - room), 0, length - 1);
    return [low, clamp(Math.ceil(Math.max(...seen) + room), low + 1, length)];
  });
  let patch = part(image, edges[0][0], edges[1][0], edges[0][1], edges[1][1]);
  const ratio = [1, 1];
  if (shrink > 1) {
    const before = [patch.width, patch.height];
    const after = before.map((length) => Math.max(1, round(length / shrink)));
    patch = separable(patch, area(before[0], after[0]), area(before[1], after[1]));
    before.forEach((length, axis) => { ratio[axis] = after[axis] / length; });
  }
  const result = blank(size, size);
  for (let y = 0, at = 0; y < size; y++) {
    for (let x = 0; x < size; x++, at += 4) {
      const [px, py] = place(x, y).map((value, axis) => (
        (value - edges[axis][0]) * ratio[axis] + (ratio[axis] - 1) / 2));
      const [x0, y0] = [Math.floor(px), Math.floor(py)];
      const [u, v] = [px - x0, py - y0];
      const pixel = (i, j) => 4 * (clamp(j, 0, patch.height - 1) * patch.width
        + clamp(i, 0, patch.width - 1));
      const [p, q] = [pixel(x0, y0), pixel(x0 + 1, y0)];
      const [r, t] = [pixel(x0, y0 + 1), pixel(x0 + 1, y0 + 1)];
      for (let k = 0; k < 3; k++) {
        result.data[at + k] = (1 - v) * ((1 - u) * patch.data[p + k] + u * patch.data[q + k])
          + v * ((1 - u) * patch.data[r + k] + u * patch.data[t + k]);
      }
    }
  }
  return result;
};

// A face as the model sees it.
export const cropFace = (image, face, model) => {
  const { size, interpolation, alignment, face_size: faceSize, margin } = model;
  const [side, method] = faceSize ? [faceSize, "bilinear"] : [size, interpolation];
  const crop = (alignment && aligned(image, face.landmarks, side))
    || square(image, face.box, side, margin, method);
  return resized(crop, size, interpolation);
};

// YuNet's outputs as rows {box, landmarks, score}, overlaps removed as OpenCV's detector does.
const decode = (outputs, width) => {
  const found = [];
  STRIDES.forEach((stride, i) => {
    const [face, thing, box, points] = [0, 3, 6, 9].map((kind) => outputs[i + kind].data);
    for (let at = 0; at < face.length; at++) {
      const score = Math.sqrt(clamp(face[at], 0, 1) * clamp(thing[at], 0, 1));
      if (!(score >= MIN_SCORE)) continue;
      const cell = [at % (width / stride), Math.floor(at / (width / stride))];
      const [w, h] = [Math.exp(box[4 * at + 2]) * stride, Math.exp(box[4 * at + 3]) * stride];
      const [x, y] = cell.map((c, axis) => (c + box[4 * at + axis]) * stride);
      const landmarks = [0, 1, 2, 3, 4].map((point) => (
        cell.map((c, axis) => (c + points[10 * at + 2 * point + axis]) * stride)));
      found.push({ box: [x - w / 2, y - h / 2, w, h], landmarks, score });
    }
  });
  const whole = (face) => face.box.map(Math.trunc);
  const overlap = (a, b) => {
    const [ax, ay, aw, ah] = whole(a);
    const [bx, by, bw, bh] = whole(b);
    const shared = Math.max(0, Math.min(ax + aw, bx + bw) - Math.max(ax, bx))
      * Math.max(0, Math.min(ay + ah, by + bh) - Math.max(ay, by));
    return shared / (aw * ah + bw * bh - shared);
  };
  const kept = [];
  for (const face of found.sort((a, b) => b.score - a.score).slice(0, 1000)) {
    if (kept.every((other) => !(overlap(face, other) > NMS))) kept.push(face);
  }
  return kept;
};

// Finds and classifies faces; `ort` is ONNX Runtime, `model` the content of model.json.
export class Recogniser {
  constructor(ort, detector, classifier, model) {
    Object.assign(this, { ort, detector, classifier, model });
  }

  // The faces of an image, the largest first.
  async find(image, longSide = IMAGE_SIZE) {
    const long = Math.max(image.width, image.height);
    const scale = Math.min(longSide, Math.max(MIN_SIDE, long)) / long;
    let found = await this.search(image, scale);
    if (!found.length && long * scale > 2 * MIN_SIDE) {
      // A face that fills a large image is larger than the detector's largest anchors.
      found = await this.search(image, MIN_SIDE / long);
    }
    return found.sort((a, b) => b.box[2] * b.box[3] - a.box[2] * a.box[3]);
  }

  async search(image, scale) {
    const { width, height } = image;
    const [w, h] = [width, height].map((length) => Math.max(8, round(length * scale)));
    let small = image;
    if (w !== width || h !== height) {
      small = scale < 0.5
        ? separable(image, area(width, w), area(height, h)) : linear(image, w, h);
    }
    const [wide, high] = [w, h].map((side) => Math.max(MIN_INPUT, Math.ceil(side / CELL) * CELL));
    const planes = new Float32Array(3 * wide * high);
    for (let y = 0; y < h; y++) {
      for (let x = 0, at = 4 * y * w, to = y * wide; x < w; x++, at += 4, to++) {
        planes[to] = small.data[at + 2];
        planes[to + wide * high] = small.data[at + 1];
        planes[to + 2 * wide * high] = small.data[at];
      }
    }
    const input = new this.ort.Tensor("float32", planes, [1, 3, high, wide]);
    const outputs = await this.detector.run({ input });
    const rows = decode(this.detector.outputNames.map((name) => outputs[name]), wide);
    const [sx, sy] = [width / w, height / h];
    return rows.map(({ box: [x, y, bw, bh], landmarks, score }) => ({
      box: [x * sx, y * sy, bw * sx, bh * sy],
      landmarks: landmarks.map(([px, py]) => [px * sx, py * sy]),
      score,
    })).filter(({ box: [x, y, bw, bh] }) => (
      x < width && y < height && x + bw > 0 && y + bh > 0 && bw >= 1 && bh >= 1));
  }

  // Adds to each face its probabilities (in the order of the classes), valence and arousal.
  async classify(image, faces) {
    if (!faces.length) return [];
    const { size, classes } = this.model;
    const pixels = new Uint8Array(faces.length * size * size * 3);
    faces.forEach((face, n) => {
      const { data } = cropFace(image, face, this.model);
      for (let i = 0, to = n * size * size * 3; i < data.length; i += 4) {
        pixels[to++] = data[i];
        pixels[to++] = data[i + 1];
        pixels[to++] = data[i + 2];
      }
    });
    const shape = [faces.length, size, size, 3];
    const output = await this.classifier.run(
      { faces: new this.ort.Tensor("uint8", pixels, shape) });
    const k = classes.length;
    return faces.map((face, n) => ({
      ...face,
      probabilities: Array.from(output.probabilities.data.slice(n * k, (n + 1) * k)),
      valence: output.valence.data[n],
      arousal: output.arousal.data[n],
    }));
  }

  async recognise(image, longSide) {
    return this.classify(image, await this.find(image, longSide));
  }
}
