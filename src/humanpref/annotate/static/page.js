// The page people rank on: what is before them, what they do, what the server says. The state is here; `cards.js`
// draws it, `order.js` changes it, `sending.js` keeps it.

import { $, drawCards, enableDragging, paint, positionOf, prepareCards, say, text, ties } from "./cards.js";
import { enableDialogs, enableSkip, enableZoom, openZoom, showRecent } from "./dialogs.js";
import { enableKeys } from "./keys.js";
import * as order from "./order.js";
import { ask, draftOf, dropDraft, dropOldDrafts, keepDraft, sendUntilKept } from "./sending.js";

const LOOK_SECONDS = 120; // how often to ask what is before us: that renews the leases too
const IDLE_SECONDS = 30; // the same while there is nothing to do

let tasks = []; // the current group and the next, as the server gave them
let task = null; // what is on the page: tasks[0], or an earlier one that is being changed
let progress = null;
let state = order.empty(0);
let unsafe = new Set();
let history = [];
let since = 0;
let sending = null; // the group whose answer is on its way
let goOn = null; // after a practice group: what comes next, once it was read

// ---- showing

function show(next) {
  task = next;
  const draft = draftOf(task.token), said = task.answer;
  state = draft?.state?.count === task.images.length ? draft.state
    : said?.ranks ? order.fromPlaces(said.ranks) : order.empty(task.images.length);
  unsafe = new Set(draft?.unsafe ?? said?.unsafe ?? []);
  history = [];
  since = performance.now();
  goOn = null;
  $("work").hidden = false;
  $("work").classList.remove("feedback");
  $("finished").hidden = true;
  $("editing").hidden = !said;
  $("practice").hidden = !task.practice;
  $("prompt").querySelector("q").textContent = task.prompt;
  $("submit").textContent = text(said ? "save_change" : "submit");
  drawCards(task);
  draw();
  for (const image of $("pictures").querySelectorAll("img")) {
    if (image.complete && !image.naturalWidth) onImageError({ target: image }); // it failed before we listened
  }
}

function draw() {
  paint(state, unsafe, task);
  $("submit").setAttribute("aria-disabled", String(!order.isComplete(state) || sending !== null));
  $("undo").disabled = history.length === 0;
}

// Show a group and begin at its top.
function open(next) {
  show(next);
  window.scrollTo(0, 0);
  $("prompt").focus({ preventScroll: true });
}

// Take what the server says comes next.
function advance(work, { keep = false } = {}) {
  tasks = work.tasks;
  showProgress(work.progress);
  if (keep) return;
  if (tasks.length) {
    if (task?.token === tasks[0].token) task = tasks[0];
    else open(tasks[0]);
    loadNext();
  } else {
    task = null;
    $("work").hidden = $("editing").hidden = true;
    $("finished").hidden = false;
    $("total").textContent = work.progress.done;
    $("finished").querySelector("h1").focus();
  }
}

function showProgress(now) {
  progress = now;
  const { done, left, practice } = progress;
  const total = done + left;
  $("stage").textContent = $("stage").dataset[practice ? "practice" : "done"];
  $("done").max = Math.max(1, total);
  $("done").value = done;
  $("count").textContent = practice ? text("practice_progress", { left: practice }) : text("progress", { done, total });
}

// Load the next group a moment later, so that it does not delay the one that is wanted now.
function loadNext() {
  setTimeout(() => tasks[1] && prepareCards(tasks[1]), 150);
}

function notice(words, kind = "info") {
  $("notice").textContent = words;
  $("notice").className = `notice ${kind}`;
  $("notice").hidden = !words;
}

// ---- what people do

// What is on the page cannot be changed while it is on its way, or after practice.
function locked() {
  return goOn !== null || sending === task;
}

// Change the order, so that it can be undone, and say what it is now.
function change(next, words) {
  if (locked() || next === state) return;
  history.push(state);
  state = next;
  keep();
  const spoken = words ?? "";
  say(order.isComplete(state) ? `${spoken} ${text("complete")}` : spoken);
}

function keep() {
  keepDraft(task.token, { state, unsafe: [...unsafe] });
  notice("");
  draw();
}

function spoken(next, position) {
  const places = order.places(next);
  return places[position]
    ? text("placed", { n: position + 1, place: places[position], count: next.count })
    : text("removed", { n: position + 1 });
}

function press(position) {
  const next = order.press(state, position);
  change(next, spoken(next, position));
}

function moveBy(position, by) {
  const next = order.move(state, position, by);
  change(next, spoken(next, position));
}

function drop(position, index) {
  if (index === undefined || locked()) return draw();
  const next = index === null ? order.take(state, position) : order.insert(state, position, index);
  return change(next, spoken(next, position));
}

function tie(position) {
  if (!ties) return;
  const next = order.toggleTie(state, position);
  change(next, text(next.tied.includes(position) ? "tie_on" : "tie_off", { n: position + 1 }));
}

function undo() {
  if (locked()) return;
  if (!history.length) return say(text("nothing"));
  state = history.pop();
  keep();
  return say(text("undone"));
}

function mark(position) {
  if (locked()) return;
  const isUnsafe = !unsafe.delete(position);
  if (isUnsafe) unsafe.add(position);
  keep();
  say(text(isUnsafe ? "unsafe_on" : "unsafe_off", { n: position + 1 }));
}

// ---- answering

function submit() {
  if (goOn) return advance(goOn);
  if (sending || !order.isComplete(state)) return undefined;
  performance.mark("submit"); // where measuring begins; the pictures have `elementtiming`
  return send({ ranks: order.places(state), unsafe: [...unsafe], seconds: seconds() });
}

function seconds() {
  return Math.round(performance.now() - since) / 1000;
}

