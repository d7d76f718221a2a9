// A page's stream of events from the public API. It closes while the tab is hidden, resumes where it was when the tab
// is seen again, and reports its state.
import { Refused, report } from "./api.js";

const HIDDEN_MILLISECONDS = 5000;
const AGAIN_MILLISECONDS = 3000;

// A browser opens six connections to a host over HTTP/1.1. Streams of all tabs together use four of them, so that
// requests always find one.
const STREAMS = 4;

// Waits for one of these places. Returns the function that releases it; null if the signal aborts.
function place(signal) {
  if (!navigator.locks) return () => {};
  const others = new AbortController();
  signal.addEventListener("abort", () => others.abort());
  return new Promise((resolve) => {
    let found = false;
    for (let number = 0; number < STREAMS; number++) {
      navigator.locks.request(`everthread-stream-${number}`, { signal: others.signal }, () => {
        if (found) return undefined;
        found = true;
        others.abort();
        return new Promise((release) => resolve(release));
      }).catch(() => resolve(null));
    }
  });
}

// Opens a stream. events: handlers by event type. tell: called with each state: connecting, waiting (other tabs have all
// places), live, reconnecting, paused or signed-out.
export function live(path, events, tell = () => {}) {
  let source = null;
  let opening = null;
  let release = null;
  let hiding = 0;
  let again = 0;
  let last = "";
  let stopped = false;

  async function open() {
    clearTimeout(again);
    if (source || opening || stopped || document.hidden) return;
    const mine = (opening = new AbortController());
    tell("connecting");
    const waiting = setTimeout(() => tell("waiting"), 1000);
    const got = await place(mine.signal);
    clearTimeout(waiting);
    if (opening !== mine) return got?.();
    opening = null;
    if (!got) return;
    release = got;
    const since = last && `?last_event_id=${encodeURIComponent(last)}`;
    source = new EventSource(`/console/api${path}${since}`);
    source.addEventListener("open", () => tell("live"));
    source.addEventListener("error", lost);
    for (const [kind, handle] of Object.entries(events)) {
      if (kind === "error") continue; // See lost(): a connection that breaks off has no data.
      source.addEventListener(kind, (event) => {
        if (event.lastEventId) last = event.lastEventId;
        handle(JSON.parse(event.data));
      });
    }
  }

  async function lost(event) {
    if (event.data) return events.error?.(JSON.parse(event.data)); // An event of the stream.
    tell("reconnecting");
    if (source?.readyState !== EventSource.CLOSED) return; // The browser reconnects by itself.
    close();
    const answer = await fetch("/console/api/project").catch(() => null);
    if (answer?.status === 401) {
      stopped = true;
      tell("signed-out");
      report(new Refused(401));
    } else again = setTimeout(open, AGAIN_MILLISECONDS);
  }

  function close() {
    opening?.abort();
    opening = null;
    source?.close();
    source = null;
    release?.();
    release = null;
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(close, HIDDEN_MILLISECONDS);
    else open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
  return {
    pause() {
      stopped = true;
      close();
      tell("paused");
    },
    resume() {
      stopped = false;
      open();
    },
    stop() {
      stopped = true;
      close();
    },
  };
}

// Shows the state of a stream in an element that has a text for each state.
export function indicator(element) {
  return (state) => {
    if (!element) return;
    element.dataset.state = state;
    element.querySelector("span:last-child").textContent = element.getAttribute(`data-said-${state}`);
  };
}

// Replaces an element's content by server-rendered HTML. Unchanged parts stay, and the focused element keeps the focus.
export function renew(element, html) {
  window.Idiomorph.morph(element, html, { morphStyle: "innerHTML", ignoreActiveValue: true });
  window.htmx?.process(element);
}
