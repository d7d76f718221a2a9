export { loadHistory, type RunningTurn, selectBranch, type ThreadHistory } from "./history.js";
export { type EverthreadMetadata, type EverthreadUIMessage, type StoredItem, toUIMessages } from "./messages.js";
export { type Item, toItems } from "./parts.js";
export { EverthreadTransport, type EverthreadTransportOptions } from "./transport.js";
