// A conversation as it happened. The API tells all of its events at once, each with its moment; they are played here.
export async function play(player) {
  const thread = player.dataset.replay;
  const until = player.dataset.until ? `&until=${encodeURIComponent(player.dataset.until)}` : "";
  const answer = await fetch(`/console/api/threads/${thread}/replay?speed=0${until}`);
  const moments = [];
  let turn = null;
  let at = 0;
  for (const frame of (await answer.text()).split("\n\n")) {
    const data = frame.split("\n").find((line) => line.startsWith("data: "));
    if (!data) continue;
    const event = JSON.parse(data.slice(6));
    at = Math.max(at, event.at ?? at);
    if (event.type === "thread.turn") {
      turn = event.turn_id;
      const said = event.input.filter((item) => item.role === "user").map(text).join("\n");
      moments.push({ at, turn, who: "you", said, whole: true });
    } else if (event.type === "response.output_text.delta") {
      moments.push({ at, turn, who: "assistant", said: event.delta, whole: false });
    }
  }
  const stage = document.querySelector("#stage");
  const button = player.querySelector("#play");
  const position = player.querySelector("#position");
  const clock = player.querySelector("#clock");
  const here = player.querySelector("#here");
  position.max = String(moments.length);
  let shown = 0;
  let timer = null;

  function draw(count) {
    if (count < shown) {
      stage.replaceChildren();
      shown = 0;
    }
    for (; shown < count; shown += 1) {
      const moment = moments[shown];
      let last = stage.lastElementChild;
      if (moment.whole || last?.dataset.turn !== moment.turn || last.dataset.who !== "assistant") {
        last = document.createElement("div");
        last.className = `message ${moment.who === "you" ? "user" : "assistant"}`;
        Object.assign(last.dataset, { turn: moment.turn, who: moment.who });
        const who = Object.assign(document.createElement("span"), { className: "who", textContent: stage.dataset[moment.who] });
        last.append(who, Object.assign(document.createElement("div"), { className: "text plain" }));
        stage.append(last);
      }
      last.lastElementChild.append(moment.said);
    }
    position.value = String(count);
    const now = moments[Math.max(0, count - 1)];
    if (now) {
      clock.value = new Date(now.at * 1000).toISOString().slice(0, 19).replace("T", " ");
      here.href = `/console/threads/${thread}?until=${now.turn}`;
    }
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    button.textContent = button.dataset.play;
  }

  function step() {
    const count = Number(position.value);
    if (count >= moments.length) return stop();
    const pause = count === 0 ? 0 : Math.min(moments[count].at - moments[count - 1].at, 3);
    timer = setTimeout(() => {
      draw(count + 1);
      step();
    }, (pause * 1000) / Number(player.querySelector("#speed").value));
  }

  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(position.value) >= moments.length) draw(0);
    button.textContent = button.dataset.pause;
    step();
  });
  position.addEventListener("input", () => {
    stop();
    draw(Number(position.value));
  });
  draw(0);
  player.dataset.ready = "true";
}

function text(item) {
  if (typeof item.content === "string") return item.content;
  return (item.content ?? []).map((part) => part.text ?? "").join("");
}
