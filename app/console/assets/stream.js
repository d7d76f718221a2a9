// A turn that runs: what has been said before the page was opened, and then every word as it comes.
export function follow(article) {
  const place = article.querySelector(".stream");
  const source = new EventSource(`/console/api/threads/${article.dataset.running}/turns/${article.id}/events`);
  const end = () => {
    source.close();
    article.dispatchEvent(new CustomEvent("turn-ended", { bubbles: true }));
  };
  source.addEventListener("response.output_text.delta", (event) => {
    place.append(JSON.parse(event.data).delta);
  });
  for (const kind of ["response.completed", "response.incomplete", "response.failed", "error"]) {
    source.addEventListener(kind, (event) => {
      if (kind !== "error" || event.data) end();
    });
  }
}
