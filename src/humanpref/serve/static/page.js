"use strict";
// Images stay in this page until they are sent; nothing is kept, the key neither.
const at = id => document.getElementById(id);
const make = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text ?? "", className: name ?? "" });
const headers = () => (at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {});
let chosen = [];
let addresses = [];

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function add(files) {
  chosen = chosen.concat([...files].filter(file => file.size > 0));
  show();
}

function show() {
  at("count").textContent = chosen.length ? chosen.map(file => file.name).join(", ") : "none yet";
  at("send").disabled = at("clear").disabled = !chosen.length;
}

async function answer(response) {
  let body = null;
  try {
    body = await response.json();
  } catch { /* a proxy's page, say */ }
  if (!response.ok) throw new Error(body?.error?.message ?? `the server answered ${response.status}`);
  return body;
}

async function models() {
  try {
    const found = (await answer(await fetch("/v1/models", { headers: headers() }))).models;
    at("model").replaceChildren(...found.map(model => Object.assign(make("option", model.name), { title: model.summary })));
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

function card(result, file, first) {
  const item = make("li", "", first ? "first" : "");
  const text = make("div");
  if (result.error) {
    text.append(make("div", result.error.message, "bad"));
  } else {
    const image = make("img");
    image.src = URL.createObjectURL(file);
    addresses.push(image.src);
    image.alt = file.name;
    item.append(image);
    text.append(make("div", `${result.rank}. score ${result.score.toFixed(4)}`, "rank"));
    if (result.win_probability !== null) {
      const chance = `${(100 * result.win_probability).toFixed(1)} %`;
      const meter = make("meter");
      Object.assign(meter, { min: 0, max: 1, value: result.win_probability });
      meter.setAttribute("aria-label", `preferred ${chance}`);
      text.append(make("div", `preferred ${chance}`), meter);
    }
  }
  text.append(make("div", file.name, "name"));
  item.append(text);
  return item;
}

async function send(event) {
  event.preventDefault();
  if (!chosen.length) return;
  const files = chosen;
  const form = new FormData();
  form.append("prompt", at("prompt").value);
  if (at("model").value) form.append("model", at("model").value);
  for (const file of files) form.append("image", file, file.name);
  say("Looking at them …");
  at("send").disabled = true;
  try {
    const body = await answer(await fetch("/v1/score", { method: "POST", body: form, headers: headers() }));
    addresses.forEach(address => URL.revokeObjectURL(address));
    addresses = [];
    const order = body.results.slice().sort((a, b) => (a.rank ?? Infinity) - (b.rank ?? Infinity) || a.index - b.index);
    at("results").replaceChildren(...order.map(result => card(result, files[result.index], result.rank === 1)));
    const cut = body.prompts.some(prompt => prompt.truncated);
    const failed = body.results.filter(result => result.error).length;
    say(failed ? `${failed} of ${files.length} images could not be scored.` : `${body.model}, best first.`, failed > 0 || cut);
    at("notes").textContent = body.notes.join(". ");
  } catch (error) {
    say(error.message, true);
  }
  at("send").disabled = !chosen.length;
}

at("form").addEventListener("submit", send);
at("files").addEventListener("change", () => { add(at("files").files); at("files").value = ""; });
at("clear").addEventListener("click", () => {
  chosen = [];
  at("results").replaceChildren();
  at("notes").textContent = "";
  say("");
  show();
});
at("key").addEventListener("change", models);
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, event => { event.preventDefault(); at("drop").classList.add("over"); });
}
document.addEventListener("dragleave", event => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
document.addEventListener("drop", event => {
  event.preventDefault();
  at("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
models();
