// Announcements of a streamed answer for screen readers: whole sentences, at most every few seconds, and its end.
import { t } from "./words.js";

const PAUSE_MILLISECONDS = 4000;
const SENTENCE = /^.*[.!?。！？\n](?=\s|$|[^\s.!?])/s;

const heard = document.querySelector("#heard");

export function announcer() {
  let rest = "";
  let last = 0;
  return {
    add(text) {
      rest += text;
      const [sentences] = rest.match(SENTENCE) ?? [""];
      if (!sentences || Date.now() - last < PAUSE_MILLISECONDS) return;
      heard.textContent = sentences;
      rest = rest.slice(sentences.length);
      last = Date.now();
    },
    end() {
      heard.textContent = `${rest} ${t("The answer has ended.")}`;
    },
  };
}
