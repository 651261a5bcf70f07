"use strict";

const $ = (id) => document.getElementById(id);
const SETTINGS = ["model", "strength", "upscale", "format", "aligned"];
const MAX_TRIES = 30;      // while the queue is full
const WAIT = 300;           // ms after the last change of a setting

let about = null;           // what /v1/models says
let file = null;
let faces = [];             // of the last answer, with `wanted`
let request = null;
let timer = 0;
let urls = { before: "", after: "" };

// ---- what is shown ---------------------------------------------------------------------------

function say(text, percent) {
  $("status").textContent = text;
  $("progress").hidden = percent === undefined;
  if (percent === null) $("progress").removeAttribute("value");
  else if (percent !== undefined) $("progress").value = percent;
}

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
  if (text) say("");
  $("viewer").classList.remove("waiting");
  leaveIfNothingShows();
}

function leaveIfNothingShows() {
  if (!$("error").hidden && $("after").hidden && $("before").hidden) start($("error").textContent);
}

function show(name, blob) {
  URL.revokeObjectURL(urls[name]);
  urls[name] = blob ? URL.createObjectURL(blob) : "";
  if (blob) $(name).src = urls[name];
  else $(name).removeAttribute("src");
}

function showComparison(on) {
  for (const id of ["after", "divider", "tag-before", "tag-after", "compare"]) $(id).hidden = !on;
}

function cut(percent) {
  $("slider").value = percent;
  $("viewer").style.setProperty("--cut", `${$("slider").value}%`);
}

function setRatio(width, height) {
  $("viewer").style.setProperty("--ratio", width / height);
}

function drawFaces(width, height) {
  const focused = document.activeElement?.dataset?.face;
  $("faces").querySelectorAll(".face").forEach((node) => node.remove());
  faces.forEach((face) => {
    const [x1, y1, x2, y2] = face.box;
    const node = document.createElement("label");
    node.className = "face";
    const places = { left: x1 / width, top: y1 / height, width: (x2 - x1) / width, height: (y2 - y1) / height };
    for (const [name, place] of Object.entries(places)) node.style[name] = `${100 * place}%`;
    const chip = document.createElement("span");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = face.wanted;
    box.dataset.face = face.index;
    box.setAttribute("aria-label", `Restore face ${face.index}`);
    box.addEventListener("change", () => { face.wanted = box.checked; later(); });
    chip.append(box, String(face.index));
    node.append(chip);
    $("faces").append(node);
    if (focused === String(face.index)) box.focus();
  });
}

function disableUseless() {
  for (const id of ["strength", "upscale"]) $(id).disabled = $("aligned").checked;
  $("strength-shown").textContent = `${Math.round(100 * $("strength").value)} %`;
  $("faces").classList.toggle("plain", !$("outlines").checked);
}

// ---- asking the service ----------------------------------------------------------------------

function form() {
  const data = new FormData();
  for (const id of ["model", "format"]) data.append(id, $(id).value);
  if ($("aligned").checked) data.append("aligned", "1");
  else {
    for (const id of ["strength", "upscale"]) data.append(id, $(id).value);
    const wanted = faces.filter((face) => face.wanted).map((face) => face.index);
    data.append("faces", wanted.length === faces.length ? "all" : wanted.join(",") || "none");
  }
  data.append("image", file, "image");        // the service need not know its name
  return data;
}

function later() {
  if (!file) return;
  clearTimeout(timer);
  timer = setTimeout(() => restore(), WAIT);
}

function restore(tries = 0) {
  clearTimeout(timer);
  request?.abort();
  const current = request = new XMLHttpRequest();
  current.open("POST", "v1/restore");
  current.setRequestHeader("Accept", "application/json");
  current.responseType = "json";
  current.upload.onprogress = (event) => {
    if (event.lengthComputable) {
      const percent = Math.round(100 * event.loaded / event.total);
      say(`Sending: ${percent} %`, percent);
    }
  };
  current.upload.onload = () => say("Finding and restoring faces …", null);
  current.onerror = () => complain("The service does not answer. Is it still running?");
  current.onload = () => {
    if (current.status === 200) return done(current.response);
    const wait = Number(current.getResponseHeader("Retry-After"));
    if (wait && tries < MAX_TRIES) {
      say("The service is busy; waiting for a free place …", null);
      timer = setTimeout(() => restore(tries + 1), 1000 * wait);
      return;
    }
    complain(inWords(current.status, current.response?.error));
  };
  complain("");
  say("Sending …", 0);
  $("viewer").classList.add("waiting");
  current.send(form());
}

function inWords(status, error) {
  const plain = {
    408: "The image took too long to arrive. Is the connection slow?",
    413: "This image is too large",
    429: "The service is busy. Please try again in a minute.",
    503: "The service is busy. Please try again in a minute.",
    504: "Restoring took too long and was stopped. A smaller image or fewer faces may work.",
  }[status];
  if (status === 400 || status === 413) {
    return `${plain ?? "This image cannot be restored"}: ${(error ?? "").replace(/ \(begins with .*\)$/, "")}.`;
  }
  return plain ?? `The service reports an error (${error ?? status}).`;
}

