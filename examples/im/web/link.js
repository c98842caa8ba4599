/*
 * The connection to Entry: JSON text over WebSocket. It makes itself again whenever it is lost,
 * logs in, and finds out by signs of life that a silent one is dead.
 */

const OPEN_MS = 10_000; // for a connection and its login; then the next attempt
const CALL_MS = 10_000; // for one request
const PING_MS = 20_000; // between signs of life
const PONG_MS = 10_000; // for the answer to one; then the connection counts as lost
const RETRY_MS = [250, 15_000]; // between attempts: the first pause, the longest
const STABLE_MS = 10_000; // a connection that held so long was a good one
const LEAVE_MS = [200, 1_000]; // until a server that goes away is left: least, most

const LIST = "im.Client/Conversations";

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Time before the next attempt, in ms. Half of it is chance: a herd that lost the same server
 * shall not come back at the same moment. */
export function backoff(failures, [first, longest]) {
  return Math.min(longest, first * 2 ** Math.min(failures, 30)) * (0.5 + Math.random() / 2);
}

/** A request that failed. `code` is the server's, or `lost` or `late` when no answer came. */
export class CallError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  /** Whether the same request may succeed later. */
  get isPassing() {
    return PASSING.has(this.code);
  }
}

const PASSING = new Set(["lost", "late", "unavailable", "overloaded", "draining", "internal",
  "deadline_exceeded", "outcome_unknown", "cancelled"]);

/** A connection that makes itself again. `on` is told of everything:
 * `login()` gives the login's body, `ready(reply)`, `refused(error)` when logging in again would
 * not help, `push(method, body)`, `beat()` with each sign of life, and `state()`. */
export class Link {
  state = "idle"; // idle, connecting, ready, leaving, waiting
  failures = 0; // attempts that failed since the last good connection
  wasSentAway = false; // since the last login the server said that it goes away
  retryAt = 0; // while waiting: when the next attempt is made, on the clock of `performance`
  #on;
  #socket = null;
  #calls = new Map();
  #reply = null; // to the login, while its list of conversations comes
  #last = 0;
  #timers = new Map();

  constructor(on) {
    this.#on = on;
  }

  get isReady() {
    return this.state === "ready";
  }

  connect() {
    this.#drop("connecting");
    const socket = new WebSocket(new URL("ws", location.href.replace(/^http/, "ws")));
    this.#socket = socket;
    this.#after("open", OPEN_MS, () => this.#lost());
    // A socket that was given up must not touch its successor.
    const current = (act) => (event) => this.#socket === socket && act(event);
    socket.onopen = current(() => this.#login(socket));
    socket.onmessage = current((event) => this.#receive(event.data));
    socket.onclose = current(() => this.#lost());
  }

  /** Makes the next attempt at once or, when there is a connection, asks whether it lives: for
   * when a network or a sleeping machine came back. */
  hurry() {
    if (this.state === "waiting") this.connect();
    else if (this.isReady) this.#ping();
  }

  /** Makes one request; rejects with CallError. How many are in progress is bounded by those who
   * call: each conversation has one send, one page of history and one mark at a time. */
  call(method, body) {
    if (!this.isReady) return Promise.reject(new CallError("lost", "there is no connection"));
    return this.#request(method, body);
  }

  #request(method, body) {
    return new Promise((done, fail) => {
      const call = ++this.#last;
      const late = () => this.#settle(call, new CallError("late", "the server did not answer"));
      this.#calls.set(call, { done, fail, timer: setTimeout(late, CALL_MS) });
      // The server gives up first, and says why.
      const deadline_ms = CALL_MS - 1_000;
      this.#socket.send(JSON.stringify({ call, method: `im.Entry/${method}`, body, deadline_ms }));
    });
  }

  #settle(call, result) {
    const waiting = this.#calls.get(call);
    if (!waiting) return; // the answer was late
    this.#calls.delete(call);
    clearTimeout(waiting.timer);
    if (result instanceof Error) waiting.fail(result);
    else waiting.done(result);
  }

  async #login(socket) {
    let reply;
    try {
      reply = await this.#request("Login", this.#on.login());
    } catch (error) {
      if (this.#socket !== socket) return;
      if (error.isPassing) return this.#lost();
      this.#drop("idle");
      return this.#on.refused(error);
    }
    if (this.#socket !== socket) return;
    this.#reply = { ...reply, conversations: reply.conversations ?? [] };
    if (!reply.more) this.#ready();
  }

  /** One more page of the list of conversations. */
  #list({ conversations = [], more = false }) {
    if (!this.#reply) return;
    this.#reply.conversations.push(...conversations);
    if (!more) this.#ready();
  }

  #ready() {
    const reply = this.#reply;
    this.#reply = null;
    this.#stop("open");
    this.#after("stable", STABLE_MS, () => (this.failures = 0));
    this.#after("ping", PING_MS, () => this.#ping());
    this.wasSentAway = false;
    this.#enter("ready");
    this.#on.ready(reply);
  }

  #ping() {
    this.#socket.send(JSON.stringify({ ping: ++this.#last }));
    this.#after("ping", PING_MS, () => this.#ping());
    // One deadline for the oldest that is not answered: asking again does not move it.
    if (!this.#timers.has("pong")) this.#after("pong", PONG_MS, () => this.#lost());
    this.#on.beat();
  }

  #receive(data) {
    const { push, pong, call, error, body = {}, go_away } = JSON.parse(data);
    if (push === LIST) this.#list(body);
    else if (push) this.#on.push(push, body);
    else if (pong) this.#stop("pong");
    else if (go_away) this.#leave();
    else if (call) this.#settle(call, error ? new CallError(error.code, error.message) : body);
  }

  /** The server goes away. What is in progress may still be answered; then it is time to look for
   * its successor. */
  #leave() {
    this.wasSentAway = true;
    if (this.isReady) this.#enter("leaving");
    const [least, most] = LEAVE_MS;
    this.#after("leave", least + Math.random() * (most - least), () => this.#lost());
  }

  #lost() {
    const delay = backoff(this.failures++, RETRY_MS);
    this.retryAt = performance.now() + delay;
    this.#drop("waiting");
    this.#after("retry", delay, () => this.connect());
  }

  #drop(state) {
    const socket = this.#socket;
    this.#socket = null;
    this.#reply = null;
    socket?.close();
    for (const name of [...this.#timers.keys()]) this.#stop(name);
    this.#enter(state);
    const gone = new CallError("lost", "the connection was lost");
    for (const call of [...this.#calls.keys()]) this.#settle(call, gone);
  }

  #enter(state) {
    this.state = state;
    this.#on.state();
  }

  #after(name, ms, act) {
    this.#stop(name);
    const fire = () => {
      this.#timers.delete(name);
      act();
    };
    this.#timers.set(name, setTimeout(fire, ms));
  }

  #stop(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
