// Verification of the trail of a thread or a project in the browser: each record's hash, its chain, its path to the signed root, the signature.
import { PROOF } from "./api.js";
import { HEX, TEXT, canonical, isSigned, leafHash, rootOf, sha256 } from "./proof.js";
import { element } from "./words.js";

const MOST_DRAWN = 500;

// Merkle tree (RFC 6962), kept as the roots of its full subtrees.
class Tree {
  size = 0;
  #full = [];

  async add(hash) {
    let [count, node] = [1, hash];
    while (this.#full.at(-1)?.[0] === count) {
      node = await sha256(new Uint8Array([1]), this.#full.pop()[1], node);
      count *= 2;
    }
    this.#full.push([count, node]);
    this.size += 1;
  }

  async root() {
    let root = this.#full.at(-1)[1];
    for (const [, left] of this.#full.slice(0, -1).reverse()) root = await sha256(new Uint8Array([1]), left, root);
    return HEX(root);
  }
}

export async function verify(form) {
  const verdict = document.querySelector("#verdict");
  const progress = document.querySelector("#progress");
  const say = (text, good) => {
    verdict.className = good ? "good" : "wrong";
    verdict.textContent = text;
  };
  progress.hidden = false;
  const key = form.key.value.trim().toLowerCase();
  const answer = await fetch(form.dataset.verify);
  if (!answer.ok) return say(`HTTP ${answer.status}`, false);
  const exported = await answer.text();
  if (!window.isSecureContext || !crypto.subtle) {
    const found = await onServer(exported, key);
    return say(found.text, found.good);
  }
  const lines = exported.trim().split("\n").map((line) => JSON.parse(line));
  const leaves = lines.filter((line) => line.object === "audit.leaf");
  const checkpoints = lines.filter((line) => line.object === "audit.checkpoint").sort((one, other) => one.size - other.size);
  const checkpoint = checkpoints.at(-1);
  if (!checkpoint) return say("Nothing is signed yet.", false);
  const records = lines.filter((line) => line.object === "audit.record");
  progress.max = records.length + leaves.length;
  const ends = new Map();
  for (const record of records) {
    const { hash, ...rest } = record;
    const before = ends.get(record.thread) ?? { seq: 0, hash: "0".repeat(64) };
    if (record.seq !== before.seq + 1 || record.previous !== before.hash) return say(`${record.id}: the chain is broken`, false);
    if (HEX(await sha256(TEXT.encode(canonical(rest)))) !== hash) return say(`${record.id}: it was changed`, false);
    ends.set(record.thread, record);
    progress.value += 1;
  }
  const byPlace = new Map(records.map((record) => [`${record.thread} ${record.seq}`, record]));
  const tree = new Tree();
  let next = 0;
  for (const leaf of leaves) {
    if (byPlace.get(`${leaf.thread} ${leaf.seq}`)?.hash !== leaf.hash) {
      return say(`leaf ${leaf.position}: its record is another one`, false);
    }
    const hash = await leafHash(leaf, leaf.thread === null ? checkpoint.project : leaf.thread.split("_")[1]);
    if (leaf.proof) {
      if ((await rootOf(hash, leaf.position, checkpoint.size, leaf.proof)) !== checkpoint.root) {
        return say(`leaf ${leaf.position}: it does not lead to the signed root`, false);
      }
    } else {
      if (leaf.position !== tree.size) return say(`leaf ${leaf.position}: one before it is missing`, false);
      await tree.add(hash);
      for (; checkpoints[next]?.size === tree.size; next += 1) {
        if ((await tree.root()) !== checkpoints[next].root) return say(`${checkpoints[next].id}: the tree has another root`, false);
      }
    }
    progress.value += 1;
  }
  if (tree.size && next !== checkpoints.length) return say("Leaves that a checkpoint covers are missing.", false);
  if (checkpoint.public_key !== key) return say("The checkpoint was signed with another key.", false);
  if (!(await isSigned(checkpoint, key))) return say("The signature does not fit.", false);
  verdict.className = "good";
  draw(verdict, records, leaves, checkpoint);
}

// Pages that are neither https nor localhost have no WebCrypto: the server verifies, and the page says so.
async function onServer(exported, key) {
  const answer = await fetch("/console/verify", {
    method: "POST",
    headers: { ...PROOF, "X-Public-Key": key },
    body: exported,
  });
  const said = await answer.json();
  return { good: said.good === true, text: `This page is neither https nor localhost: the server has checked it, not this browser. ${said.message}` };
}

function draw(verdict, records, leaves, checkpoint) {
  const list = element("ol", { className: "proof" });
  for (const record of records.slice(0, MOST_DRAWN)) {
    const leaf = leaves.find((each) => each.thread === record.thread && each.seq === record.seq);
    const item = element("li", {}, `${record.action} · ${record.hash.slice(0, 12)}…`);
    if (leaf) {
      const path = (leaf.proof ?? []).map((each) => `${each.slice(0, 6)}…`);
      item.append(` → leaf ${leaf.position} → ${[...path, `${checkpoint.root.slice(0, 12)}…`].join(" → ")}`);
    }
    list.append(item);
  }
  verdict.replaceChildren(`✓ ${records.length} records, ${leaves.length} leaves, signed ${checkpoint.at}. `, list);
}
