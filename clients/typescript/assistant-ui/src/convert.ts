/** UI messages of @everthread/ai-sdk as messages of assistant-ui, and back. */

import type { EverthreadMetadata, EverthreadUIMessage, Part } from "@everthread/ai-sdk/core";
import type { MessageStatus, ThreadMessage, ThreadMessageLike } from "@assistant-ui/react";

type MessagePart = Exclude<ThreadMessageLike["content"], string>[number];
/** A tool's part of either kind. */
type ToolPart = {
  type: string;
  toolName?: string;
  toolCallId: string;
  state: string;
  input?: unknown;
  rawInput?: string;
  output?: unknown;
  errorText?: string;
  providerExecuted?: boolean;
  approval?: { id: string; approved?: boolean; reason?: string };
  callProviderMetadata?: { everthread?: { type?: string } };
};
type Json = Record<string, never>;

/** Fields of a message's `metadata.custom`. */
export interface CustomMetadata extends EverthreadMetadata {
  /** The number of content parts that came before the last turn of an answer. */
  step?: number;
  [field: string]: unknown;
}

/** Return the parts of a message as content of assistant-ui. */
export function contentOf(parts: readonly Part[]): MessagePart[] {
  return parts.flatMap((part): MessagePart[] => {
    switch (part.type) {
      case "text":
        return [{ type: "text", text: part.text }];
      case "reasoning":
        return [{ type: "reasoning", text: part.text }];
      case "file":
        return part.mediaType.startsWith("image/")
          ? [{ type: "image", image: part.url }]
          : [{ type: "file", data: part.url, mimeType: part.mediaType, ...(part.filename ? { filename: part.filename } : {}) }];
      case "source-url":
        return [
          { type: "source", sourceType: "url", id: part.sourceId, url: part.url, ...(part.title ? { title: part.title } : {}) },
        ];
      default:
        return "toolCallId" in part ? [toolCall(part as unknown as ToolPart)] : [];
    }
  });
}

function toolCall(part: ToolPart): MessagePart {
  const kind = part.providerExecuted ? "hosted" : part.callProviderMetadata?.everthread?.type;
  const { input } = part;
  const args = typeof input === "object" && input !== null && !Array.isArray(input) ? input : input === undefined ? {} : { input };
  const answer =
    part.state === "output-error"
      ? { result: { error: part.errorText }, isError: true }
      : part.state === "output-available"
        ? { result: part.output ?? null }
        : {};
  return {
    type: "tool-call",
    toolCallId: part.toolCallId,
    toolName: part.toolName ?? part.type.slice("tool-".length),
    args: args as Json,
    argsText: part.rawInput ?? (input === undefined ? "" : JSON.stringify(input)),
    ...answer,
    ...(part.approval ? { approval: part.approval } : {}),
    ...(kind ? { providerMetadata: { everthread: { kind } } } : {}),
  };
}

/** Return a stored message as assistant-ui imports it. */
export function toThreadMessage(message: EverthreadUIMessage): ThreadMessageLike & { id: string } {
  const content = contentOf(message.parts);
  const begin = message.parts.findLastIndex((part) => part.type === "step-start");
  const custom: CustomMetadata = { ...message.metadata, step: contentOf(message.parts.slice(0, begin + 1)).length };
  const status: MessageStatus | undefined =
    message.role === "assistant" && ["cancelled", "failed", "in_progress"].includes(custom.status ?? "")
      ? { type: "incomplete", reason: "cancelled" }
      : undefined;
  return { id: message.id, role: message.role, content, metadata: { custom }, ...(status ? { status } : {}) };
}

/** Return a message of assistant-ui as UI message, from which the next request follows. */
export function fromThreadMessage(message: ThreadMessage): EverthreadUIMessage {
  const custom = message.metadata.custom as CustomMetadata;
  const attached = message.role === "user" ? message.attachments.flatMap((attachment) => attachment.content) : [];
  const parts = [...attached, ...message.content].flatMap(partOf);
  if (message.role === "assistant") parts.splice(custom.step ?? 0, 0, { type: "step-start" });
  return { id: message.id, role: message.role, parts, metadata: { ...custom } };
}

function partOf(part: MessagePart): Part[] {
  switch (part.type) {
    case "text":
      return [{ type: "text", text: part.text }];
    case "image":
      return [{ type: "file", mediaType: /^data:([^;,]+)/.exec(part.image)?.[1] ?? "image/*", url: part.image }];
    case "file": {
      const url = /^(data|https?):/.test(part.data) ? part.data : `data:${part.mimeType};base64,${part.data}`;
      return [{ type: "file", mediaType: part.mimeType, url, ...(part.filename ? { filename: part.filename } : {}) }];
    }
    case "tool-call":
      return [calledPart(part)];
    default:
      // A place for every part, so that `step` counts them as assistant-ui does.
      return [{ type: "data-other", data: null }];
  }
}

function calledPart(part: MessagePart & { type: "tool-call" }): Part {
  const kind = part.providerMetadata?.["everthread"]?.["kind"];
  const call = {
    type: "dynamic-tool" as const,
    toolName: part.toolName,
    toolCallId: part.toolCallId ?? "",
    input: part.args as unknown,
    ...(kind === "hosted" ? { providerExecuted: true } : {}),
    ...(typeof kind === "string" && kind !== "hosted" ? { callProviderMetadata: { everthread: { type: kind } } } : {}),
  };
  const { approval } = part;
  if (approval?.approved !== undefined && kind === "hosted") {
    const reason = approval.reason === undefined ? {} : { reason: approval.reason };
    return { ...call, state: "approval-responded", approval: { id: approval.id, approved: approval.approved, ...reason } };
  }
  if (part.result === undefined) return { ...call, state: "input-available" };
  const error = part.isError ? ((part.result as { error?: unknown } | null)?.error ?? part.result) : undefined;
  return error === undefined
    ? { ...call, state: "output-available", output: part.result as unknown }
    : { ...call, state: "output-error", errorText: typeof error === "string" ? error : JSON.stringify(error) };
}
