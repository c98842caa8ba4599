/*
 * What the page knows: the user's conversations and who is online. It has no elements.
 *
 * What it promises: the messages of a conversation stand in the order of their `seq`, each once
 * and none left out, whatever breaks meanwhile. A message that was typed is sent until the server
 * has answered for it, always under the same `clientId`, so that it is stored once; the next one
 * of the conversation waits for that, so that they keep their order.
 */

import { Link, backoff, pause } from "./link.js";

const RESEND_MS = [250, 5_000]; // between attempts of one request: the first pause, the longest
const UNSENT_MAX = 100; // messages of a conversation that wait; no more are taken then
const BODY_BYTES_MAX = 32 * 1024; // the server takes no more
const PAGE = 50; // messages of one step in the history
const KEPT_MAX = 400; // messages held of a conversation that is not scrolled back
const PREVIEWS_MAX = 50; // conversations whose last message is fetched for the list
const WATCHED_MAX = 1_000; // users whose presence is watched
const MARK_MS = 300; // a lively conversation is marked a few times a second, not for each message

/** A message as it is kept. Numbers of 64 bits come as text, and those that are 0 not at all. */
const messageOf = ({ seq = 0, sender = "", clientId = "", body = "", atMs = 0 }) =>
  ({ seq: Number(seq), sender, clientId, body, at: Number(atMs) });

/** A name that nothing else has: 128 bits of chance. (`randomUUID` is only there over HTTPS.) */
function newClientId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What is known of one conversation. */
class Conversation {
  messages = []; // by `seq`: from `first` to `cursor` without a gap, then those that came early
  cursor = 0; // everything up to here was seen, or stands in the history before `first`
  outbox = []; // { clientId, body, at, error, trouble }: typed, and not known to be stored
  unread = 0;
  counted = 0; // `unread` knows of all messages up to this one
  read = 0; // the server knows that these were read
  joined = 0; // nothing up to here is for this user
  at = 0; // when something last happened, in ms since 1970
  members = []; // of a group, where known
  whole = false; // nothing is before `first`
  pastFault = ""; // why the history before `first` could not be fetched
  isScrolledBack = false; // the front is looked at, so it stays
  draft = "";
  busy = new Set(); // what is in progress: send, past, gap, mark

  constructor(name, me) {
    this.name = name;
    const [one, other] = name.startsWith("d:") ? name.slice(2).split(":") : [];
    /** The other one of a direct conversation; nothing for a group. */
    this.peer = one === me ? other : one;
    this.title = this.peer === me ? `${me} (notes)` : (this.peer ?? name.slice(2));
  }

  get isGroup() {
    return this.peer === undefined;
  }

  get first() {
    return Math.min(this.messages[0]?.seq ?? Infinity, this.cursor + 1);
  }

  get hasGap() {
    return (this.messages.at(-1)?.seq ?? 0) > this.cursor;
  }

  /** Takes a message in, in its place; says whether it is new. */
  accept(message) {
    if (message.seq <= this.cursor) return false;
    let place = this.messages.length;
    while (place > 0 && this.messages[place - 1].seq > message.seq) place--;
    if (this.messages[place - 1]?.seq === message.seq) return false;
    this.messages.splice(place, 0, message);
    for (; this.messages[place]?.seq === this.cursor + 1; place++) this.cursor++;
    this.at = Math.max(this.at, message.at);
    return true;
  }

  /** Takes in what the history has after `cursor`. What it leaves out is not for this user. */
  acceptPage(page) {
    const end = page.at(-1)?.seq ?? this.messages.at(-1)?.seq ?? this.cursor;
    for (const message of page) this.accept(message);
    this.cursor = Math.max(this.cursor, end);
    for (const { seq } of this.messages) if (seq === this.cursor + 1) this.cursor++;
  }

  /** Puts what the history has before `first` in front. */
  acceptPast(page, first) {
    if (this.first !== first) return; // the front was given up meanwhile
    this.messages.unshift(...page);
    this.whole = page.length === 0 || page[0].seq === this.joined + 1;
    this.at = Math.max(this.at, page.at(-1)?.at ?? 0);
  }

  /** Gives up the front of a long list; the history has it. */
  trim() {
    if (this.messages.length < KEPT_MAX * 1.5) return;
    this.messages.splice(0, this.messages.length - KEPT_MAX);
    this.whole = false;
  }
}

/** Everything that one user knows. `on` is told: `changed()`, `arrived()` after the first login,
 * `refused(error)`, `spoken(conversation, message)` of others' new messages. */
export class Chat {
  conversations = new Map();
  online = new Map(); // uid → whether, as far as this connection was told
  hasArrived = false;
  #on;
  #watched = new Set(); // on this connection
  #watchTimer = 0;

  constructor(me, on) {
    this.me = me;
    this.#on = on;
    this.link = new Link({
      login: () => this.#login(),
      ready: (reply) => this.#ready(reply),
      refused: (error) => on.refused(error),
      push: (method, body) => this.#push(method, body),
      beat: () => this.#watch(true),
      state: () => {
        if (!this.link?.isReady) this.online.clear(); // nobody tells us
        on.changed();
      },
    });
    this.#restore();
  }

