// Replay of a conversation. Turns are loaded page by page shortly before they are played, and dropped when they are far from
// the position. So a conversation of any length plays at once and fits into memory.
import { element } from "./words.js";

const TURNS = 20; // of a page
const AHEAD = 5; // turns before the end of a page at which the next is requested
const KEPT = 3; // pages in memory
const SHOWN = 20; // turns on the stage
const LONGEST_PAUSE = 3; // seconds, between turns too
const SETTLED = 150; // milliseconds until a position that moves is loaded

export function play(player) {
  const thread = player.dataset.replay;
  const stage = document.querySelector("#stage");
  const state = document.querySelector("#loading");
  const [button, position, clock, here, speed] = ["#play", "#position", "#clock", "#here", "#speed"].map((id) => player.querySelector(id));
  const pages = new Map(); // number of a page: {turns: promise, abort}
  let until = player.dataset.until;
  let total = 0;
  let at = 0; // turns that are shown whole
  let run = 0; // an earlier run stops when this number changes
  let playing = false;
  let settling = null;

  async function fetched(page, signal) {
    const query = new URLSearchParams({ speed: 0, skip: page * TURNS, limit: TURNS, ...(until ? { until } : {}) });
    const answer = await fetch(`/console/api/threads/${thread}/replay?${query}`, { signal });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const { turns, end } = parsed(await answer.text());
    if (!end) throw new Error(state.dataset.cut);
    if (end.last_id) until = end.last_id; // Turns that are added meanwhile are not played.
    total = end.turns;
    return turns;
  }

  function load(page) {
    if (!pages.has(page)) {
      const control = new AbortController();
      const turns = fetched(page, control.signal);
      turns.catch(() => { if (pages.get(page)?.turns === turns) pages.delete(page); });
      pages.set(page, { turns, abort: () => control.abort() });
    }
    return pages.get(page).turns;
  }

  // Drops pages far from this one, and stops loading them.
  function keep(page) {
    for (const [other, { abort }] of pages) {
      if (Math.abs(other - page) * 2 < KEPT) continue;
      abort();
      pages.delete(other);
    }
  }

  async function turn(number) {
    const page = Math.floor(number / TURNS);
    keep(page);
    const waiting = setTimeout(() => say(state.dataset.loading), SETTLED);
    try {
      const turns = await load(page);
      say("");
      if (number % TURNS >= TURNS - AHEAD && (page + 1) * TURNS < total) load(page + 1).catch(() => {});
      return turns[number % TURNS];
    } finally {
      clearTimeout(waiting);
    }
  }

  function say(text) {
    state.textContent = text;
    stage.setAttribute("aria-busy", String(text === state.dataset.loading));
  }

  // Plays until the end, or until another run begins. After an error, the position stays.
  async function begin(work) {
    run += 1;
    const mine = run;
    try {
      await work(() => mine !== run);
    } catch (error) {
      if (mine !== run || error.name === "AbortError") return;
      stop();
      say(`${state.dataset.failed} ${error.message}`);
    }
  }

  function put(shown, moment) {
    let last = stage.lastElementChild;
    if (moment.whole || last?.dataset.turn !== shown.id || last.dataset.who !== moment.who) {
      const who = element("span", { className: "who", textContent: stage.dataset[moment.who] });
      const text = element("div", { className: "text plain", dir: "auto" });
      const className = `message ${moment.who === "you" ? "user" : "assistant"}`;
      last = element("div", { className, data: { turn: shown.id, who: moment.who } }, who, text);
      stage.append(last);
    }
    last.lastElementChild.append(moment.said);
    stage.scrollTop = stage.scrollHeight;
    clock.value = new Date(moment.at * 1000).toISOString().slice(0, 19).replace("T", " ");
    here.href = `/console/threads/${thread}?until=${shown.id}`;
  }

  function count(number) {
    at = number;
    position.max = String(total);
    position.value = String(number);
    position.setAttribute("aria-valuetext", position.dataset.text.replace("{i}", number).replace("{n}", total));
    player.querySelector("#turn").value = `${number.toLocaleString()} / ${total.toLocaleString()}`;
    const turns = new Set([...stage.children].map((each) => each.dataset.turn));
    for (const id of [...turns].slice(0, -SHOWN)) {
      stage.querySelectorAll(`[data-turn="${id}"]`).forEach((each) => each.remove());
    }
  }

  // Shows the turns before a position.
  const seek = (number) =>
    begin(async (over) => {
      const shown = [];
      for (let each = Math.max(0, number - SHOWN); each < number; each += 1) shown.push(await turn(each));
      if (!total) await turn(0);
      if (over()) return;
      stage.replaceChildren();
      for (const each of shown.filter(Boolean)) each.moments.forEach((moment) => put(each, moment));
      if (!number) clock.value = "";
      count(number);
      player.dataset.ready = "true";
    });

  const start = () =>
    begin(async (over) => {
      playing = true;
      button.querySelector("span").textContent = button.dataset.pause;
      if (at >= total) {
        stage.replaceChildren();
        count(0);
      }
      let before = null;
      while (at < total) {
        const next = await turn(at);
        if (over()) return;
        if (!next) break; // Turns were deleted meanwhile.
        stage.querySelectorAll(`[data-turn="${next.id}"]`).forEach((each) => each.remove()); // A paused turn starts over.
        for (const moment of next.moments) {
          const pause = before === null ? 0 : Math.min(Math.max(moment.at - before, 0), LONGEST_PAUSE);
          if (pause) await new Promise((done) => { setTimeout(done, (pause * 1000) / Number(speed.value)); });
          if (over()) return;
          before = moment.at;
          put(next, moment);
        }
        count(at + 1);
      }
      stop();
    });

  function stop() {
    run += 1;
    playing = false;
    button.querySelector("span").textContent = button.dataset.play;
  }

  function move(number) {
    stop();
    const wanted = Math.max(0, Math.min(total, number));
    position.value = String(wanted);
    clearTimeout(settling);
    settling = setTimeout(() => seek(wanted), pages.has(Math.floor(Math.max(0, wanted - 1) / TURNS)) ? 0 : SETTLED);
  }

  const toggle = () => (playing ? stop() : start());
  button.addEventListener("click", toggle);
  position.addEventListener("input", () => move(Number(position.value)));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("a, button, input, select, textarea, summary, dialog")) return;
    const moves = { " ": toggle, ArrowLeft: () => move(at - 1), ArrowRight: () => move(at + 1), Home: () => move(0), End: () => move(total) };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
  seek(0);
}

// Returns the turns of a page, each with the times of its deltas and its last event.
function parsed(text) {
  const turns = [];
  let at = 0;
  let end = null;
  for (const frame of text.split("\n\n")) {
    const data = frame.split("\n").find((line) => line.startsWith("data: "));
    if (!data) continue;
    const event = JSON.parse(data.slice(6));
    at = Math.max(at, event.at ?? at);
    if (event.type === "thread.turn") {
      const said = event.input.filter((item) => item.role === "user").map(words).join("\n");
      turns.push({ id: event.turn_id, moments: [{ at, who: "you", said, whole: true }] });
    } else if (event.type === "response.output_text.delta") {
      turns.at(-1).moments.push({ at, who: "assistant", said: event.delta, whole: false });
    } else if (event.type === "thread.replayed") end = event;
  }
  return { turns, end };
}

function words(item) {
  if (typeof item.content === "string") return item.content;
  return (item.content ?? []).map((part) => part.text ?? "").join("");
}
