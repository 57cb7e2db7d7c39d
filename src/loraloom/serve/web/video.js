// Videos: length, sound, and the images that they begin and end with.

import { $, button, complain, h, tidy } from "./dom.js";
import { common, field, numberOf } from "./fields.js";
import { on, state } from "./state.js";

const ENDS = { input_reference: "First image", last_image: "Last image" };
const TYPES = ["image/png", "image/jpeg", "image/webp"];
const files = {}; // field -> File
const boxes = {};

export function request() {
  const frames = numberOf("frames");
  const body = {
    ...common(),
    seconds:
      frames === undefined && numberOf("seconds") !== undefined
        ? String(numberOf("seconds"))
        : undefined,
    frames,
    fps: numberOf("fps"),
    audio: state.model?.abilities?.sound ? field("audio").checked : undefined,
  };
  return { path: "/v1/videos", kind: "video", body, files: { ...files } };
}

/** Takes a file as the first or the last image, or takes it away. */
export function setEnd(name, file) {
  complain($("video-says"), "");
  if (file && !TYPES.includes(file.type)) {
    return complain($("video-says"), `${file.name} is no PNG, JPEG or WebP.`);
  }
  const { drop, preview, away } = boxes[name];
  if (preview.firstChild?.src) URL.revokeObjectURL(preview.firstChild.src);
  if (file) files[name] = file;
  else delete files[name];
  preview.replaceChildren(
    file
      ? h("img", { src: URL.createObjectURL(file), alt: `${ENDS[name]}: ${file.name}` })
      : h("span", {}, "Drop it here, or choose a file"),
  );
  drop.classList.toggle("full", Boolean(file));
  away.hidden = !file;
  $("composer").dispatchEvent(new Event("input"));
}

function end(name) {
  const input = h("input", { type: "file", accept: TYPES.join(), "aria-label": ENDS[name] });
  const preview = h("span", { class: "preview" });
  const drop = h("label", { class: "drop" }, h("b", {}, ENDS[name]), preview, input);
  const away = button(
    "Remove",
    () => {
      input.value = "";
      setEnd(name, null);
      input.focus();
    },
    { class: "quiet", "aria-label": `Remove the ${ENDS[name].toLowerCase()}` },
  );
  boxes[name] = { drop, preview, away };
  input.addEventListener("change", () => setEnd(name, input.files[0] || null));
  droppable(drop, (file) => setEnd(name, file));
  return h("div", { class: "end" }, drop, away);
}

/** Lets a file be dropped on an element. */
export function droppable(element, take) {
  for (const type of ["dragenter", "dragover"]) {
    element.addEventListener(type, (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
  }
  for (const type of ["dragleave", "drop"])
    element.addEventListener(type, () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}

/** The nearest length that the model can make, in words. */
function length() {
  const step = state.model?.grid?.frames;
  const usual = state.model?.defaults?.video || {};
  if (!step) return;
  const rate = numberOf("fps") || usual.fps || 24;
  const wanted =
    numberOf("frames") ?? (numberOf("seconds") ? numberOf("seconds") * rate : usual.frames);
  const frames = Math.max(Math.round((wanted - 1) / step), 1) * step + 1;
  $("length-hint").textContent =
    `${frames} frames at ${tidy(rate)} a second: ${(frames / rate).toFixed(2)} s. Lengths are ${step} × k + 1 frames.`;
  for (const name of ["seconds", "frames", "fps"]) {
    field(name).placeholder = {
      seconds: ((usual.frames || 1) / rate).toFixed(2),
      frames: usual.frames ?? "",
      fps: usual.fps ?? "",
    }[name];
  }
}

function able() {
  const { images, sound } = state.model?.abilities || {};
  $("ends").hidden = !images;
  $("audio-field").hidden = !sound;
  length();
}

export function setup() {
  $("ends").append(end("input_reference"), end("last_image"));
  for (const name of Object.keys(ENDS)) setEnd(name, null);
  on("model", able);
  for (const name of ["seconds", "frames", "fps"]) field(name).addEventListener("input", length);
}
