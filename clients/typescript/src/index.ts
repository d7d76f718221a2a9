export * from "./client.js";
export { EverthreadError } from "./errors.js";
export type { ClientOptions, RequestOptions, Token } from "./http.js";
export { List, type Page } from "./pages.js";
export { LiveStream, ThreadStream, TurnStream, type LiveOptions, type ResumeOptions, type StreamOptions } from "./streams.js";
export type * from "./types.js";
