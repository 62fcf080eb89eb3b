// The gateway's HTTP interface.

/** The keys that the user entered. They are kept in memory only, and gone when the page is closed. */
export const keys = { caller: "", operator: "" };

/** An answer that is not a result: an RFC 9457 problem document, or no answer at all. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The gateway answered with status ${status}`);
    this.status = status;
    this.retryable = Boolean(document.retryable);
  }
}

/** Return an address below the page's own, so that the console also works behind a path prefix. */
export function address(path) {
  return new URL(path, document.baseURI);
}

/** Return the query string of the options that differ from the defaults, with its question mark. */
export function query(options) {
  const given = Object.entries(options).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return text ? `?${text}` : "";
}

async function ask(path, { key = keys.caller || keys.operator, ...request } = {}) {
  const headers = { ...request.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(address(path), { ...request, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The gateway does not answer. Check that it runs and that you are connected." });
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    // A proxy in front of the gateway may answer with a page of its own.
    answer = { title: `The gateway answered with status ${response.status}` };
    if (response.ok) throw new Problem(response.status, { title: "The gateway's answer is not JSON" });
  }
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

/** Return the merged answer for one or several picture files. */
export function analyze(files, options, signal) {
  const path = `v1/analyze${query(options)}`;
  if (files.length === 1) {
    const [file] = files;
    return ask(path, { method: "POST", body: file, headers: { "Content-Type": file.type || "image/jpeg" }, signal });
  }
  const body = new FormData();
  for (const file of files) body.append("picture", file, file.name);
  return ask(path, { method: "POST", body, signal });
}

export const models = () => ask("v1/models");
export const live = () => ask("v1/live");
export const journal = (limit) => ask(`v1/journal${query({ limit })}`);
export const samples = () => ask("samples");

/** Run an operator's verb: shift, promote, rollback or abort. */
export function act(verb, request) {
  return ask(`v1/rollout/${verb}`, {
    method: "POST",
    key: keys.operator,
    body: JSON.stringify(request),
    headers: { "Content-Type": "application/json" },
  });
}

/** Return an open WebSocket for camera frames. Browsers send no header with it, so the key is an offered protocol. */
export function stream(options) {
  const url = address(`v1/stream${query(options)}`);
  url.protocol = url.protocol.replace("http", "ws");
  const key = keys.caller || keys.operator;
  return new WebSocket(url, key ? ["mien", `key.${base64url(key)}`] : []);
}

function base64url(text) {
  const bytes = new TextEncoder().encode(text);
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
