// Asks the server that gave this page about photos, and shows what it answers; no other address is ever asked.
"use strict";

const part = (id) => document.getElementById(id);
const STEPS = ["queue", "decode", "preprocess", "inference", "postprocess"];
const KEPT = 120;
const SIDE = 640;
let model = null;
let secret = sessionStorage.getItem("edgetl-token");
let before = null;
const history = { latency: [], rate: [] };

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}), ...(secret ? { Authorization: `Bearer ${secret}` } : {}) };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.status === 401) {
    part("token").hidden = false;
    part("secret").focus();
  }
  if (!answer.ok) {
    let said = answer.statusText;
    try {
      said = (await answer.json()).error || said;
    } catch {
      // no JSON: the status must do
    }
    throw new Error(said);
  }
  return answer;
}

async function describe() {
  const index = await (await ask("v2/repository/index", { method: "POST" })).json();
  const ready = index.filter((one) => one.state === "READY");
  if (!ready.length) throw new Error("no model is loaded");
  if (!ready.some((one) => one.name === model)) model = ready[0].name;
  part("models").replaceChildren(...ready.map((one) => new Option(one.name, one.name, false, one.name === model)));
  part("choose").hidden = ready.length < 2;
  const { reason } = ready.find((one) => one.name === model);
  part("degraded").textContent = reason;
  part("degraded").hidden = !reason;
  const told = await (await ask(`v2/models/${model}`)).json();
  part("name").textContent = model;
  document.title = `${model}: edgetl`;
  const [, height, width] = told.inputs[0].shape;
  part("described").textContent =
    `version ${told.versions[0]}, ${told.platform.replace("edgetl_", "")}, ${width} x ${height} pixels`;
  part("card").textContent = await (await ask(`v2/models/${model}/card`)).text();
}

function fail(error) {
  const line = document.createElement("p");
  line.className = "bad";
  line.textContent = error.message;
  part("result").replaceChildren(line);
  part("scores").hidden = true;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function show(told) {
  const [found] = told.predictions;
  const line = document.createElement("p");
  line.textContent = `${found.label}, ${percent(found.score)}`;
  part("result").replaceChildren(line);
  part("scores").tBodies[0].replaceChildren(
    ...found.scores.map((each) => {
      const row = document.createElement("tr");
      const meter = document.createElement("meter");
      meter.value = each.score;
      meter.setAttribute("aria-label", each.label);
      for (const content of [each.label, meter, percent(each.score)]) {
        row.insertCell().append(content);
      }
      return row;
    }),
  );
  part("scores").hidden = false;
  const total = STEPS.reduce((sum, step) => sum + told.time_ms[step], 0);
  part("split").replaceChildren(
    ...STEPS.map((step) => {
      const bar = document.createElement("i");
      bar.className = step;
      bar.style.width = `${(100 * told.time_ms[step]) / total}%`;
      return bar;
    }),
  );
  const words = STEPS.map((step) => `${step} ${told.time_ms[step].toFixed(2)} ms`);
  part("split").setAttribute("aria-label", words.join(", "));
  part("times").replaceChildren(
    ...STEPS.map((step) => {
      const pair = document.createElement("div");
      const key = document.createElement("i");
      const name = document.createElement("dt");
      const spent = document.createElement("dd");
      key.className = step;
      name.textContent = step;
      spent.textContent = `${told.time_ms[step].toFixed(2)} ms`;
      pair.append(key, name, spent);
      return pair;
    }),
  );
}

async function predict(photo) {
  try {
    const answer = await ask(`predict?top=5&model=${encodeURIComponent(model)}`, {
      method: "POST",
      body: photo,
      headers: { "Content-Type": photo.type || "image/jpeg" },
    });
    show(await answer.json());
  } catch (error) {
    fail(error);
  }
}

async function take(photo) {
  if (!photo) return;
  const shown = part("shown");
  URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(photo);
  shown.hidden = false;
  await predict(photo);
}

async function look() {
  const button = part("camera");
  const live = part("live");
  if (live.srcObject) {
    live.srcObject.getTracks().forEach((track) => track.stop());
    live.srcObject = null;
    live.hidden = true;
    button.setAttribute("aria-pressed", "false");
    button.textContent = "use the camera";
    return;
  }
  try {
    if (!navigator.mediaDevices) throw new Error("the browser gives the camera to pages over https or of this machine only");
    live.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    fail(new Error(`the camera cannot be used: ${error.message}`));
    return;
  }
  part("shown").hidden = true;
  live.hidden = false;
  button.setAttribute("aria-pressed", "true");
  button.textContent = "stop the camera";
  await live.play();
  const canvas = document.createElement("canvas");
  while (live.srcObject) {
    const scale = Math.min(1, SIDE / Math.max(live.videoWidth, live.videoHeight));
    canvas.width = Math.round(live.videoWidth * scale);
    canvas.height = Math.round(live.videoHeight * scale);
    canvas.getContext("2d").drawImage(live, 0, 0, canvas.width, canvas.height);
    const photo = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
    if (photo) await predict(photo);
    await new Promise((done) => setTimeout(done, 150));
  }
}

function read(text, name) {
  const found = text.match(new RegExp(`^${name} (\\S+)$`, "m"));
  return found ? Number(found[1]) : 0;
}

function draw(id, values, unit) {
  const top = Math.max(...values, 0.001) * 1.1;
  const step = 600 / (KEPT - 1);
  const first = KEPT - values.length;
  const points = values.map((value, place) => `${(first + place) * step},${118 - (116 * value) / top}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  part(id).replaceChildren(line);
  const now = values[values.length - 1];
  part(`${id}-now`).textContent = `now ${now.toFixed(2)}${unit}, at most ${Math.max(...values).toFixed(2)}${unit}`;
  part(id).setAttribute("aria-label", part(`${id}-now`).textContent);
}

async function measure() {
  if (document.hidden || !part("token").hidden) return;
  try {
    const text = await (await ask("metrics")).text();
    const now = {
      at: performance.now() / 1000,
      count: read(text, "edgetl_inference_seconds_count"),
      sum: ["queue", "preprocess", "inference"].reduce((sum, step) => sum + read(text, `edgetl_${step}_seconds_sum`), 0),
    };
    if (before && now.count >= before.count) {
      const count = now.count - before.count;
      history.latency.push(count ? (1000 * (now.sum - before.sum)) / count : 0);
      history.rate.push(count / (now.at - before.at));
      for (const values of Object.values(history)) values.splice(0, values.length - KEPT);
      draw("latency", history.latency, " ms");
      draw("rate", history.rate, "");
    }
    before = now;
  } catch (error) {
    before = null;
    part("rate-now").textContent = error.message;
  }
}

function start() {
  describe().catch(fail);
  measure();
}

part("file").addEventListener("change", (event) => take(event.target.files[0]));
part("camera").addEventListener("click", look);
part("models").addEventListener("change", (event) => {
  model = event.target.value;
  describe().catch(fail);
});
part("token").addEventListener("submit", (event) => {
  event.preventDefault();
  secret = part("secret").value;
  sessionStorage.setItem("edgetl-token", secret);
  part("token").hidden = true;
  start();
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("drop").classList.remove("over");
  });
}
document.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
setInterval(measure, 1000);
start();
