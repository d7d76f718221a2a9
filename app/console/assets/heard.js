// Announcements for screen readers: changes in the page, and a streamed answer in whole sentences, at most every few
// seconds, with its end.
import { t } from "./words.js";

const PAUSE_MILLISECONDS = 4000;
const SENTENCE = /^.*[.!?。！？\n](?=\s|$|[^\s.!?])/s;

const heard = document.querySelector("#heard");

export function hear(text) {
  heard.textContent = text;
}

export function announcer() {
  let rest = "";
  let last = 0;
  return {
    add(text) {
      rest += text;
      const [sentences] = rest.match(SENTENCE) ?? [""];
      if (!sentences || Date.now() - last < PAUSE_MILLISECONDS) return;
      hear(sentences);
      rest = rest.slice(sentences.length);
      last = Date.now();
    },
    end() {
      hear(`${rest} ${t("The answer has ended.")}`);
    },
  };
}
