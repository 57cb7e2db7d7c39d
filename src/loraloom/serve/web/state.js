// What the page knows, and who wants to hear of changes.

const DRAFT = "loraloom-draft";
const listeners = new Map();

export const state = {
  model: null, // the base model, as GET /v1/models tells it
  adapters: [], // the catalogue
  worn: new Map(), // name -> {strength, stages, more}: what the next request wears
  jobs: new Map(), // id -> job, as the server tells it
  shown: null, // id of the job on the stage
  view: "picture",
};

export function on(what, listener) {
  listeners.set(what, [...(listeners.get(what) || []), listener]);
}

export function changed(what) {
  for (const listener of listeners.get(what) || []) listener(state[what]);
}

export function set(what, value) {
  state[what] = value;
  changed(what);
}

export const adapter = (name) =>
  state.adapters.find((each) => each.name === name || each.aliases?.includes(name));

export function wear(name, strength, stages = null) {
  state.worn.set(name, { ...state.worn.get(name), strength, stages });
  changed("worn");
}

export function takeOff(name) {
  state.worn.delete(name);
  changed("worn");
}

/** What is worn, as a request says it. */
export const loras = () => [...state.worn].map(([name, how]) => lora(name, how));

export function lora(name, { strength, stages, more }) {
  return { name, scale: strength, ...(stages?.length ? { stages } : {}), ...more };
}

const MORE = ["target", "schedule", "scopes", "version"];

/** What a request says of an adapter that has no field on this page; it is kept as it is. */
const moreOf = (said) =>
  Object.fromEntries(MORE.filter((name) => said[name]).map((name) => [name, said[name]]));

/** Wears exactly this; adapters that are gone are left out and told. */
export function wearOnly(wanted) {
  const gone = wanted.filter(({ name }) => !adapter(name)).map(({ name }) => name);
  state.worn = new Map();
  for (const said of wanted) {
    const known = adapter(said.name);
    if (!known) continue;
    const how = { strength: said.scale ?? known.strength, stages: said.stages };
    state.worn.set(known.name, { ...how, more: moreOf(said) });
  }
  changed("worn");
  return gone;
}

/** The fields and what is worn, kept in the browser, so that a reload loses nothing. */
export function keepDraft(fields) {
  try {
    localStorage.setItem(DRAFT, JSON.stringify({ fields, worn: [...state.worn] }));
  } catch {
    // storage is full or forbidden: a reload begins anew
  }
}

export function draft() {
  try {
    return JSON.parse(localStorage.getItem(DRAFT)) || {};
  } catch {
    return {};
  }
}

/** Width and height of "128x96". */
export function sides(size) {
  const [width, height] = (size || "").split("x").map(Number);
  return width && height ? { width, height } : null;
}

/** The names of a pipeline's stages; without a pipeline those of the usual one. */
export function stagesOf(pipeline) {
  const { stages = {}, pipelines = [] } = state.model || {};
  return stages[pipeline || pipelines[0]] || [];
}
