// The current request as curl, as the openai client, and as loraloom.Client.

import { keyed } from "./api.js";
import { $, copy } from "./dom.js";
import { field } from "./fields.js";
import { current } from "./generate.js";
import { on } from "./state.js";

const KEY = "LORALOOM_API_KEY";
const origin = () => new URL(".", document.baseURI).href.replace(/\/$/, "");
const defined = (body) => Object.entries(body).filter(([, value]) => value !== undefined);
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A JSON value as Python spells it; JSON strings are Python strings. */
function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object")
    return `{${defined(value)
      .map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}

function curl({ path, kind, body, files }) {
  const key = keyed() ? [`-H "Authorization: Bearer $${KEY}"`] : [];
  const brought = Object.entries(files);
  const fields = brought.length
    ? [
        ...defined(body).map(
          ([name, value]) =>
            `--form-string ${quoted(`${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)}`,
        ),
        ...brought.map(([name, file]) => `-F ${quoted(`${name}=@${file.name}`)}`),
      ]
    : ["-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`];
  const lines = [`curl ${origin()}${path}`, ...key, ...fields].join(" \\\n  ");
  if (kind !== "video") return lines;
  return `${lines}\n# then, with the id of the answer, until it is completed:\ncurl ${origin()}/v1/videos/ID${key.map((each) => ` ${each}`)}\ncurl ${origin()}/v1/videos/ID/content${key.map((each) => ` ${each}`)} -o video.mp4`;
}

const OPENAI = {
  images: ["prompt", "n", "size", "output_format"],
  video: ["prompt", "seconds", "size"],
};
const argument = (name, value) => `    ${name}=${value},`;

/** What the openai client knows by name, and what it passes on. */
function parts({ kind, body }) {
  const known = defined(body).filter(([name]) => OPENAI[kind].includes(name));
  const ours = defined(body).filter(([name]) => !OPENAI[kind].includes(name));
  return {
    known: known.map(([name, value]) => argument(name, python(value))),
    ours: Object.fromEntries(ours),
  };
}

function pictures(request) {
  const { known, ours } = parts(request);
  return [
    "answer = client.images.generate(",
    ...known,
    argument("extra_body", python(ours)),
    ")",
    "for number, picture in enumerate(answer.data):",
    `    with open(f"picture-{number}.${request.body.output_format || "png"}", "wb") as file:`,
    "        file.write(base64.b64decode(picture.b64_json))",
  ];
}

/** Its form has no place for a last image, and loses which strength belongs to which name. */
function clip(request) {
  const { known, ours } = parts(request);
  const { input_reference: first, last_image: last } = request.files;
  const save = 'client.videos.download_content(video.id).write_to_file("video.mp4")';
  if (!last) {
    const form = ours.loras ? { ...ours, loras: JSON.stringify(ours.loras) } : ours;
    const image = first ? [argument("input_reference", `open(${python(first.name)}, "rb")`)] : [];
    return [
      "video = client.videos.create_and_poll(",
      ...known,
      ...image,
      argument("extra_body", python(form)),
      ")",
      save,
    ];
  }
  const images = Object.entries(request.files).map(
    ([name, file]) => `    "${name}": data_url(${python(file.name)}),`,
  );
  return [
    "def data_url(path):",
    '    return "data:;base64," + base64.b64encode(open(path, "rb").read()).decode()',
    "",
    `body = ${python(request.body).slice(0, -1)},`,
    ...images,
    "}",
    'video = client.post("/videos", cast_to=Video, body=body)',
    "video = client.videos.poll(video.id)",
    save,
  ];
}

function openai(request) {
  const video = request.kind === "video";
  const json = video && Boolean(request.files.last_image);
  const key = keyed() ? `os.environ["${KEY}"]` : '"none"';
  return [
    ...(video && !json ? [] : ["import base64"]),
    ...(keyed() ? ["import os"] : []),
    "from openai import OpenAI",
    ...(json ? ["from openai.types import Video"] : []),
    "",
    `client = OpenAI(base_url=${python(`${origin()}/v1`)}, api_key=${key})`,
    ...(video ? clip(request) : pictures(request)),
  ].join("\n");
}

function client({ kind, body, files }) {
  const { prompt, ...rest } = body;
  const lines = defined(rest).map(([name, value]) => argument(name, python(value)));
  const names = { input_reference: "first", last_image: "last" };
  for (const [name, file] of Object.entries(files))
    lines.push(argument(names[name], python(file.name)));
  const video = kind === "video";
  return [
    ...(keyed() ? ["import os"] : []),
    "from loraloom import Client",
    "",
    `client = Client(${python(origin())}${keyed() ? `, api_key=os.environ["${KEY}"]` : ""})`,
    `${video ? "video = client.video(" : "pictures = client.images("}`,
    `    ${python(prompt)},`,
    ...lines,
    ")",
    ...(video
      ? ['video.wait().save("video.mp4")']
      : [
          "for number, picture in enumerate(pictures):",
          `    picture.save(f"picture-{number}.${body.output_format || "png"}")`,
        ]),
  ].join("\n");
}

const LANGUAGES = { curl, python: openai, client };

export const written = (language) => LANGUAGES[language](current());

function paint() {
  if ($("code-part").open) $("code").textContent = written(field("language").value);
}

export function setup() {
  for (const what of ["worn", "view", "model"]) on(what, paint);
  $("code-part").addEventListener("toggle", paint);
  $("composer").addEventListener("input", paint);
  $("composer").addEventListener("change", paint);
  $("code-copy").addEventListener("click", () => {
    paint();
    copy($("code").textContent, $("code-copy"));
  });
}