function done(answer) {
  const bytes = Uint8Array.from(atob(answer.picture), (character) => character.charCodeAt(0));
  show("after", new Blob([bytes], { type: answer.media_type }));
  setRatio(answer.width, answer.height);
  const wanted = new Map(faces.map((face) => [face.index, face.wanted]));
  faces = answer.faces.map((face) => ({ ...face, wanted: wanted.get(face.index) ?? true }));
  const scale = answer.upscale ?? 1;
  drawFaces(answer.width / scale, answer.height / scale);
  $("viewer").classList.remove("waiting");
  showComparison(true);
  const number = answer.faces.filter((face) => face.restored).length;
  const size = `${answer.width} × ${answer.height} pixels`;
  say($("aligned").checked ? `The face was restored, ${size}.`
    : !faces.length ? "No face was found; the image is unchanged."
      : `${number} of ${faces.length} ${faces.length === 1 ? "face was" : "faces were"} restored, ${size}.`);
  $("download").hidden = false;
  $("download").href = urls.after;
  const stem = file.name.replace(/\.[^.]*$/, "") || "image";
  $("download").download = `${stem}_restored.${$("format").value}`;
}

// ---- images and settings ---------------------------------------------------------------------

function take(chosen) {
  if (!chosen || !about) return;
  if (chosen.size > about.limits.max_bytes) {
    complain(`This file has ${(chosen.size / 1e6).toFixed(1)} MB; the limit is `
      + `${(about.limits.max_bytes / 1e6).toFixed(1)} MB.`);
    return;
  }
  file = chosen;
  faces = [];
  drawFaces(1, 1);
  showComparison(false);
  show("after", null);
  show("before", file);
  cut(50);
  $("drop").hidden = true;
  $("before").hidden = false;
  $("viewer").hidden = $("again").hidden = false;
  $("download").hidden = true;
  restore();
}

function start(error = "") {
  request?.abort();
  clearTimeout(timer);
  file = null;
  for (const name of ["before", "after"]) show(name, null);
  showComparison(false);
  $("drop").hidden = $("before").hidden = false;
  complain(error);
  say("");
  $("viewer").hidden = $("again").hidden = $("download").hidden = true;
  $("drop").focus();
}

function addOptions(id, values, text = String) {
  $(id).replaceChildren(...values.map((value) => new Option(text(value), value)));
}

function takeModelDefaults() {
  const model = about.models.find((each) => each.name === $("model").value);
  const factors = [1, 2, 4, model.upscale].filter((x) => x <= about.limits.most_upscale);
  addOptions("upscale", [...new Set(factors)].sort((a, b) => a - b), (x) => (x === 1 ? "no" : `× ${x}`));
  $("upscale").value = model.upscale;
  $("strength").value = model.strength;
}

async function begin() {
  const answer = await fetch("v1/models");
  about = await answer.json();
  addOptions("model", about.models.map((model) => model.name));
  addOptions("format", about.formats, (name) => name.toUpperCase());
  takeModelDefaults();
  disableUseless();
}

$("drop").addEventListener("click", () => $("file").click());
$("again").addEventListener("click", () => start());
$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
$("before").addEventListener("load", () => {
  if ($("after").hidden) setRatio($("before").naturalWidth, $("before").naturalHeight);
});
$("before").addEventListener("error", () => {       // e.g. TIFF, which browsers do not show
  if (!urls.before) return;
  $("before").hidden = true;
  cut(0);
  leaveIfNothingShows();
});
$("slider").addEventListener("input", () => cut($("slider").value));
$("panel").addEventListener("submit", (event) => event.preventDefault());
$("model").addEventListener("change", () => { faces = []; takeModelDefaults(); });
$("aligned").addEventListener("change", () => { faces = []; });
$("strength").addEventListener("input", disableUseless);
$("outlines").addEventListener("change", disableUseless);
for (const id of SETTINGS) $(id).addEventListener("change", () => { disableUseless(); later(); });

$("viewer").addEventListener("pointerdown", (event) => {
  if (event.target.closest(".face span") || $("after").hidden) return;
  const { left, width } = $("viewer").getBoundingClientRect();
  const move = (to) => cut(Math.min(100, Math.max(0, 100 * (to.clientX - left) / width)));
  $("viewer").setPointerCapture(event.pointerId);
  event.preventDefault();
  move(event);
  $("viewer").addEventListener("pointermove", move);
  $("viewer").addEventListener("lostpointercapture",
    () => $("viewer").removeEventListener("pointermove", move), { once: true });
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
begin().catch(() => complain("The service does not answer. Is it still running?"));
