import type { components, paths } from "./openapi.js";

type Schemas = components["schemas"];
type QueryOf<Path extends keyof paths> = paths[Path] extends { get: { parameters: { query?: infer Q } } } ? NonNullable<Q> : never;
type BodyOf<Operation> = Operation extends { requestBody?: { content: { "application/json": infer Body } } } ? Body : never;

export type Thread = Schemas["Thread"];
export type Branch = Schemas["Branch"];
export type Share = Schemas["Share"];
export type ShareLink = Schemas["ShareLink"];
export type SharedThread = Schemas["SharedThread"];
export type Feedback = Schemas["Feedback"];
export type Hit = Schemas["Hit"];
export type Model = Schemas["Model"];
export type Compaction = Schemas["Compaction"];
export type BulkResult = Schemas["BulkResult"];
export type Deleted = Schemas["Deleted"];

/** An item of the Responses API: a message, a tool call, a call's output, reasoning … */
export interface Item {
  type: string;
  id?: string;
  role?: string;
  status?: string;
  content?: string | ContentPart[];
  [field: string]: unknown;
}

/** A part of a message: `input_text`, `output_text`, `input_image`, `refusal` … */
export interface ContentPart {
  type: string;
  text?: string;
  [field: string]: unknown;
}

/** An item that was read back with its turn. */
export type MessageItem = Item & { id: string; turn_id: string };

/** A response, as events show it. */
export type TurnResponse = Omit<Turn, "object" | "thread_id" | "parent_id" | "continuation" | "continuation_reason" | "output_text" | "input"> & {
  object: "response";
};

export type Turn = Omit<Schemas["Turn"], "output" | "input" | "error" | "usage"> & {
  output: Item[];
  input?: Item[];
  error: { code?: string; message?: string; status?: number; [field: string]: unknown } | null;
  usage: { input_tokens?: number; output_tokens?: number; total_tokens?: number; [field: string]: unknown } | null;
};

/** An item of a request: a Responses item, or a Chat message. */
export type InputItem =
  | { role: "system" | "developer" | "user" | "assistant"; content: string | ContentPart[]; type?: "message" }
  | { type: string; [field: string]: unknown };

/** The create parameters of the Responses API, `parent_id`, `replaces`, `if_busy`, `on_disconnect`. Unknown fields are sent, too. */
export type TurnParams = Omit<Schemas["TurnCreate"], "input" | "stream" | "tools"> & {
  input?: string | InputItem[];
  tools?: { type: string; [field: string]: unknown }[];
  [field: string]: unknown;
};

export type ThreadListParams = Omit<QueryOf<"/v1/threads">, "metadata"> & { metadata?: Record<string, string> };
export type ThreadCountParams = Omit<QueryOf<"/v1/threads/count">, "metadata"> & { metadata?: Record<string, string> };
export type TurnListParams = QueryOf<"/v1/threads/{thread_id}/turns">;
export type ShareListParams = QueryOf<"/v1/threads/{thread_id}/shares">;
export type BranchListParams = QueryOf<"/v1/threads/{thread_id}/branches">;
export type MessageListParams = Omit<QueryOf<"/v1/threads/{thread_id}/messages">, "format">;
export type ItemListParams = QueryOf<"/v1/conversations/{conversation_id}/items">;
export type FeedbackListParams = QueryOf<"/v1/feedback">;
export type SearchParams = Omit<QueryOf<"/v1/search">, "q" | "group_by">;
export type ThreadCreateParams = NonNullable<BodyOf<paths["/v1/threads"]["post"]>>;
export type ThreadPutParams = NonNullable<BodyOf<paths["/v1/threads/by-name/{name}"]["put"]>>;
export type ThreadUpdateParams = NonNullable<BodyOf<paths["/v1/threads/{thread_id}"]["patch"]>>;
export type ForkParams = NonNullable<BodyOf<paths["/v1/threads/{thread_id}/fork"]["post"]>>;
export type ShareParams = NonNullable<BodyOf<paths["/v1/threads/{thread_id}/shares"]["post"]>>;
export type FeedbackParams = NonNullable<BodyOf<paths["/v1/threads/{thread_id}/turns/{turn_id}/feedback"]["post"]>>;
export type CompactParams = NonNullable<BodyOf<paths["/v1/threads/{thread_id}/compact"]["post"]>>;
export type BulkParams = NonNullable<BodyOf<paths["/v1/threads/bulk"]["post"]>>;

interface Numbered<Type extends string> {
  type: Type;
  sequence_number: number;
}

interface OfItem<Type extends string> extends Numbered<Type> {
  output_index: number;
  item_id: string;
}

interface OfText<Type extends string> extends OfItem<Type> {
  content_index: number;
}

/**
 * An event of a turn. The union lists those that apps use; others, such as events of server-side tools, come with the
 * same fields `type` and `sequence_number`.
 */
export type TurnEvent =
  | (Numbered<"response.created" | "response.in_progress"> & { response: TurnResponse })
  | (Numbered<"response.completed" | "response.incomplete" | "response.failed"> & { response: TurnResponse })
  | (Numbered<"response.output_item.added" | "response.output_item.done"> & { output_index: number; item: Item })
  | (OfText<"response.content_part.added" | "response.content_part.done"> & { part: ContentPart })
  | (OfText<"response.output_text.delta"> & { delta: string })
  | (OfText<"response.output_text.done"> & { text: string })
  | (OfText<"response.refusal.delta"> & { delta: string })
  | (OfText<"response.refusal.done"> & { refusal: string })
  | (OfText<"response.reasoning_text.delta"> & { delta: string })
  | (OfText<"response.reasoning_text.done"> & { text: string })
  | (OfItem<"response.reasoning_summary_text.delta"> & { summary_index: number; delta: string })
  | (OfItem<"response.reasoning_summary_text.done"> & { summary_index: number; text: string })
  | (OfItem<"response.reasoning_summary_part.added" | "response.reasoning_summary_part.done"> & {
      summary_index: number;
      part: ContentPart;
    })
  | (OfItem<"response.function_call_arguments.delta"> & { delta: string })
  | (OfItem<"response.function_call_arguments.done"> & { arguments: string });

interface Running {
  thread_id: string;
  turn_id: string;
}

/**
 * An event of a thread: its turns as they begin, their events with a `turn_id`, and changes of the thread. Each
 * connection begins with a `snapshot`.
 */
export type ThreadEvent =
  | { type: "snapshot"; thread_id: string; thread: Thread; running: Running[] }
  | { type: "thread.turn.created"; thread_id: string; turn: Turn }
  | { type: "thread.turn.deleted"; thread_id: string; turn_id: string }
  | { type: "thread.updated"; thread_id: string; thread: Thread }
  | { type: "thread.deleted"; thread_id: string }
  | (TurnEvent & { turn_id: string });

/** An event of the live list. After a lost connection, the last event may be told again. */
export type LiveEvent =
  | { type: "snapshot"; threads: Thread[]; has_more: boolean; running: Running[] }
  | { type: "thread.created" | "thread.updated"; thread_id: string; thread: Thread }
  | { type: "thread.deleted"; thread_id: string }
  | { type: "thread.turn.created"; thread_id: string; turn_id: string }
  | { type: "thread.turn.finished"; thread_id: string; turn_id: string; status: Turn["status"] };

export interface StreamTicket {
  object: "stream_ticket";
  ticket: string;
  path: string;
  expires_at: number;
}

/** A message to show at once, before the service has answered. */
export interface LocalMessage {
  /** The idempotency key of the turn. */
  id: string;
  role: "user";
  /** The user's own text of the input. */
  text: string;
  input: string | InputItem[];
}
