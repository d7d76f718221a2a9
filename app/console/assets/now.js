// The Now page: each event of the stream reloads its content, and durations count on in between.
import { fetchHtml } from "./api.js";
import { hear } from "./heard.js";
import { indicator, live, renew } from "./live.js";

const NEWS_MILLISECONDS = 10000;

const now = document.querySelector("#now");
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
  const html = await fetchHtml(now.dataset.part, true);
  if (html !== null) {
    renew(now, html);
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
  hear(summary);
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
  const icon = pause.querySelector("use");
  icon.setAttribute("href", icon.getAttribute("href").replace(/#.*/, paused ? "#play" : "#pause"));
});
