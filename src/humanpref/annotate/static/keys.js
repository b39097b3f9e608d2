// The keyboard. Every key does what something on the page does as well; `?` lists them.

import { $, placeText, positionOf, say } from "./cards.js";
import { isDialogOpen, openZoom } from "./dialogs.js";
import * as order from "./order.js";

let byTab = false; // whether the button in focus was gone to with Tab

// `actions`: { look() -> { task, state, ready }, press, moveBy, tie, undo, submit }.
export function enableKeys(actions) {
  document.addEventListener("pointerdown", () => { byTab = false; });
  document.addEventListener("keydown", event => {
    byTab = event.key === "Tab" || (byTab && ["Enter", " ", "Shift"].includes(event.key));
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    const inZoom = $("zoom").open;
    if (!actions.look().task || (isDialogOpen() && !inZoom)) return;
    if (handle(event.key, event.target, inZoom, actions)) event.preventDefault();
  });
}

// -> whether the key meant something here
function handle(key, target, inZoom, actions) {
  const { state, ready } = actions.look();
  const isPick = target.matches(".pick"), isThumb = target.matches(".thumb"), focused = positionOf(target);
  if (/^\d$/.test(key)) return pressNumber((Number(key) + 9) % 10, actions);
  if (inZoom) return false;
  if (key === "Backspace") return actions.undo(), true;
  if (key === "Delete" && isThumb) return actions.press(focused), true;
  if (key === "Enter") {
    // a button that was gone to with Tab does what it does; one that was only clicked before does not hinder
    if (!ready || (byTab && target.matches("button, a") && !isPick && !isThumb)) return false;
    return actions.submit(), true;
  }
  if (key === "=" || key === "t") return actions.tie(isThumb ? focused : state.order.at(-1)), true;
  if (key === "?") return $("help").showModal(), true;
  if (key.toLowerCase() === "z") {
    const zoomed = isPick || isThumb ? focused : hovered() ?? focused;
    return openZoom(actions.look, zoomed ?? 0), true;
  }
  if (key.startsWith("Arrow")) return arrow(key, target, focused, actions);
  return false;
}

// A number is the next best; where it has a place already that is only said, so that nobody takes it back by mistake.
function pressNumber(position, { look, press }) {
  const { task, state } = look();
  if (position >= task.images.length) return false;
  if (!state.order.includes(position) || state.auto === position) press(position);
  else say(placeText(position, order.places(state)));
  return true;
}

// In the bar arrows move the picture, elsewhere the focus.
function arrow(key, target, focused, { moveBy }) {
  const back = key === "ArrowLeft" || key === "ArrowUp";
  if (target.matches(".thumb")) return moveBy(focused, back ? -1 : 1), true;
  const picks = [...document.querySelectorAll(".pick")];
  if (!target.matches(".pick")) {
    if (target.matches("button, a")) return false;
    picks[0].focus();
    return true;
  }
  const columns = getComputedStyle($("pictures")).gridTemplateColumns.split(" ").length;
  const by = key === "ArrowLeft" || key === "ArrowRight" ? 1 : columns;
  picks[focused + (back ? -by : by)]?.focus();
  return true;
}

function hovered() {
  return positionOf(document.querySelector(".card:hover"));
}
