// The order of one group's pictures. Plain values in, new plain values out; nothing here knows the page.
//
//   { count, order: positions, best first; tied: positions that share the place of the one before;
//     auto: the last picture, put in its place because it was the only one left, else null }

export function empty(count) {
  return { count, order: [], tied: [], auto: null };
}

export function isComplete(state) {
  return state.order.length === state.count;
}

// Put a picture before the one that is at `index` now (at the end where there is none).
export function insert(state, position, index = state.count) {
  const wasPlaced = state.order.includes(position);
  const rest = state.order.filter(other => other !== position);
  const order = [...rest.slice(0, index), position, ...rest.slice(index)];
  const left = range(state.count).filter(other => !order.includes(other));
  const fillsUp = !wasPlaced && left.length === 1;
  if (fillsUp) order.push(left[0]);
  return { ...state, order, tied: untied(state, position, order), auto: fillsUp ? left[0] : null };
}

// Take a picture back, and with it the one that was put last by itself.
export function take(state, position) {
  const gone = state.auto === null ? [position] : [position, state.auto];
  const order = state.order.filter(other => !gone.includes(other));
  return { ...state, order, tied: untied(state, position, order), auto: null };
}

// What pressing a picture does: the next best, or back where it has a place already.
export function press(state, position) {
  if (state.auto === position) return { ...state, auto: null }; // whoever presses all of them means to confirm it
  return state.order.includes(position) ? take(state, position) : insert(state, position);
}

export function move(state, position, by) {
  const from = state.order.indexOf(position);
  const to = from + by;
  if (from < 0 || to < 0 || to >= state.order.length) return state;
  return { ...insert(state, position, to), auto: null };
}

export function toggleTie(state, position) {
  if (state.order.indexOf(position) < 1) return state;
  const tied = state.tied.includes(position) ? state.tied.filter(p => p !== position) : [...state.tied, position];
  return { ...state, tied };
}

// The place of every picture by position, 0 where it has none; ties as in sports: 1, 1, 3.
export function places(state) {
  const found = Array(state.count).fill(0);
  state.order.forEach((position, index) => {
    const shares = index > 0 && state.tied.includes(position);
    found[position] = shares ? found[state.order[index - 1]] : index + 1;
  });
  return found;
}

export function fromPlaces(ranks) {
  const order = range(ranks.length).sort((a, b) => ranks[a] - ranks[b] || a - b);
  const tied = order.filter((position, index) => index > 0 && ranks[position] === ranks[order[index - 1]]);
  return { count: ranks.length, order, tied, auto: null };
}

// How many pairs two orders decide alike, of those that both decide.
export function agreement(mine, theirs) {
  let right = 0, total = 0;
  for (let a = 0; a < mine.length; a++) {
    for (let b = 0; b < a; b++) {
      const product = (mine[a] - mine[b]) * (theirs[a] - theirs[b]);
      if (product !== 0) total += 1;
      if (product > 0) right += 1;
    }
  }
  return { right, total };
}

// A tie holds between two neighbours: it ends when one of them moves.
function untied(state, moved, order) {
  const before = (list, position) => list[list.indexOf(position) - 1];
  return state.tied.filter(
    position =>
      position !== moved && order.indexOf(position) > 0 && before(order, position) === before(state.order, position),
  );
}

function range(count) {
  return [...Array(count).keys()];
}
