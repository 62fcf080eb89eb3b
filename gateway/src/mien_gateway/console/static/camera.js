// The camera: frames go to the gateway over a WebSocket, and the faces of each answer are drawn over the picture.

import { stream } from "./api.js";
import { byId, el } from "./dom.js";
import { faceCard } from "./facecard.js";
import { summary, versionText } from "./faces.js";
import { options } from "./options.js";
import { overlay } from "./picture.js";
import { choose } from "./pictures.js";

/** Frames on their way at once: one is read while the next is being sent. */
const MOST_UNDER_WAY = 2;
/** Larger frames take longer to send, and show no face that this size does not. */
const MOST_PIXELS_ACROSS = 640;
const JPEG_QUALITY = 0.8;
/** The rate is counted over this time, in milliseconds. */
const WINDOW = 3000;

let session = null;

/** Connect the camera's buttons. */
export function connectCamera() {
  byId("camera-start").addEventListener("click", () => start("user"));
  byId("camera-stop").addEventListener("click", () => {
    stopCamera();
    byId("camera-start").focus();
  });
  byId("camera-turn").addEventListener("click", () => start(session?.facing === "user" ? "environment" : "user"));
  byId("camera-take").addEventListener("click", take);
}

/** End the camera, if it runs. */
export function stopCamera() {
  if (!session) return;
  session.ended = true;
  session.socket?.close();
  for (const track of session.media?.getTracks() ?? []) track.stop();
  session = null;
  byId("camera").hidden = true;
  byId("camera-start").hidden = false;
}

function report(text, bad = false) {
  byId("camera-status").textContent = text;
  byId("camera-status").className = bad ? "status bad" : "status";
}

async function start(facing) {
  const mirrored = facing === "user";
  stopCamera();
  byId("camera").hidden = false;
  byId("camera-start").hidden = true;
  byId("camera-cards").replaceChildren();
  if (!navigator.mediaDevices) {
    session = { facing };
    report("Browsers allow the camera on https pages and on localhost only.", true);
    return;
  }
  const own = { facing, mirrored, ended: false, sent: new Map(), number: 0, answered: [], dropped: 0 };
  session = own;
  report("Waiting for the camera …");
  try {
    own.media = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, width: { ideal: 1280 } } });
  } catch (error) {
    if (!own.ended) report(refusal(error), true);
    return;
  }
  if (own.ended) {
    for (const track of own.media.getTracks()) track.stop();
    return;
  }
  const video = el("video", { playsinline: true, class: mirrored ? "mirrored" : "" });
  video.muted = true;
  video.srcObject = own.media;
  own.video = video;
  own.frame = byId("camera-frame");
  own.frame.replaceChildren(video);
  await video.play();
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  byId("camera-turn").hidden = cameras.length < 2;
  byId("camera-stop").focus();
  if (!own.ended) connect(own);
}

function refusal(error) {
  if (error.name === "NotAllowedError") return "The browser does not allow this page to use the camera.";
  if (error.name === "NotFoundError") return "There is no camera.";
  return `The camera does not start: ${error.message}`;
}

function connect(own) {
  report("Connecting …");
  const socket = stream(options());
  own.socket = socket;
  socket.addEventListener("open", () => {
    report("Reading …");
    send(own);
  });
  socket.addEventListener("message", ({ data }) => receive(own, JSON.parse(data)));
  socket.addEventListener("close", ({ code, reason }) => {
    if (own.ended) return;
    const why = reason || (code === 1006 ? "the gateway refused or lost it; a key may be missing" : `code ${code}`);
    report(`The connection ended: ${why}. Stop the camera and start it again.`, true);
  });
}

async function send(own) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const { video, socket } = own;
  while (!own.ended && socket.readyState === WebSocket.OPEN) {
    if (own.sent.size < MOST_UNDER_WAY && video.videoWidth > 0 && !document.hidden) {
      const scale = Math.min(1, MOST_PIXELS_ACROSS / Math.max(video.videoWidth, video.videoHeight));
      canvas.width = Math.round(video.videoWidth * scale);
      canvas.height = Math.round(video.videoHeight * scale);
      context.drawImage(video, 0, 0, canvas.width, canvas.height);
      own.sent.set(own.number++, { at: performance.now(), width: canvas.width, height: canvas.height });
      const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", JPEG_QUALITY));
      if (socket.readyState === WebSocket.OPEN) socket.send(blob);
    }
    await nextFrame(video);
  }
}

/** Wait for the camera's next frame; a hidden page draws none, so look again after a while. */
function nextFrame(video) {
  return new Promise((done) => {
    setTimeout(done, 100);
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
  });
}

function receive(own, answer) {
  if (own.ended) return;
  const size = own.sent.get(answer.frame);
  // The newest frame wins: earlier ones that are still open were dropped.
  for (const frame of own.sent.keys()) if (frame <= answer.frame) own.sent.delete(frame);
  if (!answer.faces) {
    own.names = null;
    report(answer.detail, true);
    return;
  }
  const now = performance.now();
  own.answered = [...own.answered.filter((at) => now - at < WINDOW), now];
  // The video itself stays where it is: it would stop if it were taken out of the page.
  while (own.frame.lastChild !== own.video) own.frame.lastChild.remove();
  own.frame.append(...overlay(answer.pictures[0], answer.faces, { mirror: own.mirrored }));
  byId("camera-cards").replaceChildren(...answer.faces.map((face, index) => card(face, index, answer.faces.length)));
  const span = Math.max(now - own.answered[0], 1) / 1000;
  const rate = own.answered.length > 1 ? `${((own.answered.length - 1) / span).toFixed(1)} frames/s` : "";
  const delay = size ? `${Math.round(now - size.at)} ms` : "";
  byId("camera-rate").textContent = [rate, delay, versionText(answer.versions, answer.labels)].filter(Boolean).join(" · ");
  const text = summary(answer.faces);
  // Said once, not with every frame, by a screen reader.
  const names = answer.faces.map(({ emotion, other }) => `${emotion}${other >= 0.5}`).join();
  if (own.names !== names) report(text);
  own.names = names;
}

function card(face, index, count) {
  const element = faceCard(face, count > 1 ? `Face ${index + 1}: ` : "");
  for (const details of element.querySelectorAll("details")) details.remove(); // It would close with every frame.
  return element;
}

/** Read the current frame as a picture of its own, which stays. */
function take() {
  if (!session?.video?.videoWidth) return;
  const { video } = session;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    stopCamera();
    choose([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
  }, "image/jpeg");
}
