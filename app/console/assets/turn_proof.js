// Verification of one turn's proof: digests of its contents, records, their path to the signed root, and the signature.
import { BYTES, HEX, TEXT, canonical, isSigned, leafHash, rootOf, sha256 } from "./proof.js";
import { element, fill } from "./words.js";

const REMEMBERED = "everthread-audit-key";
const MOST_SHOWN = 20000;

export function prepare(form) {
  form.key.value = localStorage.getItem(REMEMBERED) ?? "";
}

export async function prove(form) {
  const texts = JSON.parse(form.dataset.texts);
  const panel = form.parentElement;
  const verdict = panel.querySelector("[data-verdict]");
  const list = panel.querySelector("[data-parts]");
  list.replaceChildren();
  const say = (kind, ...lines) => {
    verdict.className = `verdict ${kind}`;
    verdict.replaceChildren(...lines.map((line) => element("p", { textContent: line })));
  };
  if (!window.isSecureContext || !crypto.subtle) return say("warn", texts.insecure);
  const given = form.key.value.trim().toLowerCase();
  if (given) localStorage.setItem(REMEMBERED, given);
  else localStorage.removeItem(REMEMBERED);
  const [answer, page] = await Promise.all([fetch(`${form.dataset.prove}/proof`), fetch(form.dataset.prove)]);
  if (!answer.ok || !page.ok) return say("wrong", `${texts.failed} HTTP ${answer.ok ? page.status : answer.status}`);
  const proof = await answer.json();
  const shown = await page.json();
  if (!proof.parts.length) return say("warn", texts.nothing);
  const checks = [];
  for (const part of proof.parts) checks.push(await check(part, proof, shown));
  list.replaceChildren(...checks.map((each) => draw(each, texts)));
  const wrong = checks.some((each) => each.bad);
  const { checkpoint } = proof;
  const key = given || checkpoint?.public_key;
  if (checkpoint && key !== checkpoint.public_key) return say("wrong", texts.other_key);
  if (checkpoint && !(await isSigned(checkpoint, key))) return say("wrong", texts.signature);
  if (wrong) return say("wrong", texts.bad);
  if (checks.some((each) => each.state === "unsigned")) return say("warn", fill(texts.waiting, { seconds: proof.checkpoint_seconds }));
  const compared = checks.filter((each) => each.state === "same");
  if (!compared.length) return say("warn", texts.nothing);
  const recorded = compared.map((each) => each.record.at).sort().at(-1);
  say(given ? "good" : "stated", fill(texts.good, { recorded: moment(recorded), signed: moment(checkpoint.at) }), given ? texts.trusted : texts.stated);
  if (!given) verdict.append(element("code", { textContent: checkpoint.public_key }));
}

// Checks a part. Returns `same`, `unsigned`, the reason why it cannot be compared, or `bad` with the problem.
async function check(part, proof, shown) {
  const records = new Map(proof.records.map((record) => [record.seq, record]));
  const record = proof.records.find((each) => each.id === part.record);
  const found = { part, record, state: "same", bad: false };
  const wrong = (state) => ({ ...found, state, bad: true });
  if (!record || record.turn !== proof.turn_id || !belongs(part.part, record.action)) return wrong("chain");
  if (part.problem && part.problem !== "too_many_records") return { ...found, state: part.problem };
  let digest = BYTES(part.salt);
  for (const text of part.texts) digest = await sha256(digest, TEXT.encode(text));
  if (HEX(digest) !== record.content) return wrong("differs");
  if (!isShown(part, shown)) return wrong("shown");
  if (part.leaf === null) return (await isWhole(record)) ? { ...found, state: "unsigned" } : wrong("chain");
  if (part.problem) return { ...found, state: part.problem };
  const leaf = proof.leaves.find((each) => each.position === part.leaf);
  for (let seq = record.seq; seq <= leaf.seq; seq += 1) {
    const one = records.get(seq);
    if (!one || one.thread !== proof.thread_id || !(await isWhole(one))) return wrong("chain");
    if (seq < leaf.seq && records.get(seq + 1)?.previous !== one.hash) return wrong("chain");
  }
  if (records.get(leaf.seq).hash !== leaf.hash || leaf.thread !== proof.thread_id) return wrong("root");
  const hash = await leafHash(leaf, leaf.thread.split("_")[1]);
  if ((await rootOf(hash, leaf.position, proof.checkpoint.size, leaf.proof)) !== proof.checkpoint.root) return wrong("root");
  return found;
}

// Only a record of the part's own kind counts: the digest of a call must not prove the answer.
function belongs(part, action) {
  const actions = {
    opened: ["turn.opened"], closed: ["turn.closed"], compacted: ["compaction.made"],
    turn: ["turn.imported", "items.added", "item.deleted"],
    left: ["turn.inherited", "turn.deleted", "turn.purged", "item.deleted"],
  };
  return part.startsWith("call ") ? action === "turn.called" : Boolean(actions[part]?.includes(action));
}

async function isWhole(record) {
  const { hash, ...rest } = record;
  return HEX(await sha256(TEXT.encode(canonical(rest)))) === hash;
}

// Returns the values of a text by name. They follow its kind and version.
const named = ({ texts, fields }, number = 0) => {
  const values = JSON.parse(texts[number]).slice(2);
  return Object.fromEntries(fields[number].map((name, place) => [name, values[place]]));
};

// Returns true if the turn in the page has the recorded contents. A shown item includes its id, which is recorded separately.
function isShown(part, shown) {
  const same = (one, other) => canonical(one) === canonical(other);
  const recorded = named(part);
  const items = (list) =>
    list.length === recorded.item_data.length &&
    list.every((item, place) => same(item, { ...JSON.parse(recorded.item_data[place]), id: recorded.item_ids[place] }));
  if (part.part === "opened") return items(shown.input) && same(recorded.metadata, shown.metadata);
  if (part.part === "closed") return items(shown.output) && recorded.status === shown.status;
  return true;
}

function draw({ part, record, state, bad }, texts) {
  const [kind, number] = part.part.split(" ");
  const name = fill(texts[kind] ?? part.part, { n: number });
  const box = element("section", { className: `proved ${bad ? "bad" : state === "same" ? "good" : "warn"}`, data: { part: part.part } });
  box.append(element("h3", { textContent: `${bad ? "✗" : state === "same" ? "✓" : "–"} ${name}` }), element("p", { textContent: texts[state] }));
  if (record) box.append(element("p", { className: "quiet-text small" }, `${record.action} · ${moment(record.at)} · `, element("code", { textContent: `${(record.content ?? "").slice(0, 16)}…` })));
  if (part.texts.length) {
    const contents = element("details", { className: "part" }, element("summary", { textContent: texts.contents }));
    contents.addEventListener("toggle", () => {
      if (contents.querySelector("pre")) return;
      const whole = JSON.stringify(named(part), (_, value) => readable(value), 2);
      contents.append(element("pre", { tabIndex: 0, textContent: whole.slice(0, MOST_SHOWN) }));
      if (whole.length > MOST_SHOWN) contents.append(element("p", { className: "note", textContent: texts.cut }));
    });
    box.append(contents);
  }
  return box;
}

// JSON documents are texts in the digest. They are shown indented.
function readable(value) {
  if (typeof value !== "string" || !/^[[{]/.test(value)) return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

function moment(text) {
  return `${text.slice(0, 19).replace("T", " ")} UTC`;
}