// Send an answer. The next group is on the page while it is on its way; where it does not arrive, or the server will
// not have it, its group comes back as it was.
async function send(answer) {
  const sent = { task, state, unsafe, history };
  const { token, practice, answer: before } = task;
  setSending(task);
  if (!practice && !before && task === tasks[0] && tasks[1]) open(tasks[1]);
  const comeBack = () => {
    if (task === sent.task) return;
    show(sent.task);
    ({ state, unsafe, history } = sent);
    draw();
  };
  const reply = await sendUntilKept(
    `/api/${practice ? "practice" : "answers"}/${token}`, answer,
    (kind, wait) => {
      comeBack();
      notice(text(kind, { seconds: wait }), "warn");
    },
    () => notice(text("sending_again"), "warn"),
  );
  setSending(null);
  if (reply.status !== 200) comeBack();
  if (reply.status === 200) {
    dropDraft(token);
    notice(before ? text("corrected") : "");
    if (reply.data.expected && answer.ranks) return feedback(reply.data, answer.ranks);
    return advance(reply.data);
  }
  return refused(reply, token);
}

function setSending(group) {
  sending = group;
  $("work").setAttribute("aria-busy", String(sending !== null));
  draw();
}

// What the server would not take.
async function refused(reply, token) {
  if (reply.data.error === "csrf") return location.reload(); // a newer session; the draft is kept
  if (reply.status === 401 || reply.status === 403) return notice(reply.data.message ?? text("session_over"), "warn");
  if (reply.status === 404 || reply.status === 409) {
    dropDraft(token);
    await look(true);
    return notice(reply.data.message, "warn");
  }
  return notice(reply.data.message ?? text("session_over"), "warn");
}

// After a practice group: what most people prefer.
function feedback(work, ranks) {
  goOn = work;
  const { right, total } = order.agreement(ranks, work.expected);
  $("work").classList.add("feedback");
  for (const card of $("pictures").children) {
    card.querySelector(".others").textContent = text("most_people", { place: work.expected[card.dataset.position] });
  }
  const words = !total ? text("feedback_none") : right === total ? text("feedback_all") : text("feedback", { right, total });
  notice("");
  $("hint").textContent = words;
  say(words);
  $("submit").textContent = text("go_on");
  $("submit").setAttribute("aria-disabled", "false");
  showProgress(work.progress);
}

// Ask what is before us. Another tab may have answered it, or it was away for too long.
async function look(always = false) {
  if (sending || goOn || (!always && task?.answer)) return;
  const reply = await ask("/api/tasks").catch(() => null);
  if (sending || goOn || reply === null) return;
  if (reply.status === 401 || reply.status === 403) return notice(reply.data.message, "warn");
  if (reply.status !== 200) return;
  const still = reply.data.tasks.some(other => other.token === task?.token);
  if (!still && task) {
    advance(reply.data);
    notice(text("moved_on"));
  } else {
    advance(reply.data, { keep: still || (!task && !reply.data.tasks.length) });
  }
}

// ---- changing an earlier answer

async function openRecent() {
  if (sending) return;
  const reply = await ask("/api/recent").catch(() => null);
  if (reply?.status === 200) showRecent(reply.data.recent, earlier => {
    notice("");
    show(earlier);
    $("prompt").focus();
  });
  else notice(reply?.data.message ?? text("offline", { seconds: 0 }), "warn");
}

function cancelEdit() {
  dropDraft(task.token);
  advance({ tasks, progress });
}

// ---- mouse and finger (the keyboard: keys.js)

function onClick(event) {
  const position = positionOf(event.target);
  if (position === null) return;
  if (event.target.closest(".zoom")) openZoom(() => ({ task, state }), position);
  else if (event.target.closest(".unsafe")) mark(position);
  else if (event.target.closest(".failed")) loadAgain(event.target.closest(".card"));
  else if (event.target.closest(".tie")) tie(position);
  else if (event.target.closest(".pick, .thumb")) press(position);
}

// ---- pictures that do not load

function onImageError(event) {
  const card = event.target.closest?.(".card");
  if (!card) return;
  const failed = card.querySelector(".failed");
  failed.querySelector("span").textContent = text("image_failed");
  failed.hidden = false;
  look(); // the server leaves a group out whose picture is gone
}

function loadAgain(card) {
  const image = card.querySelector("img");
  card.querySelector(".failed").hidden = true;
  image.src = `${task.images[card.dataset.position]}?again=${Date.now()}`;
}

// ---- the start

function start() {
  const work = JSON.parse($("app").dataset.work);
  dropOldDrafts();
  document.addEventListener("click", onClick);
  enableKeys({ look: () => ({ task, state, ready: goOn !== null || order.isComplete(state) }), press, moveBy, tie, undo, submit });
  document.addEventListener("error", onImageError, true);
  $("submit").addEventListener("click", submit);
  $("undo").addEventListener("click", undo);
  $("open-recent").addEventListener("click", openRecent);
  $("cancel-edit").addEventListener("click", cancelEdit);
  enableDialogs();
  enableZoom(() => ({ task, state }), press);
  enableSkip(reason => send({ skip: reason, unsafe: [...unsafe], seconds: seconds() }));
  enableDragging(drop);
  window.addEventListener("beforeunload", event => sending && event.preventDefault()); // the server has it not yet
  document.addEventListener("visibilitychange", () => document.hidden || look());
  setInterval(() => document.hidden || look(), LOOK_SECONDS * 1000);
  setInterval(() => document.hidden || task || look(), IDLE_SECONDS * 1000);
  tasks = work.tasks;
  showProgress(work.progress);
  if (!tasks.length) return;
  show(tasks[0]);
  loadNext();
}

start();
