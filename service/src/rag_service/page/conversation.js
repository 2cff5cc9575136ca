// Keeps a conversation over a reload, in its tab alone: it is gone when the tab is closed.

import { ROOT } from "./api.js";

const KEY = `rag.conversation ${ROOT.pathname}`;
const TURNS = 20;
const SIZE = 2_000_000; // characters; browsers keep about five million for a site

/** Keep the newest turns that fit, given as `Turn.saved()` gives them. */
export function keep(turns) {
  let kept = turns.slice(-TURNS);
  let text = JSON.stringify(kept);
  while (text.length > SIZE) {
    kept = kept.slice(1);
    text = JSON.stringify(kept);
  }
  try {
    if (kept.length) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  } catch {
    sessionStorage.removeItem(KEY); // no room, or none allowed: a reload begins anew
  }
}

/** The turns of before a reload. */
export function kept() {
  try {
    const turns = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return Array.isArray(turns) ? turns.filter((turn) => turn && typeof turn.query === "string") : [];
  } catch {
    return [];
  }
}