  /** The conversation of that name, made when it is not known. */
  conversation(name) {
    const known = this.conversations.get(name);
    if (known) return known;
    const made = new Conversation(name, this.me);
    this.conversations.set(name, made);
    this.#watchSoon();
    return made;
  }

  direct(other) {
    return this.conversation(`d:${[this.me, other].sort().join(":")}`);
  }

  get unread() {
    return [...this.conversations.values()].reduce((sum, { unread }) => sum + unread, 0);
  }

  // ---- Messages ----

  /** Queues a message; answers why not, or nothing. */
  post(c, body) {
    if (new TextEncoder().encode(body).length > BODY_BYTES_MAX) {
      return "This is longer than a message may be (32 KiB).";
    }
    if (c.outbox.length >= UNSENT_MAX) {
      return `${UNSENT_MAX} messages wait to be sent already; this one is not taken.`;
    }
    c.outbox.push({ clientId: newClientId(), body, at: Date.now() });
    c.at = Date.now();
    this.#keep();
    this.#send(c);
    return "";
  }

  /** Sends a refused message again, behind those that wait. */
  repost(c, item) {
    c.outbox = [...c.outbox.filter((other) => other !== item), { ...item, error: "" }];
    this.#send(c);
  }

  discard(c, item) {
    c.outbox = c.outbox.filter((other) => other !== item);
    this.#keep();
  }

  /** Fetches messages before those that are held. */
  async fetchPast(c, limit = PAGE) {
    if (c.whole || c.busy.has("past") || !this.link.isReady) return;
    c.busy.add("past");
    c.pastFault = "";
    const first = c.first;
    try {
      const asked = { conversation: c.name, beforeSeq: first, limit };
      const { messages = [] } = await this.link.call("History", asked);
      c.acceptPast(messages.map(messageOf), first);
      this.#watchSoon();
    } catch (error) {
      // A direct conversation begins to exist with its first message.
      if (error.code === "not_found" && !c.isGroup) c.whole = true;
      else c.pastFault = error.message;
    } finally {
      c.busy.delete("past");
    }
    this.#on.changed();
  }

  /** Tells the server that everything in a conversation was seen. */
  async markRead(c) {
    c.unread = 0;
    if (c.cursor <= c.read || c.busy.has("mark") || !this.link.isReady) return;
    c.busy.add("mark");
    const seq = c.cursor;
    const asked = { conversation: c.name, seq };
    const done = await this.link.call("MarkRead", asked).catch(() => null);
    if (done) c.read = Math.max(c.read, seq);
    await pause(MARK_MS);
    c.busy.delete("mark");
    if (done && c.cursor > c.read) this.#on.changed();
  }

  // ---- Groups ----

  /** Makes a group; rejects with CallError. */
  async createGroup(name, members) {
    const group = await this.link.call("CreateGroup", { name, members });
    return this.#join(group);
  }

  /** Asks who is in a group. Rejects with CallError. */
  async askMembers(c) {
    return this.#join(await this.link.call("Members", { conversation: c.name }));
  }

  /** Adds people to a group. Rejects with CallError. */
  async addMembers(c, members) {
    const group = await this.link.call("AddMembers", { conversation: c.name, members });
    return this.#join(group);
  }

