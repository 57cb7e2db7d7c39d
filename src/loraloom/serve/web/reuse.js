// Goes on from a result: its settings again, or its picture as the first image of a video.

import { media } from "./api.js";
import * as compare from "./compare.js";
import { announce, complain, $ } from "./dom.js";
import { reuse } from "./fields.js";
import { setEnd } from "./video.js";

function go(view) {
  location.hash = view;
  $("prompt").focus();
}

/** Fills the composer as it was for this job; the seed is the result's own. */
export function again(job, result) {
  const request = job.request || {};
  go(job.kind === "video" ? "video" : request.mixes ? "compare" : "picture");
  reuse(
    {
      ...request,
      loras: request.mixes
        ? null
        : request.loras || result.loras?.filter(({ by }) => by !== "stage"),
    },
    result.seed,
  );
  if (request.mixes) compare.reuse(request.mixes);
  announce("The settings are those of this result.");
}

export async function asFirstImage(url, place) {
  try {
    const blob = await (await fetch(await media(url))).blob();
    setEnd("input_reference", new File([blob], "first.png", { type: blob.type }));
    go("video");
  } catch (error) {
    complain(place, error.message);
  }
}
