/*
 * The chat page's elements: what model.js knows, shown, and what the user does, passed on.
 *
 * Everything is drawn from the model's present state. Texts of others only ever go into
 * `textContent`, so none of them can become markup.
 */

import { Chat } from "./model.js";

const DRAW_MS = 16; // changes within one frame are drawn together
const BOTTOM_PX = 60; // so near to its end, a list follows new messages
const TOP_PX = 300; // so near to its beginning, a list fetches what is before
const GROUPED_MS = 5 * 60_000; // messages of one sender within this time stand together

const NAME = /^[a-z0-9_.-]{1,64}$/;
const NAME_RULE = "1 to 64 small letters, digits, and . _ -";
const byId = (id) => document.getElementById(id);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const longDay = { weekday: "long", day: "numeric", month: "long" };
const day = new Intl.DateTimeFormat(undefined, longDay);
const shortDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const wholeTime = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

let chat = null;
let shown = null; // the open conversation
let rows = new Map(); // its rows, and those of its days, by key
const listRows = new WeakMap(); // of all conversations
let drawTimer = 0;

// ---- Elements ------------------------------------------------------------------------------

function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

/** Sets a text only when it differs, so that a selection and a screen reader are left in peace. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function makeButton(text, act) {
  const button = make("button", "link", text);
  button.type = "button";
  button.addEventListener("click", act);
  return button;
}

/** Makes a list show exactly these elements, and moves none that stands right. */
function arrange(list, wanted) {
  let next = list.firstChild;
  for (const element of wanted) {
    if (element === next) next = next.nextSibling;
    else list.insertBefore(element, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

/** A face: a letter on a colour that belongs to the name. */
function paintFace(face, name, letter = name.slice(0, 1).toUpperCase()) {
  let hue = 7;
  for (const character of name) hue = (hue * 31 + character.codePointAt(0)) % 360;
  face.style.setProperty("--hue", hue);
  say(face, letter);
}

/** A conversation's face, with a dot that says whether the other one is online. */
function paintFaceOf(face, c) {
  paintFace(face, c.peer ?? c.title, c.isGroup ? "#" : undefined);
  face.dataset.online = String(chat.online.get(c.peer) ?? "unknown");
}

// ---- Drawing -------------------------------------------------------------------------------

function draw() {
  // Not by animation frames: those stand still in a hidden tab, and so would the title.
  drawTimer ||= setTimeout(drawNow, DRAW_MS);
}

function drawNow() {
  clearTimeout(drawTimer);
  drawTimer = 0;
  drawStatus();
  drawList();
  drawRoom();
}

function drawStatus() {
  const { state, failures, wasSentAway } = chat.link;
  const texts = {
    idle: "",
    connecting: failures || chat.hasArrived ? "Reconnecting…" : "Connecting…",
    ready: "Connected",
    leaving: "The server restarts",
    waiting: wasSentAway ? "The server restarts" : "Connection lost",
  };
  byId("status").dataset.state = state;
  say(byId("status-text"), texts[state]);
  byId("now").hidden = state !== "waiting";
  drawCountdown();
  const count = chat.unread;
  document.title = `${count ? `(${count}) ` : ""}${chat.me} · Waystation chat`;
}

function drawCountdown() {
  const left = Math.ceil((chat.link.retryAt - performance.now()) / 1000);
  const isWaiting = chat.link.state === "waiting";
  say(byId("countdown"), isWaiting ? `reconnecting in ${Math.max(left, 1)} s` : "");
}

function drawList() {
  const all = [...chat.conversations.values()];
  all.sort((one, other) => other.at - one.at || (one.name < other.name ? -1 : 1));
  byId("none").hidden = all.length > 0 || !chat.hasArrived;
  arrange(byId("conversations"), all.map(listRow));
}

function makeListRow(c) {
  const row = make("li");
  const button = make("button");
  button.type = "button";
  button.dataset.conversation = c.name;
  button.append(make("span", "face"), make("span", "title"), make("time"),
    make("span", "last"), make("span", "unread"));
  button.addEventListener("click", () => open(c));
  row.append(button);
  listRows.set(c, row);
  return row;
}

function listRow(c) {
  const row = listRows.get(c) ?? makeListRow(c);
  const button = row.firstChild;
  const [face, title, time, last, unread] = button.children;
  if (c === shown) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  paintFaceOf(face, c);
  say(title, c.title);
  say(time, c.at ? shortTime(c.at) : "");
  say(last, lastLine(c));
  unread.hidden = c.unread === 0;
  say(unread, c.unread > 99 ? "99+" : String(c.unread));
  const presence = face.dataset.online === "true" ? ", online" : "";
  const news = c.unread ? `, ${c.unread} unread` : "";
  button.setAttribute("aria-label", `${c.isGroup ? "Group " : ""}${c.title}${presence}${news}`);
  return row;
}

function lastLine(c) {
  const unsent = c.outbox.at(-1);
  if (c.draft && c !== shown) return `Draft: ${c.draft}`;
  if (unsent) return unsent.error ? `Not sent: ${unsent.body}` : `You: ${unsent.body}`;
  const last = c.messages.at(-1);
  if (!last) return "";
  if (last.sender === chat.me) return `You: ${last.body}`;
  return c.isGroup ? `${last.sender}: ${last.body}` : last.body;
}

const dayOf = (at) => new Date(at).toDateString();

function shortTime(at) {
  if (dayOf(at) === dayOf(Date.now())) return clock.format(at);
  return shortDay.format(at);
}

function dayName(at) {
  if (dayOf(at) === dayOf(Date.now())) return "Today";
  if (dayOf(at) === dayOf(Date.now() - 86_400_000)) return "Yesterday";
  return day.format(at);
}

function drawRoom() {
  const c = shown;
  for (const id of ["head", "scroll", "compose"]) byId(id).hidden = !c;
  byId("nothing").hidden = Boolean(c);
  if (!c) return;
  paintFaceOf(byId("face"), c);
  say(byId("title"), c.title);
  say(byId("note"), noteOf(c));
  byId("add").hidden = !c.isGroup;
  drawMessages(c);
}

function noteOf(c) {
  if (!chat.link.isReady) return "";
  if (!c.isGroup) return { true: "online", false: "offline" }[chat.online.get(c.peer)] ?? "";
  const here = c.members.filter((uid) => uid === chat.me || chat.online.get(uid)).length;
  const all = c.members.length;
  return all ? `${here} of ${all} online: ${c.members.join(", ")}` : "Group";
}

function drawMessages(c) {
  const scroll = byId("scroll");
  const follows = !c.isScrolledBack;
  const below = scroll.scrollHeight - scroll.scrollTop;
  const list = byId("messages");
  const front = list.firstChild;
  arrange(list, wantedRows(c));
  list.classList.toggle("group", c.isGroup);
  drawPast(c);
  if (follows) scroll.scrollTop = scroll.scrollHeight;
  // What was in view stays in view when something was put in front of it.
  else if (list.firstChild !== front) scroll.scrollTop = scroll.scrollHeight - below;
  const isSeen = document.visibilityState === "visible" && follows;
  if (isSeen) chat.markRead(c);
  byId("newest").hidden = follows || c.unread === 0;
  const isShort = scroll.scrollTop < TOP_PX;
  if (isShort && !c.whole && !c.pastFault) chat.fetchPast(c);
}

function drawPast(c) {
  const past = byId("past");
  const key = c.pastFault || (c.whole ? "whole" : "more");
  if (past.dataset.key === key) return;
  past.dataset.key = key;
  if (c.pastFault) {
    const again = makeButton("Try again", () => chat.fetchPast(c));
    past.replaceChildren(`Earlier messages are not at hand: ${c.pastFault}. `, again);
  } else if (c.whole) past.textContent = "This is where it begins.";
  else past.textContent = "Fetching earlier messages…";
}

/** The rows that a conversation should show, in their order. */
function wantedRows(c) {
  const wanted = [];
  const kept = new Map();
  let previous = null;
  const put = (key, makeRow) => {
    const row = rows.get(key) ?? makeRow();
    kept.set(key, row);
    wanted.push(row);
    return row;
  };
  const unsent = c.outbox.map((item) => ({ ...item, item, sender: chat.me }));
  for (const message of [...c.messages, ...unsent]) {
    const isNewDay = !previous || dayOf(previous.at) !== dayOf(message.at);
    if (isNewDay) {
      const key = `day ${dayOf(message.at)} ${message.seq ?? message.clientId}`;
      put(key, () => make("li", "day", dayName(message.at)));
    }
    // Our own keep their row when they are stored; nothing flickers.
    const key = message.sender === chat.me ? `own ${message.clientId}` : `seq ${message.seq}`;
    const row = put(key, () => makeRow(message));
    const follows = previous?.sender === message.sender && message.at - previous.at < GROUPED_MS;
    row.classList.toggle("first", isNewDay || !follows);
    updateRow(row, c, message);
    previous = message;
  }
  rows = kept;
  return wanted;
}

function makeRow(message) {
  const row = make("li", message.sender === chat.me ? "message own" : "message");
  const face = make("span", "face");
  face.setAttribute("aria-hidden", "true");
  paintFace(face, message.sender);
  const bubble = make("div", "bubble");
  const foot = make("span", "foot");
  foot.append(make("time"), make("span", "mark"));
  bubble.append(make("span", "sender", message.sender), make("p", "body", message.body), foot);
  row.append(face, bubble);
  return row;
}

function updateRow(row, c, { seq, at, item }) {
  const state = !item ? "stored" : item.error ? "refused" : "waiting";
  const trouble = item?.error || item?.trouble || "";
  const key = `${state} ${seq ?? ""} ${trouble}`;
  if (row.dataset.key === key) return;
  row.dataset.key = key;
  row.dataset.state = state;
  if (seq) row.dataset.seq = seq;
  const [time, mark] = row.querySelector(".foot").children;
  time.dateTime = new Date(at).toISOString();
  time.title = wholeTime.format(at);
  time.textContent = clock.format(at);
  if (state === "refused") {
    mark.replaceChildren(`Not sent: ${trouble} `,
      makeButton("Try again", () => (chat.repost(c, item), draw())),
      makeButton("Discard", () => (chat.discard(c, item), draw())));
  } else if (state === "waiting") mark.textContent = "sending…";
  else if (row.matches(".own")) mark.replaceChildren(make("span", "unseen", "sent"), "✓");
}

// ---- What the user does ---------------------------------------------------------------------

function open(c) {
  if (shown) {
    shown.isScrolledBack = false;
    shown.draft = byId("text").value;
    shown.trim();
  }
  shown = c;
  rows = new Map();
  byId("messages").replaceChildren();
  byId("past").dataset.key = "";
  byId("chat").dataset.pane = c ? "room" : "list";
  byId("fault").textContent = "";
  drawNow(); // what is hidden takes no focus
  if (!c) return;
  byId("text").value = c.draft;
  c.draft = "";
  // Nobody is told when a group changes, so its members are asked for.
  if (c.isGroup) chat.askMembers(c).catch(() => {});
  // On a touch screen the keyboard would cover what was just opened.
  if (!matchMedia("(pointer: coarse)").matches) byId("text").focus();
}

function post() {
  const text = byId("text");
  const body = text.value.trim();
  if (!shown || !body) return;
  const fault = chat.post(shown, body);
  byId("fault").textContent = fault;
  if (!fault) text.value = "";
  shown.isScrolledBack = false;
  draw();
}

/** Asks for some names in a dialog, until `act` takes them or the user leaves. Then opens the
 * conversation that `act` answers; not before, since beside an open dialog nothing takes focus. */
function ask(title, done, fields, act) {
  byId("dialog-title").textContent = title;
  byId("dialog-done").textContent = done;
  byId("dialog-fault").textContent = "";
  const inputs = fields.map(({ label, hint = "", value = "" }, index) => {
    const input = make("input");
    Object.assign(input, { id: `field-${index}`, value, placeholder: hint, autocomplete: "off" });
    Object.assign(input, { autocapitalize: "none", spellcheck: false });
    const name = make("label", "", label);
    name.htmlFor = input.id;
    return [name, input];
  });
  byId("dialog-fields").replaceChildren(...inputs.flat());
  byId("dialog-form").onsubmit = async (event) => {
    event.preventDefault();
    try {
      const c = await act(...inputs.map(([, input]) => input.value.trim().toLowerCase()));
      byId("dialog").close();
      open(c);
    } catch (error) {
      byId("dialog-fault").textContent = error.message;
    }
  };
  byId("dialog").showModal();
}

/** The names in a text, apart by spaces or commas. */
function namesIn(text, what) {
  const names = text.split(/[\s,;]+/).filter(Boolean);
  const wrong = names.find((name) => !NAME.test(name));
  if (wrong !== undefined) throw new Error(`“${wrong}” is no name: ${NAME_RULE}.`);
  if (names.length === 0) throw new Error(`Name ${what}.`);
  return names;
}

function askForChat() {
  ask("New chat", "Open", [{ label: "With whom?", hint: "bob" }], (other) =>
    chat.direct(namesIn(other, "somebody")[0]));
}

function askForGroup(value = "") {
  const fields = [{ label: "Name of the group", hint: "team", value },
    { label: "Who else is in it?", hint: "bob, cyd" }];
  ask("New group", "Create", fields, (name, others) => {
    const [group] = namesIn(name, "the group");
    return chat.createGroup(group, others ? namesIn(others, "somebody") : []);
  });
}

function askForMembers() {
  const c = shown;
  ask(`Add people to ${c.title}`, "Add", [{ label: "Who?", hint: "dan, eve" }], (names) =>
    chat.addMembers(c, namesIn(names, "somebody")));
}

// ---- Beginning -----------------------------------------------------------------------------

function welcome(fault = "") {
  byId("chat").hidden = true;
  byId("welcome").hidden = false;
  byId("name-fault").textContent = fault;
  byId("name").focus();
}

function start(me) {
  try {
    sessionStorage.setItem("name", me);
  } catch {
    // Without a memory the tab asks again after a reload.
  }
  chat = new Chat(me, {
    changed: () => chat && draw(),
    arrived,
    refused: (error) => welcome(`${me} could not log in: ${error.message}`),
    spoken(c, { sender, body }) {
      say(byId("spoken"), c === shown ? `${sender}: ${body}` : `${sender} wrote in ${c.title}`);
    },
  });
  byId("welcome").hidden = true;
  byId("chat").hidden = false;
  byId("me").textContent = me;
  chat.link.connect();
}

/** After the first login: opens what the address asks for. */
function arrived() {
  const asked = new URLSearchParams(location.search);
  const [to, group] = [asked.get("to") ?? "", asked.get("group") ?? ""];
  if (NAME.test(to)) open(chat.direct(to));
  else if (chat.conversations.has(`g:${group}`)) open(chat.conversation(`g:${group}`));
  else if (NAME.test(group)) askForGroup(group);
}

function listen() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("enter", "submit", (event) => {
    event.preventDefault();
    const name = byId("name").value.trim().toLowerCase();
    if (NAME.test(name)) start(name);
    else byId("name-fault").textContent = `A name is ${NAME_RULE}.`;
  });
  on("leave", "click", () => {
    sessionStorage.removeItem("name");
    location.assign(location.pathname);
  });
  on("compose", "submit", (event) => (event.preventDefault(), post()));
  on("text", "keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    post();
  });
  on("scroll", "scroll", () => {
    const { scrollHeight, scrollTop, clientHeight } = byId("scroll");
    if (!shown) return;
    const isBack = scrollHeight - scrollTop - clientHeight > BOTTOM_PX;
    const draws = isBack !== shown.isScrolledBack || scrollTop < TOP_PX;
    shown.isScrolledBack = isBack;
    if (draws) draw();
  }, { passive: true });
  // A keyboard that slides in, or a turned phone, does not hide the end of what is followed.
  new ResizeObserver(() => shown && !shown.isScrolledBack && draw()).observe(byId("scroll"));
  on("newest", "click", () => ((shown.isScrolledBack = false), draw()));
  on("back", "click", () => open(null));
  on("now", "click", () => chat.link.hurry());
  on("new-chat", "click", askForChat);
  on("new-group", "click", () => askForGroup());
  on("add", "click", askForMembers);
  on("dialog-cancel", "click", () => byId("dialog").close());
  addEventListener("online", () => chat?.link.hurry());
  document.addEventListener("visibilitychange", () => {
    if (!chat || document.visibilityState === "hidden") return;
    chat.link.hurry();
    draw();
  });
  setInterval(() => chat && drawCountdown(), 250);
}

listen();
const asked = new URLSearchParams(location.search).get("user");
const given = asked ?? sessionStorage.getItem("name") ?? "";
if (NAME.test(given)) start(given);
else welcome(given ? `“${given}” is no name: ${NAME_RULE}.` : "");
