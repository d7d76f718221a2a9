"use client";

import type { Everthread } from "@everthread/client";
import {
  type AssistantRuntime,
  type AttachmentAdapter,
  useAui,
  useLocalRuntime,
  useRemoteThreadListRuntime,
} from "@assistant-ui/react";
import { useEffect, useMemo, useRef, useState } from "react";
import { EverthreadThread, type TurnBody } from "./thread.js";
import { everthreadThreadList } from "./threadList.js";

export type { CustomMetadata } from "./convert.js";
export { everthreadThreadList } from "./threadList.js";
export { EverthreadThread, type TurnBody } from "./thread.js";

/** The most turns of a tool loop before the user must write again. */
const STEPS = 50;

export interface EverthreadRuntimeOptions {
  /** Keep the same client between renders: another one is another list. */
  client: Everthread;
  /** Parameters of every turn, such as `model`. Tools and instructions of the page are added to them. */
  body?: TurnBody;
  /** The thread to show, for example from the address of the page. */
  threadId?: string;
  onThreadIdChange?: (threadId: string | undefined) => void;
  attachments?: AttachmentAdapter;
}

/** A runtime for `AssistantRuntimeProvider`: the user's threads, with their history. */
export function useEverthreadRuntime(options: EverthreadRuntimeOptions): AssistantRuntime {
  const { client, threadId, onThreadIdChange } = options;
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });
  const adapter = useMemo(() => everthreadThreadList(client), [client]);
  const [runtimeHook] = useState(
    () =>
      function useThread() {
        const aui = useAui();
        const { client, attachments } = latest.current;
        const [thread] = useState(
          () => new EverthreadThread(client, () => aui.threadListItem.getState().remoteId, () => latest.current.body),
        );
        const adapters = { history: thread, ...(attachments ? { attachments } : {}) };
        return useLocalRuntime(thread, { adapters, maxSteps: STEPS });
      },
  );
  return useRemoteThreadListRuntime({ runtimeHook, adapter, threadId, onThreadIdChange });
}
