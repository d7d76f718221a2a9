/** Items of a thread as parts of a UI message, and back. One mapping serves stored items, live streams and replays. */

import type { FileUIPart, UIMessage, UIMessageChunk } from "ai";

/** An item of a turn, as the Responses API has it. */
export type Item = { type?: string; id?: string; [field: string]: unknown };

export type Part = UIMessage["parts"][number];

/** The parts of `Part` that this package reads and writes, with optional fields. */
type LoosePart = { type: string; [field: string]: unknown };

const APPROVAL = "mcp_approval_request";

/** Return the chunks that build the parts of a whole item of an answer. */
export function chunksOfItem(item: Item): UIMessageChunk[] {
  const id = text(item.id);
  switch (item.type ?? "message") {
    case "message":
      return objects(item.content).flatMap((part, index) => [
        ...textChunks("text", `${id}:${index}`, text(part.text) || text(part.refusal)),
        ...sources(objects(part.annotations)),
      ]);
    case "reasoning": {
      const content = objects(item.content);
      return (content.length > 0 ? content : objects(item.summary)).flatMap((part, index) =>
        textChunks("reasoning", `${id}:${index}`, text(part.text)),
      );
    }
    case "function_call":
    case "custom_tool_call":
      return [toolStart(item), toolInput(item)];
    case APPROVAL:
      return [
        toolStart(item),
        toolInput(item),
        { type: "tool-approval-request", approvalId: id, toolCallId: id },
      ];
    case "image_generation_call":
      return text(item.result) === ""
        ? []
        : [{ type: "file", mediaType: "image/png", url: `data:image/png;base64,${text(item.result)}` }];
    default:
      return isHosted(item) ? [toolStart(item), ...hostedChunks(item)] : [];
  }
}

/** Return the chunk that announces a tool call. */
export function toolStart(item: Item): UIMessageChunk {
  return { type: "tool-input-start", ...toolName(item) };
}

/** Return the chunk with the complete input of a call, or with an error if the model wrote no JSON. */
export function toolInput(item: Item): UIMessageChunk {
  if (item.type === "custom_tool_call") {
    const providerMetadata = { everthread: { type: item.type } };
    return { type: "tool-input-available", ...toolName(item), input: item.input, providerMetadata };
  }
  const input = parsed(text(item.arguments) || "{}");
  if (input === undefined) {
    return {
      type: "tool-input-error",
      ...toolName(item),
      input: item.arguments,
      errorText: "The model wrote arguments that are not JSON.",
    };
  }
  return { type: "tool-input-available", ...toolName(item), input };
}

/** True for an item that needs an output from the client. */
export function isClientCall(item: Item): boolean {
  return item.type === "function_call" || item.type === "custom_tool_call";
}

/** True for a call of a tool that the provider runs. */
export function isHosted(item: Item): boolean {
  return text(item.type).endsWith("_call") && !isClientCall(item) && item.type !== "image_generation_call";
}

function toolName(item: Item): { toolCallId: string; toolName: string; dynamic?: true; providerExecuted?: true } {
  if (isClientCall(item)) return { toolCallId: text(item.call_id), toolName: text(item.name) };
  const name = item.type === APPROVAL || item.type === "mcp_call" ? text(item.name) : text(item.type).slice(0, -5);
  return { toolCallId: text(item.id), toolName: name, dynamic: true, providerExecuted: true };
}

function hostedChunks(item: Item): UIMessageChunk[] {
  const { type: _type, id: _id, turn_id: _turn, status, ...fields } = item;
  const { output, outputs, results, error, ...input } = fields;
  const toolCallId = text(item.id);
  const found = output ?? outputs ?? results ?? null;
  const answer: UIMessageChunk =
    error == null && status !== "failed"
      ? { type: "tool-output-available", toolCallId, output: found, providerExecuted: true, dynamic: true }
      : {
          type: "tool-output-error",
          toolCallId,
          errorText: words(error) || "The tool failed.",
          providerExecuted: true,
          dynamic: true,
        };
  const action = item.action as { sources?: unknown } | undefined;
  return [
    { type: "tool-input-available", ...toolName(item), input },
    answer,
    ...sources(objects(action?.sources)),
  ];
}

function textChunks(kind: "text" | "reasoning", id: string, delta: string): UIMessageChunk[] {
  if (delta === "") return [];
  return [{ type: `${kind}-start`, id }, { type: `${kind}-delta`, id, delta }, { type: `${kind}-end`, id }];
}

function sources(found: Item[]): UIMessageChunk[] {
  return found
    .filter((source) => text(source.url) !== "")
    .map((source) => ({
      type: "source-url",
      sourceId: text(source.url),
      url: text(source.url),
      ...(text(source.title) === "" ? {} : { title: text(source.title) }),
    }));
}

