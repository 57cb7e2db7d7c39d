// Starts the page: views, theme, key, and what the server has.

import { call, keyed, setKey } from "./api.js";
import * as cards from "./cards.js";
import * as catalog from "./catalog.js";
import * as code from "./code.js";
import * as compare from "./compare.js";
import * as deploy from "./deploy.js";
import { $, complain } from "./dom.js";
import * as fields from "./fields.js";
import * as generate from "./generate.js";
import * as jobs from "./jobs.js";
import * as stage from "./stage.js";
import { draft, lora, on, set, state, wearOnly } from "./state.js";
import * as upload from "./upload.js";
import * as video from "./video.js";

const VIEWS = ["picture", "compare", "video", "adapters", "deploy"];
const THEMES = { "": "As the system", light: "Light", dark: "Dark" };

function route() {
  const wanted = location.hash.slice(1);
  if (VIEWS.includes(wanted)) set("view", wanted);
  else if (!wanted) set("view", "picture");
}

function open(view) {
  const desk = !["adapters", "deploy"].includes(view);
  $("desk").hidden = !desk;
  $("adapters").hidden = view !== "adapters";
  $("deploy").hidden = view !== "deploy";
  for (const part of document.querySelectorAll("[data-view]")) {
    part.hidden = !part.dataset.view.split(" ").includes(view);
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("generate").textContent = view === "compare" ? "Compare" : "Generate";
  $("adapters-hint").hidden = view !== "compare";
  document.title = `Loraloom: ${view}`;
}

function theme() {
  const names = Object.keys(THEMES);
  const paint = () => {
    const now = document.documentElement.dataset.theme || "";
    $("theme").textContent = { "": "◐", light: "○", dark: "●" }[now];
    $("theme").setAttribute("aria-label", `Colours: ${THEMES[now]}. Change them`);
    $("theme").title = `Colours: ${THEMES[now].toLowerCase()}`;
  };
  $("theme").addEventListener("click", () => {
    const next =
      names[(names.indexOf(document.documentElement.dataset.theme || "") + 1) % names.length];
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    localStorage.setItem("loraloom-theme", next);
    paint();
  });
  paint();
}

function key() {
  window.addEventListener("key-wanted", () => {
    $("key-says").textContent = keyed() ? "This key is not taken." : "This server wants a key.";
    if (!$("key-form").hidden) return;
    $("key-form").hidden = false;
    $("key").focus();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey($("key").value.trim());
    $("key").value = "";
    $("key-form").hidden = true;
    load();
  });
}

const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));

/** Waits until the server is ready, and says so meanwhile. */
async function ready() {
  for (let wait = 500, told = false; ; told = true, wait = Math.min(wait * 1.5, 5000)) {
    const answer = await fetch(new URL("ready", document.baseURI)).catch(() => null);
    if (answer?.ok) return told && complain($("notice"), "");
    const why = (await answer?.json().catch(() => ({})))?.reason;
    complain(
      $("notice"),
      answer
        ? `Not ready yet: ${why || "the model is being loaded"}.`
        : "The server cannot be reached. Trying again.",
    );
    await pause(wait);
  }
}

const kept = draft().worn; // before this page writes a draft of its own

async function load() {
  const first = !state.model;
  try {
    const [models] = await Promise.all([call("GET", "/v1/models"), catalog.refresh()]);
    set("model", models.data.find((each) => !each.parent) || models.data[0]);
    $("model").textContent = state.model.id;
    if (first && kept) keep(kept);
    else if (first) wearOnly((await call("GET", "/v1/default-mix")).loras);
    await jobs.recall();
  } catch (error) {
    if (error.status !== 401) complain($("notice"), error.message);
  }
}

function keep(worn) {
  wearOnly(worn.map(([name, how]) => lora(name, how)));
}

function start() {
  on("view", open);
  for (const part of [
    fields,
    video,
    compare,
    cards,
    catalog,
    upload,
    deploy,
    jobs,
    stage,
    generate,
    code,
  ])
    part.setup();
  theme();
  key();
  route();
  window.addEventListener("hashchange", route);
  ready().then(() => state.model || load());
  load();
}

start();
