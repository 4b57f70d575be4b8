// Follows the server's events. The token stays in this tab: it comes from the fragment of the
// address, which is sent nowhere, and goes back in a header, which other sites cannot make us send.

const KEY = "pilot-token";
const PATIENCE = [1, 2, 5, 10, 20];

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY) ?? "";
}

export class Feed {
  // `on` has state(value), closed(seconds) and refused(wasGiven).
  constructor(on) {
    this.on = on;
    this.token = takeToken();
    this.attempt = 0;
  }

  setToken(token) {
    this.token = token;
    sessionStorage.setItem(KEY, token);
    this.attempt = 0;
    this.stop?.abort();
    this.start();
  }

  async start() {
    const stop = (this.stop = new AbortController());
    while (!stop.signal.aborted) {
      try {
        if (!(await this.follow(stop.signal))) return;
      } catch {
        // Gone; the next attempt says more.
      }
      if (stop.signal.aborted) return;
      const seconds = PATIENCE[Math.min(this.attempt++, PATIENCE.length - 1)];
      this.on.closed(seconds);
      await new Promise((done) => setTimeout(done, 1000 * seconds));
    }
  }

  // Returns whether to try again when the stream has ended.
  async follow(signal) {
    const headers = this.token ? { authorization: `Bearer ${this.token}` } : {};
    const response = await fetch("/api/events", { headers, signal, cache: "no-store" });
    if (response.status === 401) {
      sessionStorage.removeItem(KEY);
      this.on.refused(this.token !== "");
      return false;
    }
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return true;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      // Only the newest counts: a tab in the background gets many at once.
      const newest = events.findLast((event) => event.startsWith("event: state\n"));
      if (newest) {
        this.attempt = 0;
        this.on.state(JSON.parse(newest.slice(newest.indexOf("data: ") + 6)));
      }
    }
  }
}
