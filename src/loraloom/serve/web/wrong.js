// What is wrong with a request, in words where its subject is.

import { $, complain } from "./dom.js";

const form = $("composer");
const ELSE = "send-says";
const PLACES = {
  "prompt-says": ["prompt"],
  "adapters-says": ["loras", "model"],
  "compare-says": ["mixes"],
  "video-says": ["seconds", "frames", "fps", "audio", "input_reference", "last_image"],
  "settings-says": [
    "size",
    "seed",
    "steps",
    "guidance_scale",
    "pipeline",
    "negative_prompt",
    "n",
    "output_format",
    "width",
    "height",
  ],
};
const NAMES = { guidance_scale: "guidance", negative_prompt: "negative", output_format: "format" };

export function clearErrors() {
  for (const place of [...Object.keys(PLACES), ELSE]) complain($(place), "");
  for (const each of form.querySelectorAll("[aria-invalid=true]"))
    each.removeAttribute("aria-invalid");
}

function mark(name) {
  const element = form.elements[NAMES[name] || name];
  if (!element?.setAttribute) return;
  element.setAttribute("aria-invalid", "true");
  element.focus();
}

/** Puts an error of the server where its subject is. */
export function tell(error) {
  const param = error.param || (error.code?.startsWith("lora_") ? "loras" : "");
  const [subject] = param.split(/[.[]/);
  const place = $(Object.keys(PLACES).find((each) => PLACES[each].includes(subject)) || ELSE);
  const says = place.parentElement.closest("[hidden]") ? $(ELSE) : place;
  complain(says, error.message);
  mark(subject);
  says.scrollIntoView({ block: "nearest" });
}

/** Whether the visible fields hold what they are for; the first that does not is told. */
export function valid() {
  for (const element of form.elements) {
    if (element.type === "fieldset" || element.closest("[hidden]") || element.checkValidity())
      continue;
    const param = Object.keys(NAMES).find((key) => NAMES[key] === element.name) || element.name;
    const label = element.labels[0]?.firstElementChild?.textContent || element.name;
    const asked = element.name === "prompt" && "Say what it should show.";
    tell({ param, message: asked || `${label}: ${element.validationMessage}` });
    element.setAttribute("aria-invalid", "true");
    element.focus();
    return false;
  }
  return true;
}