  #join({ conversation, members = [] }) {
    const c = this.conversation(conversation);
    c.members = members;
    c.at ||= Date.now();
    c.pastFault = "";
    this.#watchSoon();
    this.#on.changed();
    return c;
  }

  // ---- From the connection ----

  #login() {
    const seen = [...this.conversations.values()].map(({ name, cursor }) => [name, cursor]);
    const cursors = this.hasArrived ? Object.fromEntries(seen) : {};
    return { uid: this.me, device: "browser", resume: this.hasArrived, cursors };
  }

  #ready({ conversations = [] }) {
    const isFirst = !this.hasArrived;
    for (const known of conversations) {
      const { conversation, lastSeq = 0, readSeq = 0, joinedSeq = 0, unread = 0 } = known;
      const isNew = !this.conversations.has(conversation);
      const c = this.conversation(conversation);
      const last = Number(lastSeq);
      c.joined = Number(joinedSeq);
      // A first login is pushed nothing that is stored already: the history has it. One that
      // resumes is pushed all that is new, and everything of conversations that are new.
      if (isFirst) c.cursor = last;
      else if (isNew) c.cursor = c.joined;
      c.read = Math.max(c.read, Number(readSeq));
      if (last >= c.counted) [c.counted, c.unread] = [last, Number(unread)];
    }
    this.hasArrived = true;
    this.#watched.clear();
    for (const c of this.conversations.values()) {
      c.pastFault = "";
      this.#send(c);
    }
    if (isFirst) this.#on.arrived();
    this.#preview();
    this.#watchSoon();
    this.#on.changed();
  }

  #push(method, body) {
    if (method === "im.Client/Deliver") this.#receive(body.conversation, messageOf(body));
    if (method === "im.Client/PresenceChanged") this.online.set(body.uid, body.online ?? false);
    this.#on.changed();
  }

  /** A message is stored: it was pushed, or the server has answered for our own. */
  #receive(name, message) {
    const isNew = !this.conversations.has(name);
    const c = this.conversation(name);
    // A conversation that others made begins where we are told of it.
    if (isNew) c.cursor = message.seq - 1;
    const isOwn = message.sender === this.me;
    if (isOwn) {
      c.outbox = c.outbox.filter(({ clientId }) => clientId !== message.clientId);
      this.#keep();
    }
    const isFresh = c.accept(message);
    if (message.seq > c.counted) {
      c.counted = message.seq;
      if (!isOwn) c.unread++;
    }
    if (isFresh && !isOwn) this.#on.spoken(c, message);
    if (c.hasGap) this.#fillGap(c);
    if (!c.isScrolledBack) c.trim();
    if (c.isGroup && !this.#watched.has(message.sender)) this.#watchSoon();
  }

  /** Sends what waits in a conversation, one after the other. */
  async #send(c) {
    if (c.busy.has("send")) return;
    c.busy.add("send");
    for (let failures = 0; this.link.isReady; ) {
      const item = c.outbox.find(({ error }) => !error);
      if (!item) break;
      const { clientId, body } = item;
      const where = c.isGroup ? { conversation: c.name } : { to: c.peer };
      let reply;
      try {
        reply = await this.link.call("Send", { ...where, clientId, body });
      } catch (error) {
        if (error.isPassing) {
          item.trouble = error.message;
          await pause(backoff(failures++, RESEND_MS));
        } else item.error = error.message;
      }
      if (reply) {
        failures = 0;
        this.#receive(c.name, messageOf({ ...reply, sender: this.me, clientId, body }));
      }
      this.#on.changed();
    }
    c.busy.delete("send");
  }

  /** Fetches what is missing between messages. Pushes come in order, so this happens only when
   * the answer to our own message overtakes them; it waits a moment for them. */
  async #fillGap(c) {
    if (c.busy.has("gap")) return;
    c.busy.add("gap");
    for (let failures = 0; this.link.isReady; ) {
      await pause(backoff(failures, RESEND_MS));
      if (!c.hasGap) break;
      const asked = { conversation: c.name, afterSeq: c.cursor, limit: PAGE };
      const reply = await this.link.call("History", asked).catch(() => null);
      if (reply) c.acceptPage((reply.messages ?? []).map(messageOf));
      failures = reply ? 0 : failures + 1;
      this.#on.changed();
    }
    c.busy.delete("gap");
  }

  /** Fetches the last message of each conversation that has none, for the list. */
  async #preview() {
    const bare = [...this.conversations.values()].filter((c) => c.messages.length === 0);
    for (const c of bare.slice(0, PREVIEWS_MAX)) {
      if (c.messages.length === 0) await this.fetchPast(c, 1);
    }
  }

  // ---- Presence ----

  #watchSoon() {
    clearTimeout(this.#watchTimer);
    this.#watchTimer = setTimeout(() => this.#watch(false), 150);
  }

  /** Asks who is online, and to be told of changes; with `again` also of those asked before,
   * since a change may be missed while a server dies. */
  async #watch(again) {
    if (!this.link.isReady) return;
    const known = [...this.conversations.values()].flatMap((c) =>
      c.isGroup ? [...c.members, ...c.messages.slice(-PAGE).map(({ sender }) => sender)] : c.peer);
    const asked = again ? [...this.#watched] : [];
    const fresh = [...new Set(known)].filter((uid) => !this.#watched.has(uid));
    fresh.splice(Math.max(0, WATCHED_MAX - this.#watched.size));
    for (const uid of fresh) this.#watched.add(uid);
    for (const [uids, watch] of [[fresh, true], [asked, false]]) {
      if (uids.length === 0) continue;
      const reply = await this.link.call("Presence", { uids, watch }).catch(() => null);
      for (const { uid, online = false } of reply?.users ?? []) this.online.set(uid, online);
      if (watch && !reply) for (const uid of uids) this.#watched.delete(uid); // asked again later
    }
    this.#on.changed();
  }

  // ---- What outlives the page ----

  /** What was typed and is not stored yet survives a reload of the tab. */
  #keep() {
    const unsent = [...this.conversations.values()].flatMap(({ name, outbox }) =>
      outbox.map(({ clientId, body, at }) => ({ name, clientId, body, at })));
    try {
      sessionStorage.setItem(`unsent ${this.me}`, JSON.stringify(unsent));
    } catch {
      // The browser keeps nothing, or not so much: then it lives as long as the page.
    }
  }

  #restore() {
    try {
      const unsent = JSON.parse(sessionStorage.getItem(`unsent ${this.me}`) ?? "[]");
      for (const { name, ...item } of unsent) this.conversation(name).outbox.push(item);
    } catch {
      // As above.
    }
  }
}
