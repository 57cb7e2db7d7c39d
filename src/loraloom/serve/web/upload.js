// Adds an adapter: a file or a source is inspected first, then published under a name.

import { call } from "./api.js";
import { listed, refresh } from "./catalog.js";
import { $, announce, button, complain, h, labelled } from "./dom.js";
import { report } from "./inspection.js";
import { droppable } from "./video.js";

let file = null;

const input = (props) => h("input", { autocomplete: "off", spellcheck: "false", ...props });
const parts = {
  file: input({ type: "file", accept: ".safetensors", id: "upload-file" }),
  source: input({ placeholder: "owner/name, a link of the hub, or a path that the server allows" }),
  config: input({ type: "file", accept: ".json" }),
  component: input({ placeholder: "found by itself" }),
  alpha: input({ type: "number", step: "any", placeholder: "as the file says" }),
  partial: input({ type: "checkbox" }),
  name: input({ placeholder: "my-style", maxlength: 100 }),
  strength: input({ type: "number", step: 0.05, value: 1 }),
  triggers: input({ placeholder: "with commas between them" }),
  aliases: input({ placeholder: "with commas between them" }),
  picture: input({ type: "file", accept: "image/png,image/jpeg,image/webp" }),
  pinned: input({ type: "checkbox" }),
};
const says = h("p", { class: "error", role: "alert", hidden: true });
const chosen = h("span", { class: "preview" }, "Drop a .safetensors file here, or choose one");
const publishing = h("fieldset", { class: "part", id: "publish", hidden: true });

function choose(next) {
  file = next;
  chosen.textContent = next ? next.name : "Drop a .safetensors file here, or choose one";
  if (next && !parts.name.value)
    parts.name.value = next.name
      .replace(/\.safetensors$/, "")
      .replace(/[^A-Za-z0-9._-]+/g, "-")
      .slice(0, 100);
  publishing.hidden = true;
  $("inspection").replaceChildren();
  complain(says, "");
}

/** How the file is to be read: what inspecting and publishing both take. */
function fit() {
  return {
    component: parts.component.value.trim() || undefined,
    alpha: parts.alpha.value === "" ? undefined : parts.alpha.valueAsNumber,
    allow_partial: parts.partial.checked || undefined,
  };
}

function label() {
  return {
    strength: parts.strength.value === "" ? undefined : parts.strength.valueAsNumber,
    triggers: listed(parts.triggers.value),
    aliases: listed(parts.aliases.value),
    pinned: parts.pinned.checked,
  };
}

/** A form if there is a file, otherwise JSON. */
function body(fields) {
  const picture = parts.picture.files[0];
  if (!file) return { source: parts.source.value.trim(), ...fields };
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined)
      form.append(name, Array.isArray(value) ? JSON.stringify(value) : String(value));
  }
  form.append("file", file, file.name);
  if (parts.config.files[0]) form.append("config", parts.config.files[0]);
  if (picture && fields.name) form.append("picture", picture);
  return form;
}

async function busy(words, deed) {
  complain(says, "");
  if (!file && !parts.source.value.trim())
    return complain(says, "Choose a file, or say where it comes from.");
  const form = $("upload");
  form.setAttribute("aria-busy", "true");
  announce(words);
  try {
    await deed();
  } catch (error) {
    complain(says, error.message);
  } finally {
    form.removeAttribute("aria-busy");
  }
}

const inspect = () =>
  busy("Inspecting.", async () => {
    const reading = await call("POST", "/v1/adapters/inspect", body(fit()));
    $("inspection").replaceChildren(report(reading));
    publishing.hidden = !reading.fits;
    announce(reading.fits ? "It fits." : `It does not fit: ${reading.reason}`);
  });

const publish = () =>
  busy("Publishing.", async () => {
    const name = parts.name.value.trim();
    if (!name) {
      complain(says, "Give it a name.");
      return parts.name.focus();
    }
    const adapter = await call("POST", "/v1/adapters", body({ name, ...fit(), ...label() }));
    await refresh();
    publishing.hidden = true;
    $("inspection").replaceChildren(
      h("p", { class: "verdict good" }, `${adapter.name} is published and can be worn.`),
    );
    announce(`${adapter.name} is published.`);
  });

const check = (words, box) => h("label", { class: "check" }, box, ` ${words}`);

export function setup() {
  const drop = h("label", { class: "drop wide-drop" }, h("b", {}, "File"), chosen, parts.file);
  droppable(drop, choose);
  parts.file.addEventListener("change", () => choose(parts.file.files[0] || null));
  publishing.append(
    h("legend", {}, "Publish"),
    h(
      "div",
      { class: "grid2" },
      labelled("Name", parts.name),
      labelled("Usual strength", parts.strength),
      labelled("Trigger words", parts.triggers),
      labelled("Other names", parts.aliases),
      labelled("Picture", parts.picture),
    ),
    check("Keep it in memory", parts.pinned),
    h("p", { class: "actions" }, button("Publish", publish, { class: "main" })),
  );
  $("upload").append(
    drop,
    labelled("or a source", parts.source),
    h(
      "details",
      {},
      h("summary", {}, "How to read it"),
      h(
        "div",
        { class: "grid2" },
        labelled("Component", parts.component),
        labelled("Alpha", parts.alpha),
        labelled("adapter_config.json", parts.config),
      ),
      check("Take it even if some keys do not match", parts.partial),
    ),
    h("p", { class: "actions" }, h("button", { id: "inspect" }, "Inspect")),
    says,
    publishing,
  );
  $("upload").addEventListener("submit", (event) => {
    event.preventDefault();
    if (publishing.contains(document.activeElement)) publish();
    else inspect();
  });
}
