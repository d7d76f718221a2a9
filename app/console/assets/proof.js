// Parts of proofs: hashes, canonical JSON, paths in the Merkle tree, and signatures of checkpoints.
export const HEX = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
export const BYTES = (hex) => new Uint8Array(hex.match(/../g).map((pair) => parseInt(pair, 16)));
export const TEXT = new TextEncoder();

export async function sha256(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
}

// Returns canonical JSON (RFC 8785) of a record: keys sorted, no spaces.
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

export async function leafHash(leaf, chain) {
  const seq = new Uint8Array(8);
  new DataView(seq.buffer).setBigInt64(0, BigInt(leaf.seq));
  return sha256(new Uint8Array([0]), BYTES(chain), seq, BYTES(leaf.hash));
}

// Returns the root that a leaf's path leads to (RFC 9162).
export async function rootOf(hash, position, size, path) {
  let [at, last, root] = [position, size - 1, hash];
  for (const beside of path) {
    if (at & 1 || at === last) {
      root = await sha256(new Uint8Array([1]), BYTES(beside), root);
      while (!(at & 1) && at !== 0) {
        at >>= 1;
        last >>= 1;
      }
    } else root = await sha256(new Uint8Array([1]), root, BYTES(beside));
    at >>= 1;
    last >>= 1;
  }
  return last === 0 ? HEX(root) : "";
}

// Returns true if a checkpoint has the signature of a key. app/audit/signing.py describes the signed text.
export async function isSigned(checkpoint, key) {
  const signer = await crypto.subtle.importKey("raw", BYTES(key), { name: "Ed25519" }, false, ["verify"]);
  const { at, object, project, root, size } = checkpoint;
  return crypto.subtle.verify("Ed25519", signer, BYTES(checkpoint.signature), TEXT.encode(canonical({ at, object, project, root, size })));
}
