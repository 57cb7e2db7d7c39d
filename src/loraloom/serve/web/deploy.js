// The deployment command: for a model, a pipeline, adapters and the memory of a machine.

import { call } from "./api.js";
import { $, button, complain, copy, h, labelled } from "./dom.js";
import { on, state } from "./state.js";

const model = h("input", { name: "model", autocomplete: "off", spellcheck: "false" });
const pipeline = h("select", { name: "pipeline" });
const device = h("input", {
  name: "device_memory",
  value: "24G",
  autocomplete: "off",
  spellcheck: "false",
});
const host = h("input", {
  name: "host_memory",
  value: "64G",
  autocomplete: "off",
  spellcheck: "false",
});
const boxes = h("div", { class: "checks" });
const says = h("p", { class: "error", role: "alert", hidden: true });

function query() {
  const asked = new URLSearchParams({ model: model.value.trim(), explain: "true" });
  if (pipeline.value) asked.set("pipeline", pipeline.value);
  for (const box of boxes.querySelectorAll("input:checked")) {
    const worn = state.worn.get(box.value);
    asked.append("lora", worn ? `${box.value}:${worn.strength}` : box.value);
  }
  asked.set("device_memory", device.value.trim());
  asked.set("host_memory", host.value.trim());
  return asked;
}

function answer(found) {
  const command = h("code", {}, found.command);
  const press = button("Copy", () => copy(found.command, press));
  return [
    h(
      "div",
      { class: "panel command" },
      h("pre", { tabindex: 0, "aria-label": "The command" }, command),
      h("p", { class: "actions" }, press),
    ),
    found.plan
      ? h(
          "pre",
          { class: "explained", tabindex: 0, "aria-label": "The plan of memory" },
          found.plan,
        )
      : null,
  ].filter(Boolean);
}

let asked = 0;

async function ask() {
  const mine = ++asked;
  complain(says, "");
  try {
    const found = await call("GET", `/v1/deploy?${query()}`);
    if (mine === asked) $("deployment").replaceChildren(...answer(found));
  } catch (error) {
    if (mine !== asked) return;
    $("deployment").replaceChildren();
    complain(says, error.message);
  }
}

function offer() {
  const { id, pipelines = [] } = state.model || {};
  model.value ||= id || "";
  const before = pipeline.value;
  pipeline.replaceChildren(...pipelines.map((name) => new Option(name, name)));
  if (pipelines.includes(before)) pipeline.value = before;
}

function adapters() {
  const before = new Set([...boxes.querySelectorAll("input:checked")].map((box) => box.value));
  boxes.replaceChildren(
    ...state.adapters.map(({ name }) => {
      const box = h("input", { type: "checkbox", name: "lora", value: name });
      box.checked = before.has(name);
      return h("label", { class: "check" }, box, ` ${name}`);
    }),
  );
}

export function setup() {
  $("deploy-form").append(
    h(
      "div",
      { class: "grid2" },
      labelled("Model", model),
      labelled("Pipeline", pipeline),
      labelled("Memory of the device", device),
      labelled("Memory of the host", host),
    ),
    h("fieldset", { class: "bare" }, h("legend", {}, "Adapters"), boxes),
    h("p", { class: "actions" }, h("button", { class: "main" }, "Show the command")),
    says,
  );
  $("deploy-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  $("deploy-form").addEventListener("change", ask);
  on("model", offer);
  on("adapters", adapters);
  for (const what of ["view", "model"])
    on(what, () => state.view === "deploy" && state.model && ask());
}
