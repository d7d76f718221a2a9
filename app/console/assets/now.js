// The Now page: each event of the stream reloads its content, and durations count on in between.
import { indicator, live, renew } from "./live.js";

const NEWS_MILLISECONDS = 10000;

const now = document.querySelector("#now");
const news = document.querySelector("#news");
const pause = document.querySelector("#pause");
let fetching = false;
let again = false;
let toldAt = Date.now();
let told = now.querySelector("#summary").textContent;

async function update() {
  if (fetching) {
    again = true;
    return;
  }
  fetching = true;
  const answer = await fetch(now.dataset.part, { headers: { "HX-Request": "true" } }).catch(() => null);
  if (answer?.ok) {
    renew(now, await answer.text());
    tick();
    tell();
  }
  fetching = false;
  if (again) {
    again = false;
    update();
  }
}

// Changed counts are announced to screen readers, at most every ten seconds.
function tell() {
  const summary = now.querySelector("#summary").textContent;
  if (summary === told || Date.now() < toldAt + NEWS_MILLISECONDS) return;
  told = summary;
  toldAt = Date.now();
  news.textContent = summary;
}

function tick() {
  for (const place of now.querySelectorAll("[data-since]")) {
    const seconds = Math.max(0, Math.floor(Date.now() / 1000 - Number(place.dataset.since)));
    const said = seconds < 60
      ? place.dataset.seconds.replace("{n}", seconds)
      : place.dataset.minutes.replace("{m}", Math.floor(seconds / 60)).replace("{s}", seconds % 60);
    if (place.textContent !== said) place.textContent = said;
  }
}

const stream = live("/now/events", { snapshot: update }, indicator(document.querySelector("#live")));

setInterval(() => {
  if (document.hidden || pause.dataset.paused) return;
  tick();
  tell();
}, 1000);

pause.hidden = false;
pause.addEventListener("click", () => {
  const paused = !pause.dataset.paused;
  if (paused) {
    pause.dataset.paused = "true";
    stream.pause();
  } else {
    delete pause.dataset.paused;
    stream.resume();
  }
  pause.querySelector("span").textContent = paused ? pause.dataset.resume : pause.dataset.pause;
  pause.querySelector("use").setAttribute("href", `/console/vendor/icons.svg#${paused ? "play" : "pause"}`);
});