/** Add what a chunk brings to the parts of a message, in place. Chunks without parts are ignored. */
export function applyChunk(parts: Part[], chunk: UIMessageChunk): void {
  const found = parts as LoosePart[];
  switch (chunk.type) {
    case "start-step":
      found.push({ type: "step-start" });
      return;
    case "text-start":
    case "reasoning-start": {
      const type = chunk.type === "text-start" ? "text" : "reasoning";
      const part = { type, ...(type === "reasoning" ? { id: chunk.id } : {}), text: "", state: "streaming" };
      // The AI SDK gives text parts no id. It must be known here until the part ends.
      Object.defineProperty(part, "chunk", { value: chunk.id, enumerable: false });
      found.push(part);
      return;
    }
    case "text-delta":
    case "reasoning-delta": {
      const part = found.findLast((part) => part.chunk === chunk.id);
      if (part) part.text = text(part.text) + chunk.delta;
      return;
    }
    case "text-end":
    case "reasoning-end": {
      const part = found.findLast((part) => part.chunk === chunk.id);
      if (part) part.state = "done";
      return;
    }
    case "source-url":
    case "file":
      found.push({ ...chunk });
      return;
    case "tool-input-start":
      found.push({
        ...(chunk.dynamic ? { type: "dynamic-tool", toolName: chunk.toolName } : { type: `tool-${chunk.toolName}` }),
        toolCallId: chunk.toolCallId,
        state: "input-streaming",
        ...(chunk.providerExecuted ? { providerExecuted: true } : {}),
      });
      return;
    case "tool-input-delta": {
      const part = tool(found, chunk.toolCallId);
      if (part) part.rawInput = text(part.rawInput) + chunk.inputTextDelta;
      return;
    }
    case "tool-input-available":
      enter(tool(found, chunk.toolCallId), "input-available", {
        input: chunk.input,
        ...(chunk.providerMetadata ? { callProviderMetadata: chunk.providerMetadata } : {}),
      });
      return;
    case "tool-input-error":
      enter(tool(found, chunk.toolCallId), "output-error", { input: chunk.input, errorText: chunk.errorText });
      return;
    case "tool-approval-request":
      enter(tool(found, chunk.toolCallId), "approval-requested", { approval: { id: chunk.approvalId } });
      return;
    case "tool-approval-response": {
      const { approved, reason } = chunk;
      const approval = { id: chunk.approvalId, approved, ...(reason === undefined ? {} : { reason }) };
      enter(tool(found, chunk.approvalId), "approval-responded", { approval });
      return;
    }
    case "tool-output-available":
      enter(tool(found, chunk.toolCallId), "output-available", { output: chunk.output });
      return;
    case "tool-output-error":
      enter(tool(found, chunk.toolCallId), "output-error", { errorText: chunk.errorText });
      return;
  }
}

/** Bring a tool's part into a state. Fields of the state before are removed, because the AI SDK refuses them. */
function enter(part: LoosePart | undefined, state: string, fields: Record<string, unknown>): void {
  if (part === undefined) return;
  for (const field of ["rawInput", "output", "errorText", "approval"]) delete part[field];
  Object.assign(part, { state }, fields);
}

function tool(parts: LoosePart[], callId: string): LoosePart | undefined {
  return parts.findLast((part) => part.toolCallId === callId);
}

/** Return the chunk that enters the output of a client's tool, or its answer to an approval request. */
export function outputChunk(item: Item): UIMessageChunk {
  if (item.type === "mcp_approval_response") {
    const reason = text(item.reason) === "" ? {} : { reason: text(item.reason) };
    const approvalId = text(item.approval_request_id);
    return { type: "tool-approval-response", approvalId, approved: item.approve === true, ...reason };
  }
  const { error, output } = outputOf(item.output);
  const toolCallId = text(item.call_id);
  return error === undefined
    ? { type: "tool-output-available", toolCallId, output }
    : { type: "tool-output-error", toolCallId, errorText: error };
}

/** Return the chunks of a call that has been answered. Unlike those of a new call, they run no tool. */
export function answeredCall(item: Item): UIMessageChunk[] {
  const inputTextDelta = text(item.arguments) || text(item.input);
  return [toolStart(item), { type: "tool-input-delta", toolCallId: text(item.call_id), inputTextDelta }];
}

/** True for an item that answers a call. */
export function isOutput(item: Item): boolean {
  return text(item.type).endsWith("_output") || item.type === "mcp_approval_response";
}

