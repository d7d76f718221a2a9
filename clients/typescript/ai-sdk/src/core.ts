/** The parts of this package that do not need the AI SDK, for adapters of other kits. */

export * from "./history.js";
export * from "./messages.js";
export * from "./parts.js";
export * from "./sending.js";
export * from "./stream.js";
