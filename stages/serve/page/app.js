// The page: composer, conversation, and one streamed answer at a time.

import { Message } from "./answer.js";
import { servedModel, stream } from "./client.js";
import { apiKey, onKey, sampling, systemPrompt } from "./controls.js";
import * as experts from "./experts.js";

const COMPLETION_TOKENS = 128; // the server's own default for a completion is 16
const log = document.getElementById("log");
const message = document.getElementById("message");
const notice = document.getElementById("notice");
const stopButton = document.getElementById("stop");
const sendButton = document.getElementById("send");
let model = null;
let turns = [];
let running = null; // the AbortController of the answer that is being streamed
let countsRefused = false;

function mode() {
  return document.querySelector("input[name=mode]:checked").value;
}

function tell(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

async function findModel() {
  try {
    model = await servedModel(apiKey());
    document.getElementById("model").textContent = model.id;
    document.title = `${model.id} - longcat`;
    tell("");
  } catch (error) {
    model = null;
    tell(error.status === 401 ? "This server needs an API key: enter it in the settings." : error.message);
  }
  return model;
}

function setBusy(controller) {
  running = controller;
  stopButton.disabled = !controller;
  sendButton.disabled = Boolean(controller);
}

function chatBody(text) {
  const system = systemPrompt();
  const first = system ? [{ role: "system", content: system }] : [];
  return { messages: [...first, ...turns, { role: "user", content: text }] };
}

function requestBody(text, chosen) {
  const what = mode() === "chat" ? chatBody(text) : { prompt: text, max_tokens: COMPLETION_TOKENS };
  const counted = experts.wanted() && !countsRefused ? { return_expert_counts: true } : {};
  return { model: model.id, ...what, ...chosen, ...counted, stream: true, stream_options: { include_usage: true } };
}

// The body without what the user did not ask for and the server refuses; null if the error is the user's to see.
function acceptable(body, error, chosen) {
  if (error.status !== 400) return null;
  const { return_expert_counts: counted, max_tokens: limit, ...rest } = body;
  if (counted && /expert_counts/.test(`${error.param} ${error.message}`)) {
    countsRefused = true;
    experts.unavailable();
    return limit === undefined ? rest : { ...rest, max_tokens: limit };
  }
  if (limit !== undefined && chosen.max_tokens === undefined && error.code === "context_length_exceeded") {
    return counted ? { ...rest, return_expert_counts: counted } : rest;
  }
  return null;
}

async function* answerEvents(route, body, chosen, signal) {
  for (let asked = body; ; ) {
    try {
      yield* stream(route, asked, apiKey(), signal);
      return;
    } catch (error) {
      asked = acceptable(asked, error, chosen);
      if (!asked) throw error;
    }
  }
}

// Shows the events of one answer; returns true if there was any text.
class Answer {
  constructor(target) {
    this.target = target;
    this.started = performance.now();
    this.first = null;
    this.last = null;
    this.counts = []; // of tokens whose text has not arrived yet
    this.tokens = 0;
    this.usage = null;
    this.reason = null;
  }

  take(event) {
    if (event.usage) this.usage = event.usage;
    const choice = event.choices?.[0];
    if (!choice) return;
    this.counts.push(...(choice.expert_counts ?? []));
    this.tokens += choice.expert_counts?.length ?? 0;
    this.write(choice.delta?.reasoning_content, "reasoning");
    this.write(choice.delta?.content ?? choice.text, "content");
    this.reason = choice.finish_reason ?? this.reason;
  }

  write(text, kind) {
    if (!text) return;
    this.last = performance.now();
    this.first ??= this.last;
    this.target.add(text, this.counts, kind);
    this.counts = [];
  }

  figures(stopped) {
    const parts = [];
    const tokens = this.usage?.completion_tokens ?? this.tokens;
    if (tokens) parts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
    const seconds = (this.last - this.first) / 1000;
    if (tokens > 1 && seconds > 0) parts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
    if (this.first !== null) parts.push(`first token after ${((this.first - this.started) / 1000).toFixed(2)} s`);
    parts.push(...usageParts(this.usage));
    if (stopped) parts.push("stopped");
    else if (this.reason === "length") parts.push("ended at max tokens");
    return parts.join(", ");
  }
}

function usageParts(usage) {
  const parts = [];
  const { accepted_prediction_tokens: accepted, rejected_prediction_tokens: rejected } =
    usage?.completion_tokens_details ?? {};
  if (accepted + rejected > 0) {
    const share = Math.round((100 * accepted) / (accepted + rejected));
    parts.push(`${share} % of ${accepted + rejected} drafts accepted`);
  }
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached) parts.push(`${cached} of ${usage.prompt_tokens} prompt tokens cached`);
  return parts;
}

function begin(text, asChat) {
  const asked = new Message(log, "user", asChat ? "You" : "Prompt");
  asked.add(text);
  const target = new Message(log, "assistant", asChat ? "Model" : "Continuation");
  target.busy(true);
  return [asked, target];
}

async function send() {
  const text = message.value;
  if (running || !text.trim()) return;
  const controller = new AbortController();
  setBusy(controller);
  try {
    const chosen = sampling();
    if (!model && !(await findModel())) return;
    tell("");
    await answer(text, requestBody(text, chosen), chosen, controller);
  } catch (error) {
    tell(error.message);
  } finally {
    if (running === controller) setBusy(null);
    message.focus();
  }
}

async function answer(text, body, chosen, controller) {
  const asChat = mode() === "chat";
  const [asked, target] = begin(text, asChat);
  const shown = new Answer(target);
  message.value = "";
  let failure = null;
  try {
    const route = asChat ? "chat/completions" : "completions";
    for await (const event of answerEvents(route, body, chosen, controller.signal)) shown.take(event);
  } catch (error) {
    failure = error;
  }
  target.busy(false);
  if (controller.abandoned) return;
  const stopped = controller.signal.aborted;
  if (failure && !stopped && shown.first === null) {
    giveBack(text, [asked, target], failure);
    return;
  }
  target.figures(shown.figures(stopped));
  if (failure && !stopped) target.fail(failure.message);
  if (asChat) turns.push({ role: "user", content: text }, { role: "assistant", content: target.text });
}

// A request that was refused: nothing of it stays but the text, in the composer.
function giveBack(text, articles, error) {
  articles.forEach((article) => article.element.remove());
  if (!message.value) message.value = text;
  if (error.status === 404) model = null;
  if (mode() === "chat" && error.status === 400 && /chat template/.test(error.message)) {
    document.querySelector("input[name=mode][value=complete]").checked = true;
    showMode();
    tell(`${error.message}. Switched to Complete, which continues a text: press Send.`);
  } else {
    tell(error.message);
  }
}

function showMode() {
  document.getElementById("asking").textContent = mode() === "chat" ? "Message" : "Text to continue";
}

function stop() {
  running?.abort();
}

function restart() {
  if (running) {
    running.abandoned = true;
    stop();
    setBusy(null);
  }
  turns = [];
  log.replaceChildren();
  experts.forget();
  tell("");
  message.focus();
}

document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
document.querySelector(".modes").addEventListener("change", showMode);
document.getElementById("new").addEventListener("click", restart);
stopButton.addEventListener("click", stop);
onKey(findModel);
// On a narrow screen the conversation comes first.
if (matchMedia("(max-width: 50rem)").matches) document.querySelectorAll("aside details").forEach((part) => (part.open = false));
findModel();
message.focus();