/** Return the output as the client gave it: objects and lists are sent as JSON, errors as `{"error": …}`. */
function outputOf(sent: unknown): { output?: unknown; error?: string } {
  if (typeof sent !== "string" || !/^\s*[[{]/.test(sent)) return { output: sent };
  const output = parsed(sent);
  if (output === undefined) return { output: sent };
  const keys = Object.keys(output as object);
  const { error } = output as { error?: unknown };
  return keys.length === 1 && typeof error === "string" ? { error } : { output };
}

/** Return the parts of a message of the user or the system. */
export function userParts(item: Item): Part[] {
  if (typeof item.content === "string") return [{ type: "text", text: item.content }];
  return objects(item.content).flatMap((part): Part[] => {
    const filename = text(part.filename) === "" ? {} : { filename: text(part.filename) };
    const file = (url: unknown, kind: string): Part[] =>
      text(url) === "" ? [] : [{ type: "file", mediaType: mediaType(text(url), kind), ...filename, url: text(url) }];
    switch (part.type) {
      case "input_image":
        return file(part.image_url, "image/*");
      case "input_video":
        return file(part.video_url, "video/*");
      case "input_audio": {
        const audio = (part.input_audio ?? part) as Item;
        const type = `audio/${text(audio.format) || "*"}`;
        const data = text(audio.data);
        return file(data === "" || isUrl(data) ? data : `data:${type};base64,${data}`, type);
      }
      case "input_file": {
        const data = text(part.file_data);
        const type = "application/octet-stream";
        return file(text(part.file_url) || (data === "" || isUrl(data) ? data : `data:${type};base64,${data}`), type);
      }
      default:
        return typeof part.text === "string" ? [{ type: "text", text: part.text }] : [];
    }
  });
}

/** Return a message of the user or the system as an item. */
function messageItem(message: UIMessage): Item[] {
  const content = message.parts.flatMap((part): Item[] => {
    if (part.type === "text") return part.text === "" ? [] : [{ type: "input_text", text: part.text }];
    return part.type === "file" ? [fileItem(part)] : [];
  });
  if (content.length === 0) return [];
  const [only] = content;
  const words = content.length === 1 && only?.type === "input_text" ? only.text : content;
  return [{ type: "message", role: message.role, content: words }];
}

function fileItem(part: FileUIPart): Item {
  switch (part.mediaType.split("/")[0]) {
    case "image":
      return { type: "input_image", image_url: part.url };
    case "video":
      return { type: "input_video", video_url: part.url };
    case "audio":
      return { type: "input_audio", data: part.url };
    default: {
      const name = part.filename === undefined ? {} : { filename: part.filename };
      return part.url.startsWith("data:")
        ? { type: "input_file", file_data: part.url, ...name }
        : { type: "input_file", file_url: part.url, ...name };
    }
  }
}

/** Return messages as items: input of a turn, or a conversation to begin a thread with. Calls of the provider's own
 * tools, sources and reasoning are left out, because the provider takes none of them back. */
export function toItems(messages: readonly UIMessage[]): Item[] {
  return messages.flatMap((message) => {
    if (message.role !== "assistant") return messageItem(message);
    return message.parts.flatMap((part): Item[] => {
      if (part.type === "text") {
        if (part.text === "") return [];
        return [{ type: "message", role: "assistant", content: [{ type: "output_text", text: part.text }] }];
      }
      const called = part as LoosePart;
      const isCall = typeof called.toolCallId === "string" && called.providerExecuted !== true;
      return isCall ? [callItem(called), ...outputItems([part])] : [];
    });
  });
}

function callItem(part: LoosePart): Item {
  const name = part.type === "dynamic-tool" ? part.toolName : part.type.slice("tool-".length);
  if (isCustom(part)) return { type: "custom_tool_call", call_id: part.toolCallId, name, input: words(part.input) };
  return { type: "function_call", call_id: part.toolCallId, name, arguments: words(part.input ?? {}) };
}

/** Return the outputs and approvals that the parts of a message hold, as input of the next turn. */
export function outputItems(parts: readonly Part[]): Item[] {
  return (parts as readonly LoosePart[]).flatMap((part): Item[] => {
    if (part.state === "approval-responded") {
      const { id, approved, reason } = part.approval as { id: string; approved: boolean; reason?: string };
      const said = reason === undefined ? {} : { reason };
      return [{ type: "mcp_approval_response", approval_request_id: id, approve: approved, ...said }];
    }
    if (part.providerExecuted === true || typeof part.toolCallId !== "string") return [];
    const type = isCustom(part) ? "custom_tool_call_output" : "function_call_output";
    if (part.state === "output-available") return [{ type, call_id: part.toolCallId, output: words(part.output) }];
    if (part.state !== "output-error") return [];
    return [{ type, call_id: part.toolCallId, output: JSON.stringify({ error: part.errorText }) }];
  });
}

function isCustom(part: LoosePart): boolean {
  const metadata = part.callProviderMetadata as { everthread?: { type?: string } } | undefined;
  return metadata?.everthread?.type === "custom_tool_call";
}

function mediaType(url: string, otherwise: string): string {
  return /^data:([^;,]+)/.exec(url)?.[1] ?? otherwise;
}

function isUrl(value: string): boolean {
  return /^(data|https?):/.test(value);
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json) as unknown;
  } catch {
    return undefined;
  }
}

export function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function words(value: unknown): string {
  return typeof value === "string" ? value : value == null ? "" : JSON.stringify(value);
}

function objects(value: unknown): Item[] {
  if (typeof value === "string") return [{ text: value }];
  return Array.isArray(value) ? value.filter((each): each is Item => typeof each === "object" && each !== null) : [];
}
