import "./zod";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { connect } from "./everthread";
import "./style.css";

const root = createRoot(document.getElementById("root")!);

try {
  await connect();
  root.render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
} catch (error) {
  root.render(<p role="alert">The service cannot be reached. {String(error)}</p>);
}
