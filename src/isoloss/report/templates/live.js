// Keeps a page of `isoloss watch` up to date: the server names the newest version, the page fetches what is new.
let shown = document.body.dataset.version;
const connection = document.getElementById("connection");

async function refresh({ data, sections }) {
  const [shownData, shownSections] = shown.split(".");
  if (String(data) !== shownData) globalThis.isolossUpdate?.(await (await fetch("data")).text());
  if (String(sections) !== shownSections) {
    for (const [id, html] of Object.entries(await (await fetch("sections")).json())) {
      const place = document.querySelector(`#${id} > .contents`);
      if (place && !place.querySelector("#explore")) place.innerHTML = html; // markup of the server's template, which escapes what a study says
    }
  }
  shown = `${data}.${sections}`;
}

let pending = Promise.resolve();
const events = new EventSource("events");
events.onmessage = (event) => {
  const latest = JSON.parse(event.data);
  pending = pending.then(() => refresh(latest)).then(
    () => { connection.textContent = latest.state; },
    (error) => { connection.textContent = String(error); },
  );
};
events.onerror = () => { connection.textContent = "No connection to isoloss watch. The page shows what it last received."; };
