// Sends what the composer asks for, and cancels what is under way.

import { call, UNDER_WAY } from "./api.js";
import * as compare from "./compare.js";
import { $, announce } from "./dom.js";
import { common, field, numberOf, roll, takeTags } from "./fields.js";
import { cancel, follow, show } from "./jobs.js";
import { state } from "./state.js";
import * as video from "./video.js";
import { clearErrors, tell, valid } from "./wrong.js";

/** What becomes a call: the path, the JSON fields, and files if there are any. */
function picture() {
  const body = { ...common(), n: numberOf("n"), output_format: field("format").value };
  return { path: "/v1/images/generations", kind: "images", body, files: {} };
}

const MAKERS = { picture, compare: compare.request, video: video.request };

/** The current request of the view that is open, exactly as it would be sent. */
export const current = () => (MAKERS[state.view] || picture)();

function payload({ kind, body, files }) {
  const brought = Object.entries(files);
  const fields = kind === "images" ? { ...body, async: true } : body;
  if (!brought.length) return fields;
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined)
      form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  for (const [name, file] of brought) form.append(name, file, file.name);
  return form;
}

async function generate() {
  clearErrors();
  if (!takeTags() || !valid()) return;
  if (field("roll").checked) roll();
  const request = current();
  if (request.wrong) return tell(request.wrong);
  $("generate").disabled = true;
  try {
    const job = await call("POST", request.path, payload(request));
    announce("Sent.");
    const id = job.id.replace(/^video_/, "");
    follow({ kind: request.kind, request: request.body, results: [], ...job, id, object: "job" });
    show(id);
    if (matchMedia("(max-width: 60rem)").matches) $("stage").scrollIntoView({ block: "start" });
  } catch (error) {
    tell(error);
  } finally {
    $("generate").disabled = false;
  }
}

/** The job that Escape means: the one that is shown, or else the newest under way. */
function cancellable() {
  const jobs = [...state.jobs.values()].filter((job) => UNDER_WAY.has(job.status));
  return jobs.find((job) => job.id === state.shown) || jobs[0];
}

function shortcuts(event) {
  const desk = !$("desk").hidden;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && desk) {
    event.preventDefault();
    if (!$("generate").disabled) generate();
  }
  if (event.key === "Escape" && cancellable()) cancel(cancellable().id);
}

export function setup() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  document.addEventListener("keydown", shortcuts);
}
