// What an answer says about a face, in words and colours.

/** A face shows none of the five emotions if its `other` is at least this. */
const OTHER_THRESHOLD = 0.5;
const NONE = "None of the five";

/** Return the parts of the face in the order in which a point's name has to be searched: an eyebrow is not an eye. */
const PARTS = ["eyebrow", "eye", "nose", "mouth"];

/** Return the part of the face to which a key point belongs. */
export function part(point) {
  return PARTS.find((name) => point.includes(name)) ?? "nose";
}

/** Return the name of a key point for people. */
export function pointName(point) {
  return point.replaceAll("_", " ");
}

/** Return whether an answer says that a face shows none of the five emotions. */
export function isNone(face) {
  return face.other !== null && face.other !== undefined && face.other >= OTHER_THRESHOLD;
}

/** Return what a face shows: an emotion, that it is none of the five, or that the emotion model gave no answer. */
export function verdict(face) {
  if (!face.probabilities) return { name: "No emotion", share: null };
  return isNone(face) ? { name: NONE, share: face.other } : { name: face.emotion, share: face.confidence };
}

/** Return the bars of a face: a name, a share, and whether it is the verdict. `other` stands apart from the five. */
export function bars(face) {
  if (!face.probabilities) return [];
  const shown = verdict(face).name;
  const rows = Object.entries(face.probabilities).map(([name, share]) => ({ name, share, chosen: name === shown }));
  if (face.other !== null && face.other !== undefined) {
    rows.push({ name: NONE, share: face.other, chosen: shown === NONE, apart: true });
  }
  return rows;
}

/** Return a share as text, as in 98.1%. */
export function percent(share, digits = 1) {
  return `${(share * 100).toFixed(digits)}%`;
}

/** Return a sentence about all faces of a picture. */
export function summary(faces) {
  if (faces.length === 0) return "No face was found.";
  const texts = faces.map((face) => {
    const { name, share } = verdict(face);
    return share === null ? name : `${name} (${percent(share, 0)})`;
  });
  return `${faces.length === 1 ? "1 face" : `${faces.length} faces`}: ${texts.join(", ")}.`;
}

/** Return versions as text, as in "emotion 2 (canary), keypoints 1". */
export function versionText(versions, labels = {}) {
  return Object.entries(versions ?? {})
    .map(([model, version]) => `${model} ${version}${labels?.[model] ? ` (${labels[model]})` : ""}`)
    .join(", ");
}

/** Return the mean distance and the largest, in pixels, between the points of two answers, and whose it is. */
export function movement(before, after) {
  const names = Object.keys(before ?? {}).filter((name) => after?.[name]);
  if (names.length === 0) return null;
  const distances = names.map((name) => Math.hypot(after[name].x - before[name].x, after[name].y - before[name].y));
  const largest = Math.max(...distances);
  return {
    mean: distances.reduce((sum, distance) => sum + distance, 0) / distances.length,
    largest,
    point: names[distances.indexOf(largest)],
  };
}

/** Return the distance between the centres of the eyes, in pixels. */
export function eyeDistance(points) {
  const [left, right] = [points?.left_eye_center, points?.right_eye_center];
  return left && right ? Math.hypot(left.x - right.x, left.y - right.y) : null;
}
