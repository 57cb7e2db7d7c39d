// Speaks to the server: JSON, forms, files and event streams, with the key where one is wanted.

const KEY = "loraloom-key";
const STREAMS = 3; // a browser opens six connections to a server; the others are for requests
const PATIENCE = [300, 1000, 2000, 4000];

export class ApiError extends Error {
  constructor(status, body) {
    super(body.message || `the server answers ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.param = body.param || "";
  }
}

export const keyed = () => sessionStorage.getItem(KEY) !== null;

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}`, ...more } : more;
}

/** A path of the interface as an address under this page, also behind a proxy's prefix. */
export function address(url) {
  const at = url.indexOf("/v1/");
  return new URL(at < 0 ? url.replace(/^\//, "") : url.slice(at + 1), document.baseURI).href;
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const error = new ApiError(response.status, body.error || {});
  if (error.status === 401) window.dispatchEvent(new Event("key-wanted"));
  return error;
}

async function reach(url, options) {
  let response;
  try {
    response = await fetch(address(url), { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server cannot be reached.", code: "unreachable" });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The JSON that a call answers with. `body` is a FormData, or something that becomes JSON. */
export async function call(method, path, body) {
  const options = { method };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await reach(path, options);
  return response.status === 204 ? null : response.json();
}

const files = new Map();

/** A file of the server as an address of this page; an `<img>` alone could not bring the key. */
export function media(url) {
  const name = url.replace(/[?&](expires|signature)=[^&]*/g, ""); // those change, the file does not
  if (!files.has(name)) {
    const promise = reach(url, {}).then(async (answer) => URL.createObjectURL(await answer.blob()));
    promise.catch(() => files.delete(name));
    files.set(name, promise);
    if (files.size > 200) forget(files.keys().next().value);
  }
  return files.get(name);
}

function forget(name) {
  files.get(name).then(URL.revokeObjectURL, () => {});
  files.delete(name);
}

/** The events in what a stream of text says; https://html.spec.whatwg.org, "event stream". */
export async function* parseEvents(chunks) {
  let rest = "";
  let event = { id: null, type: "message", data: [] };
  for await (const chunk of chunks) {
    const lines = (rest + chunk).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = { id: event.id, type: "message", data: [] };
        continue;
      }
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (name === "data") event.data.push(value);
      else if (name === "event") event.type = value;
      else if (name === "id") event.id = value;
    }
  }
}

async function* text(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

export const UNDER_WAY = new Set(["queued", "running"]);
const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));
let streams = 0;

/** Every state of a job until the last; goes on where it was when the connection breaks. */
export async function* watch(id) {
  let last = null;
  for (let failures = 0; ;) {
    try {
      for await (const job of streams < STREAMS
        ? streamed(
            id,
            () => last,
            (n) => (last = n),
          )
        : polled(id)) {
        failures = 0;
        yield job;
        if (!UNDER_WAY.has(job.status)) return;
      }
    } catch (error) {
      if (error instanceof ApiError && error.status >= 400 && error.status < 500) throw error;
    }
    await pause(PATIENCE[Math.min(failures++, PATIENCE.length - 1)]);
  }
}

async function* streamed(id, last, seen) {
  streams++;
  try {
    const after = last() === null ? {} : { "Last-Event-ID": last() };
    const response = await reach(`/v1/jobs/${id}/events`, { headers: after });
    for await (const event of parseEvents(text(response.body))) {
      if (event.id !== null) seen(event.id);
      yield JSON.parse(event.data);
    }
  } finally {
    streams--;
  }
}

async function* polled(id) {
  yield await call("GET", `/v1/jobs/${id}`);
}
