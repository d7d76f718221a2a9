import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";
import { allowOrigins, answerToken } from "./server.mjs";

/** Creates user tokens for `npm run dev`, as server.mjs does. */
const tokens: Plugin = {
  name: "everthread-tokens",
  async configureServer(server) {
    await allowOrigins(3000);
    server.middlewares.use((request, response, next) => void answerToken(request, response).then((done) => done || next()));
  },
};

export default defineConfig({
  plugins: [react(), tokens],
  server: { host: "127.0.0.1", port: 3000, strictPort: true },
  build: { chunkSizeWarningLimit: 800 },
});
