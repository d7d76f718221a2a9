// The AI SDK checks data with zod, which compiles its checks at run time. The page's security policy forbids that. This
// module is imported before the AI SDK.

import { config } from "zod";

config({ jitless: true });
