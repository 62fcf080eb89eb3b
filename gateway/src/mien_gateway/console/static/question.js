// A question that a view asks about the current pictures. A newer one cancels the one that is under way.

import { Problem } from "./api.js";
import { byId } from "./dom.js";
import { current } from "./pictures.js";

export class Question {
  #statusId;
  #answer;
  #refuse;
  #running = null;
  #stale = false;

  /**
   * @param {string} statusId The element that says how far it is.
   * @param {function} answer Asks about pictures until a signal aborts it, shows the answer, and returns the status.
   * @param {function} refuse Shows that there is no answer, given pictures and the problem, and returns the status.
   */
  constructor(statusId, answer, refuse) {
    this.#statusId = statusId;
    this.#answer = answer;
    this.#refuse = refuse;
  }

  /** Note that what is shown is not the answer any more. */
  renew() {
    this.#stale = true;
  }

  /** Ask, if the answer is not shown yet. */
  async ask() {
    const pictures = current();
    if (!this.#stale || pictures.length === 0) return;
    this.#stale = false;
    this.#running?.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    const status = byId(this.#statusId);
    status.textContent = "Reading …";
    status.className = "status";
    try {
      status.textContent = await this.#answer(pictures, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.#stale = true;
      if (!(error instanceof Problem)) throw error;
      status.className = "status bad";
      status.textContent = this.#refuse(pictures, error);
    }
  }
}
